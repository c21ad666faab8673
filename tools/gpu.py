"""Measure what docs/speed.md lacks for a GPU, part by part: python -m tools.gpu --part loader

tests: run the tests that need a GPU.
loader: measure decoding and loading from 256x256 JPEGs, raw pixels and original files, and by the share of
    JPEGs that the card's own decoder gets.
step: measure the training step in every precision, with and without --cuda-graph.
training: measure loader and step together; then train and evaluate `original`, as a user would.
placements: measure the towers together, apart on one card, and on two cards where there are two.

Images are drawn, or those of --imagenet-root. Each figure is printed and added to OUT/figures.jsonl as soon
as it is known. A part ends after eight minutes, and what it did not reach is left out. By count a card needs
three minutes for loader, two each for step and training, one for placements; the time of tests is not known.
What fails is shown, and the rest is measured all the same. The status is 1 if anything failed or was left
out. With --device cpu all this is a rehearsal.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from nvidia import dali

from cli.bench.meter import images_per_second, measure, summary
from cli.bench.workloads import Workloads
from cli.options import Machine
from model.recipes import get_recipe
from model.run import read_metrics
from pipeline import graph
from pipeline.dataset import Dataset, open_dataset
from pipeline.source import miniature

STORES = {"256": (), "raw": ("--store", "raw"), "original": ("--size", "original")}
PRECISIONS = ("bfloat16", "tf32", "float32")
SHARES = (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)  # DALI's default is 0.65
LIMIT = 480.0  # seconds of a part; a card may be lent for ten minutes at a time


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--part",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="what to measure (default: all, in order)",
    )
    add("--imagenet-root", type=Path, help="images to measure with (default: 2,400 drawn ones)")
    add("--out", type=Path, default=Path("runs/gpu"), help="folder for all results (default: runs/gpu)")
    add("--device", default="cuda:0", help="where to compute (default: cuda:0)")
    add("--seconds", type=float, default=2, help="seconds per figure and round (default: 2)")
    add("--batch-size", type=int, default=128, help="images a step (default: 128)")
    add("--width", type=float, default=1, help="width of the network (default: 1)")
    add("--epochs", type=int, default=10, help="epochs of the training (default: 10)")
    given = parser.parse_args()
    given.out = given.out.resolve()  # commands run in the folder of the repository
    given.imagenet_root = given.imagenet_root and given.imagenet_root.resolve()
    if given.device != "cpu" and not torch.cuda.is_available():
        parser.error("no GPU was found; --device cpu rehearses without one")
    given.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in given.part:
        desk = Desk(given, name)
        with desk.going_on():
            PARTS[name](desk)
        failed |= desk.failed
    print(table(given.out / "figures.jsonl"), flush=True)
    return int(failed)


class Desk:
    """Measure for one part, until its time is over, and keep the figures."""

    def __init__(self, given: argparse.Namespace, part: str) -> None:
        self.given, self.part, self.failed = given, part, False
        self.gpu, self.deadline = given.device != "cpu", time.monotonic() + LIMIT

    def measure(
        self,
        setting: str,
        parts: Iterable[str],
        kind: str = "256",
        cuda_graph: bool = False,
        **machine: Any,
    ) -> None:
        """Measure some parts of bench. machine: fields of `Machine` in place of --device."""
        if self.late(setting):
            return
        with self.going_on():
            data = self.dataset(kind)
            recipe = get_recipe(
                classes=len(data.classes), batch_size=self.given.batch_size, width=self.given.width
            )
            chosen = Machine(**{"device": self.given.device, **machine})
            loads = Workloads(data, recipe, chosen, cuda_graph)
            meters = {name: partial(images_per_second, loads.works[name]) for name in parts}
            for name, rates in measure(meters, self.given.seconds).items():
                waiting = {"waiting": loads.waited / loads.trained} if name == "train" else {}
                self.keep(setting, name, **summary(rates), **waiting)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Show a failure, and go on after it."""
        try:
            yield
        except Exception:
            traceback.print_exc()
            self.failed = True

    def dataset(self, kind: str) -> Dataset:
        """Open the images as `kind`, prepared if they are not yet."""
        root, prepared = self.given.imagenet_root or self.given.out / "drawn", self.given.out / kind
        if not root.exists():
            miniature.write_folders(root, classes=20, train=100, val=20)
        if not (prepared / "dataset.json").exists():
            words = ("--imagenet-root", root, "--out", prepared, "--max-rejected", 0.5, *STORES[kind])
            self.run("-m", "cli", "prep", *words)
        return open_dataset(prepared)

    def keep(self, setting: str, name: str, **figures: float) -> None:
        """Print figures and add them to the file."""
        card = torch.cuda.get_device_name(self.given.device) if self.gpu else "CPU"
        about = {"card": card, "torch": torch.__version__, "dali": dali.__version__}
        row = {"part": self.part, "setting": setting, "name": name, **figures}
        line = json.dumps({**row, **about, "time": time.strftime("%FT%T")})
        with open(self.given.out / "figures.jsonl", "a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def run(self, *words: object, watch: Callable[[], None] = lambda: None) -> bool:
        """Run a Python command until the part's time is over; return whether it did its work.

        A command that is stopped saves its work. watch: called again and again meanwhile.
        """
        texts = [str(word) for word in words]
        if self.late(" ".join(texts)):
            return False
        print("$ python", *texts, flush=True)
        process = subprocess.Popen([sys.executable, *texts], cwd=Path(__file__).parent.parent)
        while process.poll() is None:
            if time.monotonic() > self.deadline:
                process.terminate()
                self.late(" ".join(texts))
                break
            watch()
            time.sleep(0.05)
        done = process.wait() == 0
        self.failed |= not done
        return done

    def late(self, what: str) -> bool:
        """Return whether the part's time is over, and say what is left out then."""
        if over := time.monotonic() > self.deadline:
            self.failed = True
            print(f"{self.part}: no time for {what}", flush=True)
        return over


def run_tests(desk: Desk) -> None:
    # a file of tests that lacks a package is an error, but the others run
    desk.run("-m", "pytest", "-q", "-m", "gpu", "--continue-on-collection-errors")


def measure_loader(desk: Desk) -> None:
    for kind in STORES:
        desk.measure(kind, ("decode, bound", "decode", "loader"), kind)
    for share in SHARES:
        graph.SQUARES["hw_decoder_load"] = share
        desk.measure(f"256, hw_decoder_load {share:g}", ("loader",))
    del graph.SQUARES["hw_decoder_load"]


def measure_step(desk: Desk) -> None:
    for precision in PRECISIONS if desk.gpu else ("bfloat16", "float32"):
        for recorded in (False, True) if desk.gpu else (False,):
            words = f"--precision {precision}{' --cuda-graph' if recorded else ''}"
            desk.measure(words, ("step",), "raw", precision=precision, cuda_graph=recorded)


def measure_training(desk: Desk) -> None:
    for kind in STORES:
        desk.measure(kind, ("train",), kind)
    desk.dataset("256")
    given, run = desk.given, desk.given.out / "run"
    before = least = free_memory(given.device)

    def watch() -> None:
        nonlocal least
        least = min(least, free_memory(given.device))

    same = ("--data", given.out / "256", "--run", run, "--device", given.device)
    more = ("--epochs", given.epochs, "--batch-size", given.batch_size, "--width", given.width)
    if desk.run("-m", "cli", "train", *same, *more, watch=watch):
        speeds = [row["img_s"] for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "train"]
        desk.keep(f"train --epochs {given.epochs}", "train", img_s=median(speeds), bytes=before - least)
    for views in ((), ("--ten-crop",)):
        path = given.out / "eval.json"
        if desk.run("-m", "cli", "eval", *same, *views, "--json", path, "--force"):
            errors = json.loads(path.read_text())
            desk.keep(" ".join(("eval", *views)), "errors", top1=errors["top1_err"], top5=errors["top5_err"])


def free_memory(device: str) -> int:
    """Return how many bytes of a card's memory nobody uses; 0 for a CPU."""
    return 0 if device == "cpu" else torch.cuda.mem_get_info(device)[0]


def measure_placements(desk: Desk) -> None:
    placements = ["0", "0,0", *(["0,1"] if torch.cuda.device_count() > 1 else [])]
    for gpus in placements if desk.gpu else ():
        desk.measure(f"--gpus {gpus}", ("step", "train"), "raw", device=None, gpus=gpus)
    for devices in () if desk.gpu else ("cpu", "cpu,cpu"):
        desk.measure(f"--device {devices}", ("step", "train"), "raw", device=devices)


PARTS: Mapping[str, Callable[[Desk], None]] = {  # in order of worth
    "tests": run_tests,
    "loader": measure_loader,
    "step": measure_step,
    "training": measure_training,
    "placements": measure_placements,
}


def table(path: Path) -> str:
    """Format the newest of each figure of the file in GitHub's notation."""
    newest: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        row = json.loads(line)
        newest[row["part"], row["setting"], row["name"]] = row
    lines = ["| part | setting | measured | figures |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(key)} | {as_text(row)} |" for key, row in newest.items()]
    return "\n".join(lines)


def as_text(row: Mapping[str, Any]) -> str:
    """Format a row's figures: images/s and their range, time waited, memory, errors."""
    texts = []
    if "img_s" in row:
        texts.append(f"{row['img_s']:,.0f} images/s")
    if "least" in row:
        texts.append(f"{row['least']:,.0f} to {row['most']:,.0f}")
    if "waiting" in row:
        texts.append(f"waiting for data {row['waiting']:.0%}")
    if "bytes" in row:
        texts.append(f"{row['bytes'] / 1e9:.1f} GB")
    if "top1" in row:
        texts.append(f"top-1 {row['top1']:.2f} %, top-5 {row['top5']:.2f} %")
    return "; ".join(texts)


if __name__ == "__main__":
    sys.exit(main())
