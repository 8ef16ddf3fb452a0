"""DDIB on a batch of the work list."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

from diffusions import DDPM, carry_latent, decode, encode, record_noise, replay_noise
from diffusions.cycle_diffusion import Recording
from diffusions.diagnostics import latent_statistics, rmse, unlike_noise
from diffusions.process import Look, Model, Noise, Process
from diffusions.trajectory import Trajectory, frames
from utils import images, log
from utils.jobs import Item, Result, item_noise
from utils.sampling import Swap, Tick, name_level, ticking
from utils.settings import Translate


class Side(NamedTuple):
    """One end of a translation."""

    encoder: Process
    decoder: Process
    model: Model
    """Encodes; leads nowhere."""
    guided: Model
    """Decodes."""

    def encode(self, images: Tensor, noise: Noise, look: Look | None = None) -> Tensor | Recording:
        """Encode images, by cycle-diffusion to a recording of noise, else to a latent."""
        encoder = self.encoder.watched(look)
        if isinstance(encoder, DDPM):
            return record_noise(encoder, self.model, images, noise)
        return encode(encoder, self.model, images)

    def decode(self, latent: Tensor | Recording, encoder: Process, look: Look | None = None) -> Tensor:
        """Decode what another side's encoder made."""
        decoder = self.decoder.watched(look)
        if isinstance(decoder, DDPM):
            return replay_noise(decoder, self.guided, latent)
        return decode(decoder, self.guided, carry_latent(latent, encoder, self.encoder))


class Target(NamedTuple):
    """What inputs are translated to."""

    name: str | None
    """Of its class; None for another network without classes."""
    side: Callable[[int], Side]
    """Gives the side to decode by, for a batch of so many."""


class TranslateBatch:
    """Encodes a batch, and decodes it to each target in turn."""

    def __init__(
        self,
        translate: Translate,
        source: Callable[[Tensor | None], Side],
        targets: dict[str, Target],
        sources: dict[str, int] | None,
        name_of: Callable[[int], str],
        space: dict[str, object],
        swap: Swap,
        tick: Tick | None = None,
    ):
        """
        Args:
            translate: The settings.
            source: Gives the side to encode by, for the labels of a batch, shape [B], or for none.
            targets: To decode by, each under the folder of its results.
            sources: Label of each input, by its relative path; None for a network without classes.
            name_of: Gives the name of such a label.
            space: What a saved latent has to match, to be decoded later.
            swap: Holds the networks on the device in their turn.
            tick: Called before each step.
        """
        self.translate, self.source, self.targets = translate, source, targets
        self.sources, self.name_of, self.space = sources, name_of, space
        self.swap, self.tick = swap, tick
        num_frames = translate.trajectory or 1  # the last is the result
        self.num_up = 0 if translate.from_latents else num_frames // 2
        self.num_down = num_frames - 1 - self.num_up

    def __call__(self, items: list[Item], tensors: dict[str, Tensor]) -> list[list[Result]]:
        """Encode a batch, or take its latents, and decode it to every target; return the results by item."""
        images, latent = tensors.get("image"), tensors.get("latent")
        side = self._source(items, latent if images is None else images)
        up = Trajectory(side.encoder, self.num_up, side.encoder.num_steps)
        if latent is None:
            self.swap.to_source()
            latent = side.encode(images, item_noise(self.translate, items, images), ticking(self.tick, up))
            if isinstance(latent, tuple):  # recorded on a way down
                up.turn_round(images)
        files = self._files(items, latent) if self.translate.save_latents else [{} for _ in items]
        notes = self._diagnose(items, side, images, latent) if self.translate.cycle else [{} for _ in items]
        by_target = []
        for folder, (name, make_side) in self.targets.items():
            self.swap.to_target()
            target = make_side(len(items))
            down = Trajectory(target.decoder, self.num_down, target.decoder.num_steps)
            results = target.decode(latent, side.encoder, ticking(self.tick, down))
            ways = frames(results, up, down) if self.translate.trajectory else [None] * len(items)
            back = [None] * len(items)
            if self.translate.cycle:
                back, notes = self._return(items, side, target, images, results, notes, name)
            rows = zip(items, results, self._shown(side, latent), back, ways, notes, files, strict=True)
            seen = [*_name_states(side.encoder, up), *_name_states(target.decoder, down), "result"]
            own = {"folder": folder, "before_label": "latent", "frame_labels": seen}
            by_target.append(
                [
                    Result(x, z, y, way, notes=self._classes(item, name) | note, files=file, **own)
                    for item, x, z, y, way, note, file in rows
                ]
            )
        return [list(row) for row in zip(*by_target, strict=True)]

    def _classes(self, item: Item, target: str | None) -> dict[str, object]:
        source = None if self.sources is None else self.name_of(self.sources[item.name])
        return {"class_A": source, "class_B": target}

    def _source(self, items: list[Item], like: Tensor) -> Side:
        if self.sources is None:
            return self.source(None)
        return self.source(torch.tensor([self.sources[item.name] for item in items], device=like.device))

    def _files(self, items: list[Item], latent: Tensor) -> list[dict[str, bytes]]:
        """Return the file of each latent, by its path."""
        files = []
        for item, row in zip(items, latent, strict=True):
            made_by = {**self.space, "class_A": self.sources and self.sources[item.name]}
            path = PurePosixPath(images.LATENTS, item.target).with_suffix(images.LATENT_SUFFIX).as_posix()
            files.append({path: images.encode_latent(row, made_by)})
        return files

    def _shown(self, side: Side, latent: Tensor | Recording) -> Tensor:
        """Return one state of the latent, scaled to the range of images."""
        state = latent[0] if isinstance(latent, tuple) else latent
        return side.encoder.shown(state, side.encoder.num_steps)

    def _diagnose(
        self, items: list[Item], side: Side, images: Tensor, latent: Tensor | Recording
    ) -> list[dict[str, object]]:
        """Measure A to A, and how much the latent looks like noise."""
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
        items: list[Item],
        side: Side,
        target: Side,
        images: Tensor,
        results: Tensor,
        notes: list[dict[str, object]],
        name: str | None,
    ) -> tuple[Tensor, list[dict[str, object]]]:
        """Translate results back to A, and measure what returns."""
        latent = target.encode(results, item_noise(self.translate, items, results))
        self.swap.to_source()
        back = side.decode(latent, target.encoder)
        errors = rmse(back, images).tolist()
        for item, note, error in zip(items, notes, errors, strict=True):
            log.log.info(f"{item.name}: A to A {note['A_to_A']:.4f}, A to {name or 'B'} to A {error:.4f}")
        return back, [
            {**note, "A_to_B_to_A": round(error, 5)} for note, error in zip(notes, errors, strict=True)
        ]


def _name_states(process: Process, way: Trajectory) -> list[str]:
    """Return what is written above each of the states that a way kept."""
    top = process.num_steps
    return ["latent" if level == top else name_level(process, level) for level in way.levels]
