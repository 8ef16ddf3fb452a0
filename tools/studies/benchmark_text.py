"""Times sample_sdedit.py with a prompt beside diffusers' img2img pipeline, from start to exit.

Both edit the same pictures with the same folder, of random weights in the shape of Stable Diffusion 1.5, by
as many calls, in turn.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from tools.parser import make_parser
from tools.studies.benchmark import describe_machine, speedup
from utils.quote import plain

ROOT = Path(__file__).resolve().parents[2]
NUM_TOKENS = 77
_TINY = {"block_out_channels": (32, 64), "layers_per_block": 1}
TINY = {
    "unet": {
        "cross_attention_dim": 32,
        "sample_size": 16,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        **_TINY,
    },
    "vae": {"sample_size": 32, **_TINY},
    "text": {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64},
}
REAL = {
    "unet": {"cross_attention_dim": 768, "sample_size": 64},
    "vae": {"sample_size": 512, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    "text": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "intermediate_size": 3072,
    },
}
"""The shape of Stable Diffusion 1.5."""
WORDS = "a red orange on a table"
THEIRS = f"""
import sys
from pathlib import Path
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
folder, inputs, outputs, dtype, steps, strength, scale, device = sys.argv[1:]
pipe = StableDiffusionImg2ImgPipeline.from_pretrained(
    folder, torch_dtype=getattr(torch, dtype), safety_checker=None, requires_safety_checker=False
).to(device)
Path(outputs).mkdir()
for path in sorted(Path(inputs).iterdir()):
    made = pipe(
        {WORDS!r}, Image.open(path),
        strength=float(strength), num_inference_steps=int(steps), guidance_scale=float(scale),
    )
    made.images[0].save(Path(outputs, path.name))
"""
"""What a user of diffusers writes."""


class Cost(NamedTuple):
    """What a command took."""

    seconds: float
    mebibytes: float
    """The most memory that its process held."""


def save_folder(folder: Path, tiny: bool) -> None:
    """Save a pipeline with random weights in float16, as most are published."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    shape = TINY if tiny else REAL
    unet = UNet2DConditionModel(**shape["unet"])
    levels = len(shape["vae"]["block_out_channels"])
    vae = AutoencoderKL(
        **shape["vae"],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
    )
    tokenizer = make_tokenizer(folder / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(vocab_size=49408, max_position_embeddings=NUM_TOKENS, **shape["text"])
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    parts = {"unet": unet, "vae": vae, "text_encoder": text}
    pipe = StableDiffusionPipeline(
        **{name: part.half() for name, part in parts.items()},
        **{"tokenizer": tokenizer, "scheduler": scheduler, "safety_checker": None, "feature_extractor": None},
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)


def make_tokenizer(folder: Path):
    """Return a tokenizer of letters, in the format of CLIP's."""
    from transformers import CLIPTokenizer

    letters = [chr(i) for i in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=NUM_TOKENS)


def measure(words: list[object]) -> Cost:
    """Run a command to its end.

    Raises:
        RuntimeError: It failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        list(map(str, words)), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(plain(errors.decode(errors="replace")[-2000:], 2000))
    return Cost(time.perf_counter() - start, usage.ru_maxrss / 1024)


def main() -> None:
    """Parse the options, measure, print a markdown table."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("--tiny", action="store_true", help="a network of a few thousand weights")
    add("--images", type=int, default=1, help="inputs")
    add("--calls", type=int, default=1, help="steps of each, each a call of two rows")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="bf16")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--repeats", type=int, default=2, help="runs of both, in turn")
    args = parser.parse_args()
    print(describe_machine(args.device))
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = run_both(Path(name), args)
    print("\n| command | seconds | memory, MiB |\n|---|---|---|")
    for title, costs in {"sample_sdedit.py": ours, "diffusers": theirs}.items():
        for cost in costs:
            print(f"| {title} | {cost.seconds:.1f} | {cost.mebibytes:.0f} |")
    seconds = [[cost.seconds for cost in costs] for costs in (theirs, ours)]
    print(f"\nMedian of diffusers over ours {speedup(*seconds):.2f}.")


def run_both(folder: Path, args: argparse.Namespace) -> tuple[list[Cost], list[Cost]]:
    """Return what our command and that of diffusers took, for each repeat."""
    save_folder(folder / "model", args.tiny)
    side, inputs = 32 if args.tiny else 512, folder / "in"
    inputs.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(args.images):
        pixels = torch.randint(256, (side, side, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(inputs / f"{i:03d}.png")
    steps, cpu = 2 * args.calls, [] if args.device == "cuda" else ["--cpu"]
    ours, theirs = [], []
    for repeat in range(args.repeats):
        command = [sys.executable, "sample_sdedit.py", "--weights", folder / "model", "--input_dir", inputs]
        command += ["--save_dir", folder / f"ours{repeat}", "--prompt", WORDS, "--guidance_scale", 7.5, *cpu]
        command += ["--sampler", "ddim", "--respace_steps", steps, "--edit_steps", args.calls]
        ours.append(measure([*command, "--precision", args.precision]))
        dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[args.precision]
        given = [folder / "model", inputs, folder / f"theirs{repeat}", dtype, steps, 0.5, 7.5, args.device]
        theirs.append(measure([sys.executable, "-c", THEIRS, *given]))
    return ours, theirs


if __name__ == "__main__":
    main()
