"""NVlabs' ADM by openai's names: against the recorded table of a full-size network."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from models import build_empty
from models.adm import ADMConfig
from utils.weights.edm_keys import is_adm, to_adm
from utils.weights.tensor_file import Stored

ROOT = Path(__file__).resolve().parents[3]
RECORDED = json.loads(gzip.decompress((ROOT / "tests/golden/manifests/edm_adm_keys.json.gz").read_bytes()))
PUBLISHED = {key: torch.Size(shape) for key, shape in RECORDED["published"]}
CONFIG = ADMConfig(
    image_size=64,
    out_channels=6,
    model_channels=192,
    channel_mult=(1, 2, 3, 4),
    num_res_blocks=3,
    attention_resolutions=(32, 16, 8),
    num_head_channels=64,
    resblock_updown=True,
    use_scale_shift_norm=True,
    num_classes=1000,
)


def counted(shape: torch.Size) -> torch.Tensor:
    return torch.arange(shape.numel(), dtype=torch.float64).reshape(shape)


def published() -> dict[str, Stored]:
    return {key: Stored(shape, lambda shape=shape: counted(shape)) for key, shape in PUBLISHED.items()}


def row_of_nvlabs(row: int, num_rows: int) -> int:
    """Of openai's row (q/k/v, head, channel) of 64 channels a head: where (head, channel, q/k/v) has it."""
    part, head, channel = row // (num_rows // 3), row % (num_rows // 3) // 64, row % 64
    return head * 192 + channel * 3 + part


def test_keys_and_shapes_are_those_of_the_adm():
    named = to_adm(published())
    expected = {key: tensor.shape for key, tensor in build_empty(CONFIG).state_dict().items()}
    assert {key: stored.shape for key, stored in named.items()} == expected
    assert len(named) == 541


@pytest.mark.parametrize("transform", ["=", "1d", "transpose", "qkv 6", "qkv 9", "qkv 12"])
def test_every_tensor_is_at_its_recorded_place(transform):
    named = to_adm(published())
    rows = [row for row in RECORDED["to_adm"] if row[2] == transform]
    rows.sort(key=lambda row: PUBLISHED[row[0]].numel())
    assert {key: ours for key, ours, _ in rows}.keys() <= PUBLISHED.keys()
    for theirs, ours, _ in rows[:6] + rows[-1:]:
        tensor, read = counted(PUBLISHED[theirs]), named[ours].read()
        assert read.shape == named[ours].shape
        if transform == "transpose":
            tensor = tensor.T
        elif transform.startswith("qkv"):
            tensor = tensor[[row_of_nvlabs(row, len(tensor)) for row in range(len(tensor))]]
        assert torch.equal(read, tensor.reshape(read.shape)), theirs


def test_heads_are_as_many_as_64_goes_into_the_channels():
    """Of 160 channels there are two, of 80 each, as in the ADM of num_head_channels 64."""
    shapes = {"weight": torch.Size((480, 160, 1, 1)), "bias": torch.Size((480,))}
    state = {
        f"enc.8x8_block0.qkv.{end}": Stored(shape, lambda shape=shape: counted(shape))
        for end, shape in shapes.items()
    }
    rows = to_adm(state)["input_blocks.0.1.qkv.bias"].read()
    part, head, channel = 2, 1, 79
    assert rows[part * 160 + head * 80 + channel] == head * 240 + channel * 3 + part


def test_the_names_are_those_of_the_record():
    # a shape apart for each tensor tells which went where
    marked = {key: Stored(torch.Size((i, 1, 1)), lambda: None) for i, key in enumerate(PUBLISHED)}
    places = {stored.shape[0]: key for key, stored in to_adm(marked).items() if stored.shape[0] != 1}
    keys = list(PUBLISHED)
    for theirs, ours, transform in RECORDED["to_adm"]:
        if transform != "transpose" and keys.index(theirs) > 1:
            assert places[keys.index(theirs)] == ours


def test_what_sampling_does_not_use_is_left_out_and_what_is_unknown_keeps_its_name():
    shape = torch.Size((2,))
    extra = {
        "map_augment.weight": Stored(shape, lambda: None),
        "enc.32x32_down.skip.resample_filter": Stored(shape, lambda: None),
        "enc.64x64_block0.other.weight": Stored(shape, lambda: None),
    }
    assert list(to_adm(extra)) == ["enc.64x64_block0.other.weight"]


def test_the_order_of_the_file_does_not_matter():
    backwards = dict(reversed(published().items()))
    assert to_adm(backwards).keys() == to_adm(published()).keys()


def test_a_dhariwal_unet_is_told_by_its_keys():
    assert is_adm(PUBLISHED)
    assert not is_adm(key for key in PUBLISHED if key != "out_norm.weight")
