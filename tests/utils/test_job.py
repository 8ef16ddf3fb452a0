"""The work list: every image once, failures apart from the rest, files whole."""

import pytest
import torch

from utils import job


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_processes_share_every_name_exactly_once(world_size):
    names = [f"{i}.png" for i in range(5)]
    shares = [job.share(names, rank, world_size) for rank in range(world_size)]
    assert sorted(name for share in shares for name in share) == names
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batches_keep_order_and_size():
    assert list(job.batches([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]


def test_failures_are_recorded_and_the_others_done(capsys):
    saved = {}

    def load(item):
        if item.name == "bad":
            raise ValueError("broken")
        if item.name == "gone":
            raise FileNotFoundError("vanished")
        return {"image": torch.full((1, 2, 2), float(item.name)), "mask": torch.ones(1)}

    def process(items, tensors):
        assert tensors["image"].shape[1:] == (1, 2, 2)
        assert len(tensors["mask"]) == len(items)
        return list(tensors["image"])

    def save(item, output):
        if output.min() < 0:
            raise ValueError("NaN")
        saved[item.name] = output

    items = [job.Item(name, 0, f"{name}.png") for name in ("1", "bad", "2", "-1", "gone")]
    outcome = job.run(items, 2, load, process, save)
    assert sorted(saved) == ["1", "2"]
    assert torch.equal(saved["2"], torch.full((1, 2, 2), 2.0))
    assert outcome.num_done == 2
    assert [name for name, _ in outcome.failures] == ["bad", "-1", "gone"]
    assert "NaN" in outcome.failures[1][1]
    assert "failed: bad: broken" in capsys.readouterr().err


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    target = tmp_path / "a" / "x.png"
    job.write_atomically(target, b"old")
    job.write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    with pytest.raises(TypeError):
        job.write_atomically(target, "text")
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["x.png"]
