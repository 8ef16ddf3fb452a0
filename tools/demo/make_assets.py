"""Make the pictures of assets/ from the demo weights: DDIB's inputs, and the figures of README and docs."""

import math
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw

import sample_ddib
import sample_sdedit
from diffusions import DDIM, DDPM, decode, make_schedule, respace
from models import CONFIG_CLASSES
from tools.demo.draw_strokes import paint
from tools.parser import make_parser
from utils import codecs, jobs, sampling
from utils.config import class_index, load_config

CONFIG, WEIGHTS = Path("configs/demo/fruits64.yaml"), Path("weights/fruits64.safetensors")
SIDE = 64
"""Of the network's pictures, in pixels."""
CLASSES = ("red_apple", "orange", "lemon", "lime", "pear", "strawberry")
NUM_EACH = 4
LABELLED = ("strawberry", "green_apple", "peach", "kiwi", "pineapple")
STROKES = ("red_apple", "orange_corner", "pear", "strawberry", "huckleberry", "banana")
SPACED = ["--sampler", "ddpm", "--respace_type", "uniform", "--respace_steps", "100"]
"""Of all edits; their t0 is a hundredth below that of the default spacing."""
EDIT_STEPS = (20, 35, 50, 65)
PAIRS = (("red_apple", "orange"), ("lemon", "lime"), ("orange", "strawberry"), ("pear", "lemon"))
KEPT_PAIRS = (("lemon", "red_apple"), ("orange", "strawberry"), ("pear", "lime"), ("red_apple", "orange"))
KEPT = ([], ["--solver", "edit-friendly", "--t0", "0.6"], ["--solver", "flow-edit", "--t0", "0.75"])
"""DDIB by default, and what keeps more of a picture."""
SOLVER = ["--solver", "heun", "--respace_type", "quad90", "--respace_steps", "50"]
PLATE = ("lemon", "red_apple", "pear", "lime", "orange", "strawberry")
"""Fruits of the photo of which a part is edited, by rows."""
TABLE = (
    *(("red_apple", 2, 2, 72), ("lemon", 76, 6, 84), ("plum", 138, 0, 62), ("orange", 190, 12, 66)),
    *(
        ("green_apple", 0, 84, 74),
        ("strawberry", 72, 100, 80),
        ("peach", 130, 62, 70),
        ("pear", 196, 84, 104),
    ),
)
"""Strokes that make a painting of 256x192: left, top and height of each, in pixels."""
MODEL_WORDS = ["-c", str(CONFIG), "--weights", str(WEIGHTS)]


@torch.inference_mode()
def sample_fruits(save_dir: Path) -> None:
    """Draw the first pictures of each class from pure noise, 100 DDIM steps, without choosing among them."""
    config = load_config(CONFIG, CONFIG_CLASSES)
    place = jobs.start(cpu=True, precision="fp32")
    network = sampling.load_network(config, WEIGHTS, place)
    schedule = make_schedule(config.diffusion.schedule, config.diffusion.num_timesteps)
    process = DDIM(
        schedule, respace("uniform-linspace", schedule.num_timesteps, 100), config.diffusion.prediction
    )
    for fruit in CLASSES:
        names = [f"{fruit}/{i}.png" for i in range(NUM_EACH)]
        keys = [(name, 0) for name in names]
        draw = jobs.ImageNoise(0, keys, (3, config.model.image_size, config.model.image_size), place.device)
        model = network.model(class_index(config, fruit))
        for name, x in zip(names, decode(process, model, draw()), strict=True):
            target = save_dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            codecs.to_image(x).save(target, optimize=True)


def stack(rows: list[list[Image.Image]], scale: int = 2) -> Image.Image:
    """Put rows of pictures of one size under one another, enlarged without smoothing."""
    strips = [codecs.strip(row) for row in rows]
    width, height, gap = strips[0].width, strips[0].height, 2
    sheet = Image.new("RGB", (width, len(strips) * (height + gap) - gap), codecs.WHITE)
    for i, strip in enumerate(strips):
        sheet.paste(strip, (0, i * (height + gap)))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)


def cut(strip: Path, position: int) -> Image.Image:
    """Take one picture out of a comparison strip: 0 input, 1 noise, 2 result."""
    return codecs.cut_strip(Image.open(strip), SIDE)[position]


def draw_sdedit(target: Path) -> None:
    """Draw strokes, and for several --edit_steps what they are noised to and what comes out."""
    with tempfile.TemporaryDirectory() as folder:
        for steps in EDIT_STEPS:
            words = ["--input_dir", "assets/strokes", "--save_dir", f"{folder}/{steps}", "--comparison"]
            sample_sdedit.main([*MODEL_WORDS, *words, *SPACED, "--edit_steps", str(steps)])
        rows = []
        for name in STROKES:
            strips = [Path(folder, str(steps), "comparison", f"{name}.png") for steps in EDIT_STEPS]
            rows.append([cut(strips[0], 0), *(cut(strip, i) for strip in strips for i in (1, 2))])
        stack(rows).save(target, optimize=True)


def draw_cases(folder: Path) -> None:
    """Compose the guides, masks and strengths of assets/edits from fruits and strokes.

    Strokes beside a fruit that is kept, a bruise painted on one, two halves put together, and a stroke
    painting whose left half is kept and whose right half may change more and more.
    """
    lemon, orange, lime = (
        codecs.decode(Path("assets/fruits", name)) for name in ("lemon/2.png", "orange/3.png", "lime/2.png")
    )
    strokes = codecs.decode(Path("assets/strokes/plum.png")).resize((30, 30), Image.Resampling.NEAREST)
    beside = Image.new("RGB", (64, 64), codecs.WHITE)
    beside.paste(lemon.resize((40, 40), Image.Resampling.LANCZOS).crop((8, 0, 40, 40)), (0, 12))
    beside.paste(strokes, (33, 17))
    bruise, halves = orange.copy(), lime.copy()
    ImageDraw.Draw(bruise).ellipse((24, 24, 44, 42), fill=(90, 140, 50))
    halves.paste(orange.crop((32, 0, 64, 64)), (32, 0))
    masks = {name: Image.new("L", (64, 64), 0) for name in ("beside", "bruise", "halves")}
    masks["beside"].paste(255, (32, 0, 64, 64))
    ImageDraw.Draw(masks["bruise"]).ellipse((18, 18, 50, 48), fill=255)
    masks["halves"].paste(255, (20, 0, 44, 64))
    ramp = Image.linear_gradient("L").rotate(90).resize((64, 64)).point(lambda value: max(0, 3 * value - 384))
    painting = codecs.fit(codecs.decode(Path("assets/strokes/raspberry.png")), 64, "crop")
    guides = {"beside": beside, "bruise": bruise, "halves": halves}
    for kind, pictures in (
        ("guides", guides),
        ("masks", masks),
        ("painting", {"raspberry": painting}),
        ("strengths", {"raspberry": ramp}),
    ):
        for name, picture in pictures.items():
            target = folder / kind / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target, optimize=True)


def draw_edits(target: Path) -> None:
    """Draw masked edits (guide, mask, result at three t0), and a painting with its strengths and result."""
    with tempfile.TemporaryDirectory() as folder:

        def edited(kind: str, name: str, *words: str) -> list[Image.Image]:
            save_dir = Path(folder, "-".join([kind, name, *words[-2:]]).replace("/", "_"))
            paths = ["--input_dir", f"assets/edits/{kind}", "--save_dir", str(save_dir)]
            sample_sdedit.main([*MODEL_WORDS, *paths, *SPACED, *words])
            return [Image.open(path) for path in sorted(save_dir.rglob(f"t0_*/{name}.png"))]

        rows = []
        for name in ("beside", "bruise", "halves"):
            given = [
                Image.open(f"assets/edits/{kind}/{name}.png").convert("RGB") for kind in ("guides", "masks")
            ]
            masks = ["--mask_dir", "assets/edits/masks", "--mask_feather", "4"]
            rows.append([*given, *edited("guides", name, *masks, "--t0", "0.3", "0.5", "0.7")])
        given = [
            Image.open(f"assets/edits/{kind}/raspberry.png").convert("RGB")
            for kind in ("painting", "strengths")
        ]
        strengths = ["--strength_dir", "assets/edits/strengths", "--t0", "0.5", "0.7", "0.9"]
        rows.append([*given, *edited("painting", "raspberry", *strengths)])
        stack(rows).save(target, optimize=True)


def draw_ve(target: Path) -> None:
    """Draw strokes, and edits of them by VP and by VE, each from the levels of three sigmas."""
    vp, ve = (sampling.read_config(Path(f"configs/demo/fruits64{kind}.yaml")) for kind in ("", "_ve"))
    levels = []
    for config in (vp, ve):
        schedule = sampling.read_trained(config).schedule
        process = DDPM(schedule, respace("uniform", schedule.num_timesteps, 100), "eps")
        nearest = [
            min(range(1, 101), key=lambda k: abs(math.log(process.sigma(k) / sigma))) for sigma in (0.5, 1, 2)
        ]
        levels.append([str(level) for level in nearest])
    with tempfile.TemporaryDirectory() as folder:
        guides = Path(folder, "guides")
        guides.mkdir()
        for name in STROKES:
            shutil.copy(f"assets/strokes/{name}.png", guides)
        for kind, steps in zip(("", "_ve"), levels, strict=True):
            words = ["-c", f"configs/demo/fruits64{kind}.yaml", "--weights", str(WEIGHTS)]
            paths = ["--input_dir", str(guides), "--save_dir", f"{folder}/vp{kind}"]
            sample_sdedit.main([*words, *paths, *SPACED, "--edit_steps", *steps])
        rows = []
        for name in STROKES:
            paths = [
                Path(folder, f"vp{kind}", f"steps_{step}", f"{name}.png")
                for pair in zip(*levels, strict=True)
                for kind, step in zip(("", "_ve"), pair, strict=True)
            ]
            guide = codecs.fit(codecs.decode(Path(f"assets/strokes/{name}.png")), 64, "crop")
            rows.append([guide, *(Image.open(path) for path in paths)])
        stack(rows).save(target, optimize=True)


def draw_labelled(target: Path) -> None:
    """Draw one stroke painting of each kind, and its edits with the label, at rising guidance."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in LABELLED:
            guides = Path(folder, "guides", name)
            guides.mkdir(parents=True)
            shutil.copy(f"assets/strokes/{name}.png", guides)
            row = [codecs.fit(codecs.decode(guides / f"{name}.png"), 64, "crop")]
            for i, words in enumerate(
                ([], ["--class_label", name], ["--class_label", name, "--guidance_scale", "4"])
            ):
                save_dir = Path(folder, str(i), name)
                paths = ["--input_dir", str(guides), "--save_dir", str(save_dir)]
                common = [*SPACED, "--edit_steps", "65", "--samples", "2"]
                sample_sdedit.main([*MODEL_WORDS, *paths, *common, *words])
                row += [Image.open(path) for path in sorted(save_dir.glob("*.png"))]
            rows.append(row)
        stack(rows).save(target, optimize=True)


def draw_ddib(target: Path) -> None:
    """Draw, for several pairs of classes, the inputs above their translations."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for source, wanted in PAIRS:
            save_dir = Path(folder, f"{source}-{wanted}")
            words = ["--input_dir", f"assets/fruits/{source}", "--save_dir", str(save_dir), "--comparison"]
            words += SOLVER
            sample_ddib.main([*MODEL_WORDS, *words, "--class_A", source, "--class_B", wanted])
            strips = sorted((save_dir / "comparison").glob("*.png"))
            rows.append([cut(strip, i) for strip in strips for i in (0, 1, 2)])
        stack(rows).save(target, optimize=True)


def draw_kept(target: Path) -> None:
    """Draw fruits, and what they become by each way of keeping them, guided: a row a fruit."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for source, wanted in KEPT_PAIRS:
            given, row = Path(f"assets/fruits/{source}/2.png"), []
            for i, way in enumerate(KEPT):
                save_dir = Path(folder, f"{source}-{wanted}-{i}")
                words = ["--input_dir", str(given), "--save_dir", str(save_dir), "--calls", "60"]
                words += ["--class_A", source, "--class_B", wanted, "--guidance_scale", "3", *way]
                sample_ddib.main([*MODEL_WORDS, *words])
                row.append(codecs.decode(save_dir / "2.png"))
            rows.append([codecs.decode(given), *row])
        stack(rows).save(target, optimize=True)


def draw_way(command: ModuleType, source: Path, words: list[str], target: Path) -> None:
    """Draw the strip of the way from one input to its result."""
    with tempfile.TemporaryDirectory() as folder:
        given, save_dir = Path(folder, "given"), Path(folder, "results")
        given.mkdir()
        shutil.copy(source, given)
        paths = ["--input_dir", str(given), "--save_dir", str(save_dir)]
        command.main([*MODEL_WORDS, *paths, *words, "--trajectory", "9"])
        Image.open(save_dir / "trajectory" / source.name).save(target, optimize=True)


def compose_large(folder: Path) -> None:
    """Compose inputs that are larger than the network: a painting of eight fruits, and nine lemons."""
    folder.mkdir(parents=True, exist_ok=True)
    table = Image.new("RGB", (256, 192), codecs.WHITE)
    for name, left, top, height in TABLE:
        strokes = paint(name)
        size = round(strokes.width * height / strokes.height), height
        beside = Image.new("RGB", table.size, codecs.WHITE)
        beside.paste(strokes.resize(size, Image.Resampling.LANCZOS), (left, top))
        table = ImageChops.darker(table, beside)
    table.save(folder / "table.png", optimize=True)
    lemons = Image.new("RGB", (192, 192), codecs.WHITE)
    for i in range(9):
        lemon = codecs.decode(Path(f"assets/fruits/lemon/{i % NUM_EACH}.png"))
        lemons.paste(lemon, (i % 3 * 64, i // 3 * 64))
    lemons.save(folder / "lemons.png", optimize=True)


def draw_large(command: ModuleType, source: Path, words: list[str], target: Path) -> None:
    """Draw an input that is larger than the network, and its result by tiles and as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        row = [codecs.decode(source)]
        for way in (["--tiles"], ["--size", "input"]):
            save_dir = Path(folder, way[0])
            paths = ["--input_dir", str(source), "--save_dir", str(save_dir)]
            command.main([*MODEL_WORDS, *paths, *words, *way])
            row.append(Image.open(save_dir / source.name))
        codecs.strip(row).save(target, optimize=True)


def compose_plate(folder: Path) -> None:
    """Compose a photo of six fruits, each twice the network's size, and a mask of one of them."""
    photo, side = Image.new("RGB", (6 * SIDE, 4 * SIDE), codecs.WHITE), 2 * SIDE
    for i, name in enumerate(PLATE):
        fruit = codecs.decode(Path(f"assets/fruits/{name}/2.png"))
        photo.paste(fruit.resize((side, side), Image.Resampling.LANCZOS), (i % 3 * side, i // 3 * side))
    mask = Image.new("L", photo.size)
    ImageDraw.Draw(mask).ellipse([side + 6, 6, 2 * side - 6, side - 6], fill=255)
    for kind, image in (("photos", photo), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        image.save(folder / kind / "plate.png", optimize=True)


def draw_region(folder: Path, words: list[str], target: Path) -> None:
    """Draw a photo, its mask, the square that is edited before and after, and the photo with it."""
    with tempfile.TemporaryDirectory() as save_dir:
        paths = ["--input_dir", str(folder / "photos"), "--mask_dir", str(folder / "masks")]
        given = [*MODEL_WORDS, *paths, "--save_dir", save_dir, "--region", "mask", "--comparison", *words]
        sample_sdedit.main(given)
        strip = Path(save_dir, "comparison/plate.png")
        squares = [cut(strip, place).resize((2 * SIDE,) * 2, Image.Resampling.NEAREST) for place in (0, 2)]
        whole = [Image.open(folder / kind / "plate.png") for kind in ("photos", "masks")]
        row = [*whole, codecs.column(squares), Image.open(Path(save_dir, "plate.png"))]
        codecs.strip(row).save(target, optimize=True)


def compose_clip(path: Path) -> list[Image.Image]:
    """Compose a stroke painting that moves: a yellow disc that sinks, and save it as an animation."""
    frames = [Image.new("RGB", (SIDE, SIDE), codecs.WHITE) for _ in range(12)]
    for i, frame in enumerate(frames):
        ImageDraw.Draw(frame).ellipse([8, 8 + 2 * i, 34, 30 + 2 * i], fill=(226, 190, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=80, loop=0)
    return frames


def draw_clip(frames: list[Image.Image], words: list[str], target: Path) -> None:
    """Draw the results of frames in a row: each with noise of its own, and all with the same."""
    with tempfile.TemporaryDirectory() as folder:
        rows, given = [], Path(folder, "given")
        given.mkdir()
        for i, frame in enumerate(frames):
            frame.save(given / f"{i:02d}.png")
        for by in ("name", "folder"):
            paths = ["--input_dir", str(given), "--save_dir", f"{folder}/{by}"]
            sample_sdedit.main([*MODEL_WORDS, *paths, *words, "--noise_by", by])
            row = [codecs.decode(path) for path in sorted(Path(folder, by).glob("*.png"))]
            report_flicker(by, frames, row)
            rows.append(row)
        stack(rows, scale=1).save(target, optimize=True)


def report_flicker(by: str, guides: list[Image.Image], results: list[Image.Image]) -> None:
    """Print by how much neighbouring results differ where their guides do not, in grey levels."""
    before, after = (np.stack([np.asarray(x, float) for x in row]) for row in (guides, results))
    still = (before[1:] == before[:-1]).all(-1)
    print(f"--noise_by {by}: flicker {np.abs(after[1:] - after[:-1])[still].mean():.2f}")


def main() -> None:
    """Make everything."""
    make_parser(__doc__, __spec__).parse_args()
    sample_fruits(Path("assets/fruits"))
    draw_sdedit(Path("assets/sdedit.png"))
    draw_cases(Path("assets/edits"))
    draw_edits(Path("assets/edits.png"))
    draw_ve(Path("assets/ve.png"))
    draw_labelled(Path("assets/labelled.png"))
    draw_ddib(Path("assets/ddib.png"))
    draw_kept(Path("assets/ddib_kept.png"))
    strokes = [*SPACED, "--edit_steps", "50"]
    draw_way(sample_sdedit, Path("assets/strokes/pear.png"), strokes, Path("assets/sdedit_way.png"))
    fruit = ["--class_A", "lemon", "--class_B", "lime", *SOLVER]
    draw_way(sample_ddib, Path("assets/fruits/lemon/2.png"), fruit, Path("assets/ddib_way.png"))
    few = ["--sampler", "sde-dpm-solver++", "--respace_steps", "20"]
    lemon = [*few, "--t0", "0.5", "--class_label", "lemon"]
    draw_clip(compose_clip(Path("assets/clip/lemon.png")), lemon, Path("assets/clip.png"))
    compose_plate(Path("assets/region"))
    kiwi = [*few, "--t0", "0.7", "--class_label", "kiwi"]
    draw_region(Path("assets/region"), kiwi, Path("assets/region.png"))
    compose_large(Path("assets/large"))
    strokes = [*few, "--t0", "0.5"]
    draw_large(sample_sdedit, Path("assets/large/table.png"), strokes, Path("assets/sdedit_tiles.png"))
    fruit = [
        "--class_A",
        "lemon",
        "--class_B",
        "lime",
        "--solver",
        "cycle-diffusion",
        "--respace_steps",
        "40",
    ]
    draw_large(sample_ddib, Path("assets/large/lemons.png"), fruit, Path("assets/ddib_tiles.png"))


if __name__ == "__main__":
    main()
