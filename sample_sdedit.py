"""SDEdit: turn a guide image (strokes, a rough edit, a composite) into a realistic one.

The guide is noised part of the way and denoised (Meng et al., ICLR 2022, arXiv:2108.01073).
See docs/SDEdit.md.
"""

import argparse
import sys

from utils import options

_SEED = "key of the noise: the same seed gives the same pictures"


def build_parser() -> options.StrictParser:
    """Return the command line."""
    parser = options.StrictParser(__doc__.splitlines()[0])
    options.add_common_options(parser, steps_help="all that were trained", seed_help=_SEED)
    strength = parser.add_mutually_exclusive_group(required=True)
    strength.add_argument(
        "--edit_steps",
        type=options.positive_int,
        default=argparse.SUPPRESS,
        help="respaced steps to noise and denoise, 1 (hardly a change) to all of them (a new image)",
    )
    strength.add_argument(
        "--t0",
        type=float,
        default=argparse.SUPPRESS,
        help="the same as a fraction of the process, above 0 to 1, whatever the respacing; try 0.3 to 0.6",
    )
    parser.add_argument(
        "--var_type",
        type=options.var_type,
        choices=options.VAR_TYPES,
        help="variance of a DDPM step (default: the config's)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    with options.report_errors(parser):
        options.check_paths(args)

        from diffusions import DDPM, edit  # torch: only once the paths are known to be good
        from utils import assemble, launch
        from utils.noise import ImageNoise

        config = assemble.read_config(args)
        schedule, timesteps = assemble.read_schedule(args, config, default_steps=None)
        var_type = assemble.choose_variance(args, config)
        process = DDPM(schedule, timesteps, config.diffusion.prediction, var_type)
        level = args.edit_steps if "edit_steps" in args else process.level_at(args.t0)
        process.check_level(level)
        files = assemble.find_files(args)
        label = assemble.unconditional_label(config)
        if var_type == "fixed_large" and process.num_steps < 500:
            print(
                "warning: fixed_large leaves noise in images at few steps, prefer fixed_small",
                file=sys.stderr,
            )
        if args.dry_run:
            print(
                f"{len(files.names)} images at {config.model.image_size}x{config.model.image_size}\n"
                f"level {level} of {process.num_steps}: timestep {process.timesteps[level - 1]} of "
                f"{schedule.num_timesteps}, sigma {process.sigma(level):.4g}\n"
                f"{level} network evaluations an image"
            )
            return options.EXIT_DONE
        place = launch.start(args.cpu, args.precision)
        network = assemble.load_network(config, args.weights, place)

    def sample(counted, names, guide):
        def noise():
            return ImageNoise(args.seed, names, guide.shape[1:], guide.device)

        result = edit(process, assemble.bind_class(counted, label), guide, level, noise())
        return result, process.diffuse(guide, level, noise()())  # the first noise that edit drew

    parameters = {
        "method": "SDEdit",
        "config": args.config.name,
        "weights": args.weights.name,
        "seed": args.seed,
        "var_type": var_type,
        "timesteps": len(timesteps),
        "respace_type": args.respace_type,
        "edit_steps": level,
        "fit": args.fit,
    }
    code = assemble.run(args, config, place, files, network, sample, level, parameters)
    launch.finish()
    return code


if __name__ == "__main__":
    sys.exit(main())
