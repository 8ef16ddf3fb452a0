"""DDIB: translate images between two classes without paired training.

An image is encoded to noise along the ODE with class A and decoded with class B
(Su et al., ICLR 2023, arXiv:2203.08382). See docs/DDIB.md.
"""

import sys

from utils import options

_STEPS = 100
_SEED = "recorded only: DDIB draws no noise, its result depends on the image alone"


def build_parser() -> options.StrictParser:
    """Return the command line."""
    parser = options.StrictParser(__doc__.splitlines()[0])
    options.add_common_options(parser, steps_help=str(_STEPS), seed_help=_SEED)
    parser.add_argument(
        "--class_A", required=True, help="class of the inputs: an index, or a name of the config"
    )
    parser.add_argument("--class_B", required=True, help="class of the results, likewise")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    with options.report_errors(parser):
        options.check_paths(args)

        from diffusions import DDIM, decode, encode  # torch: only once the paths are known to be good
        from utils import assemble, launch
        from utils.config import class_index

        config = assemble.read_config(args)
        schedule, timesteps = assemble.read_schedule(args, config, default_steps=_STEPS)
        process = DDIM(schedule, timesteps, config.diffusion.prediction)
        source, target = (class_index(config, label) for label in (args.class_A, args.class_B))
        files = assemble.find_files(args)
        calls = 2 * process.num_steps
        if timesteps[-1] + 1 < 0.9 * schedule.num_timesteps:
            print(
                f"note: the last level is timestep {timesteps[-1]} of {schedule.num_timesteps}, not pure "
                "noise, so the latent keeps part of the image; see docs/DDIB.md",
                file=sys.stderr,
            )
        if args.dry_run:
            print(
                f"{len(files.names)} images at {config.model.image_size}x{config.model.image_size}, "
                f"class {source} to class {target}\n"
                f"{process.num_steps} levels up to timestep {timesteps[-1]} of {schedule.num_timesteps}, "
                f"sigma {process.sigma(process.num_steps):.4g}\n"
                f"{calls} network evaluations an image"
            )
            return options.EXIT_DONE
        place = launch.start(args.cpu, args.precision)
        network = assemble.load_network(config, args.weights, place)

    def sample(counted, names, image):
        latent = encode(process, assemble.bind_class(counted, source), image)
        return decode(process, assemble.bind_class(counted, target), latent), latent

    parameters = {
        "method": "DDIB",
        "config": args.config.name,
        "weights": args.weights.name,
        "class_A": source,
        "class_B": target,
        "seed": args.seed,
        "timesteps": len(timesteps),
        "respace_type": args.respace_type,
        "fit": args.fit,
    }
    code = assemble.run(args, config, place, files, network, sample, calls, parameters)
    launch.finish()
    return code


if __name__ == "__main__":
    sys.exit(main())
