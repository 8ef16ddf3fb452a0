"""The section of a config that says on which process a network was trained."""

from dataclasses import dataclass

from utils.quote import quote

MAX_TIMESTEPS = 100_000
_OF_PROCESS = {
    "vp": ("schedule", "beta_start", "beta_end", "trained_betas"),
    "ve": ("schedule", "beta_start", "beta_end", "sigma_min", "sigma_max"),
    "edm": ("sigma_min", "sigma_max", "preconditioning"),
    "vp_sde": ("beta", "t_min", "t_max", "image_range"),
}
"""Keys that say what the noise of a process is; the others of them it has no use for."""
_NEEDED = {"ve": ("sigma_min", "sigma_max"), "edm": _OF_PROCESS["edm"], "vp_sde": ("beta", "t_min", "t_max")}
PRECONDITIONINGS = ("edm", "edm_250", "consistency", "vp", "ve")


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The process that a network was trained on."""

    process: str = "vp"
    """vp, ve, edm or vp_sde: whether noise keeps the variance of the images or explodes it; the networks of
    edm, of consistency models too, know any sigma, and those of vp_sde any t."""
    num_timesteps: int
    schedule: str | None = None
    """linear, quad, const, cosine or sigmoid: of a vp network, or of a ve one of no scores."""
    beta_start: float | None = None
    beta_end: float | None = None
    """First and last beta; every schedule but cosine and sigmoid needs both."""
    trained_betas: tuple[float, ...] | None = None
    """All betas of a vp network, in place of a schedule's name."""
    rescale_betas_zero_snr: bool = False
    """Whether the last timestep of a vp network has no signal (Lin et al. 2023); it predicts x0 or v."""
    sigma_min: float | None = None
    sigma_max: float | None = None
    """Least and most noise as published: of ve for images in [0, 1], of edm for images in [-1, 1]."""
    preconditioning: str | None = None
    """What surrounds a network of edm: edm, edm_250, consistency, vp or ve; see diffusions."""
    beta: float | None = None
    t_min: float | None = None
    t_max: float | None = None
    """Of a vp_sde process: its one beta, and the first and last t."""
    image_range: tuple[float, ...] | None = None
    """Of a vp_sde process: what black and white are to the network, where not -1 and 1."""
    prediction: str = "eps"
    """What the network's output means: eps, x0 or v, of edm x0, of vp_sde and perhaps of ve score."""
    rescale_timesteps: bool = False
    """Whether a vp network is told its timesteps as if they were 1000, t * 1000 / num_timesteps."""
    var_type: str = "fixed_small"
    """Variance of a DDPM step: fixed_small, fixed_large or learned_range."""
    clip: float | None = 1.0
    """Bound of a predicted x_0 on the way down, null for none; a score is never clipped."""

    def __post_init__(self):
        if not 1 <= self.num_timesteps <= MAX_TIMESTEPS:
            raise ValueError(f"num_timesteps {self.num_timesteps}: allowed are 1 to {MAX_TIMESTEPS}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(
                f"clip {self.clip:g}: give a bound above 0, 1 for images on [-1, 1], or null for none"
            )
        if self.process not in _OF_PROCESS:
            raise ValueError(f"process: found {quote(self.process)}, allowed are {', '.join(_OF_PROCESS)}")
        self._check_keys()
        self._check_prediction()

    def _check_keys(self) -> None:
        needed, known = _NEEDED.get(self.process, ()), _OF_PROCESS[self.process]
        lacking = [key for key in needed if getattr(self, key) is None]
        if lacking:
            raise ValueError(f"{' and '.join(lacking)}: missing, process {self.process} needs them")
        foreign = dict.fromkeys(key for keys in _OF_PROCESS.values() for key in keys if key not in known)
        unused = [key for key in foreign if getattr(self, key) is not None]
        if unused:
            raise ValueError(f"{' and '.join(unused)}: not for process {self.process}; remove, or change it")
        if self.preconditioning not in (None, *PRECONDITIONINGS):
            raise ValueError(
                f"preconditioning: found {quote(self.preconditioning)}, allowed are "
                + ", ".join(PRECONDITIONINGS)
            )
        for key in ("rescale_timesteps", "rescale_betas_zero_snr"):
            if getattr(self, key) and self.process != "vp":
                raise ValueError(f"{key}: only for process vp")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_timesteps:
            raise ValueError(f"trained_betas: {len(self.trained_betas)} of {self.num_timesteps} timesteps")

    def _check_prediction(self) -> None:
        allowed = {"edm": ("x0",), "vp_sde": ("score",), "vp": ("eps", "x0", "v")}
        if self.prediction not in allowed.get(self.process, (self.prediction,)):
            raise ValueError(
                f"prediction {quote(self.prediction)}: allowed for process {self.process}: "
                f"{', '.join(allowed[self.process])}"
            )
        if self.rescale_betas_zero_snr and self.prediction == "eps":
            raise ValueError(
                "rescale_betas_zero_snr: the noise in a timestep without signal says nothing of the image, "
                "so such a network predicts x0 or v, found eps"
            )
        if self.trained_betas is not None and self.schedule is not None:
            raise ValueError("trained_betas and schedule: give one of them")
        without = self.schedule is None and self.trained_betas is None
        if self.process in ("vp", "ve") and (self.prediction == "score") != without:
            raise ValueError(
                f"prediction {self.prediction} with schedule {self.schedule}: a network of scores has no "
                "schedule, every other has one of linear, quad, const, cosine, sigmoid"
            )
