"""Define alexnet-dali prep: prepare a dataset, once, before the first training."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import options
from cli.compose.fitting import fitting_recipes
from cli.compose.runs import recommend
from cli.display import Line, disk_size, plural, progress, say, say_row
from cli.signals import ended_in_order
from pipeline.dataset import SIZE, WORK, Dataset, find_faults, has_labels
from pipeline.errors import DataError

if TYPE_CHECKING:
    from pipeline.prep.repair import Progress

EXIF = {
    "honour": "EXIF orientation: images are turned upright (--exif ignore takes them as stored)",
    "ignore": "EXIF orientation: ignored, as in 2012 (--exif honour turns images upright)",
}


def check_size(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return the size of a dataset; BadParameter if it is none."""
    if not re.fullmatch(SIZE, value):
        raise click.BadParameter(f"{value} is neither a number from 8 to 1024 nor `original`")
    return value


@click.command("prep")
@click.option(
    "--imagenet-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of ImageNet or of your own images: class folders, class tars, the archives of 2012 or 2010, "
    "Kaggle's ILSVRC, WebDataset shards, or the Hugging Face hub's archives or parquet files.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=options.DATA,
    envvar="ALEXNET_DALI_DATA",
    show_envvar=True,
    help="Folder of the prepared dataset.",
)
@click.option(
    "--size",
    metavar="PIXELS|original",
    callback=check_size,
    default="256",
    help="Stored images: a number, 8 to 1024, is the side of the centre square that is resized to it; "
    "`original` is the unchanged file.",
)
@click.option(
    "--store",
    type=click.Choice(["jpeg", "raw"]),
    default="jpeg",
    help="Stored format: JPEG, or raw pixels, which need no decoding but about 265 GB for ImageNet instead "
    "of 52.",
)
@click.option(
    "--seed",
    type=options.SEED,
    default=0,
    help="Random seed for shuffling the training images and for --val-fraction.",
)
@click.option(
    "--val-fraction",
    type=options.Number(0, 1, min_open=True, max_open=True),
    help="Fraction of each class to hold out for validation, if the root has no val.",
)
@click.option(
    "--names",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TSV or CSV file of class names, with the columns folder and name.  [default: ILSVRC's own names]",
)
@click.option(
    "--exif",
    type=click.Choice(["honour", "ignore"]),
    help="EXIF orientation: `honour` turns images upright, `ignore` takes the pixels as stored.  "
    "[default: honour; ignore for ILSVRC's own]",
)
@click.option("--workers", type=options.THREADS, help="Number of worker processes.  [default: one per core]")
@click.option(
    "--max-rejected",
    type=options.Number(0, 1),
    default=0.001,
    help="Stop if more than this fraction of the images cannot be decoded. A single bad image never stops "
    "prep.",
)
@click.option(
    "--verify", is_flag=True, help="Check a finished dataset: read every byte and compare checksums."
)
def command(
    imagenet_root: Path | None,
    out: Path,
    size: str,
    store: str,
    seed: int,
    val_fraction: float | None,
    names: Path | None,
    exif: str | None,
    workers: int | None,
    max_rejected: float,
    verify: bool,
) -> None:
    """Convert images into a prepared dataset.

    Every other command reads the prepared dataset instead of ImageNet's archives or your class folders. A
    stopped prep resumes with the same command. For a finished dataset, the same command checks the shards
    and makes missing or damaged ones again.
    """
    from pipeline.prep.prepare import prepare
    from pipeline.prep.repair import find_finished, repair
    from pipeline.prep.work import remove_left
    from pipeline.source.find import find_source
    from pipeline.source.names import refuse_other_names
    from pipeline.workers import count_cores

    if (size, store) == ("original", "raw"):
        raise click.UsageError("--store raw holds squares of one size: leave out --size original")
    workers = workers or count_cores()
    with ended_in_order():
        finished = find_finished(out, size, store, seed, exif)
        if finished and names:
            refuse_other_names(finished, names)
        faults = find_faults(finished, verify, workers) if finished else {}
        if finished and not faults:
            remove_left(out)
            checked = "has the right checksum" if verify else "is there"
            say(f"{out} is already prepared, and every file {checked}.")
            if imagenet_root:
                say(f"{imagenet_root} was not read again: if its images have changed, choose another --out.")
            _show(finished, None)
            return
        for name, fault in faults.items():
            say(f"{out / name} {fault}")
        if imagenet_root is None:
            if faults:
                broken = plural(len(faults), "missing or damaged file")
                raise DataError(f"{out} has {broken}: give --imagenet-root DIR to make the shards again")
            raise click.UsageError(f"{out} holds no prepared dataset yet: give --imagenet-root DIR")
        say(f"Looking at {imagenet_root} ...")
        source = find_source(imagenet_root, val_fraction, seed, names, partial(_unpack, out, workers))
        say(f"Found {source.kind}")
        if not finished:
            say(f"Class names: {source.named}")
            say(EXIF[exif or source.exif])
        with progress("", 0, output=True) as line:
            report = partial(tell, line)
            if finished:
                dataset = repair(finished, faults, source, workers=workers, report=report)
            else:
                dataset = prepare(
                    source,
                    out,
                    size=size,
                    store=store,
                    seed=seed,
                    exif=exif,
                    workers=workers,
                    max_rejected=max_rejected,
                    report=report,
                )
    _show(dataset, line.rate)


def _unpack(out: Path, workers: int, archives: Sequence[Path]) -> list[Path]:
    """Unpack what has no random access, and show how far it is."""
    from pipeline.prep.unpack import unpack

    with progress("unpacking", 0, unit="MB", output=True) as line:

        def report(done: int, total: int) -> None:
            if not line.total:
                line.first = line.done = done // 10**6
                line.total = max(1, total // 10**6)
                where = f"{out / WORK}, {disk_size(total)} in all, until the dataset is finished"
                line.tell(f"Unpacking {plural(len(archives), 'file')} into {where}")
            line(done // 10**6 - line.done)

        return unpack(archives, out, workers, report)


def tell(line: Line, progress: "Progress") -> None:
    if not line.total:  # the first report
        line.first = line.done = done = progress.done
        line.total = progress.total
        if done:
            line.tell(f"Resumed: {plural(done, 'image')} {'is' if done == 1 else 'are'} done already.")
    line(progress.done - line.done, line.speed, f"{progress.rejected:,} rejected")


def _show(dataset: Dataset, rate: float | None) -> None:
    rows = {"classes": f"{len(dataset.classes):,}"}
    for split, shards in dataset.splits.items():
        rows[split] = f"{plural(dataset.samples(split), 'image')} in {plural(len(shards), 'shard')}"
        if not has_labels(dataset, split):
            rows[split] += ", without labels"
    rejected = dataset.made.get("rejected")
    rows["rejected"] = f"{rejected:,}, listed in {dataset.root / 'rejected.jsonl'}" if rejected else "none"
    if left := dataset.made.get("left_out"):
        rows["left out"] = f"{plural(left, 'file')} of no image or of no split, listed there, too"
    if passed := dataset.made.get("passed_over"):
        rows["ignored"] = f"{plural(passed, 'file')}, hidden or of other programs, such as .DS_Store"
    if flaws := dataset.made.get("flawed"):
        each = ", ".join(f"{count:,} with {flaw}" for flaw, count in flaws.items())
        rows["flawed"] = f"{each}: they are harmless and used; {dataset.root / 'flawed.jsonl'} lists them"
    size = sum(shard.bytes for shards in dataset.splits.values() for shard in shards)
    rows["on disk"] = f"{disk_size(size)} in {dataset.root}"
    if rate:
        rows["speed"] = f"{rate:,.0f} images/s"
    recipe = next(iter(fitting_recipes(dataset.side)), "original")
    words = [] if recipe == "original" else ["--recipe", recipe]
    rows["next"] = recommend("train", *words, data=dataset.root, machine=options.Machine())
    for name, value in rows.items():
        say_row(name, value)
