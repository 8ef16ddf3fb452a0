"""SDEdit: turn a guide image (strokes, a rough edit, a composite) into a realistic one.

The guide is noised part of the way and denoised (Meng et al., ICLR 2022, arXiv:2108.01073).
See docs/SDEdit.md.
"""

import argparse
import math
import sys
from typing import TYPE_CHECKING

from utils import command_line, log, options

if TYPE_CHECKING:
    from torch import Tensor

    from diffusions.process import Look, Model, Process
    from utils.job import Item
    from utils.results import Result

_SEED = "key of the noise: the same seed gives the same pictures"


def build_parser() -> command_line.StrictParser:
    """Return the command line."""
    parser = command_line.StrictParser(__doc__.splitlines()[0])
    options.add_common_options(parser, steps_help="all that were trained", seed_help=_SEED)
    options.add_edit_options(parser)
    options.add_mask_options(parser)
    options.add_guidance_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    with command_line.report_errors(parser):
        options.check_paths(args)
        options.check_edit_options(args)

        from utils import assemble, inputs, launch, results, run, run_key  # torch: once the paths are good

        assemble.settle_weights(args)
        config = assemble.read_config(args.config, args.overrides)
        trained = assemble.read_trained(config)
        timesteps = assemble.read_timesteps(args, config, default_steps=None)
        process = assemble.make_process(args, config, trained, timesteps)
        guidance = assemble.Guidance(args, config, args.class_label and [args.class_label])
        levels = choose_levels(args, process)
        names = assemble.find_inputs(args, inputs.SUFFIXES)
        reader = inputs.Inputs(
            *(args.input_dir, config.model.image_size, config.model.in_channels, args.fit),
            masks=inputs.find_masks(args, names),
            strengths=inputs.Maps(args.strength_dir, args.save_dir) if args.strength_dir else None,
        )
        items = results.make_items(names, args.samples)
        calls_a_level = args.repeats * (guidance.calls_per_step + (args.corrector_steps or 0))
        warn(process)
        if args.dry_run:
            side = config.model.image_size
            print(f"{len(names)} images at {side}x{side}, {len(items) * max(1, len(levels))} results")
            print(*describe(args, process, levels, calls_a_level), sep="\n")
            return command_line.EXIT_DONE
        place = launch.start(args.cpu, args.precision, args.compile)
        settings = run_key.run_settings(args, config, timesteps, str(place.dtype))
        run_key.check(args.save_dir, settings, args.overwrite)

        def build(place):
            network = assemble.load_network(config, args.weights, place)
            [(model, gradient)], modules = guidance.load(network, place)
            return Editor(args, process.guided(gradient), model, levels), modules

        method = run.Method(build, place)

    parameters = {
        "method": "SDEdit",
        "timesteps": len(timesteps),
        "sampler": args.sampler,
        "var_type": getattr(process, "var_type", None),
        "repeats": args.repeats,
        "class_label": guidance.labels[0],
        **guidance.parameters,
    }
    calls = calls_a_level * (sum(levels) or round(process.num_steps * math.log2(process.num_steps + 1) / 2))
    folders = list(levels.values()) or [""]
    code = run.Run(args, place, items, reader, method, settings, parameters, folders).do(calls)
    launch.finish()
    return code


def choose_levels(args: argparse.Namespace, process: "Process") -> dict[int, str]:
    """Return the levels to edit from, each with the folder of its results; none with --auto_t0.

    Raises:
        ValueError: A level that the process does not have.
    """
    if "t0" in args:
        wanted = [(process.level_at(t0), f"t0_{t0:g}") for t0 in args.t0]
    else:
        wanted = [(level, f"steps_{level}") for level in getattr(args, "edit_steps", [])]
    levels = dict(wanted)
    for level in levels:
        process.check_level(level)
    if len(levels) < len(wanted):
        names = ", ".join(f"{name} is level {level}" for level, name in wanted)
        raise ValueError(f"the same level twice: {names} of {process.num_steps}; respace to more steps")
    return levels if len(levels) > 1 else dict.fromkeys(levels, "")


def warn(process: "Process") -> None:
    """Say when the variance of the steps will show in the results."""
    preserving = process.levels[-1].signal < 1
    if getattr(process, "var_type", "") == "fixed_large" and process.num_steps < 500 and preserving:
        log.once("warning: fixed_large leaves noise in images at few steps, prefer fixed_small")


def describe(
    args: argparse.Namespace, process: "Process", levels: dict[int, str], calls_a_level: int
) -> list[str]:
    """Say what a run would do."""
    if args.auto_t0:
        return [f"up to level {process.num_steps}, as far as the difference stays within {args.faithfulness}"]
    return [
        f"level {level} of {process.num_steps}: timestep {process.timesteps[level - 1]} of "
        f"{process.num_timesteps}, sigma {process.sigma(level):.4g}, "
        f"{level * calls_a_level} network evaluations an image"
        for level in levels
    ]


class Editor:
    """The method on a batch."""

    def __init__(self, args: argparse.Namespace, process: "Process", model: "Model", levels: dict[int, str]):
        self.args, self.process, self.model, self.levels = args, process, model, levels

    def __call__(self, items: list["Item"], tensors: dict[str, "Tensor"]) -> list[list["Result"]]:
        """Edit a batch from every level, or from one that each image needs; return the results by item."""
        if self.args.auto_t0:
            return self._edit_within(items, tensors)
        by_level = [self._edit_from(level, items, tensors) for level in self.levels]
        return [list(row) for row in zip(*by_level, strict=True)]

    def _noise(self, items: list["Item"], like: "Tensor"):
        from utils.noise import ImageNoise

        return ImageNoise(self.args.seed, [item.key for item in items], like.shape[1:], like.device)

    def _edit(
        self, level: int, items: list["Item"], tensors: dict[str, "Tensor"], look: "Look | None" = None
    ) -> "Tensor":
        from diffusions import edit

        guide = tensors["image"]
        return edit(
            *(self.process.watched(look), self.model, guide, level, self._noise(items, guide)),
            mask=tensors.get("mask"),
            strength=tensors.get("strength"),
            fixed_noise=self.args.mask_noise == "fixed",
            repeats=self.args.repeats,
        )

    def _edit_from(self, level: int, items: list["Item"], tensors: dict[str, "Tensor"]) -> list["Result"]:
        from diffusions.trajectory import Trajectory, frames
        from utils.results import Result

        guide, noised = tensors["image"], [None] * len(items)
        if self.args.comparison:  # with the first noise that edit draws
            noised = self.process.diffuse(guide, level, self._noise(items, guide)())
            noised = self.process.shown(noised, level)
        num_frames = self.args.trajectory or 1  # the last is the result
        way = Trajectory(self.process, num_frames - 1, self.args.repeats * level)
        edited = self._edit(level, items, tensors, way)
        ways = frames(edited, way) if self.args.trajectory else [None] * len(items)
        shared = {"folder": self.levels[level], "notes": self._notes(level)}
        rows = zip(edited, noised, ways, strict=True)
        return [Result(x, z, trajectory=way, **shared) for x, z, way in rows]

    def _edit_within(self, items: list["Item"], tensors: dict[str, "Tensor"]) -> list[list["Result"]]:
        from diffusions import distance, edit_within
        from utils.results import Result

        def edit_rows(rows, level):
            part = {key: tensor[rows] for key, tensor in tensors.items()}
            return self._edit(level, [items[row] for row in rows], part)

        def distances(rows, edited):
            mask = tensors.get("mask")
            return distance(edited, tensors["image"][rows], None if mask is None else mask[rows])

        limit, num_levels = self.args.faithfulness, self.process.num_steps
        found = edit_within(edit_rows, distances, tensors["image"], num_levels, limit)
        results = []
        for item, edited, level, value in zip(items, *found, strict=True):
            if level == 0:
                problem = f"even 1 step goes further than --faithfulness {limit:g}; allow more"
                results.append([Result(edited, problem=problem)])
                continue
            log.log.info(f"{item.target}: level {level} of {num_levels}, difference {value:.4f}")
            results.append([Result(edited, notes={**self._notes(level), "difference": round(value, 6)})])
        return results

    def _notes(self, level: int) -> dict[str, object]:
        return {"edit_steps": level, "sigma": round(self.process.sigma(level), 6)}


if __name__ == "__main__":
    sys.exit(main())
