"""Draw the paper's figure 1, training errors with ReLU and with tanh on CIFAR-10: python -m tools.figure1 DIR

DIR holds CIFAR-10 as images in folders train/ and test/ with a folder for each class. Recipes relu4 and tanh4
are each trained with several learning rates, until an epoch's training error is 25 % or less, or to --epochs.
Each run lies in OUT/RECIPE-RATE; the same command resumes those that are not finished. The figure and a
table come last: the number of epochs to 25 %, between two epochs on the straight line, and the best rates'
ratio beside the paper's six.
"""

import argparse
import math
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from cli.paper.reproduction import start_command
from model.run import read_metrics

GOAL, PAPER = 25.0, 6.0  # percent, and how many times as many epochs tanh took
RATES = {"relu4": (0.0005, 0.001, 0.002), "tanh4": (0.002, 0.004, 0.008)}
Run = tuple[str, float]  # recipe and rate
Curves = Mapping[Run, Sequence[float]]  # the training error of each epoch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, metavar="DIR", help="folder with train/ and test/ class folders")
    parser.add_argument("--out", type=Path, default=Path("runs/figure1"), help="folder for all results")
    for recipe, rates in RATES.items():
        listed = " ".join(map(str, rates))
        parser.add_argument(
            f"--{recipe}", nargs="+", type=float, default=rates, metavar="RATE", help=f"rates ({listed})"
        )
    parser.add_argument("--epochs", type=int, default=40, help="epochs at most (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--precision", default="float32", help="as of train (default: float32)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at the same time, on one core each if several"
    )
    parser.add_argument("--picture", type=Path, help="the figure (default: figure1.png in OUT)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    prepare(given.root, given.out)
    runs = [(recipe, rate) for recipe in RATES for rate in getattr(given, recipe)]
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(partial(train, given), runs))
    curves = {run: errors(folder(given.out, run)) for run in runs}
    draw(curves, given.picture or given.out / "figure1.png")
    print(table(curves))
    return 0


def prepare(root: Path, out: Path) -> None:
    """Prepare the images as they are; those of test/ stand for validation, which chooses nothing here."""
    images = out / "images"
    images.mkdir(exist_ok=True)
    for split, theirs in (("train", "train"), ("val", "test")):
        if not (images / split).exists():
            (images / split).symlink_to((root / theirs).resolve())
    words = ("prep", "--imagenet-root", images, "--out", out / "data", "--size", 32, "--store", "raw")
    if start(words).wait():
        raise SystemExit(f"{root}: the images could not be prepared")


def folder(out: Path, run: Run) -> Path:
    return out / "{}-{:g}".format(*run)


def train(given: argparse.Namespace, run: Run) -> None:
    """Train a run, and stop it as soon as the error of an epoch is low enough."""
    path, (recipe, rate) = folder(given.out, run), run
    words = ["train", "--data", given.out / "data", "--run", path]
    words += ["--recipe", recipe, "--set", f"rate={rate}", "--epochs", given.epochs]
    words += ["--seed", given.seed, "--device", given.device]
    if len(known := errors(path)) == given.epochs or reached(known) is not None:
        return
    process = start([*words, "--precision", given.precision], alone=given.jobs > 1)
    try:
        while process.poll() is None and reached(errors(path)) is None:
            time.sleep(1)
    finally:
        process.send_signal(signal.SIGTERM)  # which saves
    if process.wait() and reached(errors(path)) is None:
        raise SystemExit(f"{path}: the training failed; the same command resumes it")


def start(words: Sequence[object], alone: bool = False) -> "subprocess.Popen[bytes]":
    """Start a command of alexnet-dali, which saves and stops if this process ends.

    alone: on one core, as threads that wait for each other disturb other trainings.
    """
    texts = [str(word) for word in words]
    sys.stdout.write(" ".join(["$ alexnet-dali", *texts]) + "\n")  # at once, as other threads print, too
    sys.stdout.flush()
    return start_command(texts, **({"OMP_NUM_THREADS": "1"} if alone else {}))


def errors(path: Path) -> list[float]:
    """Return the mean training error of each finished epoch of a run, in percent, over its batches."""
    if not (path / "metrics.jsonl").exists():
        return []
    rows = read_metrics(path / "metrics.jsonl")
    parts: dict[int, list[tuple[int, float]]] = defaultdict(list)
    last = 0
    for row in rows:
        if row["kind"] == "train":
            parts[math.ceil(row["epoch"])].append((row["step"] - last, row["top1_err"]))
            last = row["step"]
    finished = sum(row["kind"] == "val" for row in rows)
    return [
        sum(steps * error for steps, error in parts[epoch]) / sum(steps for steps, _ in parts[epoch])
        for epoch in range(1, finished + 1)
    ]


def reached(errors: Sequence[float]) -> float | None:
    """Return after how many epochs the error was that of GOAL, on the straight line between two epochs."""
    for number, error in enumerate(errors):
        if error <= GOAL:
            before = errors[number - 1] if number else 100.0
            return number + (before - GOAL) / (before - error)
    return None


def draw(curves: Curves, path: Path) -> None:
    """Draw the best rate of each recipe, ReLU solid and tanh dashed, and the others faintly."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    chosen = best(curves)
    for (recipe, rate), values in curves.items():
        first = chosen.get(recipe) == rate
        label = f"{'ReLU' if recipe == 'relu4' else 'tanh'}, rate {rate:g}" if first else None
        style, strength = "k-" if recipe == "relu4" else "k--", 1 if first else 0.25
        axes.plot(range(1, len(values) + 1), values, style, label=label, alpha=strength)
    axes.axhline(GOAL, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="epochs", ylabel="training error, %", ylim=(0, 75), xlim=(0, None))
    if chosen:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def best(curves: Curves) -> dict[str, float]:
    """Return each recipe's rate that took the fewest epochs to the goal."""
    found: dict[str, tuple[float, float]] = {}
    for (recipe, rate), values in curves.items():
        if (epochs := reached(values)) is not None:
            found[recipe] = min(found.get(recipe, (epochs, rate)), (epochs, rate))
    return {recipe: rate for recipe, (_, rate) in found.items()}


def table(curves: Curves) -> str:
    """Format the results in GitHub's notation."""
    rows = ["| recipe | rate | epochs to 25 % | training error at the end |", "|---|---|---|---|"]
    for (recipe, rate), values in curves.items():
        epochs = reached(values)
        took = f"{epochs:.1f}" if epochs is not None else f"not in {len(values)}"
        rows.append(f"| `{recipe}` | {rate:g} | {took} | {values[-1]:.1f} % after {len(values)} |")
    if len(chosen := best(curves)) == len(RATES):
        tanh, relu = (reached(curves[recipe, chosen[recipe]]) or 0.0 for recipe in ("tanh4", "relu4"))
        rows.append(f"\ntanh takes {tanh / relu:.1f} times as many epochs; the paper's figure: {PAPER:g}")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
