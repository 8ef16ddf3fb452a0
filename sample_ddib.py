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
        from utils import assemble, inputs, launch, results
        from utils.config import class_index

        config = assemble.read_config(args.config, args.overrides)
        trained = assemble.read_trained(config)
        timesteps = assemble.read_timesteps(args, config, default_steps=_STEPS)
        process = DDIM(trained.schedule, timesteps, trained.prediction)
        source, target = (class_index(config, label) for label in (args.class_A, args.class_B))
        names = assemble.find_inputs(args)
        reader = inputs.Inputs(args.input_dir, config.model.image_size, config.model.in_channels, args.fit)
        calls = 2 * process.num_steps
        if timesteps[-1] + 1 < 0.9 * process.num_timesteps:
            print(
                f"note: the last level is timestep {timesteps[-1]} of {process.num_timesteps}, not pure "
                "noise, so the latent keeps part of the image; see docs/DDIB.md",
                file=sys.stderr,
            )
        if args.dry_run:
            print(
                f"{len(names)} images at {config.model.image_size}x{config.model.image_size}, "
                f"class {source} to class {target}\n"
                f"{process.num_steps} levels up to timestep {timesteps[-1]} of {process.num_timesteps}, "
                f"sigma {process.sigma(process.num_steps):.4g}\n"
                f"{calls} network evaluations an image"
            )
            return options.EXIT_DONE
        place = launch.start(args.cpu, args.precision)
        network = assemble.load_network(config, args.weights, place)

    def translate(items, tensors):
        latent = encode(process, network.model(source), tensors["image"])
        images = decode(process, network.model(target), latent)
        return [[results.Result(*row)] for row in zip(images, latent, strict=True)]

    parameters = {"method": "DDIB", "class_A": source, "class_B": target, "timesteps": len(timesteps)}
    items = results.make_items(names)
    code = assemble.run(args, place, items, reader, translate, [network.module], calls, parameters)
    launch.finish()
    return code


if __name__ == "__main__":
    sys.exit(main())
