"""The loops never look at a value: on a GPU each look would wait for all that was asked of it before.

Tensors on the meta device have shapes and no values, so that `.item()`, `.tolist()`, a copy to the CPU or
an `if` on them raises.
"""

import pytest
import torch

from diffusions import (
    BDIA,
    DDIM,
    DDPM,
    DPMSolver,
    Heun,
    PredictorCorrector,
    SourceInversion,
    decode,
    edit,
    encode,
    make_schedule,
    make_ve_schedule,
    record_noise,
    replay_noise,
    respace,
)

VP, VE = make_schedule("cosine", 100), make_ve_schedule(0.02, 100.0, 100)
TIMESTEPS = respace("uniform", 100, 6)
X = torch.empty(2, 3, 8, 8, device="meta")
MASK = torch.empty(2, 1, 8, 8, device="meta")


def network(x, t):
    return x + t[:, None, None, None]


def wide_network(x, t):
    return torch.cat([network(x, t)] * 2, dim=1)


def noise():
    return torch.empty_like(X)


SAMPLERS = {
    "ddpm": (DDPM(VP, TIMESTEPS), network),
    "learned variance": (DDPM(VP, TIMESTEPS, var_type="learned_range"), wide_network),
    "ddim": (DDIM(VP, TIMESTEPS), network),
    "dpm-solver++": (DPMSolver(VP, TIMESTEPS), network),
    "sde-dpm-solver++": (DPMSolver(VP, TIMESTEPS, stochastic=True), network),
    "predictor-corrector": (PredictorCorrector(VE, TIMESTEPS, "score", corrector_steps=1, snr=0.16), network),
}
SOLVERS = {
    "ddim": DDIM(VP, TIMESTEPS),
    "source": SourceInversion(VP, TIMESTEPS),
    "heun": Heun(VP, TIMESTEPS),
    "exact": BDIA(VP, TIMESTEPS, clip_denoised=False),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_edit(name):
    process, model = SAMPLERS[name]
    masked = edit(process, model, X, 4, noise, mask=MASK, strength=MASK, repeats=2)
    guided = edit(process.guided(lambda x, t: x), model, X, 4, noise)
    assert masked.shape == guided.shape == X.shape


@pytest.mark.parametrize("name", SOLVERS)
def test_encode_and_decode(name):
    process = SOLVERS[name]
    assert decode(process, network, encode(process, network, X)).shape == X.shape


def test_record_and_replay():
    process = DDPM(VP, TIMESTEPS)
    assert replay_noise(process, network, record_noise(process, network, X, noise)).shape == X.shape
