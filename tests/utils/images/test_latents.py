"""A latent is decoded where it is of this network, finite, and says what made it; else it is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from utils.images.latents import Latents, encode_latent

MADE_BY = {"config": "a.yaml", "timesteps": [0, 5], "solver": "ddim"}
GOOD = torch.linspace(-3, 3, 3 * 8 * 8).reshape(3, 8, 8)


@pytest.fixture
def load(tmp_path):
    def load(latent, made_by=MADE_BY, name="latent", metadata=None):
        metadata = metadata if metadata is not None else {"made_by": json.dumps(made_by)}
        save_file({name: latent}, tmp_path / "x.safetensors", metadata)
        return Latents(tmp_path, MADE_BY, (3, 8, 8)).load("x.safetensors")[0]["latent"]

    return load


def test_what_was_saved_is_read(tmp_path, load):
    (tmp_path / "a.safetensors").write_bytes(encode_latent(GOOD, MADE_BY))
    assert torch.equal(Latents(tmp_path, MADE_BY, (3, 8, 8)).load("a.safetensors")[0]["latent"], GOOD)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(load(GOOD.to(dtype)), GOOD.to(dtype).float())


@pytest.mark.parametrize(
    ("latent", "more", "message"),
    [
        (torch.zeros(3, 4, 4), {}, r"a latent of shape \[3, 4, 4\]; this network's are \[3, 8, 8\]"),
        (torch.zeros(3 * 8 * 8), {}, r"of shape \[192\]"),
        (torch.zeros(()), {}, r"of shape \[\]"),
        (torch.zeros(1, 3, 8, 8), {}, r"of shape \[1, 3, 8, 8\]"),
        (GOOD > 0, {}, "a latent of type BOOL; allowed are F32, F16, BF16, F64"),
        (GOOD.int(), {}, "of type I32"),
        (GOOD.to(torch.float8_e4m3fn), {}, "of type F8_E4M3"),
        (GOOD / 0, {}, "the latent holds NaN or infinity"),
        (torch.full((3, 8, 8), 1e300, dtype=torch.float64), {}, "the latent holds NaN or infinity"),
        (GOOD, {"name": "other"}, "not a latent of this command"),
        (GOOD, {"made_by": None}, "does not say what made it"),
        (GOOD, {"made_by": [1]}, "does not say what made it"),
        (GOOD, {"metadata": {}}, "does not say what made it"),
        (GOOD, {"metadata": {"made_by": "[" * 100_000}}, "does not say what made it"),
        (
            GOOD,
            {"made_by": {**MADE_BY, "solver": "x" * 9999}},
            "made otherwise: solver 'xxx.* here, 'ddim' in",
        ),
    ],
)
def test_each_wrong_one_has_a_short_reason(load, latent, more, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(latent, **more)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("data", [b"", b"x" * 99, b"\xff" * 8 + b"{}", (2).to_bytes(8, "little") + b"{}"])
def test_broken_files_are_refused(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"broken|not a latent"):
        Latents(tmp_path, MADE_BY, (3, 8, 8)).load("x.safetensors")


def test_latents_of_any_size_have_the_channels_and_at_least_what_the_network_takes(tmp_path):
    reader = Latents(tmp_path, MADE_BY, (3, None, None), least=8)
    for shape in ((3, 8, 8), (3, 12, 9)):
        (tmp_path / "x.safetensors").write_bytes(encode_latent(torch.zeros(shape), MADE_BY))
        assert reader.load("x.safetensors")[0]["latent"].shape == shape
    for shape in ((3, 7, 12), (4, 8, 8), (3, 8)):
        (tmp_path / "x.safetensors").write_bytes(encode_latent(torch.zeros(shape), MADE_BY))
        with pytest.raises(ValueError, match=r"this network's are \[3, H, W\], H and W from 8 up"):
            reader.load("x.safetensors")
