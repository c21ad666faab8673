"""alexnet-dali reproduce."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from cli import options
from cli.baseline import need_libraries
from cli.shelf import Shelf, Step, chain, predictions
from cli.signals import OUT_OF_TIME, SIGNALS, StopWish, handled
from cli.tables import DATA, TABLES, Errors, Row, Speed, Table
from cli.text import console, say, warn, write_json
from model.errors import RunError

if TYPE_CHECKING:
    from pipeline.dataset import Dataset

STOPPED = (OUT_OF_TIME, *(128 + number for number in SIGNALS))
PR_SET_PDEATHSIG = 1  # linux/prctl.h
folder = click.Path(path_type=Path)


@click.command("reproduce")
@click.argument("table", type=click.Choice([*TABLES, "all"]))
@options.data
@click.option("--data-2010", type=folder, help="ILSVRC-2010, prepared.  [default: as --data]")
@click.option("--pretrain", type=folder, help="Fall 2011 or other images of many classes, prepared.")
@click.option("--pretrain-2009", type=folder, help="Fall 2009, prepared.  [default: as --pretrain]")
@click.option("--cifar", type=folder, help="CIFAR-10, prepared as any classes, for figure 1.")
@click.option("--runs", type=folder, default="runs/reproduce", help="Folder of all runs.")
@options.machine
@click.option("--width", type=options.WIDTH, help="Of every net.  [default: 1]")
@click.option("--batch-size", type=options.SEVERAL, help="Of every training.  [default: 128]")
@click.option("--epochs", type=options.EPOCHS, help="Of every training.  [default: the schedules' own]")
@click.option("--seed", type=options.SEED, default=0, help="Of every run.")
@click.option(
    "--sample", type=click.IntRange(100), help="Of the baselines, as the next three: see `baseline`."
)
@click.option("--step", type=click.IntRange(1), help="Of the baselines; a larger one is quicker.")
@click.option("--components", type=click.IntRange(1), help="Of baseline sift-fv.")
@click.option("--words", type=click.IntRange(1), help="Of baseline sparse-coding.")
@click.option("--json", "json_path", type=options.output, help="Write the rows there.")
@click.option("--dry-run", is_flag=True, help="Print what would be run and how long it takes; run nothing.")
@click.option(
    "--bench", "bench_path", type=folder, help="A file of bench --json to reckon with, for all nets alike."
)
def command(
    table: str, runs: Path, json_path: Path | None, dry_run: bool, bench_path: Path | None, **settings: Any
) -> None:
    """Make a table of the paper: train and evaluate what is missing, and print ours beside the paper's.

    \b
    ilsvrc-2010   table 1; on test images if they have labels, or else on those of validation
    ilsvrc-2012   table 2, on validation images
    5-cnns        the five that are averaged, one by one
    7-cnns        the seven
    ablations     what the paper says its parts are worth
    all           all of these

    Everything is done by the commands that it prints, one after the other, each run in its own folder of
    --runs. However it is stopped, the same command goes on. A command that fails costs the rows that need
    it; the rest is made, and the exit status is 1.

    Pretrained nets (*) go from 2012 to Fall 2009, Fall 2011 and back, as in the 2012 source; with --pretrain
    alone that dataset stands for both Falls. Without it their rows say so, and the rest is made.

    Without --bench, --dry-run measures each net for some seconds, as `bench` does.
    """
    tables = TABLES if table == "all" else {table: TABLES[table]}
    shelf = Shelf(runs, open_datasets(settings), settings)
    steps = shelf.steps(tables.values())
    if dry_run:
        from cli.cost import tell_cost

        tell_cost(steps, shelf, bench_path)
        for row in (row for one in tables.values() for row in one.rows):
            if lack := find_lack(row, shelf):
                say(f"{row.name}: needs {lack}")
        return
    if any(step.words[0] == "baseline" for step in steps):
        try:
            need_libraries()
        except RunError as error:  # before the days that the other rows may take
            warn(f"{error}; without them their rows are not made")
    failed = work_off(steps)
    found = {name: [tell(row, shelf, failed) for row in one.rows] for name, one in tables.items()}
    if json_path:
        write_json(json_path, found)
    for name, one in tables.items():
        show(one, found[name])
    if failed:
        sys.exit(1)


def open_datasets(settings: dict[str, Any]) -> "dict[str, Dataset]":
    """By the keys of DATA; those that are not given are left out."""
    from pipeline.dataset import open_dataset

    paths = {key: settings[key] for key in DATA}
    paths["data_2010"] = paths["data_2010"] or paths["data"]
    paths["pretrain_2009"] = paths["pretrain_2009"] or paths["pretrain"]
    opened = {path: open_dataset(path) for path in set(paths.values()) if path}
    return {key: opened[path] for key, path in paths.items() if path}


def work_off(steps: Sequence[Step]) -> set[str]:
    """Run all steps; the runs of which one failed. Steps that need such a run are left out."""
    failed: set[str] = set()
    commands = Commands()
    with handled(commands.receive):
        for step in steps:
            if failed.intersection(step.needs):
                continue
            status = commands.run(step.words)
            if commands.stop() or status in STOPPED:
                say("stopped; the same command goes on from there", err=True)
                sys.exit(commands.stop() or status)
            if status:
                failed.add(step.run)
    return failed


@dataclass
class Commands:
    """Processes of alexnet-dali, one at a time. Signals are passed on, and noted."""

    stop: StopWish = field(default_factory=lambda: StopWish(None))
    child: "subprocess.Popen[bytes] | None" = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """A handler of signals."""
        if self.child:
            self.child.send_signal(number)
        self.stop.receive(number)

    def run(self, words: Sequence[str]) -> int:
        """A command as if typed, and shown so; its status. If this process is killed, it saves and stops."""
        say("")
        say(f"$ alexnet-dali {shlex.join(words)}")
        libc, home = ctypes.CDLL(None), str(Path(__file__).parent.parent)
        paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        self.child = subprocess.Popen(
            [sys.executable, "-m", "cli", *words],
            env={**os.environ, "PYTHONPATH": paths},  # this cli, wherever we are
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        if self.stop():  # by a signal that found no child
            self.child.terminate()
        return self.child.wait()


def tell(row: Row | Speed, shelf: Shelf, failed: Collection[str]) -> dict[str, Any]:
    """A row for --json: what others say, and ours, or why there is none."""
    names = [each for name, _ in predictions(row) for each in chain(name)]
    lack, broken = find_lack(row, shelf), next((name for name in names if name in failed), None)
    if lack or broken:
        ours = {"ours": None, "why": f"needs {lack}" if lack else f"{broken} failed"}
    else:
        ours = measure_errors(row, shelf) if isinstance(row, Row) else measure_speed(row, shelf)
    return {**asdict(row), **ours}


def find_lack(row: Row | Speed, shelf: Shelf) -> str | None:
    """The images that a row needs and are not given."""
    return next(filter(None, (shelf.lack(name) for name, _ in predictions(row))), None)


def measure_errors(row: Row, shelf: Shelf) -> dict[str, Any]:
    split, ours = shelf.split(row.runs[0]), mean_errors(shelf, row.runs, row.views)
    if row.over:
        whole = mean_errors(shelf, (row.over,), "ten views")
        ours = [mine - theirs for mine, theirs in zip(ours, whole, strict=True)]
    return {"ours": ours, "split": split, "images": shelf.images(row.runs[0]).samples(split)}


def mean_errors(shelf: Shelf, names: Sequence[str], views: str) -> list[float]:
    """Top-1 and top-5 error, in percent, of the mean of the runs' predictions."""
    import torch

    from cli.compose.predictions import check_alike, read
    from model.evaluate import sound_rates, tally
    from model.study.ensemble import average

    paths = [shelf.predictions(name, views) for name in names]
    found = [read(path) for path in paths]
    for path, each in zip(paths, found, strict=True):
        check_alike(paths[0], found[0], path, each)
    mean = average([torch.from_numpy(each.probabilities) for each in found], [1.0] * len(found))
    errors = sound_rates(tally(mean, torch.from_numpy(found[0].labels).long()), ", ".join(map(str, paths)))
    return [errors["top1_err"], errors["top5_err"]]


def measure_speed(row: Speed, shelf: Shelf) -> dict[str, Any]:
    """By the training errors in the runs' metrics, each of the steps since the one before."""
    from model.run import read_metrics

    epochs = []
    for name in row.runs:
        rows = read_metrics(shelf.folder / name / "metrics.jsonl")
        reached = [r["epoch"] for r in rows if r["kind"] == "train" and r["top1_err"] <= row.error]
        if not reached:
            return {"ours": None, "why": f"{name} did not come to {row.error:g} % training error"}
        epochs.append(reached[0])
    return {"ours": [epochs[0] / epochs[1]], "epochs": epochs}


def show(table: Table, found: Sequence[dict[str, Any]]) -> None:
    """The paper's table with our column, and what its dashes need."""
    from rich.box import SIMPLE
    from rich.table import Table as Drawn

    screen = console(soft_wrap=True, width=120)
    drawn = Drawn(title=f"{table.title}, top-1 / top-5 error in percent", title_justify="left", box=SIMPLE)
    drawn.add_column("", no_wrap=True)
    submitted = any(isinstance(row, Row) and row.submitted for row in table.rows)
    for heading in ("the paper", *(["on test"] if submitted else []), "2012 logs", "ours"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    drawn.add_column("on", no_wrap=True)
    for row, said in zip(table.rows, found, strict=True):
        paper, *rest = speed_cells(row, said) if isinstance(row, Speed) else error_cells(row, said)
        test = [written((None, said["submitted"]))] if submitted else []
        drawn.add_row(row.name, paper, *test, *rest)
    screen.print(drawn)
    for said in found:
        if said["ours"] is None:
            screen.print(f"{said['name']}: {said['why']}")


def error_cells(row: Row, said: dict[str, Any]) -> tuple[str, ...]:
    """The paper's, the logs', ours, and what ours was measured on."""
    sign = "+" if row.over else ""
    ours = " / ".join(f"{error:{sign}.2f}" for error in said["ours"]) if said["ours"] else "-"
    on = f"{said['images']:,} {said['split']}, {row.views}" if said["ours"] else ""
    return written(row.paper, sign), written(row.log, sign), ours, on


def speed_cells(row: Speed, said: dict[str, Any]) -> tuple[str, ...]:
    if not said["ours"]:
        return f"{row.paper:g} times", "-", "-", ""
    slow, fast = said["epochs"]
    return f"{row.paper:g} times", "-", f"{said['ours'][0]:.1f} times", f"{slow:.3g} and {fast:.3g} epochs"


def written(errors: Errors, sign: str = "") -> str:
    if errors == (None, None):
        return "-"
    return " / ".join("-" if error is None else f"{error:{sign}}" for error in errors)
