"""DDIB: translate images between two classes, or two models, without paired training.

An image is encoded to noise along the ODE with class A and decoded with class B
(Su et al., ICLR 2023, arXiv:2203.08382). See docs/DDIB.md.
"""

import argparse
import sys
from typing import TYPE_CHECKING, NamedTuple

from utils import command_line, log, options

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from diffusions.cycle_diffusion import Recording
    from diffusions.process import Look, Model, Noise, Process
    from utils.assemble import Swap
    from utils.job import Item
    from utils.results import Result

_STEPS = 100
_SEED = "key of the noise that cycle-diffusion draws; the other solvers draw none"


def build_parser() -> command_line.StrictParser:
    """Return the command line."""
    parser = command_line.StrictParser(__doc__.splitlines()[0])
    options.add_common_options(parser, steps_help=str(_STEPS), seed_help=_SEED)
    options.add_translate_options(parser)
    options.add_guidance_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    with command_line.report_errors(parser):
        options.check_paths(args)
        options.check_translate_options(args)

        from diffusions import match_timesteps  # torch: only once the paths are known to be good
        from utils import assemble, images, inputs, labels, latents, launch, results, run, run_key

        assemble.settle_weights(args)
        config = assemble.read_config(args.config, args.overrides)
        config_B = assemble.read_config(args.config_B) if args.config_B else config
        assemble.check_pair(config, config_B)
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
        names = assemble.find_inputs(args, (latents.SUFFIX,) if args.from_latents else images.SUFFIXES)
        sources = None
        if args.class_A:
            sources = labels.read_labels(args.class_A, config, args.input_dir, names)
        elif not args.from_latents and assemble.unconditional_label(config) is not None:
            raise ValueError("give --class_A, the class of the inputs, to a network with classes")
        space = {
            "config": args.config.name,
            "weights": args.weights.name,
            "timesteps": timesteps,
            "solver": args.solver,
        }
        folders = [f"to_{name}" for name in args.class_B] if args.class_B and len(args.class_B) > 1 else [""]
        reader = inputs.Inputs(args.input_dir, config.model.image_size, config.model.in_channels, args.fit)
        if args.from_latents:
            reader = latents.Latents(args.input_dir, space)
        calls = count_calls(args, encoder.num_steps, guidance.calls_per_step)
        warn(encoder)
        if args.dry_run:
            side, top = config.model.image_size, encoder.num_steps
            wanted = ", ".join(args.class_B or [args.weights_B.name])
            print(
                f"{len(names)} images at {side}x{side}, to {wanted}\n"
                f"{top} levels up to timestep {timesteps[-1]} of {encoder.num_timesteps}, "
                f"sigma {encoder.sigma(top):.4g}\n"
                f"{calls} network evaluations an image"
            )
            return command_line.EXIT_DONE
        place = launch.start(args.cpu, args.precision, args.compile)
        settings = run_key.run_settings(args, config, timesteps, str(place.dtype))
        run_key.check(args.save_dir, settings, args.overwrite)

        def build(place):
            network = assemble.load_network(config, args.weights, place)
            network_B = assemble.load_network(config_B, args.weights_B, place) if args.config_B else network
            guided, modules = guidance.load(network_B, place)
            targets = {
                folder: Side(encoder_B, decoder_B.guided(gradient), network_B.model(label), model)
                for folder, (model, gradient), label in zip(folders, guided, guidance.labels, strict=True)
            }
            away = [network.module] if args.config_B else []
            swap = assemble.Swap(place.device, away, modules if args.offload else [])

            def source(labels_of_batch):
                model = network.model(labels_of_batch)
                return Side(encoder, decoder, model, model)

            return Translator(args, source, targets, sources, space, swap), [*away, *modules]

        method = run.Method(build, place)

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
    items = results.make_items(names)
    code = run.Run(args, place, items, reader, method, settings, parameters, folders).do(calls)
    launch.finish()
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


def warn(process: "Process") -> None:
    """Say when the latent is not all noise."""
    last = process.timesteps[-1]
    if last + 1 < 0.9 * process.num_timesteps:
        log.once(
            f"note: the last level is timestep {last} of {process.num_timesteps}, not pure noise, so the "
            "latent keeps part of the image; see docs/DDIB.md"
        )


class Side(NamedTuple):
    """One end of a translation."""

    encoder: "Process"
    decoder: "Process"
    model: "Model"
    """Encodes; leads nowhere."""
    guided: "Model"
    """Decodes."""

    def encode(self, images: "Tensor", noise: "Noise", look: "Look | None" = None) -> "Tensor | Recording":
        """Encode images, by cycle-diffusion to a recording of noise, else to a latent."""
        from diffusions import DDPM, encode, record_noise

        encoder = self.encoder.watched(look)
        if isinstance(encoder, DDPM):
            return record_noise(encoder, self.model, images, noise)
        return encode(encoder, self.model, images)

    def decode(
        self, latent: "Tensor | Recording", encoder: "Process", look: "Look | None" = None
    ) -> "Tensor":
        """Decode what another side's encoder made."""
        from diffusions import DDPM, carry_latent, decode, replay_noise

        decoder = self.decoder.watched(look)
        if isinstance(decoder, DDPM):
            return replay_noise(decoder, self.guided, latent)
        return decode(decoder, self.guided, carry_latent(latent, encoder, self.encoder))


class Translator:
    """The method on a batch."""

    def __init__(
        self,
        args: argparse.Namespace,
        source: "Callable[[Tensor | int | None], Side]",
        targets: dict[str, Side],
        sources: dict[str, int] | None,
        space: dict[str, object],
        swap: "Swap",
    ):
        self.args, self.source, self.targets = args, source, targets
        self.sources, self.space, self.swap = sources, space, swap
        num_frames = args.trajectory or 1  # the last is the result
        self.num_up = 0 if args.from_latents else num_frames // 2
        self.num_down = num_frames - 1 - self.num_up

    def __call__(self, items: list["Item"], tensors: dict[str, "Tensor"]) -> list[list["Result"]]:
        """Encode a batch, or take its latents, and decode it to every target; return the results by item."""
        from diffusions.trajectory import Trajectory, frames
        from utils.results import Result

        images, latent = tensors.get("image"), tensors.get("latent")
        side = self._source(items, latent if images is None else images)
        up = Trajectory(side.encoder, self.num_up, side.encoder.num_steps)
        if latent is None:
            self.swap.to_source()
            latent = side.encode(images, self._noise(items, images), up)
            if isinstance(latent, tuple):  # recorded on a way down
                up.turn_round(images)
        files = self._files(items, latent) if self.args.save_latents else [{} for _ in items]
        notes = self._diagnose(items, side, images, latent) if self.args.cycle else [{} for _ in items]
        by_target = []
        for folder, target in self.targets.items():
            self.swap.to_target()
            down = Trajectory(target.decoder, self.num_down, target.decoder.num_steps)
            results = target.decode(latent, side.encoder, down)
            ways = frames(results, up, down) if self.args.trajectory else [None] * len(items)
            back = [None] * len(items)
            if self.args.cycle:
                back, notes = self._return(items, side, target, images, results, notes)
            rows = zip(results, self._shown(side, latent), back, ways, notes, files, strict=True)
            by_target.append([Result(x, z, y, way, folder, *more) for x, z, y, way, *more in rows])
        return [list(row) for row in zip(*by_target, strict=True)]

    def _source(self, items: list["Item"], like: "Tensor") -> Side:
        import torch

        if self.sources is None:
            return self.source(None)
        return self.source(torch.tensor([self.sources[item.name] for item in items], device=like.device))

    def _noise(self, items: list["Item"], like: "Tensor") -> "Noise":
        from utils.noise import ImageNoise

        return ImageNoise(self.args.seed, [item.key for item in items], like.shape[1:], like.device)

    def _files(self, items: list["Item"], latent: "Tensor") -> list[dict[str, bytes]]:
        """Return the file of each latent, by its path."""
        from utils import latents

        files = []
        for item, row in zip(items, latent, strict=True):
            made_by = {**self.space, "class_A": self.sources and self.sources[item.name]}
            path = f"{latents.FOLDER}/{item.target.removesuffix('.png')}{latents.SUFFIX}"
            files.append({path: latents.encode_latent(row, made_by)})
        return files

    def _shown(self, side: Side, latent: "Tensor | Recording") -> "Tensor":
        """Return one state of the latent, scaled to the range of images."""
        state = latent[0] if isinstance(latent, tuple) else latent
        return side.encoder.shown(state, side.encoder.num_steps)

    def _diagnose(
        self, items: list["Item"], side: Side, images: "Tensor", latent: "Tensor | Recording"
    ) -> list[dict[str, object]]:
        """Measure A to A, and how much the latent looks like noise."""
        from diffusions.diagnostics import latent_statistics, rmse, unlike_noise

        errors = rmse(side.decode(latent, side.encoder), images).tolist()
        table = {key: value.tolist() for key, value in latent_statistics(self._shown(side, latent)).items()}
        notes = []
        for row, (item, error) in enumerate(zip(items, errors, strict=True)):
            statistics = {key: round(values[row], 4) for key, values in table.items()}
            if far := unlike_noise(statistics):
                log.log.warning(f"warning: {item.name}: its latent is unlike noise: {', '.join(far)}")
            notes.append({"A_to_A": round(error, 5), "latent": statistics})
        return notes

    def _return(
        self,
        items: list["Item"],
        side: Side,
        target: Side,
        images: "Tensor",
        results: "Tensor",
        notes: list[dict[str, object]],
    ) -> tuple["Tensor", list[dict[str, object]]]:
        """Translate results back to A, and measure what returns."""
        from diffusions.diagnostics import rmse

        latent = target.encode(results, self._noise(items, results))
        self.swap.to_source()
        back = side.decode(latent, target.encoder)
        errors = rmse(back, images).tolist()
        for item, note, error in zip(items, notes, errors, strict=True):
            log.log.info(f"{item.name}: A to A {note['A_to_A']:.4f}, A to B to A {error:.4f}")
        return back, [
            {**note, "A_to_B_to_A": round(error, 5)} for note, error in zip(notes, errors, strict=True)
        ]


if __name__ == "__main__":
    sys.exit(main())
