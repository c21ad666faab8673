"""Prepare a dataset from the images of a source, once and offline, a shard at a time.

Which image goes into which shard follows from the source and the seed alone, a shard from its images alone.
So prep can be interrupted anywhere: shards that have a record are kept, the others are made again, and the
result is the same to the byte. A file moves to its place in the dataset only when it is complete.
"""

from pathlib import Path
from typing import Any

from pipeline.atomic import make_folder
from pipeline.dataset import Dataset, find_faults, side_of, write_description
from pipeline.errors import DataError
from pipeline.prep.gather import Gathered
from pipeline.prep.plan import begin, describe_preparation, plan
from pipeline.prep.repair import Progress, Report, count_workers, find_finished, repair
from pipeline.prep.shard import Record, Task, commit, make_shard
from pipeline.prep.work import remove, remove_left, work_folder
from pipeline.source.find import Source
from pipeline.workers import run_tasks


def prepare(
    source: Source,
    out: Path | str,
    *,
    size: str = "256",
    store: str = "jpeg",
    seed: int = 0,
    exif: str | None = None,
    workers: int | None = None,
    max_rejected: float = 0.001,
    report: Report = lambda progress: None,
) -> Dataset:
    """Make the dataset at `out`, or what an earlier run left undone, or what was damaged since.

    size: "original", or the side of the squares from "8" to "1024" pixels. store: "jpeg" or "raw".
    exif: "honour" or "ignore" the images' orientation; ILSVRC's own is by default ignored, as in 2012.
    workers: number of processes; None: one a core. max_rejected: the fraction of images that may be unusable.
    report: gets the progress. DataError says what is wrong with the source or with `out`.
    """
    out = Path(out)
    if dataset := find_finished(out, size, store, seed, exif):
        if faults := find_faults(dataset):
            return repair(dataset, faults, source, workers=workers, report=report)
        remove_left(out)
        return dataset
    exif = exif or source.exif
    with work_folder(out) as work:
        tasks = plan(source, size, store, seed, exif, work)
        made = describe_preparation(source, size, store, seed, exif, tasks)
        begin(work, made)
        for split in source.splits:
            make_folder(out / split)
        _stop_early(source, max_rejected)
        _make(tasks, out, workers, report)
        dataset = _finish(source, tasks, out, made, max_rejected)
        remove(work)
    return dataset


def _make(tasks: list[Task], out: Path, workers: int | None, report: Report) -> None:
    """Make the shards that are not there yet: nearly all the work."""
    todo, done, rejected = [], 0, 0
    for task in tasks:
        if (record := _find_record(task, out)) is None:
            todo.append(task)
        else:
            done += len(task.samples)
            rejected += len(record.rejected)
    total = sum(len(task.samples) for task in tasks)
    report(Progress(done, total, rejected))
    for task, count in run_tasks(make_shard, todo, count_workers(workers, len(todo))):
        commit(task, out)
        done, rejected = done + len(task.samples), rejected + count
        report(Progress(done, total, rejected))


def _find_record(task: Task, out: Path) -> Record | None:
    """Load the record of a shard that an earlier run made, if it, the shard and its index are whole."""
    try:
        record = Record.load(task.made(".npz"), task.side)
        size, index = (out / task.name).stat().st_size, (out / task.name).with_suffix(".idx")
        return record if size == record.bytes and index.exists() else None
    except (OSError, DataError):
        return None


def _finish(
    source: Source, tasks: list[Task], out: Path, made: dict[str, Any], max_rejected: float
) -> Dataset:
    """Write the files beside the shards, dataset.json last: it is what says that the dataset is finished."""
    gathered = Gathered(out, side_of(made["size"]))
    for split in source.splits:
        gathered.add(split, [task for task in tasks if task.split == split])
    listed, count = gathered.write_rejected(source.left), len(gathered.rejected)
    _limit_rejected(count, source.count, max_rejected, f"{listed} says which and why")
    for split, shards in gathered.splits.items():
        if not any(shard.samples for shard in shards):
            raise DataError(f"no image of {split} can be used; {listed} says why: replace them")
    gathered.write_statistics()
    left, flawed = {"left_out": len(source.left), "passed_over": source.passed}, gathered.write_flawed()
    made = made | {"rejected": count, "flawed": flawed} | left
    dataset = Dataset(out, made["size"], made["store"], source.classes, gathered.splits, gathered.files, made)
    write_description(dataset)
    return dataset


def _stop_early(source: Source, max_rejected: float) -> None:
    """Raise DataError before all the work if the root is known to have too many images that are of no use."""
    faulty = [sample for samples in source.splits.values() for sample in samples if sample.fault]
    if faulty:
        why = f"the first is {faulty[0].file} ({faulty[0].name}): {faulty[0].fault}"
        _limit_rejected(len(faulty), source.count, max_rejected, why)


def _limit_rejected(count: int, total: int, max_rejected: float, why: str) -> None:
    if count > max(1, int(max_rejected * total + 1e-6)):
        raise DataError(
            f"{count:,} of {total:,} images cannot be used, more than --max-rejected {max_rejected:g}; "
            f"{why}. To leave them out, run the same command again with "
            f"--max-rejected {min(1, 1.06 * count / total):.2g}; shards that are done are kept"
        )
