"""From the fields of the settings to flags, and from argv to settings."""

import argparse
import dataclasses
import difflib
import os
import types
from pathlib import Path
from typing import Any, NamedTuple, get_args

from utils import settings
from utils.command import parser as command_line
from utils.option import OneOf, make
from utils.running import Running
from utils.settings import Edit, Method, Network, Translate

GROUPS = {
    "network": ("config", "weights", "weights_dir", "overrides"),
    "pictures": ("input_dir", "save_dir", "fit", "size", "tiles", "range", "from_latents"),
    "how far to go, one of these": ("t0", "sigma0", "edit_steps", "auto_t0", "faithfulness"),
    "class": ("class_label", "class_A", "class_B", "weights_B", "config_B", "offload"),
    "text": ("prompt", "prompt_file", "prompt_A", "prompt_B", "negative_prompt", "upsample"),
    "sampling": (
        *("seed", "noise_by", "sampler", "solver", "inversion", "calls", "respace_steps", "respace_type"),
        *("var_type", "corrector_steps", "snr", "samples", "repeats"),
    ),
    "where a picture may change": (
        *("mask_dir", "mask_invert", "mask_feather", "mask_default", "mask_noise", "resample"),
        *("region", "region_margin", "strength_dir"),
    ),
    "guidance": ("guidance_scale", "guidance_interval", "unconditional", "classifier", "classifier_scale"),
    "how results are saved": ("format", "bits", "channels"),
    "what else is saved": (
        *("comparison", "trajectory", "cycle", "save_latents", "no_metadata", "no_report"),
    ),
    "running": (*("micro_batch", "precision", "compile", "cpu", "shard", "verify", "overwrite", "dry_run"),),
}
"""Every option has its place; docs show the same groups."""
MEANINGS = {
    **dict.fromkeys(("input", "inputs", "images", "image", "in", "init_image", "init_img"), "input_dir"),
    **dict.fromkeys(("output", "out", "output_dir", "out_dir", "outdir", "results", "save"), "save_dir"),
    **dict.fromkeys(("model", "checkpoint", "ckpt", "model_path", "weight", "pretrained"), "weights"),
    **dict.fromkeys(("steps", "num_steps", "num_inference_steps", "ddim_steps"), "respace_steps"),
    **dict.fromkeys(("nfe", "num_calls", "budget"), "calls"),
    **dict.fromkeys(("batch", "batch_size", "bs"), "micro_batch"),
    **dict.fromkeys(("cfg", "cfg_scale", "guidance", "scale", "w"), "guidance_scale"),
    **dict.fromkeys(("dtype", "fp16", "bf16", "half", "amp", "mixed_precision"), "precision"),
    **dict.fromkeys(("schedule", "spacing", "timestep_respacing"), "respace_type"),
    **dict.fromkeys(("resize", "crop", "pad"), "fit"),
    **dict.fromkeys(("resolution", "image_size", "width", "height"), "size"),
    **dict.fromkeys(("force", "f"), "overwrite"),
    **dict.fromkeys(("ext", "extension", "file_type", "output_format"), "format"),
    **dict.fromkeys(("bit_depth", "depth"), "bits"),
    **dict.fromkeys(("min_max", "vmin", "vmax"), "range"),
    **dict.fromkeys(("grey", "gray", "grayscale"), "channels"),
    **dict.fromkeys(("negative", "neg_prompt", "n_prompt"), "negative_prompt"),
    "device": "cpu",
    "random_seed": "seed",
}
"""What other programs call the flags of both commands."""
EDIT_MEANINGS = MEANINGS | {
    **dict.fromkeys(("strength", "denoising_strength", "noise", "t", "level"), "t0"),
    **dict.fromkeys(("sigma", "sigma_start", "start_sigma", "noise_level"), "sigma0"),
    **dict.fromkeys(("class", "label", "class_name"), "class_label"),
    **dict.fromkeys(("text", "caption", "prompts"), "prompt"),
    **dict.fromkeys(("mask", "masks", "mask_image"), "mask_dir"),
    **dict.fromkeys(("num_samples", "n_samples", "n"), "samples"),
    **dict.fromkeys(("scheduler", "solver"), "sampler"),
}
TRANSLATE_MEANINGS = MEANINGS | {
    **dict.fromkeys(("source", "from", "class_a", "source_class", "src"), "class_A"),
    **dict.fromkeys(("target", "to", "class_b", "class_label", "target_class", "dst"), "class_B"),
    **dict.fromkeys(("source_prompt", "prompt_a"), "prompt_A"),
    **dict.fromkeys(("target_prompt", "prompt_b", "prompt"), "prompt_B"),
    **dict.fromkeys(("scheduler", "sampler"), "solver"),
}
_WORDS = {"class_label": "CLASS", "class_A": "CLASS", "class_B": "CLASS", "shard": "I/N", "size": "WxH"}
_WORDS |= dict.fromkeys(("weights", "weights_B", "unconditional", "classifier", "upsample"), "WEIGHTS")
_REQUIRED = ("weights", "input_dir", "save_dir")
_KINDS = {int: command_line.whole_number, float: command_line.number, Path: Path}


class Asked(NamedTuple):
    """All that a command is asked for."""

    network: Network
    method: Edit | Translate
    running: Running


class _ListWeights(argparse.Action):
    def __init__(self, **options):
        super().__init__(nargs="?", metavar="TEXT", default=argparse.SUPPRESS, **options)

    def __call__(self, parser, namespace, values, option_string=None):
        from utils import sources

        try:
            command_line.show(sources.table(getattr(namespace, "weights_dir", None), values or "") + "\n")
        except ValueError as error:
            parser.error(str(error))
        parser.exit()


def add_options(parser: argparse.ArgumentParser, *kinds: type, required: tuple[str, ...] = _REQUIRED) -> None:
    """Add a flag for every field of some classes of settings, in groups."""
    fields = {one.name: one for kind in kinds for one in dataclasses.fields(kind)}
    for title, names in GROUPS.items():
        here = [fields[name] for name in names if name in fields]
        group = parser.add_argument_group(title) if here else None
        for one in here:
            _add(group.add_argument, one, one.name in required)
        if title == "network":
            say = "print the published names, all or those with a text in them, and which are on disk"
            group.add_argument("--list_weights", action=_ListWeights, help=say)


def _add(add: Any, one: dataclasses.Field, required: bool) -> None:
    options = {"help": _help(one), "default": argparse.SUPPRESS, "dest": one.name}
    if one.name == "overrides":
        add("--set", metavar="KEY=VALUE", action="append", **options)
        return
    flags = ["-c", "--config"] if one.name == "config" else [f"--{one.name}"]
    if one.type is bool:
        add(*flags, action="store_true", **options)
        return
    options |= {"type": _kind(one), "required": required, "metavar": _metavar(one)}
    if isinstance(one.default, tuple) and one.name != "shard":
        options["nargs"] = "+"
    add(*flags, **options)


def _metavar(one: dataclasses.Field) -> str:
    """Return what stands for the value in help."""
    kinds = {one.type, *get_args(one.type)}
    if isinstance(one.metadata["allowed"], OneOf) and int not in kinds:
        return "NAME"
    if Path in kinds:
        return "FILE" if one.name.startswith("config") else "DIR"
    return (
        "N"
        if int in kinds and one.name != "shard"
        else "X"
        if float in kinds
        else _WORDS.get(one.name, "NAME")
    )


def _kind(one: dataclasses.Field) -> Any:
    """Return what turns a word into a value of a field."""
    if one.name == "shard":
        return command_line.share
    if one.name == "var_type":
        return settings.var_type
    if one.name == "micro_batch":
        return command_line.number_or_word
    kinds = get_args(one.type) if isinstance(one.type, types.UnionType | types.GenericAlias) else [one.type]
    return next((_KINDS[kind] for kind in kinds if kind in _KINDS), str)


def _help(one: dataclasses.Field) -> str:
    text, allowed = one.metadata["help"], one.metadata["allowed"]
    if isinstance(allowed, OneOf):
        text = f"{text}: {allowed}"
    shown = one.default not in (None, False, (), "", Path())
    return (f"{text} (default: {one.default})" if shown else text).replace("%", "%%")


def read(args: argparse.Namespace, kind: type[Method]) -> Asked:
    """Make the settings of a command from its flags.

    Raises:
        ValueError: A value that is not allowed, or several that do not go together; or files and folders
            that are not there, all of them in one message.
    """
    given = vars(args)
    asked = Asked(make(Network, given), make(kind, given), make(Running, given))
    if problems := [*wrong_files(asked.network, asked.method), *_wrong_folders(asked)]:
        raise ValueError("\n".join(problems))
    return asked


def wrong_files(network: Network, method: Method | None = None) -> list[str]:
    """Say which of the files that settings name are not there."""
    from utils import sources  # not for help and typos

    words = [("config", "weights", network.config, network.weights)]
    if isinstance(method, Translate) and method.weights_B:
        words.append(("config_B", "weights_B", method.config_B, method.weights_B))
    for flag in ("unconditional", "classifier"):
        if given := getattr(method, flag, ()):
            words.append((flag, flag, Path(given[0]) if len(given) == 2 else None, given[-1]))
    problems = []
    for config_flag, flag, config, weights in words:
        if config is not None and _is_yaml(weights) and not _is_yaml(config):
            problems.append(f"--{flag} {weights} and --{config_flag} {config} are the wrong way round")
            continue
        if config is not None and not config.is_file():
            problems.append(f"--{config_flag} {config}: {_what_is_there(config)}; give the path of a file")
        try:
            sources.parse(weights, network.weights_dir)
        except ValueError as error:
            problems.append(f"--{flag} {error}")
    return problems


def _is_yaml(path: str | Path) -> bool:
    return str(path).lower().endswith((".yaml", ".yml"))


def _wrong_folders(asked: Asked) -> list[str]:
    running, method = asked.running, asked.method
    save_dir, problems = running.save_dir, []
    read = {name: getattr(method, name, None) for name in ("mask_dir", "strength_dir")}
    read = {"input_dir": running.input_dir, **{name: path for name, path in read.items() if path is not None}}
    for flag, path in read.items():
        if not path.is_dir() and not (flag == "input_dir" and path.is_file()):
            problems.append(f"--{flag} {path}: {_what_is_there(path)}; give a folder")
    if save_dir.exists() and not save_dir.is_dir():
        problems.append(f"--save_dir {save_dir}: is a file; give a folder, it need not exist yet")
    elif reason := _why_not_writable(save_dir):
        problems.append(f"--save_dir {save_dir}: {reason}; give another folder")
    for flag, path in read.items():
        folder = running.folder if flag == "input_dir" else path
        if save_dir.resolve() == folder.resolve():
            problems.append(f"--save_dir is the folder of --{flag}, so results would replace inputs")
    return problems


def _why_not_writable(folder: Path) -> str:
    """Say why nothing can be written to a folder, which need not exist yet; '' where something can."""
    for place in (folder, *folder.absolute().parents):
        if os.path.lexists(place):
            if not place.is_dir():
                return f"{place} is a file" if place.exists() else f"{place} is a link that leads to nothing"
            return "" if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written to"
    return ""


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        return "is a folder"
    if path.exists():
        return "is a file"
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return "does not exist" + (f" (there is {path.parent / near[0]})" if near else "")
