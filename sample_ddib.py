"""DDIB: translate images between two classes, or two models, without paired training.

An image is encoded to noise along the ODE with class A and decoded with class B
(Su et al., ICLR 2023, arXiv:2203.08382). See docs/DDIB.md.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from utils import exits, interrupt, log, threads
from utils.command import command_line, options

if TYPE_CHECKING:
    from diffusions.process import Process

_SPACING, _STEPS = "quad90", 100
_SEED = "key of the noise that cycle-diffusion draws; the other solvers draw none"


def build_parser() -> command_line.StrictParser:
    """Return the command line."""
    parser = command_line.StrictParser(__doc__.splitlines()[0])
    options.add_common_options(parser, _SPACING, steps_help=str(_STEPS), seed_help=_SEED)
    options.add_translate_options(parser)
    options.add_guidance_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    interrupt.outlive_terminal()
    with command_line.report_errors(parser):
        options.check_paths(args)
        options.check_translate_options(args)
        threads.prepare()

        from diffusions import match_timesteps  # torch: only once the paths are known to be good
        from utils import assemble, images, jobs

        assemble.settle_weights(args)
        config = assemble.read_config(args.config, args.overrides)
        config_B = assemble.read_config(args.config_B) if args.config_B else config
        assemble.check_same_images("--config_B", config_B, "--config", config)
        trained, trained_B = assemble.read_trained(config), assemble.read_trained(config_B)
        timesteps = assemble.read_timesteps(args, config, default_steps=_STEPS)
        encoder, decoder = assemble.make_solver(args, trained, timesteps)
        if args.config_B:
            sigmas = [encoder.sigma(level) for level in range(1, encoder.num_steps + 1)]
            timesteps_B = match_timesteps(trained_B.schedule, sigmas)
            encoder_B, decoder_B = assemble.make_solver(args, trained_B, timesteps_B)
        else:
            encoder_B, decoder_B = encoder, decoder
        guidance = assemble.Guidance(args, config_B, args.class_B)
        names = images.find_inputs(args, (images.LATENT_SUFFIX,) if args.from_latents else images.SUFFIXES)
        sources = None
        if args.class_A:
            sources = images.read_labels(args.class_A, config, args.input_dir, names)
        elif not args.from_latents and assemble.unconditional_label(config) is not None:
            raise ValueError("give --class_A, the class of the inputs, to a network with classes")
        space = {
            "config": args.config.name,
            "weights": args.weights.name,
            "timesteps": timesteps,
            "solver": args.solver,
        }
        folders = [f"to_{name}" for name in args.class_B] if args.class_B and len(args.class_B) > 1 else [""]
        reader = images.Inputs(args.input_dir, config.model.image_size, config.model.in_channels, args.fit)
        if args.from_latents:
            side = config.model.image_size
            reader = images.Latents(args.input_dir, space, (config.model.in_channels, side, side))
        calls = count_calls(args, encoder.num_steps, guidance.calls_per_step)
        warn(encoder, assemble.describe_loss(args, config, trained, timesteps))
        if args.dry_run:
            side, top = config.model.image_size, encoder.num_steps
            wanted = ", ".join(args.class_B or [args.weights_B.name])
            print(
                f"{len(names)} images at {side}x{side}, to {wanted}\n"
                f"{top} levels up to timestep {timesteps[-1]} of {encoder.num_timesteps}, "
                f"sigma {encoder.sigma(top):.4g}\n"
                f"{calls} network evaluations an image"
            )
            return exits.DONE
        place = jobs.start(args.cpu, args.precision, args.compile, args.shard is not None)
        settings = jobs.run_settings(args, config, timesteps, str(place.dtype))
        jobs.check(args, place, settings)

        def build(place):
            network = assemble.load_network(config, args.weights, place)
            network_B = assemble.load_network(config_B, args.weights_B, place) if args.config_B else network
            guided, modules = guidance.load(network_B, place)
            targets = {
                folder: assemble.Side(encoder_B, decoder_B.guided(gradient), network_B.model(label), model)
                for folder, (model, gradient), label in zip(folders, guided, guidance.labels, strict=True)
            }
            away = [network.module] if args.config_B else []
            swap = assemble.Swap(place.device, away, modules if args.offload else [])

            def source(labels_of_batch):
                model = network.model(labels_of_batch)
                return assemble.Side(encoder, decoder, model, model)

            return assemble.Translator(args, source, targets, sources, space, swap), [*away, *modules]

        method = jobs.Method(build, place)
        parameters = {
            "method": "DDIB",
            "class_A": args.class_A,
            "class_B": args.class_B,
            "weights_B": args.weights_B and args.weights_B.name,
            "timesteps": len(timesteps),
            "solver": args.solver,
            "inversion": args.inversion,
            **guidance.parameters,
        }
        items = jobs.make_items(names)
        work = jobs.Run(args, place, items, reader, method, settings, parameters, folders, sources)
        work.prepare()

    code = work.do(calls)
    jobs.finish()
    return code


def count_calls(args: argparse.Namespace, num_steps: int, calls_down: int) -> int:
    """Estimate the network evaluations of an image for plan and progress; a run reports the count."""
    up = {"heun": 2, "dpm-solver++": 2}.get(args.solver, 4 if args.inversion == "fixed_point" else 1)
    down = 2 if args.solver == "heun" else 1
    num_targets = len(args.class_B or [""])
    calls = num_targets * down * calls_down + (0 if args.from_latents else up)
    if args.cycle:
        calls += down + num_targets * (up + down)
    return num_steps * calls


def warn(process: "Process", loss: str | None) -> None:
    """Say when the latent is not all noise, and what these steps lose."""
    last = process.timesteps[-1]
    if last + 1 < 0.9 * process.num_timesteps:
        log.once(
            f"note: the last level is timestep {last} of {process.num_timesteps}, not pure noise, so the "
            "latent keeps part of the image; see docs/DDIB.md"
        )
    if loss:
        log.once(loss)


if __name__ == "__main__":
    sys.exit(main())
