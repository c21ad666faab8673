"""Check a finished dataset, and make again what was damaged since."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.dataset import Dataset, index_name, read_description, write_description
from pipeline.errors import DataError
from pipeline.prep.gather import Gathered
from pipeline.prep.plan import describe_preparation, plan, refuse_other
from pipeline.prep.shard import Record, commit, make_shard
from pipeline.prep.work import remove, work_folder
from pipeline.source.find import Source
from pipeline.workers import count_cores, run_tasks


@dataclass(frozen=True)
class Progress:
    """Count the images that prep has to do, and those that it has done or rejected."""

    done: int  # images, also those of an earlier run
    total: int
    rejected: int


Report = Callable[[Progress], None]


def find_finished(out: Path, size: str, store: str, seed: int, exif: str | None = None) -> Dataset | None:
    """Return the dataset at `out` if it is finished; DataError if it was made with other settings.

    exif: None accepts either choice.
    """
    if not (out / "dataset.json").exists():
        return None
    dataset = read_description(out)
    settings = {
        "--size": (dataset.size, size),
        "--store": (dataset.store, store),
        "--seed": (dataset.made.get("seed"), seed),
        "--exif": (_exif(dataset), exif or _exif(dataset)),
    }
    for name, (here, asked) in settings.items():
        if here != asked:
            raise DataError(f"{out} was prepared with {name} {here}, not {asked}: choose another --out")
    return dataset


def repair(
    dataset: Dataset,
    faults: Iterable[str],
    source: Source,
    *,
    workers: int | None = None,
    report: Report = lambda progress: None,
) -> Dataset:
    """Make shards again from their source; for a damaged file beside them, all the shards of its split."""
    out, faults = dataset.root, set(faults)
    seed, exif = dataset.made["seed"], _exif(dataset)
    whole = {split for split in dataset.splits for name in _beside(split) if name in faults}
    shards = [shard for shards in dataset.splits.values() for shard in shards]
    checksums = {shard.name: shard.sha256 for shard in shards}
    faults |= {shard.name for shard in shards if index_name(shard) in faults}
    with work_folder(out) as work:
        tasks = plan(source, dataset.size, dataset.store, seed, exif, work)
        refuse_other(
            out, dataset.made, describe_preparation(source, dataset.size, dataset.store, seed, exif, tasks)
        )
        bad = [task for task in tasks if task.name in faults or task.split in whole]
        done, rejected, total = 0, 0, sum(len(task.samples) for task in bad)
        report(Progress(done, total, rejected))
        for task, count in run_tasks(make_shard, bad, count_workers(workers, len(bad))):
            if Record.load(task.made(".made"), task.side).sha256 != checksums[task.name]:
                raise DataError(
                    f"{task.name} differs now: {out} was made from other images; give the --imagenet-root "
                    "that it was made from"
                )
            commit(task, out)
            done, rejected = done + len(task.samples), rejected + count
            report(Progress(done, total, rejected))
        gathered = Gathered(out, dataset.side)
        for split in whole:
            gathered.add(split, [task for task in tasks if task.split == split])
            if split == "train":
                gathered.write_statistics()
        # Another LAPACK rounds differently; older datasets list no index
        if gathered.files.items() - dataset.files.items():
            dataset = replace(dataset, files=dataset.files | gathered.files)
            write_description(dataset)
        remove(work)
    return dataset


def count_workers(workers: int | None, tasks: int) -> int:
    return min(workers or count_cores(), tasks)


def _exif(dataset: Dataset) -> str:
    """Return "honour" if its images were turned upright, else "ignore", as before the option existed."""
    return str(dataset.made.get("exif", "ignore"))


def _beside(split: str) -> list[str]:
    return [f"{split}/samples.npy", f"{split}/names.txt"] + ["statistics.npz"] * (split == "train")
