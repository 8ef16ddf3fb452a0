"""Files of equinox: named, turned, and refused where they are of anything but an MLP-Mixer."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from models import CONFIG_CLASSES, build_empty
from models.mixer import MixerConfig
from tests.faults.hostile_weights import arrays
from tests.faults.mutations import mutate
from utils.sources.weight_formats import check_whole
from utils.weights import Shelf, load_weights, open_checkpoint
from utils.weights.recognize import family

TINY = Path(__file__).resolve().parents[2] / "golden" / "galaxygrad" / "tiny.eqx"
CONFIG = MixerConfig(image_size=12, patch_size=3, hidden=6, mix_patches=10, mix_hidden=7, num_blocks=2)
SHAPES = {key: tensor.shape for key, tensor in build_empty(CONFIG).state_dict().items()}


def stored() -> list[np.ndarray]:
    data, found = io.BytesIO(TINY.read_bytes()), []
    while data.tell() < TINY.stat().st_size:
        found.append(np.load(data))
    return found


def written(path: Path, values: list[np.ndarray]) -> Path:
    path.write_bytes(arrays(*values))
    return path


def test_the_order_of_the_leaves_gives_the_names():
    found, values = load_weights(TINY, SHAPES), stored()
    assert list(found) == list(SHAPES)
    assert {key: tensor.shape for key, tensor in found.items()} == SHAPES
    assert np.array_equal(found["conv_in.weight"], values[0])
    assert np.array_equal(found["conv_in.bias"], values[1][:, 0, 0])
    assert found["conv_out.weight"][5, 0, 0, 1] == values[2][0, 5, 2, 1]
    assert np.array_equal(found["blocks.1.hidden_mixer.layers.0.bias"], values[4 + 12 + 5])
    assert np.array_equal(found["blocks.1.norm2.weight"], values[4 + 12 + 10])
    assert np.array_equal(found["norm.bias"], values[-2])
    assert family(open_checkpoint(TINY).views()[0]) == "mixer"
    check_whole(TINY)


@pytest.mark.parametrize(
    "change", [lambda a: np.array(a, order="F"), np.float64, lambda a: a.astype("f2").astype("f4")]
)
def test_other_orders_and_types_hold_the_same_numbers(tmp_path, change):
    path = written(tmp_path / "w.bin", [change(value) for value in stored()])
    found, expected = load_weights(path, SHAPES), load_weights(TINY, SHAPES)
    assert all(torch.equal(found[key], expected[key]) for key in SHAPES)


def test_headers_of_version_2_are_read(tmp_path):
    buffer = io.BytesIO()
    for value in stored():
        np.lib.format.write_array(buffer, value, version=(2, 0))
    (tmp_path / "w.eqx").write_bytes(buffer.getvalue())
    assert torch.equal(
        load_weights(tmp_path / "w.eqx", SHAPES)["norm.weight"], load_weights(TINY, SHAPES)["norm.weight"]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v[:-1],
        lambda v: [*v, v[-1]],
        lambda v: v[1:],
        lambda v: [v[1], v[0], *v[2:]],
        lambda v: v[4:],
        lambda v: [*v[:2], v[2][0], *v[3:]],
        lambda v: [*v[:-1], np.ones(1)],
    ],
)
def test_arrays_of_other_networks_are_refused(tmp_path, change):
    with pytest.raises(ValueError, match=r"NumPy arrays without names.*only the MLP-Mixer of galaxygrad"):
        open_checkpoint(written(tmp_path / "w.eqx", change(stored())))


def test_a_network_of_another_time_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"takes times up to 5, and .* only such up to 10 are read"):
        open_checkpoint(written(tmp_path / "w.eqx", [*stored()[:-1], np.float64(5)]))


def test_a_network_of_another_size_is_refused_by_its_tensors():
    other = build_empty(MixerConfig(image_size=12, patch_size=3, hidden=8, num_blocks=2)).state_dict()
    shelf = Shelf(CONFIG_CLASSES, build_empty)
    with pytest.raises(ValueError, match=r"of the family mixer.*\n.*conv_in.weight is \[6, 2, 3, 3\] in the"):
        load_weights(TINY, {key: tensor.shape for key, tensor in other.items()}, shelf.describe)


def test_damage_ends_in_a_message_or_in_numbers(tmp_path):
    rng, data, path = random.Random(3), TINY.read_bytes(), tmp_path / "w.eqx"
    refused = taken = 0
    for _ in range(300):
        path.write_bytes(mutate(rng, data))
        try:
            load_weights(path, SHAPES)
        except ValueError as error:
            refused += str(error).startswith(f"{path}: ")
        else:
            taken += 1
    assert refused + taken == 300
    assert min(refused, taken) > 20
