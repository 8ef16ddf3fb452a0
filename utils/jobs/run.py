"""A run of either method over its items: what is missing is read, computed, written and reported."""

import contextlib
import errno
import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath

import torch
from torch import Tensor, nn

from utils import exits, interrupt
from utils.images import PNG, SHEETS, STRIPS, TRAJECTORIES, Inputs, Latents, RegionInputs
from utils.jobs import job, page, report, run_key, shares
from utils.jobs.launch import Launch, Progress, finish
from utils.jobs.origin import Origin
from utils.jobs.records import Records
from utils.jobs.results import HIDDEN, ORIGINALS, PREVIEWS, SHOWN, Part, Result, Writer, merge
from utils.log import log
from utils.running import AUTO, Running

Sampler = Callable[[list[job.Item], dict[str, Tensor]], list[list[Result]]]
"""(items, their tensors [B, ...]) -> the results of each item."""
Build = Callable[[Launch], tuple[Sampler, list[nn.Module]]]
"""Loads the networks; returns the method on a batch, and the networks that it calls."""
_Output = tuple[Part, torch.dtype, dict[str, float]]
"""What came of a part of an item, in which precision, and what it took: network calls, and seconds."""
_ONE_FILE = (
    *(errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENOENT),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY),
)


def check(running: Running, launch: Launch, settings: dict[str, object]) -> None:
    """Refuse a save_dir that is another run's, or that another process is at work on; change nothing.

    Raises:
        ValueError: Such a folder, or one that cannot be read.
    """
    shares.check(running.save_dir, _share(running, launch))
    run_key.check(running.save_dir, settings, running.overwrite)


def _share(running: Running, launch: Launch) -> shares.Share:
    return shares.Share(0, 1).part(*(running.shard or (0, 1))).part(launch.rank, launch.world_size)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a run says of itself beside what makes it this run."""

    title: str
    """Of its page: the method."""
    named: dict[str, str]
    """What the page shows first, by what it is called."""
    given: dict[str, object]
    """Options that have another value than their default."""
    command: str
    """The line that asked for it."""


class Method:
    """The method on a batch, computed again in float32 where the result is not finite."""

    def __init__(self, build: Build, launch: Launch):
        """
        Raises:
            ValueError: Weights that are broken, unsafe or those of another network.
        """
        self._build, self._launch = build, launch
        self._sample, self._modules = build(launch)
        self._exact: Sampler | None = None
        self._watchers: tuple[Callable[[], None], Callable[[int], None]] | None = None

    def watch(self, check: Callable[[], None], count: Callable[[int], None]) -> None:
        """Call `check`, and `count` with the number of images, before every network call."""
        self._watchers = check, count
        self._register(self._modules)

    def _register(self, modules: list[nn.Module]) -> None:
        if self._watchers is None:
            return
        check, count = self._watchers

        def called(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            check()
            count(len(given[0]))

        for module in modules:
            module.register_forward_pre_hook(called)

    def __call__(
        self, items: list[job.Item], tensors: dict[str, Tensor]
    ) -> list[tuple[list[Result], torch.dtype]]:
        """Return the results of each item, on the CPU, and the precision that they were computed in."""
        device, dtype = self._launch.device, self._launch.dtype
        tensors = {
            key: tensor.to(device, memory_format=torch.channels_last) for key, tensor in tensors.items()
        }
        rows = [([result.to_cpu() for result in row], dtype) for row in self._sample(items, tensors)]
        bad = [i for i, (row, _) in enumerate(rows) if not all(x.image.isfinite().all() for x in row)]
        if bad and dtype != torch.float32:
            log.warning(f"{len(bad)} of {len(rows)} results hold NaN or infinity; once more in fp32")
            part = {key: tensor[bad] for key, tensor in tensors.items()}
            again = self._in_float32()([items[i] for i in bad], part)
            for i, row in zip(bad, again, strict=True):
                rows[i] = [result.to_cpu() for result in row], torch.float32
        return rows

    def _in_float32(self) -> Sampler:
        if self._exact is None:
            self._exact, modules = self._build(replace(self._launch, dtype=torch.float32, compiled=False))
            self._register(modules)
        return self._exact


class Run:
    """One process's part of a run."""

    def __init__(
        self,
        running: Running,
        launch: Launch,
        items: list[job.Item],
        inputs: Inputs | RegionInputs | Latents,
        method: Method,
        settings: dict[str, object],
        writer: Writer,
        calls_per_item: int,
        told: Told,
        conditions: dict[str, int | str] | None = None,
    ):
        """
        Args:
            running: What is read and written.
            launch: This process.
            items: All that the run consists of.
            inputs: Reads what an item needs.
            method: The method on a batch.
            settings: What makes it this run, from `run_settings`.
            writer: Encodes the results of an item.
            calls_per_item: Network calls that the method makes for an item, for the progress.
            told: What its page and its log say of it.
            conditions: What the network is told of each input by its relative path, its class or prompt,
                where inputs may differ by it.
        """
        self._running, self._launch, self._items = running, launch, items
        self._inputs, self._method, self._settings = inputs, method, settings
        self._writer, self._calls_per_item = writer, calls_per_item
        self._conditions, self._made_from = conditions, dict[job.Item, dict[str, object]]()
        self._share = _share(running, launch)
        self._key = run_key.key(settings)
        self._told = told
        self._about = None if running.no_report else self._describe()
        self._records = Records(running.save_dir, self._key, self._process(), running.overwrite)

    def _describe(self) -> page.About:
        """Say what the run's page shows of it."""
        writer, told = self._writer, self._told
        return page.About(
            title=f"{told.title}: {self._running.save_dir.absolute().name}",
            named=told.named,
            given=told.given,
            settings=self._settings,
            inputs=self._running.folder,
            folders=list(writer.folders),
            strips=STRIPS if writer.comparison else None,
            sheets=SHEETS if len(writer.folders) > 1 else None,
            trajectories=TRAJECTORIES if writer.trajectory else None,
            suffix=_most_common_suffix(self._items),
            previews=PREVIEWS,
            shown=SHOWN,
            originals=ORIGINALS,
            hidden=HIDDEN,
        )

    def prepare(self) -> None:
        """Make save_dir the folder of this run, take its share of the items, and find what is missing.

        Raises:
            ValueError: Another process is at it, what is there cannot be read, or nothing can be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(shares.held(self._running.save_dir, self._share))
                run_key.write(self._running.save_dir, self._settings)
                mine = self._share.of(self._items)
                missing = self._records.missing(mine, self._origin, self._running.verify)
            except OSError as error:
                raise ValueError(f"--save_dir {self._running.save_dir}: cannot be written: {error}") from None
            self._held = stack.pop_all()
        if len(missing) < len(mine):
            log.info(f"{len(mine) - len(missing)} of {len(mine)} were done before")
        self._missing = missing

    def do(self) -> int:
        """Do what `prepare` found missing, and leave the group of processes.

        Returns:
            Exit code: 0; 3 where some images failed; 75 where the run was interrupted or the disk took no
            more, and the same command goes on. One of several processes returns 0 in place of 3: a
            launcher would stop the others, which still have work.
        """
        with self._held, interrupt.deferred() as interruption, torch.inference_mode():
            code = self._do(interruption)
        finish()
        return code

    def _do(self, interruption: interrupt.Interruption) -> int:
        start, stopped = time.monotonic(), None
        self._progress = Progress(len(self._missing), self._calls_per_item, self._launch.rank)
        self._method.watch(interruption.check, self._progress.network_called)
        given = self._running.micro_batch or self._launch.micro_batch
        self._micro_batch = job.MicroBatch(None if given == AUTO else given)
        steps = (self._load, self._compute, self._save, self._fail)
        work = job.Job(self._micro_batch, *steps, check=interruption.check)
        try:
            work.run(self._missing)
        except interrupt.RunInterruptedError:
            stopped = "interrupted"
        except OSError as error:
            stopped = f"the results cannot be written: {error}"
        self._progress.close()
        self._finish(work.outcome, time.monotonic() - start, stopped)
        if stopped:
            return exits.INTERRUPTED
        alone = self._launch.world_size == 1
        return exits.SOME_FAILED if work.outcome.num_failed and alone else exits.DONE

    def _origin(self, item: job.Item) -> Origin:
        facts = {} if self._conditions is None else {"class": self._conditions[item.name]}
        return Origin(self._inputs.files(item.name), facts)

    def _process(self) -> dict[str, object]:
        launch = self._launch
        return {
            "command": self._told.command,
            "directory": _working_directory(),
            "shard": self._running.shard,
            "rank": launch.rank,
            "world_size": launch.world_size,
            "host": platform.node(),
            "device": str(launch.device),
            "precision": _name(launch.dtype),
            "versions": report.versions(),
        }

    def _load(self, item: job.Item) -> list[dict[str, Tensor]]:
        self._records.check(self._writer.paths(item))
        origin = self._origin(item)
        before = origin.look()
        parts = self._inputs.load(item.name)
        self._made_from[item] = origin.record(before)
        return parts

    def _compute(self, items: list[job.Item], tensors: dict[str, Tensor]) -> list[_Output]:
        """Return what is saved of each part: it, its precision and its cost."""
        start, calls = time.monotonic(), self._progress.num_calls
        rows = self._method(items, tensors)
        seconds, calls = time.monotonic() - start, self._progress.num_calls - calls
        cost = {"calls": calls / len(items), "seconds": seconds / len(items)}
        guides = tensors["image"] if "image" in tensors else [None] * len(items)
        return [
            (Part(guide, results), dtype, cost) for guide, (results, dtype) in zip(guides, rows, strict=True)
        ]

    def _save(self, item: job.Item, outputs: list[_Output]) -> None:
        parts, made_from = [part for part, *_ in outputs], self._made_from.pop(item)
        dtypes = [dtype for _, dtype, _ in outputs] or [self._launch.dtype]
        precision = {"precision": _name(max(dtypes, key=lambda dtype: dtype.itemsize))}
        cost = {key: round(sum(cost[key] for *_, cost in outputs), 4) for key in ("calls", "seconds")}
        finish = partial(self._inputs.finish, item.name, suffix=PurePosixPath(item.target).suffix)
        contents = self._writer.encode(item, parts, finish, precision)
        if not isinstance(self._inputs, Latents):
            contents |= self._writer.show_input(item, self._inputs.preview)
        if isinstance(self._inputs, RegionInputs) and self._origin(item).difference(made_from):
            raise job.ItemError("it, or its mask, changed while it was edited; run the command again")
        try:
            by_folder = zip(*(part.results for part in parts), strict=True)
            known = {results[0].folder: merge(results) for results in by_folder if results[0].notes}
            self._records.commit(item, contents, made_from, {**cost, **precision, "notes": known})
        except OSError as error:
            if error.errno not in _ONE_FILE:
                raise
            raise job.ItemError(f"cannot be written: {error}") from None

    def _fail(self, item: job.Item, reason: str) -> None:
        self._progress.skipped(1)
        self._made_from.pop(item, None)
        log.error(f"failed: {item.name}: {reason}")
        self._records.fail(item, reason)

    def _finish(self, outcome: job.Outcome, seconds: float, stopped: str | None) -> None:
        """Say and record how it ended."""
        save_dir, calls = self._running.save_dir, self._progress.num_calls
        failed = f", {outcome.num_failed} failed" if outcome.num_failed else ""
        each = f", {calls / outcome.num_done:g} network evaluations each" if outcome.num_done else ""
        chosen = f", micro-batch {self._micro_batch.size}" if self._running.micro_batch == AUTO else ""
        done = (
            f"{outcome.num_done} of {len(self._missing)} images" if stopped else f"{outcome.num_done} images"
        )
        log.info(f"{done} in {save_dir}{failed}, {seconds:.1f} s{each}{chosen}")
        if stopped:
            log.error(f"{stopped}; nothing is half written, the same command goes on from here")
        summary = {
            "seconds": round(seconds, 2),
            "waiting_for_files_s": round(outcome.waited_s, 2),
            "done": outcome.num_done,
            "failed": outcome.num_failed,
            "micro_batch": self._micro_batch.size,
            "stopped": stopped,
        }
        try:
            self._records.finish(summary)
            report.write(save_dir, self._key, self._items, self._about)
        except OSError as error:  # a full disk, of which the user knows by now
            log.error(f"{save_dir / report.NAME} cannot be written: {error}")


def _most_common_suffix(items: list[job.Item]) -> str:
    """Return that of most results."""
    found = Counter(item.target.rpartition(".")[2] for item in items).most_common(1)
    return f".{found[0][0]}" if found else PNG


def _working_directory() -> str:
    """Return where the command was given, from which its relative paths lead; '' where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
