"""Make the pictures of assets/ from the demo weights: DDIB's inputs, and the figures of README and docs."""

import argparse
import tempfile
from pathlib import Path

import torch
from PIL import Image

import sample_ddib
import sample_sdedit
from diffusions import DDIM, decode, make_schedule, respace
from models import CONFIG_CLASSES
from utils import assemble, images, launch, noise
from utils.config import class_index, load_config

CONFIG, WEIGHTS = Path("configs/demo/fruits64.yaml"), Path("weights/fruits64.safetensors")
CLASSES = ("red_apple", "orange", "lemon", "lime", "pear", "strawberry")
NUM_EACH = 4
STROKES = ("red_apple", "orange_corner", "pear", "strawberry", "huckleberry", "banana")
EDIT_STEPS = (20, 35, 50, 65)
PAIRS = (("red_apple", "orange"), ("lemon", "lime"), ("orange", "strawberry"), ("pear", "lemon"))
MODEL_WORDS = ["-c", str(CONFIG), "--weights", str(WEIGHTS)]


@torch.inference_mode()
def sample_fruits(save_dir: Path) -> None:
    """Draw the first pictures of each class from pure noise, 100 DDIM steps, without choosing among them."""
    config = load_config(CONFIG, CONFIG_CLASSES)
    place = launch.start(cpu=True, precision="fp32")
    network = assemble.load_network(config, WEIGHTS, place)
    schedule = make_schedule(config.diffusion.schedule, config.diffusion.num_timesteps)
    process = DDIM(
        schedule, respace("uniform-linspace", schedule.num_timesteps, 100), config.diffusion.prediction
    )
    for fruit in CLASSES:
        names = [f"{fruit}/{i}.png" for i in range(NUM_EACH)]
        keys = [(name, 0) for name in names]
        draw = noise.ImageNoise(0, keys, (3, config.model.image_size, config.model.image_size), place.device)
        model = network.model(class_index(config, fruit))
        for name, x in zip(names, decode(process, model, draw()), strict=True):
            target = save_dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            images.to_image(x).save(target, optimize=True)


def stack(rows: list[list[Image.Image]], scale: int = 2) -> Image.Image:
    """Put rows of pictures of one size under one another, enlarged without smoothing."""
    strips = [images.strip(row) for row in rows]
    width, height, gap = strips[0].width, strips[0].height, 2
    sheet = Image.new("RGB", (width, len(strips) * (height + gap) - gap), images.WHITE)
    for i, strip in enumerate(strips):
        sheet.paste(strip, (0, i * (height + gap)))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)


def cut(strip: Path, position: int) -> Image.Image:
    """Take one picture out of a comparison strip: 0 input, 1 noise, 2 result."""
    image = Image.open(strip)
    side = image.height
    return image.crop((position * (side + 2), 0, position * (side + 2) + side, side))


def draw_sdedit(target: Path) -> None:
    """Draw strokes, and for several --edit_steps what they are noised to and what comes out."""
    with tempfile.TemporaryDirectory() as folder:
        for steps in EDIT_STEPS:
            words = ["--input_dir", "assets/strokes", "--save_dir", f"{folder}/{steps}", "--comparison"]
            sample_sdedit.main([*MODEL_WORDS, *words, "--respace_steps", "100", "--edit_steps", str(steps)])
        rows = []
        for name in STROKES:
            strips = [Path(folder, str(steps), "comparison", f"{name}.png") for steps in EDIT_STEPS]
            rows.append([cut(strips[0], 0), *(cut(strip, i) for strip in strips for i in (1, 2))])
        stack(rows).save(target, optimize=True)


def draw_ddib(target: Path) -> None:
    """Draw, for several pairs of classes, the inputs above their translations."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for source, wanted in PAIRS:
            save_dir = Path(folder, f"{source}-{wanted}")
            words = ["--input_dir", f"assets/fruits/{source}", "--save_dir", str(save_dir), "--comparison"]
            words += ["--respace_type", "quad90"]
            sample_ddib.main([*MODEL_WORDS, *words, "--class_A", source, "--class_B", wanted])
            strips = sorted((save_dir / "comparison").glob("*.png"))
            rows.append([cut(strip, i) for strip in strips for i in (0, 1, 2)])
        stack(rows).save(target, optimize=True)


def main() -> None:
    """Make everything."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    sample_fruits(Path("assets/fruits"))
    draw_sdedit(Path("assets/sdedit.png"))
    draw_ddib(Path("assets/ddib.png"))


if __name__ == "__main__":
    main()
