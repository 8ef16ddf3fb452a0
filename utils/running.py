"""Settings of where a network runs, and of what a run reads and writes."""

from dataclasses import dataclass
from pathlib import Path

from utils.option import Checked, Number, OneOf, option

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
FORMATS = ("auto", "png", "jpg", "webp", "tiff", "npy")
AUTO, INPUT = "auto", "input"


@dataclass(frozen=True, kw_only=True)
class Place(Checked):
    """Where a network runs, and how."""

    micro_batch: int | str | None = option(
        None,
        "images a network call, or auto for the fastest number that fits; changes speed and memory only "
        "(default: 4 on a CPU, 16 on a GPU)",
        Number(1, whole=True, words=(AUTO,)),
        changes_result=False,
    )
    precision: str = option(
        "auto",
        "of the network's convolutions and linear layers; auto follows accelerate launch, else fp32",
        OneOf(PRECISIONS),
    )
    compile: bool = option(
        False, "translate the network with torch.compile first, which takes a minute; for long runs on a GPU"
    )
    cpu: bool = option(False, "run on the CPU even where there is a GPU", changes_result=False)

    def check(self) -> None:
        if self.compile and self.micro_batch == AUTO:
            raise ValueError("--compile: for one size of batch alone; give --micro_batch a number, not auto")


@dataclass(frozen=True, kw_only=True)
class Running(Place):
    """What a run of a command reads and writes."""

    input_dir: Path = option(
        Path(), "folder of input images, searched recursively, or one image", changes_result=False
    )
    save_dir: Path = option(Path(), "folder for the results, one file an input", changes_result=False)
    format: str = option(
        AUTO,
        "of the results; auto is that of the input where it has more than 8 bits, else png",
        OneOf(FORMATS),
    )
    bits: int | None = option(None, "of the results (default: those of the input)", OneOf((8, 16)))
    channels: str = option(
        AUTO, "input: results of grey pictures are grey; auto: what the network makes", OneOf((AUTO, INPUT))
    )
    shard: tuple[int, ...] = option(
        (),
        "I/N: do only the I-th of N shares of the images, I from 0, as for the jobs of an array",
        changes_result=False,
    )
    verify: bool = option(
        False, "compare results of before with their hashes; mend what differs", changes_result=False
    )
    overwrite: bool = option(False, "replace what another run left in save_dir", changes_result=False)
    no_metadata: bool = option(
        False, "record nothing in the files: not how they were made, nor that a model made them"
    )
    no_report: bool = option(
        False, "do not write report.html, the page that shows the run", changes_result=False
    )
    dry_run: bool = option(
        False, "print what would be done, load no weights, write nothing", changes_result=False
    )

    def check(self) -> None:
        super().check()
        if self.bits == 16 and self.format in ("jpg", "webp"):
            raise ValueError(f"--bits 16: {self.format} files have 8; give --format png, tiff or npy")

    @property
    def folder(self) -> Path:
        """The folder of the inputs, also where one image was named."""
        return self.input_dir.parent if self.input_dir.is_file() else self.input_dir
