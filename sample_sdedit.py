"""SDEdit: turn a guide image (strokes, a rough edit, a composite) into a realistic one.

The guide is noised part of the way and denoised (Meng et al., ICLR 2022, arXiv:2108.01073).
See docs/SDEdit.md.
"""

import argparse
import math
import sys
from typing import TYPE_CHECKING

from utils import exits, interrupt, log, threads
from utils.command import command_line, options

if TYPE_CHECKING:
    from diffusions.process import Process

_SPACING = "uniform-trailing"  # its last level is all noise, so that t0 1 is a new image
_SEED = "key of the noise: the same seed gives the same pictures"


def build_parser() -> command_line.StrictParser:
    """Return the command line."""
    parser = command_line.StrictParser(__doc__.splitlines()[0])
    options.add_common_options(parser, _SPACING, steps_help="all that were trained", seed_help=_SEED)
    options.add_edit_options(parser)
    options.add_mask_options(parser)
    options.add_guidance_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    interrupt.outlive_terminal()
    with command_line.report_errors(parser):
        options.check_paths(args)
        options.check_edit_options(args)
        threads.prepare()

        # torch: once the paths are good
        from utils import assemble, images, jobs

        assemble.settle_weights(args)
        config = assemble.read_config(args.config, args.overrides)
        trained = assemble.read_trained(config)
        timesteps = assemble.read_timesteps(args, config, default_steps=None)
        process = assemble.make_process(args, config, trained, timesteps)
        guidance = assemble.Guidance(args, config, args.class_label and [args.class_label])
        levels = assemble.choose_levels(args, process)
        warn(process, assemble.describe_levels(args, process))
        names = images.find_inputs(args, images.WITH_PAIRS)
        reader = images.Inputs(
            *(args.input_dir, config.model.image_size, config.model.in_channels, args.fit),
            masks=images.find_masks(args, names),
            strengths=images.find_strengths(args, names),
        )
        items = jobs.make_items(names, args.samples)
        calls_a_level = args.repeats * (guidance.calls_per_step + (args.corrector_steps or 0))
        if args.dry_run:
            side = config.model.image_size
            print(f"{len(names)} images at {side}x{side}, {len(items) * max(1, len(levels))} results")
            print(*describe(args, process, levels, calls_a_level), sep="\n")
            return exits.DONE
        place = jobs.start(args.cpu, args.precision, args.compile, args.shard is not None)
        settings = jobs.run_settings(args, config, timesteps, str(place.dtype))
        jobs.check(args, place, settings)

        def build(place):
            network = assemble.load_network(config, args.weights, place)
            [(model, gradient)], modules = guidance.load(network, place)
            return assemble.Editor(args, process.guided(gradient), model, levels), modules

        method = jobs.Method(build, place)
        parameters = assemble.edit_parameters(args, process, guidance)
        searched = round(process.num_steps * math.log2(process.num_steps + 1) / 2)  # by --auto_t0
        calls = calls_a_level * (sum(levels) or searched)
        folders = list(levels.values()) or [""]
        work = jobs.Run(args, place, items, reader, method, settings, parameters, folders)
        work.prepare()

    code = work.do(calls)
    jobs.finish()
    return code


def warn(process: "Process", about_levels: list[str]) -> None:
    """Say how far the edits go, and when the variance of the steps will show in them."""
    for line in about_levels:
        log.once(line)
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
        f"level {level} of {process.num_steps}: t0 {process.t0_at(level):g}, timestep "
        f"{process.timesteps[level - 1]} of {process.num_timesteps}, sigma {process.sigma(level):.4g}, "
        f"{level * calls_a_level} network evaluations an image"
        for level in levels
    ]


if __name__ == "__main__":
    sys.exit(main())
