"""Convert weights between a published file, safetensors and a folder of diffusers, in any direction.

What is read may be anything that --weights takes. The name of the target says what is written:
NAME.safetensors, NAME.pt (.pth, .ckpt) with the flat state dict of torch.save, or else a folder that
diffusers loads. A pickle of NVlabs/edm that no config fits is written under its own keys.
"""

import io
import sys
from pathlib import Path
from typing import Any

if not __package__:  # python tools/convert.py, in place of python -m tools.convert
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from models import CONFIG_CLASSES, MODELS, build_empty
from utils import command, exits, sources
from utils.config import Config
from utils.files import write_atomically
from utils.quote import plain
from utils.sampling import trained_alphas
from utils.sources import parse
from utils.weights import Checkpoint, Shelf, open_checkpoint, read_config, read_weights, write_folder


def build_parser() -> command.StrictParser:
    """Return the command line."""
    parser = command.StrictParser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("source", help="file, folder, published name, or http, https or hf address")
    add("target", type=Path, help="NAME.safetensors, NAME.pt, or a new folder for diffusers")
    add("-c", "--config", type=Path, help="config of the weights (default: found by their keys)")
    add(
        "--part",
        help="of a file with several networks: its wrappers and prefix, as ema.unet_cond, or the last",
    )
    add("--weights_dir", type=Path, help="folder of downloaded files (default: torch.hub's)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    with command.report_errors(parser):
        shelf = Shelf(CONFIG_CLASSES, build_empty)

        def read(found: Path) -> Checkpoint:
            checkpoint = open_checkpoint(found)
            return checkpoint.part(args.part) if args.part else checkpoint

        source = parse(args.source, args.weights_dir)
        if args.config is None and source.config_path is None and is_unknown(source.fetch(), shelf):
            path, config, state = None, None, read_as_it_is(read(source.fetch()))
        else:
            path, weights = source.settle(args.config, lambda found, hint: shelf.find(read(found), hint))
            config, checkpoint = read_config(path, CONFIG_CLASSES), read(weights)
            expected = shelf.shapes(config.model)
            state = read_weights(checkpoint, expected, shelf.describe, trained_alphas(config))
            if path.suffix == ".json" and args.target.suffix:  # a file does not say what its folder said
                write_config(args.target.with_suffix(".yaml"), config)
        write(args.target, config, state)
    print(
        f"{args.target}: {len(state)} tensors, by {path or 'no config: their keys are those of the source'}"
    )
    return exits.DONE


def is_unknown(path: Path, shelf: Shelf) -> bool:
    """Whether it is a pickle of objects, as NVlabs/edm writes, of which no config is known."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        is_pickle = sources.has_objects(file.read(2))
    return is_pickle and not shelf.matching(open_checkpoint(path))


def read_as_it_is(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Read the one network of a file under its own keys.

    Raises:
        ValueError: It has several.
    """
    if len(checkpoint.states) > 1:
        names = ", ".join(plain(state.where, 60) for state in checkpoint.states)
        raise ValueError(f"{checkpoint.path}: holds several networks; choose one with --part, of {names}")
    return {key: stored.read() for key, stored in checkpoint.states[0].named.items()}


def write(target: Path, config: Config | None, state: dict[str, Tensor]) -> None:
    """Write weights in the form that the name of the target tells.

    Raises:
        ValueError: It exists, or diffusers has no such network, or none is known for want of a config.
    """
    if target.is_file():
        raise ValueError(f"{target}: is there already; give a new name")
    state = {key: tensor.contiguous() for key, tensor in state.items()}
    if target.suffix == ".safetensors":
        write_atomically(target, save(state, {"format": "pt"}))
    elif target.suffix in (".pt", ".pth", ".ckpt"):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(target, buffer.getbuffer())
    elif target.suffix:
        raise ValueError(f"{target}: give .safetensors, .pt, .pth or .ckpt, or a folder without a suffix")
    elif config is None:
        raise ValueError(
            f"{target}: no config fits these weights, and diffusers needs one; give NAME.safetensors"
        )
    else:
        write_folder(target, family_of(config), config, state)


def family_of(config: Config) -> str:
    """Return the name that a config's network has in model.name."""
    return next(name for name, (cls, _) in MODELS.items() if type(config.model) is cls)


def write_config(path: Path, config: Config) -> None:
    """Write a config as YAML, without what are its defaults.

    Raises:
        ValueError: The file exists.
    """
    if path.exists():
        raise ValueError(f"{path}: is there already, and the config of the weights would go there")
    text = "# Written by tools/convert.py. Weights: the file of this name beside it.\n"
    write_atomically(path, (text + yaml.safe_dump(sections_of(config), sort_keys=False)).encode())


def sections_of(config: Config) -> dict[str, dict[str, Any]]:
    """Return the sections model and diffusion as YAML has them, without what are their defaults."""
    sections: dict[str, dict[str, Any]] = {"model": {"name": family_of(config)}, "diffusion": {}}
    for name, section in sections.items():
        for key, field in getattr(config, name).__dataclass_fields__.items():
            value = getattr(getattr(config, name), key)
            if value != field.default:
                section[key] = list(value) if isinstance(value, tuple) else value
    return sections


if __name__ == "__main__":
    sys.exit(main())
