"""DDIB on a batch of the work list."""

from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from torch import Tensor

from diffusions import (
    carry_latent,
    decode,
    encode,
    follow_denoised,
    record_denoised,
    record_noise,
    replay_noise,
)
from diffusions.cycle_diffusion import Recording
from diffusions.diagnostics import latent_statistics, rmse, unlike_noise
from diffusions.flow_edit import Denoised
from diffusions.process import Look, Model, Noise, Process
from diffusions.trajectory import Trajectory, frames
from utils import images, log
from utils.jobs import Item, Result, item_noise
from utils.sampling import PixelSpace, Swap, Tick, name_level, ticking
from utils.settings import Translate

Latent = Tensor | Recording | Denoised
RECORDED = {
    "cycle-diffusion": (record_noise, replay_noise),
    "edit-friendly": (partial(record_noise, independent=True), replay_noise),
    "flow-edit": (record_denoised, follow_denoised),
}
"""What takes pictures apart, and what puts them together, of solvers that follow no ODE."""


class Side(NamedTuple):
    """One end of a translation."""

    solver: str
    encoder: Process
    decoder: Process
    model: Model
    """Encodes; leads nowhere."""
    guided: Model
    """Decodes."""

    def encode(self, images: Tensor, noise: Noise, look: Look | None = None) -> Latent:
        """Encode images to a latent, or take them apart with noise."""
        encoder = self.encoder.watched(look)
        if self.solver in RECORDED:
            return RECORDED[self.solver][0](encoder, self.model, images, noise)
        return encode(encoder, self.model, images)

    def decode(self, latent: Latent, encoder: Process, look: Look | None = None) -> Tensor:
        """Decode what another side's encoder made."""
        decoder = self.decoder.watched(look)
        if self.solver in RECORDED:
            return RECORDED[self.solver][1](decoder, self.guided, latent)
        return decode(decoder, self.guided, carry_latent(latent, encoder, self.encoder))


class Target(NamedTuple):
    """What inputs are translated to."""

    name: str | None
    """Of its class, or its prompt; None for another network without classes."""
    side: Callable[[int], Side]
    """Gives the side to decode by, for a batch of so many."""


class Start(NamedTuple):
    """Where a translation begins."""

    side: Side
    latent: Latent
    states: Tensor | None
    """The inputs, as the network of A works on them; None of latents from files."""
    images: Tensor | None


class TranslateBatch:
    """Encodes a batch, and decodes it to each target in turn."""

    def __init__(
        self,
        translate: Translate,
        source: Callable[[list[Item]], Side],
        targets: dict[str, Target],
        note: Callable[[Item], dict[str, object]],
        made_by: Callable[[Item], dict[str, object]],
        spaces: tuple[PixelSpace, PixelSpace],
        swap: Swap,
        tick: Tick | None = None,
    ):
        """
        Args:
            translate: The settings.
            source: Gives the side to encode the items of a batch by.
            targets: To decode by, each under the folder of its results.
            note: Returns what a result says of where it comes from, its class A or prompt A.
            made_by: Returns what a saved latent has to match, to be decoded later.
            spaces: Where the networks of A and of B work.
            swap: Holds the networks on the device in their turn.
            tick: Called before each step.
        """
        self.translate, self.source, self.targets = translate, source, targets
        self.note, self.made_by, self.spaces = note, made_by, spaces
        self.swap, self.tick = swap, tick
        num_frames = translate.trajectory or 1  # the last is the result
        self.num_up = 0 if translate.from_latents else num_frames // 2
        self.num_down = num_frames - 1 - self.num_up

    def __call__(self, items: list[Item], tensors: dict[str, Tensor]) -> list[list[Result]]:
        """Encode a batch, or take its latents, and decode it to every target; return the results by item."""
        images, latent = tensors.get("image"), tensors.get("latent")
        side, (space_A, space_B) = self.source(items), self.spaces
        up = Trajectory(side.encoder, self.num_up, side.encoder.num_steps)
        if images is None:
            size, states = space_A.size_of(latent), None
        else:
            self.swap.to_source()
            size, states = images.shape[2:], space_A.encode(images)
            latent = side.encode(states, item_noise(self.translate, items, states), ticking(self.tick, up))
            if isinstance(latent, tuple):  # recorded on a way down
                up.turn_round(states)
        up.states = [space_A.decode(state, size) for state in up.states]
        files = self._files(items, latent) if self.translate.save_latents else [{} for _ in items]
        start = Start(side, latent, states, images)
        notes = self._diagnose(items, start) if self.translate.cycle else [{} for _ in items]
        shown = self._shown(side, latent)
        if self.translate.comparison:
            shown = space_A.decode(shown, size)
        by_target = []
        for folder, (name, make_side) in self.targets.items():
            self.swap.to_target()
            target = make_side(len(items))
            down = Trajectory(target.decoder, self.num_down, target.decoder.num_steps)
            made = target.decode(latent, side.encoder, ticking(self.tick, down))
            down.states = [space_B.decode(state, size) for state in down.states]
            results = space_B.decode(made, size)
            ways = frames(results, up, down) if self.translate.trajectory else [None] * len(items)
            back = [None] * len(items)
            if self.translate.cycle:
                back, notes = self._return(items, start, target, made, notes, name)
            rows = zip(items, results, shown, back, ways, notes, files, strict=True)
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
        return self.note(item) | ({"prompt_B": target} if self.translate.prompt_B else {"class_B": target})

    def _files(self, items: list[Item], latent: Tensor) -> list[dict[str, bytes]]:
        """Return the file of each latent, by its path."""
        files = []
        for item, row in zip(items, latent, strict=True):
            path = PurePosixPath(images.LATENTS, item.target).with_suffix(images.LATENT_SUFFIX).as_posix()
            files.append({path: images.encode_latent(row, self.made_by(item))})
        return files

    def _shown(self, side: Side, latent: Latent) -> Tensor:
        """Return one state of the latent, scaled to the range of images."""
        state = latent[0] if isinstance(latent, tuple) else latent
        return side.encoder.shown(state, side.encoder.num_steps)

    def _diagnose(self, items: list[Item], start: Start) -> list[dict[str, object]]:
        """Measure A to A, and how much the latent looks like noise."""
        _, errors = self._errors("A_to_A", start.side.decode(start.latent, start.side.encoder), start)
        if self.spaces[0].factor > 1:
            alone = rmse(self._images(start.states, start), start.images).tolist()
            errors = [error | {"autoencoder": round(x, 5)} for error, x in zip(errors, alone, strict=True)]
        shown = self._shown(start.side, start.latent)
        table = {key: value.tolist() for key, value in latent_statistics(shown).items()}
        notes = []
        for row, (item, error) in enumerate(zip(items, errors, strict=True)):
            statistics = {key: round(values[row], 4) for key, values in table.items()}
            if not self.translate.t0 and (far := unlike_noise(statistics)):
                log.log.warning(f"warning: {item.name}: its latent is unlike noise: {', '.join(far)}")
            notes.append({**error, "latent": statistics})
        return notes

    def _errors(self, name: str, states: Tensor, start: Start) -> tuple[Tensor, list[dict[str, object]]]:
        """Return images, and how far they are from the inputs: in pixels, and in latents where there are."""
        images = self._images(states, start)
        found = {name: rmse(images, start.images)}
        if self.spaces[0].factor > 1:
            found[f"{name}_latent"] = rmse(states, start.states)
        rows = zip(*(errors.tolist() for errors in found.values()), strict=True)
        return images, [{key: round(x, 5) for key, x in zip(found, row, strict=True)} for row in rows]

    def _images(self, states: Tensor, start: Start) -> Tensor:
        return self.spaces[0].decode(states, start.images.shape[2:])

    def _return(
        self,
        items: list[Item],
        start: Start,
        target: Side,
        made: Tensor,
        notes: list[dict[str, object]],
        name: str | None,
    ) -> tuple[Tensor, list[dict[str, object]]]:
        """Translate results back to A, and measure what returns."""
        latent = target.encode(made, item_noise(self.translate, items, made))
        self.swap.to_source()
        back = start.side.decode(latent, target.encoder)
        images, errors = self._errors("A_to_B_to_A", back, start)
        found = [note | error for note, error in zip(notes, errors, strict=True)]
        for item, note in zip(items, found, strict=True):
            lost = f", the autoencoder alone {note['autoencoder']:.4f}" if "autoencoder" in note else ""
            log.log.info(
                f"{item.name}: A to A {note['A_to_A']:.4f}, A to {name or 'B'} to A "
                f"{note['A_to_B_to_A']:.4f}{lost}"
            )
        return images, found


def _name_states(process: Process, way: Trajectory) -> list[str]:
    """Return what is written above each of the states that a way kept."""
    top = process.num_steps
    return ["latent" if level == top else name_level(process, level) for level in way.levels]
