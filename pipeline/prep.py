"""Second stop, once and offline: the images of a source -> a prepared dataset, a shard at a time.

Which image goes into which shard follows from the source and the seed alone, a shard from its images alone.
So prep can be interrupted anywhere: shards that have a record are kept, the others are made again, and the
end is the same to the byte. Nothing has a place in the dataset before it is complete.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import simplejpeg

from pipeline.dataset import (
    WORK,
    DataError,
    Dataset,
    Shard,
    find_faults,
    read_description,
    read_index,
    read_names,
    replacing,
    write_description,
)
from pipeline.shard import Record, Task, commit, make_shard
from pipeline.source import Source
from pipeline.statistics import Statistics, Sums
from pipeline.workers import run_tasks

# A shard of ImageNet is some 50 MB; a small set still has enough shards for every core.
PER_SHARD, FEWEST_PER_SHARD, SHARDS = 1024, 64, 32
PLAN = "plan.json"


@dataclass(frozen=True)
class Progress:
    done: int  # images, also those of an earlier run
    total: int
    rejected: int


Report = Callable[[Progress], None]


def prepare(
    source: Source,
    out: Path | str,
    *,
    size: str = "256",
    seed: int = 0,
    workers: int | None = None,
    max_rejected: float = 0.001,
    report: Report = lambda progress: None,
) -> Dataset:
    """Makes the dataset at `out`, or what an earlier run left of it, or what was damaged since."""
    out = Path(out)
    if dataset := find_finished(out, size, seed):
        faults = find_faults(dataset)
        return repair(dataset, faults, source, workers=workers, report=report) if faults else dataset
    with _work_folder(out) as work:
        tasks = plan(source, size, seed, work)
        made = _describe(source, size, seed, tasks)
        _begin(work, made)
        for split in source.splits:
            (out / split).mkdir(exist_ok=True)
        _make(tasks, out, workers, report)
        return _finish(source, tasks, out, made, max_rejected)


def find_finished(out: Path, size: str, seed: int) -> Dataset | None:
    """The dataset at `out` if it is finished; a DataError if it was made with other settings."""
    if not (out / "dataset.json").exists():
        return None
    dataset = read_description(out)
    for name, here, asked in (("--size", dataset.size, size), ("--seed", dataset.made.get("seed"), seed)):
        if here != asked:
            raise DataError(f"{out} was prepared with {name} {here}, not {asked}: choose another --out")
    for split in dataset.splits:
        read_index(dataset, split)
        read_names(dataset, split)
    if (out / WORK).exists():  # left behind by a run that was stopped after its last step
        with _work_folder(out) as work:
            shutil.rmtree(work, ignore_errors=True)
    return dataset


def repair(
    dataset: Dataset,
    faults: Iterable[str],
    source: Source,
    *,
    workers: int | None = None,
    report: Report = lambda progress: None,
) -> Dataset:
    """Makes shards again from the source that they were made from."""
    out, made = dataset.root, dataset.made
    with _work_folder(out) as work:
        tasks = plan(source, dataset.size, made["seed"], work)
        _same_settings(out, made, _describe(source, dataset.size, made["seed"], tasks))
        shards = {shard.name: shard for shards in dataset.splits.values() for shard in shards}
        bad = [task for task in tasks if task.name in set(faults)]
        done, rejected, total = 0, 0, sum(len(task.samples) for task in bad)
        for task, count in run_tasks(make_shard, bad, _workers(workers, len(bad))):
            record = Record.load(task.made(".made"))
            if record.sha256 != shards[task.name].sha256:
                raise DataError(f"{task.name} comes out differently: {out} was not made from this source")
            commit(task, out)
            done, rejected = done + len(task.samples), rejected + count
            report(Progress(done, total, rejected))
        shutil.rmtree(work, ignore_errors=True)
    return dataset


def plan(source: Source, size: str, seed: int, work: Path) -> list[Task]:
    """Which samples go into which shard, in which order: train is shuffled as a whole, once."""
    tasks = []
    for split, samples in source.splits.items():
        count = len(samples)
        order = np.random.default_rng(seed).permutation(count) if split == "train" else np.arange(count)
        step = min(PER_SHARD, max(FEWEST_PER_SHARD, -(-count // SHARDS)))
        for number, first in enumerate(range(0, count, step)):
            part = tuple(samples[place] for place in order[first : first + step])
            tasks.append(Task(split, number, first, size, part, work))
    return tasks


def _describe(source: Source, size: str, seed: int, tasks: list[Task]) -> dict[str, Any]:
    """What decides the bytes of the dataset."""
    digest = hashlib.sha256(json.dumps([category.wnid for category in source.classes]).encode())
    for task in tasks:
        parts = [(sample.label, sample.name) for sample in task.samples]
        digest.update(json.dumps([task.split, task.number, task.first, parts]).encode())
    return {
        "source": source.kind,
        "size": size,
        "seed": seed,
        "images": digest.hexdigest(),
        "pillow": PIL.__version__,
        "simplejpeg": simplejpeg.__version__,
    }


def _same_settings(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in ("size", "seed", "images", "pillow", "simplejpeg"):
        if before.get(name) != now[name]:
            what = "other images" if name == "images" else f"{name} {before.get(name)}, not {now[name]}"
            raise DataError(f"{out} was begun with {what}: go on as it was begun, or choose another --out")


def _begin(work: Path, made: dict[str, Any]) -> None:
    """Writes down what decides the dataset, or compares it with what an earlier run wrote."""
    if (work / PLAN).exists():
        _same_settings(work.parent, json.loads((work / PLAN).read_text()), made)
    else:
        with replacing(work / PLAN) as file:
            file.write(json.dumps(made).encode())


def _make(tasks: list[Task], out: Path, workers: int | None, report: Report) -> None:
    """Makes the shards that are not there yet, the bulk of the work."""
    todo, done, rejected = [], 0, 0
    for task in tasks:
        if (record := _find_record(task, out)) is None:
            todo.append(task)
        else:
            done += len(task.samples)
            rejected += len(record.rejected)
    total = sum(len(task.samples) for task in tasks)
    report(Progress(done, total, rejected))
    for task, bad in run_tasks(make_shard, todo, _workers(workers, len(todo))):
        commit(task, out)
        done += len(task.samples)
        rejected += bad
        report(Progress(done, total, rejected))


def _find_record(task: Task, out: Path) -> Record | None:
    """The record of a shard that an earlier run made, if both are there and whole."""
    try:
        record = Record.load(task.made(".npz"))
        return record if (out / task.name).stat().st_size == record.bytes else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _workers(workers: int | None, tasks: int) -> int:
    return min(workers or len(os.sched_getaffinity(0)), tasks)


def _finish(
    source: Source, tasks: list[Task], out: Path, made: dict[str, Any], max_rejected: float
) -> Dataset:
    """Gathers the records into the files beside the shards. dataset.json is the last: it says "finished"."""
    splits: dict[str, tuple[Shard, ...]] = {}
    rejected, sums = [], Sums()
    for split in source.splits:
        records = [(task, Record.load(task.made(".npz"))) for task in tasks if task.split == split]
        for _, record in records:
            sums.merge(record.sums.images, record.sums.pixels, record.sums.products)
        rejected += [line for _, record in records for line in record.rejected]
        with replacing(out / split / "samples.npy") as file:
            np.save(file, np.concatenate([record.rows for _, record in records]))
        with replacing(out / split / "names.txt") as file:
            names = "".join(name + "\n" for _, record in records for name in record.names)
            file.write(names.encode("utf-8", "surrogateescape"))
        splits[split] = tuple(
            Shard(task.name, len(record.rows), record.bytes, record.sha256) for task, record in records
        )
    with replacing(out / "rejected.jsonl") as file:
        file.write("".join(json.dumps(line) + "\n" for line in rejected).encode())
    dataset = Dataset(out, made["size"], source.classes, splits, made | {"rejected": len(rejected)})
    _refuse_damage(dataset, sum(len(task.samples) for task in tasks), max_rejected)
    Statistics.of(sums).save(out / "statistics.npz")
    write_description(dataset)
    shutil.rmtree(out / WORK, ignore_errors=True)
    return dataset


def _refuse_damage(dataset: Dataset, total: int, max_rejected: float) -> None:
    rejected, out = dataset.made["rejected"], dataset.root
    if rejected > max(1, int(max_rejected * total)):
        raise DataError(
            f"{rejected:,} of {total:,} images cannot be used, more than --max-rejected {max_rejected:g}; "
            f"{out}/rejected.jsonl says which and why. To leave them out, run the same command again with "
            f"--max-rejected {rejected / total * 1.01:.2g}: nothing is done twice"
        )
    for split in dataset.splits:
        if not dataset.samples(split):
            raise DataError(f"not one image of {split} can be used; {out}/rejected.jsonl says why")


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """The folder for what is not finished, locked against a second prep and tidied before and after."""
    work = out / WORK
    try:
        ours = (out / "dataset.json").exists() or work.exists()
        if not ours and out.exists() and any(path.name != "lost+found" for path in out.iterdir()):
            raise DataError(f"{out} holds other files: choose an --out that is empty or does not exist")
        work.mkdir(parents=True, exist_ok=True)
        with open(work / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _tidy(work)
            try:
                yield work
            finally:
                _tidy(work)
    except BlockingIOError:
        raise DataError(f"another prep is at work in {out}: let it finish, or stop it") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {out} is full: make room, then run the same command again; no shard is lost"
            ) from None
        raise DataError(f"cannot write {error.filename or out}: {error.strerror}") from None


def _tidy(work: Path) -> None:
    """Removes what an unfinished shard left."""
    for path in work.glob("*"):
        if path.suffix != ".npz" and path.name not in (PLAN, "lock"):
            path.unlink()
