"""The published weights of galaxygrad through our reader, against the scores that the program gave."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models import CONFIG_CLASSES, build_empty
from models.mixer import MixerConfig
from utils.weights import Shelf, load_weights, open_checkpoint

RECORDED = Path(__file__).resolve().parents[1] / "golden" / "galaxygrad"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdedit-ddib" / "galaxygrad"
NAME = "galaxygrad-0.2.1-py3-none-any.whl"
NETWORKS = {
    "hsc64": ("eqx_hsc_ScoreNet64.eqx", 64),
    "ztf64": ("eqx_ZTF_ScoreNet64.eqx", 64),
    "quasar72": ("eqx_quasar_lens72.eqx", 72),
}


@pytest.fixture(scope="module")
def wheel() -> Path:
    """Fetch the package once, into the user's cache: 56 MB, whose licence does not let us ship them."""
    if not (CACHE / NAME).exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:  # several workers may fetch at a time
            options = ("--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=20", "--dest", folder)
            pip = (sys.executable, "-m", "pip", "download", "--quiet", *options, "galaxygrad==0.2.1")
            done = subprocess.run(pip, capture_output=True, text=True)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1:]
                pytest.skip(f"galaxygrad could not be had: {' '.join(reason)}")
            os.replace(Path(folder) / NAME, CACHE / NAME)
    return CACHE / NAME


@pytest.fixture
def weights(wheel, tmp_path):
    """Return what unpacks one file of the package."""

    def unpack(name: str) -> Path:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(f"galaxygrad/{name}", tmp_path))

    return unpack


@pytest.mark.parametrize("file", ["ZTF_ScoreNet32", "lsst_ScoreNet60", "quasar_lens72", "roman_Scorenet120"])
def test_the_weights_tell_their_config(weights, file):
    found = Shelf(CONFIG_CLASSES, build_empty).find(open_checkpoint(weights(f"eqx_{file}.eqx")))
    assert found.parent.name == "galaxygrad"
    assert found.stem[-2:] == file[-2:]


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_the_program(weights, name):
    file, size = NETWORKS[name]
    config = MixerConfig(image_size=size)
    shapes = Shelf(CONFIG_CLASSES, build_empty).shapes(config)
    network = build_empty(config).eval()
    network.load_state_dict(load_weights(weights(file), shapes), strict=True, assign=True)
    recorded = load_file(RECORDED / f"{name}.safetensors")
    expected = recorded["out.0.f32"]
    with torch.no_grad():
        score = network(recorded["in0.x"], recorded["in0.t"])
    error = (score - expected).abs().max() / expected.abs().max()
    assert error < 2e-5  # measured 5e-7
