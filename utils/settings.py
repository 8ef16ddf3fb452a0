"""What was asked for, as data: made once, checked as it is made, and passed down unchanged.

Each field is an option: `--NAME` of the commands, a keyword in Python. What makes a run the same run is
read off them.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from utils.option import Checked, Number, OneOf, Size, option, width_height
from utils.running import INPUT

VERSION = "0.1.0"
PROGRAM = f"sdedit-ddib {VERSION}"
"""What made a file."""
RESPACE_TYPES = (
    *("uniform", "uniform-leading", "uniform-linspace", "uniform-trailing"),
    *("quad", "quad90", "karras", "none"),
)
COUNTED = tuple(name for name in RESPACE_TYPES if name != "none")
"""Those that are told how many timesteps to keep; others say it themselves."""
VAR_TYPES = ("fixed_small", "fixed_large", "learned_range")
FITS = ("crop", "pad", "stretch")
RECORDED = ("cycle-diffusion", "edit-friendly", "flow-edit")
"""Solvers that follow no ODE: they take apart what A makes of a picture with noise, and do it with B."""
SOLVERS = ("ddim", "heun", "dpm-solver++", "exact", *RECORDED)
INVERSIONS = ("target", "source", "fixed_point")
SAMPLERS = ("ddpm", "ddim", "heun", "dpm-solver++", "sde-dpm-solver++", "consistency")
_ANCESTORS = {"fixedsmall": "fixed_small", "fixedlarge": "fixed_large"}


def var_type(text: str) -> str:
    """Accept a variance type, also in the spelling of the DDPM programs (fixedsmall, fixedlarge)."""
    return _ANCESTORS.get(text, text)


@dataclass(frozen=True, kw_only=True)
class Network(Checked):
    """A network, as its user names it."""

    config: Path | None = option(None, "YAML file of the network (default: what the weights imply)")
    weights: str = option(
        "", "published name (see --list_weights), file, diffusers folder, or http(s):// or hf:// address"
    )
    weights_dir: Path | None = option(
        None, "where downloaded weights are kept (default: the cache of torch.hub)", changes_result=False
    )
    overrides: tuple[str, ...] = option(
        (), "override one config entry, as in --set diffusion.var_type=fixed_large; may be repeated"
    )

    def check(self) -> None:
        if not self.weights:
            raise ValueError("give --weights, the weights of the network; --list_weights prints names")


@dataclass(frozen=True, kw_only=True)
class Method(Checked):
    """What both methods take: which levels and noise, where guidance leads, what is saved beside results."""

    seed: int = option(0, "key of the noise: the same seed gives the same pictures", Number(0, whole=True))
    noise_by: str = option(
        "name",
        "each picture has noise of its own (name), or those of a folder share it (folder): of frames in a "
        "row, what stands still stays still",
        OneOf(("name", "folder")),
    )
    respace_type: str | None = option(
        None,
        f"how the timesteps are chosen: {', '.join(RESPACE_TYPES)}; also openai's ddimN or 10,15,20 "
        "(default: uniform-trailing; karras for a network that knows any noise)",
    )
    respace_steps: int | None = option(
        None,
        "number of timesteps to keep of the whole process, in place of --calls (default: all that were "
        "trained; 18 for a network that knows any noise)",
        Number(1, whole=True),
    )
    fit: str = option("crop", "how an image of another size becomes the model's", OneOf(FITS))
    size: str | None = option(
        None,
        "WIDTHxHEIGHT of the results in pixels, or input for that of each picture (default: the model's; "
        "input with --tiles)",
        Size(words=(INPUT,)),
    )
    tiles: bool = option(
        False, "run the model on overlapping tiles of its own size and average what it predicts of them"
    )
    range: tuple[float, ...] = option(
        (),
        "LOW HIGH: which values are black and white in .npy, FITS and floating-point TIFF files (default: "
        "the config's image_range)",
        Number(-math.inf),
    )
    comparison: bool = option(False, "also save strips that show input, noise and result")
    trajectory: int | None = option(
        None,
        "also save the way to each result, at least 2 frames of it, as a strip and an animated PNG",
        Number(2, whole=True),
    )
    guidance_scale: float | None = option(
        None,
        "classifier-free: 1 is none, 2 to 4 lean further towards the class, at twice the cost (default: 1; "
        "for a prompt what its network is used with, 7.5, or 5 for SDXL)",
        Number(0),
    )
    guidance_interval: tuple[float, ...] = option(
        (), "LOW HIGH: the noise, as --sigma0, above and up to which guidance leans (default: all)", Number(0)
    )
    negative_prompt: str | None = option(None, "what the results of a prompt are not to show")
    unconditional: tuple[str, ...] = option(
        (), "[CONFIG] WEIGHTS of a network without classes to lean away from, in place of the null_class"
    )
    classifier: tuple[str, ...] = option(
        (), "[CONFIG] WEIGHTS of a classifier of noised images whose gradient leads to the class"
    )
    classifier_scale: float = option(1.0, "how strongly the classifier leads", Number(0))

    calls: int | None = option(None, "how long an image may take", Number(1, whole=True))

    spacing: ClassVar[str] = "uniform-trailing"
    """How timesteps are chosen from a table, where nothing is said."""

    def check(self) -> None:
        if self.calls and self.respace_steps:
            raise ValueError("--calls and --respace_steps: give one of them, both say how many steps")
        if self.calls and self.respace_type not in (None, *COUNTED):
            raise ValueError(f"--calls: --respace_type {self.respace_type} says itself how many steps")
        for name in ("unconditional", "classifier"):
            words = getattr(self, name)
            if len(words) > 2:
                raise ValueError(f"--{name} {' '.join(words)}: {len(words)} words; give [CONFIG] WEIGHTS")
        if self.unconditional and self.guidance_scale in (None, 1):
            raise ValueError("--unconditional has no effect at --guidance_scale 1; give a scale above 1")
        if "classifier_scale" in self.changed() and not self.classifier:
            raise ValueError("--classifier_scale has no effect without --classifier; give that too")
        ends = self.guidance_interval
        if ends and (len(ends) != 2 or ends[0] >= ends[1]):
            raise ValueError(
                f"--guidance_interval {' '.join(f'{end:g}' for end in ends)}: give two numbers, low and high"
            )
        if ends and self.guidance_scale == 1:
            raise ValueError("--guidance_interval has no effect at --guidance_scale 1; give a scale above 1")
        if self.range and (len(self.range) != 2 or self.range[0] >= self.range[1]):
            words = " ".join(f"{value:g}" for value in self.range)
            raise ValueError(f"--range {words}: give two numbers, black below white")
        if (self.keeps_size or self.by_region) and self.fit != "crop":
            raise ValueError(f"--fit {self.fit} has no effect on pictures that keep their size; leave it out")

    @property
    def keeps_size(self) -> bool:
        """Whether the result of each picture has its own size."""
        return self.size == INPUT or (self.tiles and self.size is None)

    @property
    def by_region(self) -> bool:
        """Whether only parts of each picture become the model's size."""
        return getattr(self, "region", None) is not None

    @property
    def wanted_size(self) -> tuple[int, int] | None:
        """Width and height of all results, None for the model's or those of each picture."""
        return None if self.size in (None, INPUT) else width_height(self.size)


@dataclass(frozen=True, kw_only=True)
class Edit(Method):
    """What SDEdit does to a picture."""

    calls: int | None = option(
        None,
        "how long an edit from --t0 or --sigma0 may take: at most so many network evaluations, on levels "
        "that lie below the start (default: 25; 40 for a prompt, 4 and 2 for what is distilled)",
        Number(1, whole=True),
    )
    edit_steps: tuple[int, ...] = option(
        (),
        "steps to noise and denoise, of the --respace_steps that are kept: 1 (hardly a change) to all of "
        "them (a new image); several numbers make a folder each, and a contact sheet an input",
        Number(1, whole=True),
    )
    t0: tuple[float, ...] = option(
        (),
        "how far to go, as a fraction of the process: above 0 (hardly a change) to 1 (a new image), to the "
        "nearest timestep that is kept; try 0.3 to 0.6; several likewise",
        Number(0, 1, above=True),
    )
    sigma0: tuple[float, ...] = option(
        (),
        "how far to go, as the noise itself, on images in [-1, 1]: 0.3 (details change) to 10 (colours are "
        "kept), the same for every network, to the nearest level; several likewise",
        Number(0, above=True),
    )
    auto_t0: bool = option(False, "each image as far as --faithfulness lets it")
    faithfulness: float | None = option(
        None,
        "for --auto_t0: largest root mean square difference from the guide, on [-1, 1]",
        Number(0),
    )
    class_label: str | None = option(
        None,
        "class of the results: an index, a name of the config, 'folder' for the name of the folder that "
        "each is in, or a .csv file of path,class lines (default: no class)",
    )
    prompt: str | None = option(
        None,
        "what the results show, in words, for a network that is told a text; 'folder' for the name of the "
        "folder that each is in",
    )
    prompt_file: Path | None = option(
        None, "a .csv file of path,prompt lines, or path,prompt,negative_prompt, one for each input"
    )
    upsample: tuple[str, ...] = option(
        (),
        "[CONFIG] WEIGHTS of a network that is shown the results and the prompt, and edits the inputs "
        "likewise at its own, larger size (GLIDE's second stage)",
    )
    samples: int | None = option(
        None, "this many results an input, named _s00 and so on", Number(1, whole=True)
    )
    repeats: int = option(1, "times that the result is edited, in all", Number(1, whole=True))
    sampler: str | None = option(
        None,
        "how to step down (default: sde-dpm-solver++; ddpm with --var_type or --corrector_steps, "
        "consistency for a consistency model)",
        OneOf(SAMPLERS),
    )
    var_type: str | None = option(None, "variance of a DDPM step (default: the config's)", OneOf(VAR_TYPES))
    corrector_steps: int | None = option(
        None, "ve: Langevin steps before each step (default: none)", Number(1, whole=True)
    )
    snr: float = option(0.16, "ve: signal-to-noise ratio of the Langevin steps", Number(0))
    resample: int | None = option(
        None,
        "with masks: make each step at low noise this many times, noised up between, so that what may change "
        "fits to what is kept (default: 4 with --calls, their own number too; else 1)",
        Number(1, whole=True),
    )
    mask_dir: Path | None = option(
        None, "folder of masks, one for each input of the same relative stem: white may change, black is kept"
    )
    mask_invert: bool = option(False, "masks are the other way round: white is kept")
    mask_feather: float = option(
        0.0, "soften the edge inside what may change, over so many of the model's pixels", Number(0)
    )
    mask_default: str = option(
        "fail", "an input without a mask is a failed item, or may change everywhere", OneOf(("fail", "all"))
    )
    mask_noise: str = option(
        "fresh",
        "noise of what is kept: new at every level (paper) or that of the start (released program)",
        OneOf(("fresh", "fixed")),
    )
    region: str | None = option(
        None,
        "mask: edit only the part around each mask, and put it back into the picture, which keeps its size "
        "and, outside the mask, every byte (default: the whole picture is brought to the model's size)",
        OneOf(("mask",)),
    )
    region_margin: float = option(
        0.25, "region: what is shown around the mask, on each side, as a share of its longer side", Number(0)
    )
    strength_dir: Path | None = option(
        None, "folder of grey pictures, likewise: each pixel goes that share of the way, white all of it"
    )

    def check(self) -> None:
        super().check()
        ways = {"--edit_steps": self.edit_steps, "--t0": self.t0, "--sigma0": self.sigma0}
        ways["--auto_t0"] = self.auto_t0
        given = [flag for flag, value in ways.items() if value]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: give one of them, they say the same")
        if not given:
            raise ValueError(
                "how far to go is not said; give --t0 0.5, or --sigma0, --edit_steps or --auto_t0"
            )
        if self.calls and not (self.t0 or self.sigma0):
            raise ValueError("--calls: only with --t0 or --sigma0, below which it places the levels")
        if self.auto_t0 != (self.faithfulness is not None):
            raise ValueError("--auto_t0 and --faithfulness go together: give both, or --edit_steps or --t0")
        if self.prompt is not None and self.prompt_file:
            raise ValueError("--prompt and --prompt_file: give one of them, they say the same")
        if "snr" in self.changed() and not self.corrector_steps:
            raise ValueError("--snr has no effect without --corrector_steps; give that too")
        if len(self.upsample) > 2:
            raise ValueError(f"--upsample: {len(self.upsample)} words; give [CONFIG] WEIGHTS")
        if self.upsample and not self.t0:
            raise ValueError("--upsample: say how far with --t0, which means the same to both networks")
        if self.upsample and (self.size or self.tiles):
            raise ValueError(
                "--upsample: not together with --size or --tiles; results have its network's size"
            )
        if self.auto_t0 and (self.strength_dir or self.trajectory):
            raise ValueError("--auto_t0: not together with --strength_dir or --trajectory")
        if self.region and (self.size or self.tiles):
            raise ValueError(
                "--region: not together with --size or --tiles; results keep the size of their pictures, and "
                "each part is brought to the model's"
            )


@dataclass(frozen=True, kw_only=True)
class Translate(Method):
    """What DDIB does to a picture."""

    seed: int = option(
        0,
        f"key of the noise that {', '.join(RECORDED)} draw; the other solvers draw none",
        Number(0, whole=True),
    )
    respace_type: str | None = option(
        None,
        f"how the timesteps are chosen: {', '.join(RESPACE_TYPES)}; also openai's ddimN or 10,15,20 "
        "(default: quad90; karras for a network that knows any noise)",
    )
    respace_steps: int | None = option(
        None, "number of timesteps to keep, in place of --calls", Number(1, whole=True)
    )
    calls: int | None = option(
        None,
        "how long a translation may take: at most so many network evaluations, both ways (default: 100; "
        "25 steps of fixed_point for a network of latents)",
        Number(1, whole=True),
    )
    spacing: ClassVar[str] = "quad90"
    class_A: str | None = option(
        None,
        "class of the inputs: an index, a name of the config, 'folder' for the name of the folder that "
        "each is in, or a .csv file of path,class lines (default: none, for networks without classes)",
    )
    class_B: tuple[str, ...] = option(
        (), "classes of the results, likewise by index or name; several make a folder each, encoded once"
    )
    prompt_A: str | None = option(None, "what the inputs show, in words, for a network that is told a text")
    prompt_B: tuple[str, ...] = option(
        (), "what the results show; several make a folder each, prompt_0 and so on, encoded once"
    )
    weights_B: str | None = option(
        None, "another network to decode with, as for --weights (default: that of A)"
    )
    config_B: Path | None = option(None, "its config (default: what its weights imply)")
    offload: bool = option(
        False, "two networks on a GPU: keep there only the one that is at work", changes_result=False
    )
    solver: str | None = option(
        None,
        "how to follow the ODE both ways; cycle-diffusion and edit-friendly replay DDPM's noise instead, "
        "flow-edit moves along what A and B say otherwise (default: heun; ddim with --inversion, and for a "
        "network of latents)",
        OneOf(SOLVERS),
    )
    t0: float | None = option(
        None,
        "for solvers that replay noise or move along: where they begin, as for sample_sdedit.py; low keeps "
        "more of the picture",
        Number(0, 1, above=True),
    )
    inversion: str | None = option(
        None,
        "ddim: how to encode; target mirrors each step down, source is openai's, fixed_point solves "
        "for the exact inverse (default: target; fixed_point for a network of latents)",
        OneOf(INVERSIONS),
    )
    cycle: bool = option(False, "also go back: measure A to A and A to B to A, and the latent")
    save_latents: bool = option(False, "also save the latents, below save_dir in latents/")
    from_latents: bool = option(False, "input_dir holds saved latents: only decode them")

    def check(self) -> None:
        super().check()
        if self.config_B and not self.weights_B:
            raise ValueError("--config_B: give its weights too, with --weights_B")
        if not (self.class_B or self.prompt_B) and self.weights_B is None:
            raise ValueError(
                "give --class_B, the class of the results (--prompt_B for a network that is told a text), or "
                "another network with --weights_B"
            )
        if self.inversion and self.solver not in (None, "ddim"):
            raise ValueError(f"--inversion: only for --solver ddim, not {self.solver}")
        if self.offload and self.weights_B is None:
            raise ValueError("--offload: only with --weights_B")
        if self.from_latents and (self.cycle or self.save_latents):
            raise ValueError("--from_latents: not together with --cycle or --save_latents")
        if self.solver in RECORDED and (self.from_latents or self.save_latents or self.weights_B):
            raise ValueError(f"--solver {self.solver}: not together with latents in files or --weights_B")
        if self.t0 and self.solver not in RECORDED:
            raise ValueError(
                f"--t0: only with --solver {', '.join(RECORDED)}; the ODE is followed to its end"
            )
