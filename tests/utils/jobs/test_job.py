"""The work list: every item once, failures apart from the rest, short memory survived, files whole."""

import threading
import time

import pytest
import torch

from utils import files
from utils.jobs import job
from utils.jobs.shares import Share


def make_items(*names):
    return [job.Item(name, 0, f"{name}.png") for name in names]


class Recorder:
    """What a job calls, recorded."""

    def __init__(self, fits=100):
        self.saved, self.failed, self.batches, self.fits = {}, {}, [], fits

    def load(self, item):
        if item.name == "bad":
            raise ValueError("broken\n  twice")
        if item.name == "gone":
            raise FileNotFoundError("vanished")
        return [{"image": torch.full((1, 2, 2), float(item.name)), "mask": torch.ones(1)}]

    def compute(self, items, tensors):
        assert tensors["image"].shape == (len(items), 1, 2, 2)
        assert len(tensors["mask"]) == len(items)
        if len(items) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append([item.name for item in items])
        return list(tensors["image"])

    def save(self, item, outputs):
        [output] = outputs
        assert threading.current_thread() is not threading.main_thread()
        if output.min() < 0:
            raise job.ItemError("NaN")
        self.saved[item.name] = output

    def fail(self, item, reason):
        self.failed[item.name] = reason

    def run(self, names, micro_batch=2):
        self.size = job.MicroBatch(micro_batch)
        work = job.Job(self.size, self.load, self.compute, self.save, self.fail)
        return work.run(make_items(*names))


def test_a_batch_holds_items_of_one_shape():
    batches = []

    def compute(items, tensors):
        batches.append(([item.name for item in items], tuple(tensors["image"].shape)))
        return items

    sides = {"a": 2, "b": 2, "c": 3, "d": 2, "e": 2, "f": 2}
    work = job.Job(
        job.MicroBatch(2),
        lambda item: [{"image": torch.zeros(1, 4, sides[item.name])}],
        compute,
        lambda item, output: None,
        lambda item, reason: None,
    )
    assert work.run(make_items(*sides)).num_done == 6
    assert [names for names, _ in batches] == [["a", "b"], ["c"], ["d", "e"], ["f"]]
    assert batches[1][1] == (1, 1, 4, 3)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_processes_share_every_name_exactly_once(world_size):
    names = [f"{i}.png" for i in range(5)]
    shares = [Share(0, 1).part(rank, world_size).of(names) for rank in range(world_size)]
    assert sorted(name for share in shares for name in share) == names
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batches_are_full_and_in_order_whatever_fails_to_load():
    seen = Recorder()
    outcome = seen.run(["1", "bad", "2", "3", "gone", "4", "5"])
    assert seen.batches == [["1", "2"], ["3", "4"], ["5"]]
    assert seen.failed == {"bad": "broken twice", "gone": "vanished"}
    assert torch.equal(seen.saved["5"], torch.full((1, 2, 2), 5.0))
    assert (outcome.num_done, outcome.num_failed) == (5, 2)


@pytest.mark.parametrize("side", [2, 20])
def test_of_large_items_few_are_in_memory_at_a_time(monkeypatch, side):
    """As of clips, each as large as a picture may be: one is computed, one waits, one is saved."""
    monkeypatch.setattr(job, "_WAITING_BYTES", 20 * 20 * 4 + 1)
    loaded, ahead, saving, together = [], [], set(), []

    def load(item):
        loaded.append(item.name)
        shared = torch.zeros(side, side)
        return [{"image": shared}, {"image": shared}]  # what frames share weighs once

    def compute(items, tensors):
        time.sleep(0.01)  # readers go as far as they may
        ahead.append(len(loaded) - 1 - int(items[-1].name))
        return [None] * len(items)

    def save(item, outputs):
        saving.add(item.name)
        together.append(len(saving))
        time.sleep(0.02)
        saving.remove(item.name)

    work = job.Job(job.MicroBatch(2), load, compute, save, lambda item, reason: None)
    assert work.run(make_items(*map(str, range(16)))).num_done == 16
    assert max(ahead[4:]) == (1 if side == 20 else 4)
    assert side == 2 or max(together) == 1


class Parts(Recorder):
    """An input has as many parts as its name says."""

    def load(self, item):
        return [
            {"image": torch.full((1, 2, 2), float(part)), "mask": torch.ones(1)}
            for part in range(int(item.name))
        ]

    def compute(self, items, tensors):
        assert [item.part for item in items] == tensors["image"][:, 0, 0, 0].tolist()
        return super().compute(items, tensors)

    def save(self, item, outputs):
        assert item.part == 0
        self.saved[item.name] = [output[0, 0, 0].item() for output in outputs]


def test_parts_fill_the_batches_and_an_item_is_saved_when_its_last_is_done():
    seen = Parts()
    outcome = seen.run(["1", "3", "0", "2"])
    assert seen.batches == [["1", "3"], ["3", "3"], ["2", "2"]]
    assert seen.saved == {"1": [0], "3": [0, 1, 2], "0": [], "2": [0, 1]}
    assert (outcome.num_done, outcome.num_failed) == (4, 0)


def test_an_item_fails_once_whatever_the_number_of_its_parts():
    seen = Parts(fits=0)
    outcome = seen.run(["3", "2", "0"])
    assert (outcome.num_done, outcome.num_failed) == (1, 2)
    assert set(seen.failed) == {"3", "2"}


def test_a_result_that_cannot_be_saved_fails_alone():
    seen = Recorder()
    outcome = seen.run(["1", "-1", "2"])
    assert (sorted(seen.saved), seen.failed) == (["1", "2"], {"-1": "NaN"})
    assert (outcome.num_done, outcome.num_failed) == (2, 1)


@pytest.mark.parametrize(("fits", "left"), [(5, 4), (4, 4), (3, 2), (1, 1)])
def test_short_memory_halves_the_batch_for_good(fits, left):
    seen = Recorder(fits)
    names = [str(i) for i in range(16)]
    seen.run(names, micro_batch=8)
    assert [name for batch in seen.batches for name in batch] == names
    assert sorted(seen.saved) == sorted(names)
    assert seen.size.size == max(map(len, seen.batches)) == left


def test_auto_doubles_as_long_as_an_item_gets_faster():
    def sizes(cost):
        found, size = [], job.MicroBatch(None)
        for _ in range(10):
            found.append(size.size)
            size.took(size.size, cost(size.size))
        return found

    assert sizes(lambda n: 1 + 0.2 * n) == [1, 2, 4, 8, 16, 32, 64, 128, 64, 64]
    assert sizes(lambda n: n) == [1, 2, *[1] * 8]
    assert sizes(lambda n: 1 if n <= 4 else n) == [1, 2, 4, 8, *[4] * 6]


def test_auto_stops_where_memory_is_short():
    seen = Recorder(fits=3)
    real, names = seen.compute, [str(i) for i in range(16)]

    def compute(items, tensors):
        time.sleep(0.02)  # whatever the batch, so that larger ones are faster
        return real(items, tensors)

    seen.compute = compute
    seen.run(names, micro_batch=None)
    assert [name for batch in seen.batches for name in batch] == names
    assert max(map(len, seen.batches)) == seen.size.size == 2


def test_no_memory_for_one_is_advice(caplog):
    seen = Recorder(fits=0)
    outcome = seen.run(["1", "2"])
    assert outcome.num_failed == 2
    assert all("out of memory with one image; use" in reason for reason in seen.failed.values())


def test_an_error_of_the_cpu_allocator_is_short_memory_and_others_are_errors():
    seen = Recorder()
    real, errors = seen.compute, ["DefaultCPUAllocator: can't allocate memory: you tried"]
    errors += ["could not create a primitive", "std::bad_alloc", "shape mismatch"]

    def compute(items, tensors):
        if errors:
            raise RuntimeError(errors.pop(0))
        return real(items, tensors)

    seen.compute = compute
    with pytest.raises(RuntimeError, match="shape mismatch"):
        seen.run([str(i) for i in range(20)], micro_batch=16)
    assert errors == []
    assert seen.size.size == 2


def test_what_was_computed_is_saved_when_the_run_is_stopped():
    seen = Recorder()
    real = seen.compute

    def compute(items, tensors):
        if items[0].name == "4":
            raise KeyError("stop")
        return real(items, tensors)

    seen.compute = compute
    with pytest.raises(KeyError):
        seen.run([str(i) for i in range(8)])
    assert sorted(seen.saved) == ["0", "1", "2", "3"]


def test_a_full_disk_ends_the_run():
    seen = Recorder()

    def save(item, output):
        raise OSError(28, "No space left on device")

    seen.save = save
    with pytest.raises(OSError, match="No space"):
        seen.run([str(i) for i in range(100)])
    assert len(seen.batches) < 10


def test_only_a_few_items_are_loaded_ahead():
    seen, loaded = Recorder(), []
    real_load, real_compute = seen.load, seen.compute

    def load(item):
        loaded.append(item.name)
        return real_load(item)

    def compute(items, tensors):
        assert len(loaded) <= 4 * 2 + int(items[-1].name)
        return real_compute(items, tensors)

    seen.load, seen.compute = load, compute
    seen.run([str(i) for i in range(40)])
    assert len(loaded) == 40


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    target = tmp_path / "a" / "x.png"
    files.write_atomically(target, b"old")
    files.write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    with pytest.raises(TypeError):
        files.write_atomically(target, "text")
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["x.png"]
