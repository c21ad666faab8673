"""Run the plan of `reproduce`, average predictions, and compare with the paper."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from cli.compose.predictions import check_alike, read
from cli.display import say
from cli.paper.comparison import find_year
from cli.paper.plan import Plan, Step, chain, images_of, predictions
from cli.paper.tables import SpeedRow, TableRow
from cli.signals import OUT_OF_TIME, SIGNALS, StopRequest, handled
from model.run import read_metrics
from pipeline.dataset import Dataset, open_dataset
from pipeline.workers import PR_SET_PDEATHSIG

STOPPED = (OUT_OF_TIME, *(128 + number for number in SIGNALS))


def open_datasets(paths: Mapping[str, Path | None]) -> dict[str, Dataset]:
    """Open the datasets at the paths, by the keys of DATA; those that are not given are left out."""
    opened = {path: open_dataset(path) for path in set(paths.values()) if path}
    return {key: opened[path] for key, path in paths.items() if path}


def work_off(steps: Sequence[Step]) -> set[str]:
    """Run all steps but those that need a failed run; return the runs of which a step failed."""
    failed: set[str] = set()
    commands = Commands()
    with handled(commands.receive):
        for step in steps:
            if failed.intersection(step.needs):
                continue
            status = commands.run(step.words)
            if commands.stop() or status in STOPPED:
                say("stopped; the same command resumes there", err=True)
                sys.exit(commands.stop() or status)
            if status:
                failed.add(step.run)
    return failed


@dataclass
class Commands:
    """Run processes of alexnet-dali, one at a time. Signals are passed on, and noted."""

    stop: StopRequest = field(default_factory=lambda: StopRequest(None))
    child: "subprocess.Popen[bytes] | None" = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on to the process, and note it."""
        if self.child:
            self.child.send_signal(number)
        self.stop.receive(number)

    def run(self, words: Sequence[str]) -> int:
        """Show and run a command; return its status. It saves and stops if this process is killed."""
        say("")
        say(f"$ alexnet-dali {shlex.join(words)}")
        self.child = start_command(words)
        if self.stop():  # a signal came before there was a child
            self.child.terminate()
        return self.child.wait()


def start_command(words: Sequence[str], **environment: str) -> "subprocess.Popen[bytes]":
    """Start a command of alexnet-dali, which saves and stops if this process ends."""
    libc, home = ctypes.CDLL(None), str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *words],
        env={**os.environ, "PYTHONPATH": paths, **environment},  # this cli, whatever the current folder is
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )


def tell(row: TableRow | SpeedRow, shelf: Plan, failed: Collection[str]) -> dict[str, Any]:
    """Return a row for --json: what others say, and ours, or why there is none."""
    names = [each for name, _ in predictions(row) for each in chain(name)]
    lack, broken = find_lack(row, shelf), next((name for name in names if name in failed), None)
    if lack or broken:
        ours = {"ours": None, "why": f"needs {lack}" if lack else f"{broken} failed"}
    else:
        ours = measure_errors(row, shelf) if isinstance(row, TableRow) else measure_speed(row, shelf)
    images = shelf.data.get(images_of(row.runs[0]))
    classes = len(images.classes) if images else None
    comparable = isinstance(row, SpeedRow) or not images or find_year(images.classes) is not None
    return {**asdict(row), **ours, "classes": classes, "comparable": comparable}


def find_lack(row: TableRow | SpeedRow, shelf: Plan) -> str | None:
    """Return the images that a row needs and are not given."""
    return next(filter(None, (shelf.lack(name) for name, _ in predictions(row))), None)


def measure_errors(row: TableRow, shelf: Plan) -> dict[str, Any]:
    split, ours = shelf.split(row.runs[0]), mean_errors(shelf, row.runs, row.views)
    if row.over:
        whole = mean_errors(shelf, (row.over,), "ten views")
        ours = [mine - theirs for mine, theirs in zip(ours, whole, strict=True)]
    return {"ours": ours, "split": split, "images": shelf.images(row.runs[0]).samples(split)}


def mean_errors(shelf: Plan, names: Sequence[str], views: str) -> list[float]:
    """Return top-1 and top-5 error, in percent, of the mean of the runs' predictions."""
    import torch

    from model.evaluate import sound_rates, tally
    from model.study.ensemble import average

    paths = [shelf.predictions(name, views) for name in names]
    contents = [read(path) for path in paths]
    for path, each in zip(paths, contents, strict=True):
        check_alike(paths[0], contents[0], path, each)
    mean = average([torch.from_numpy(each.probabilities) for each in contents], [1.0] * len(contents))
    errors = sound_rates(tally(mean, torch.from_numpy(contents[0].labels).long()), ", ".join(map(str, paths)))
    return [errors["top1_err"], errors["top5_err"]]


def measure_speed(row: SpeedRow, shelf: Plan) -> dict[str, Any]:
    """Measure speed by the training errors in the metrics, each of the steps since the last."""
    epochs = []
    for name in row.runs:
        rows = read_metrics(shelf.folder / name / "metrics.jsonl")
        reached = [r["epoch"] for r in rows if r["kind"] == "train" and r["top1_err"] <= row.error]
        if not reached:
            return {"ours": None, "why": f"{name} did not reach {row.error:g} % training error"}
        epochs.append(reached[0])
    return {"ours": [epochs[0] / epochs[1]], "epochs": epochs}
