"""Measure how cost grows with the number of images, from prep to a checkpoint.

    python -m tools.growth --images 1000,10000,100000,1281167

A thousand images are drawn, and repeated under other names: as files and as shards of each form that prep
reads, and as a prepared dataset with shards of a thousand. All is real but for the pixels, which repeat. prep
and evaluation are run up to `--most` images. Each figure is of a process of its own. At the end it prints the
memory that a narrow training on the most images holds while it runs, and the time of --help.
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model import checkpoint
from model.evaluate import evaluate
from model.network import AlexNet
from model.recipes import get_recipe
from model.run import read_metrics
from pipeline.batches import EvaluationBatches, TrainBatches
from pipeline.dataset import Dataset, Shard, open_dataset, read_index, read_names, write_description
from pipeline.order import epoch_order
from pipeline.prep.prepare import prepare
from pipeline.prep.unpack import unpack
from pipeline.source.find import find_source
from pipeline.source.miniature import WNIDS, File, tar, write, write_folders
from pipeline.source.miniature_shards import hub, webdataset, write_table

Found = dict[str, dict[int, tuple[float, int]]]  # by work, by number of images: seconds, bytes held
Held = dict[int, tuple[int, int]]  # by step: bytes of its own, of files

DRAWN = 1000  # ten classes of a hundred
STEPS = (100, 500, 1000)
NARROW = ("--width", "0.05", "--batch-size", "32", "--device", "cpu")
CPU: dict[str, Any] = {"device": torch.device("cpu"), "threads": 2, "crop": 224}
SHARDS: dict[str, Callable[[Path, Sequence[File]], None]] = {
    "WebDataset": lambda path, files: write(path.with_suffix(".tar"), tar(webdataset(files))),
    ".tar.gz": lambda path, files: write(path.with_suffix(".tar.gz"), gzip.compress(tar(hub(files)), 1)),
    ".parquet": lambda path, files: write_table(path.with_suffix(".parquet"), files, WNIDS[:10]),
}
FIRST_STEP = """
import os, sys
from model.step import Step
step = Step.__call__
def only(self, *given, **named):
    step(self, *given, **named)
    os._exit(0)
Step.__call__ = only
from cli import main
main(sys.argv[1:])
"""


def repeat_files(drawn: Path, root: Path, count: int) -> None:
    """Link `count` training images and as many of validation under `root` to those of `drawn`."""
    for split in ("train", "val"):
        files = sorted((drawn / split).rglob("*.*"))
        for number in range(count):
            file = files[number % len(files)]
            place = root / split / file.parent.name
            place.mkdir(parents=True, exist_ok=True)
            os.link(file, place / f"{number}_{file.name}")


def repeat_in_shards(drawn: Path, root: Path, count: int, form: str) -> None:
    """Write the same as shards, a thousand images each."""
    for split in ("train", "val"):
        files = [
            (f"{file.parent.name}_{number}.JPEG", WNIDS.index(file.parent.name), file)
            for number, file in zip(range(count), cycle(sorted((drawn / split).rglob("*.*"))), strict=False)
        ]
        for first in range(0, count, DRAWN):
            part = [(name, label, file.read_bytes()) for name, label, file in files[first : first + DRAWN]]
            SHARDS[form](root / f"{split}_images_{first // DRAWN}", part)


def repeat_shards(dataset: Dataset, root: Path, count: int) -> None:
    """Make a dataset of at least `count` training images: links to one shard that has all of another's."""
    shutil.copytree(dataset.root, root, ignore=shutil.ignore_patterns("train"))
    (root / "train").mkdir()
    rows, names, whole = read_index(dataset, "train").copy(), read_names(dataset, "train"), root / "whole"
    with open(whole, "wb") as file:
        for number, shard in enumerate(dataset.splits["train"]):
            rows["offset"][rows["shard"] == number] += file.tell()
            file.write((dataset.root / shard.name).read_bytes())
    size, times = whole.stat().st_size, -(-count // len(rows))
    shards = tuple(Shard(f"train/{number:06d}.tar", len(rows), size, "0" * 64) for number in range(times))
    for shard in shards:
        os.link(whole, root / shard.name)
    index = np.tile(rows, times)
    index["shard"] = np.arange(times).repeat(len(rows))
    np.save(root / "train/samples.npy", index)
    (root / "train/names.txt").write_text("".join(f"{name}\n" for name in names) * times)
    files = {name: sha256 for name, sha256 in dataset.files.items() if not name.endswith(".idx")}
    for name in ("train/samples.npy", "train/names.txt"):
        files[name] = hashlib.sha256((root / name).read_bytes()).hexdigest()
    write_description(replace(dataset, root=root, files=files, splits={**dataset.splits, "train": shards}))


def opening(root: Path) -> None:
    dataset = open_dataset(root)
    read_index(dataset, "train")


def order(root: Path) -> None:
    epoch_order(read_index(open_dataset(root), "train")["shard"], 0, 0)


def first_batch(root: Path) -> None:
    next(TrainBatches(open_dataset(root), batch_size=128, **CPU))


def evaluation(root: Path) -> None:
    network = AlexNet(get_recipe("original", width=0.05, classes=10), ["cpu"], seed=0)
    views = EvaluationBatches(open_dataset(root), "train", dtype=torch.uint8, **CPU)
    evaluate(network, views, precision="float32")


def saving(root: Path) -> None:
    """Save a checkpoint of the full width; nothing in it grows with the number of images."""
    network = AlexNet(get_recipe("original"), ["cpu"], seed=0)
    content = {"identity": {}, "step": 1, "weights": network.state(), "velocities": network.state()}
    checkpoint.save(root.parent / "saved.pt", content)


def preparing(root: Path) -> None:
    out = root.parent / "prepared"
    prepare(find_source(root, unpack=partial(unpack, out=out)), out)


def timed(work: Callable[[Path], None], root: Path) -> tuple[float, int]:
    """Return seconds of the second call, when files are in memory and libraries loaded; the peak of bytes."""
    if work is not preparing:
        work(root)
    began = time.perf_counter()
    work(root)
    return time.perf_counter() - began, getrusage(RUSAGE_SELF).ru_maxrss * 1024


def alone(work: Callable[[Path], None], root: Path) -> tuple[float, int]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(timed, work, root).result()


def first_step(root: Path) -> tuple[float, int]:
    """Time the command up to the end of its first training step, at full width and batches of 128."""
    words = ["train", "--data", str(root), "--run", str(root.parent / "run"), "--device", "cpu"]
    return seconds([sys.executable, "-c", FIRST_STEP, *words]), 0


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def steady(root: Path, run: Path, steps: Sequence[int]) -> Held:
    """Return what a training holds after so many steps: bytes of its own, and of the files it has mapped.

    Of the files the system keeps what it has room for, whoever maps them.
    """
    command = [sys.executable, "-m", "cli", "train", "--data", str(root), "--run", str(run), *NARROW]
    figures: Held = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as training:
        try:
            for step in steps:
                while not reached(run / "metrics.jsonl", step):
                    if training.poll() is not None:
                        raise subprocess.CalledProcessError(training.returncode, command)
                    time.sleep(0.05)
                figures[step] = resident(training.pid)
        finally:
            training.terminate()
    return figures


def reached(metrics: Path, step: int) -> bool:
    return metrics.exists() and any(row["step"] >= step for row in read_metrics(metrics))


def resident(process: int) -> tuple[int, int]:
    """Return a process's bytes in memory: its own, and those of files."""
    text = Path(f"/proc/{process}/status").read_text()
    sizes = {name: 1024 * int(size) for name, size in re.findall(r"(Rss\w+):\s+(\d+) kB", text)}
    return sizes["RssAnon"], sizes["RssFile"] + sizes["RssShmem"]


def measure(counts: list[int], most: int, folder: Path) -> tuple[Found, Held]:
    drawn = folder / "drawn"
    write_folders(drawn, classes=10, train=DRAWN // 10, val=DRAWN // 10, damaged=False)
    dataset = prepare(find_source(drawn), folder / "dataset")
    works = {"open": opening, "an epoch's order": order, "first batch": first_batch, "checkpoint": saving}
    forms = [f"prep of {form}" for form in SHARDS]
    figures: Found = {name: {} for name in ("prep", *forms, *works, "first step", "evaluation")}
    for count in counts:
        here = folder / str(count)
        here.mkdir()
        repeat_shards(dataset, here / "dataset", count)
        for name, work in works.items():
            figures[name][count] = alone(work, here / "dataset")
        figures["first step"][count] = first_step(here / "dataset")
        if count <= most:
            figures["evaluation"][count] = alone(evaluation, here / "dataset")
            repeat_files(drawn, here / "root", count // 2)
            figures["prep"][count] = alone(preparing, here / "root")
            for form in SHARDS:
                repeat_in_shards(drawn, here / form / "root", count // 2, form)
                figures[f"prep of {form}"][count] = alone(preparing, here / form / "root")
        if count == counts[-1]:
            held = steady(here / "dataset", here / "run", STEPS)
        shutil.rmtree(here)
    return figures, held


def show(figures: Found, held: Held, help_seconds: float) -> None:
    counts = sorted({count for cells in figures.values() for count in cells})
    table = Table("seconds (MB)")
    for count in counts:
        table.add_column(f"{count:,}", justify="right")
    for name, cells in figures.items():
        row = [cells.get(count) for count in counts]
        table.add_row(name, *(written(*cell) if cell else "" for cell in row))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for step, (own, files) in held.items():
        console.print(
            f"After {step:,} steps training holds {own / 1e6:.0f} MB and {files / 1e6:.0f} of files."
        )
    console.print(f"--help takes {help_seconds:.2f} s.")


def written(seconds: float, held: int) -> str:
    return f"{seconds:.2g}" + f" ({held / 1e6:.0f})" * bool(held)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", default="1000,10000,100000,1281167", help="numbers of images, separated by commas"
    )
    parser.add_argument("--most", type=int, default=10000, help="most for prep and evaluation")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, held = measure(
            [int(count) for count in options.images.split(",")], options.most, Path(folder)
        )
    help_seconds = median(seconds([sys.executable, "-m", "cli", "--help"]) for _ in range(5))
    show(figures, held, help_seconds)
    if options.json:
        options.json.write_text(json.dumps({"works": figures, "held": held, "help": help_seconds}, indent=1))


if __name__ == "__main__":
    main()
