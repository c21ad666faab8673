"""alexnet-dali reproduce."""

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from cli import options
from cli.signals import OUT_OF_TIME, SIGNALS
from cli.tables import DATA, RUNS, TABLES, Errors, Row, Run, Speed, Table
from model import schedule
from model.recipe import Recipe, RunError, get_recipe

if TYPE_CHECKING:
    from pipeline.dataset import Dataset

STOPPED = (OUT_OF_TIME, *(128 + number for number in SIGNALS))
TRAINING = ("width", "batch_size", "epochs")  # of a recipe; None: its own
MACHINE = ("gpus", "device", "precision", "workers")
BASELINE = {"sift-fv": ("sample", "components"), "sparse-coding": ("sample", "words")}
VIEWS = {"ten": "ten views", "centre": "centre"}
PR_SET_PDEATHSIG = 1  # linux/prctl.h
folder = click.Path(path_type=Path)


@click.command("reproduce")
@click.argument("table", type=click.Choice([*TABLES, "all"]))
@options.data
@click.option("--data-2010", type=folder, help="ILSVRC-2010, prepared.  [default: as --data]")
@click.option("--pretrain", type=folder, help="Fall 2011 or other images of many classes, prepared.")
@click.option("--pretrain-2009", type=folder, help="Fall 2009, prepared.  [default: as --pretrain]")
@click.option("--cifar", type=folder, help="CIFAR-10, prepared as any classes, for figure 1.")
@click.option(
    "--runs",
    type=folder,
    default="runs/reproduce",
    help="Folder of all runs; what is there is not made again.",
)
@options.gpus
@options.device
@options.precision
@options.workers
@click.option("--width", type=click.FloatRange(0, min_open=True), help="Of every net.  [default: 1]")
@click.option("--batch-size", type=click.IntRange(1), help="Of every training.  [default: 128]")
@click.option("--epochs", type=click.IntRange(1), help="Of every training.  [default: the schedules' own]")
@click.option("--seed", default=0, help="Of every run.")
@click.option("--sample", type=click.IntRange(100), help="Of the baselines; as the next two, see `baseline`.")
@click.option("--components", type=click.IntRange(1), help="Of baseline sift-fv.")
@click.option("--words", type=click.IntRange(1), help="Of baseline sparse-coding.")
@click.option("--json", "json_path", type=folder, help="Write the rows there.")
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
    ilsvrc-2012   table 2, validation images
    5-cnns        the five that are averaged, one by one
    7-cnns        the seven
    ablations     what the paper says its parts are worth
    all           all of these

    Everything is done by the commands that it prints, one after the other, each run in its own folder of
    --runs. However it is stopped, the same command goes on.

    Pretrained nets (*) go 2012, Fall 2009, Fall 2011, 2012, as the 2012 source tells it: with --pretrain
    alone that dataset stands for both Falls. Without it their rows say so, and the rest is made.

    Without --bench, --dry-run measures each net for some seconds, as `bench` does.
    """
    tables = TABLES if table == "all" else {table: TABLES[table]}
    shelf = Shelf(runs, open_datasets(settings), settings)
    steps = list(shelf.steps(tables.values()))
    if dry_run:
        from cli.cost import tell_cost

        tell_cost(steps, shelf, bench_path)
        return
    if json_path:
        options.make_ready(json_path)
    failed = work_off(steps)
    found = {name: [shelf.measure(row, failed) for row in one.rows] for name, one in tables.items()}
    if json_path:
        json_path.write_text(json.dumps(found, indent=1) + "\n")
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


@dataclass(frozen=True)
class Step:
    """A command, and the run that it is a part of."""

    run: str
    words: tuple[str, ...]
    needs: tuple[str, ...]  # runs whose failure it shares
    images: dict[str, int]  # that it still has to go through, by the part of `bench` that does so


@dataclass(frozen=True)
class Shelf:
    """The runs in one folder: what makes each, what of it is done, what came out."""

    folder: Path
    data: "dict[str, Dataset]"
    settings: dict[str, Any]

    def steps(self, tables: "Sequence[Table] | Any") -> Iterator[Step]:
        """What is missing, in order and once; nothing of runs whose images are not given."""
        seen = set()
        for row in (row for table in tables for row in table.rows):
            for step in self.row_steps(row):
                if step.words not in seen:
                    seen.add(step.words)
                    yield step

    def row_steps(self, row: Row | Speed) -> Iterator[Step]:
        for name in row.runs:
            if self.lack(name) is None:
                yield from self.making(name)
                if isinstance(row, Row):
                    yield from self.evaluating(name, row.views)
        if isinstance(row, Row) and row.over:
            yield from self.row_steps(Row(row.name, (row.over,)))

    def lack(self, name: str) -> str | None:
        """The images that a run needs and are not given."""
        return next((DATA[RUNS[n].data] for n in chain(name) if RUNS[n].data not in self.data), None)

    def making(self, name: str) -> Iterator[Step]:
        """The trainings that end in a run."""
        for each in chain(name):
            run = RUNS[each]
            if not isinstance(run, Run):
                if not (self.folder / each / "result.json").exists():
                    yield Step(each, self.baseline_words(each), (each,), {})
            elif left := self.epochs_left(each):
                data = self.data[run.data]
                images = {"train": left * data.samples("train"), "eval, centre": left * data.samples("val")}
                yield Step(each, self.train_words(each), tuple(chain(each)), images)

    def evaluating(self, name: str, views: str) -> Iterator[Step]:
        """The predictions of a run."""
        run = RUNS[name]
        if not isinstance(run, Run):
            return
        split, out = self.split(name), self.output(name, views)
        try:
            done = bool(json.loads(out.with_suffix(".json").read_text())) and not self.epochs_left(name)
        except (OSError, ValueError):
            done = False
        if not done:
            words = ["eval", "--data", self.data[run.data].root, "--run", self.folder / name]
            words += ["--split", split, *(["--ten-crop"] if views == "ten" else []), *self.machine(name)]
            words += ["--predictions", out, "--json", out.with_suffix(".json")]
            images = {f"eval, {VIEWS[views]}": self.data[run.data].samples(split)}
            yield Step(name, tuple(map(str, words)), tuple(chain(name)), images)

    def split(self, name: str) -> str:
        """ILSVRC-2010 has labels of its test images; without them it is validation."""
        from pipeline.dataset import read_index

        run, data = RUNS[name], self.data[RUNS[name].data]
        if isinstance(run, Run) and run.data == "data_2010" and data.splits.get("test"):
            return "test" if (read_index(data, "test")["label"] >= 0).all() else "val"
        return "val"

    def output(self, name: str, views: str) -> Path:
        """Predictions; what made them lies beside as .json."""
        if not isinstance(RUNS[name], Run):
            return self.folder / name / "predictions.npz"
        return self.folder / name / f"{self.split(name)}-{views}.npz"

    def recipe(self, name: str) -> Recipe:
        run = RUNS[name]
        assert isinstance(run, Run)
        changes = {key: self.settings[key] for key in TRAINING if self.settings[key] is not None}
        changes |= {"schedule": run.schedule} if run.schedule else {}
        return get_recipe(run.recipe, classes=len(self.data[run.data].classes), **changes)

    def machine(self, name: str) -> list[str]:
        """Where to compute; of two devices a net of one tower takes the first."""
        given = self.devices(name)
        return [word for key in MACHINE if given[key] for word in (f"--{key}", str(given[key]))]

    def devices(self, name: str) -> dict[str, Any]:
        towers, given = self.recipe(name).towers, {key: self.settings[key] for key in MACHINE}
        for key in ("gpus", "device"):
            given[key] = given[key] and ",".join(given[key].split(",")[:towers])
        return given

    def train_words(self, name: str) -> tuple[str, ...]:
        run = RUNS[name]
        assert isinstance(run, Run)
        words = ["train", "--data", self.data[run.data].root, "--run", self.folder / name]
        words += ["--recipe", run.recipe, *(["--schedule", run.schedule] if run.schedule else [])]
        words += ["--init-from", self.folder / run.begins] if run.begins else []
        words += ["--seed", self.settings["seed"] + run.seed]
        return (*map(str, words), *self.given(TRAINING), *self.machine(name))

    def baseline_words(self, name: str) -> tuple[str, ...]:
        run, out = RUNS[name], self.folder / name
        assert not isinstance(run, Run)
        words = ["baseline", run.command, "--data", self.data[run.data].root, "--out", out]
        words += ["--seed", self.settings["seed"], *self.given(("workers", *BASELINE[run.command]))]
        return tuple(map(str, words))

    def given(self, names: Sequence[str]) -> list[str]:
        """Those options of ours that are passed on."""
        found = [(name, self.settings[name]) for name in names if self.settings[name] is not None]
        return [word for name, value in found for word in (f"--{name.replace('_', '-')}", str(value))]

    def epochs_left(self, name: str) -> int:
        """Of a training; RunError where the one in the folder is another, though it is finished."""
        from model.run import read_metrics

        path, recipe = self.folder / name, self.recipe(name)
        if not (path / "last.pt").exists() or not (path / "metrics.jsonl").exists():
            return schedule.epochs(recipe)
        rows = read_metrics(path / "metrics.jsonl")
        errors = [row["top1_err"] for row in rows if row["kind"] == "val" and row["epoch"] > 0]
        if not schedule.finished(recipe, errors):
            return schedule.epochs(recipe) - len(errors)
        self.refuse_another(path, name, recipe)
        return 0

    def refuse_another(self, path: Path, name: str, recipe: Recipe) -> None:
        from model.checkpoint import differences

        run = RUNS[name]
        assert isinstance(run, Run)
        wanted = {
            "recipe": json.loads(json.dumps(recipe.to_dict())),
            "seed": self.settings["seed"] + run.seed,
        }
        wanted["dataset"] = self.data[run.data].fingerprint
        try:
            about = json.loads((path / "run.json").read_text())
            recipe, fingerprint, seed = (
                about["recipe"],
                about["data"]["fingerprint"],
                about["starts"][0]["seed"],
            )
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise RunError(f"{path / 'run.json'} does not say what the run is ({error})") from None
        found = {"recipe": recipe, "seed": seed, "dataset": fingerprint}
        if texts := [text for _, text in differences(found, wanted)]:
            raise RunError(f"{path} was trained with {', '.join(texts)}; use the same, or another --runs")

    def measure(self, row: Row | Speed, failed: "set[str]") -> dict[str, Any]:
        """A row as it is written to --json: what others say, and ours, or why there is none."""
        said = {key: value for key, value in vars(row).items() if key != "runs"}
        said["runs"] = list(row.runs)
        names = [n for run in (*row.runs, *filter(None, [said.get("over")])) for n in chain(run)]
        lack = next(filter(None, map(self.lack, names)), None)
        broken = next((name for name in names if name in failed), None)
        if lack or broken:
            return {**said, "ours": None, "why": f"needs {lack}" if lack else f"{broken} failed"}
        return {**said, **(self.errors(row) if isinstance(row, Row) else self.speed(row))}

    def errors(self, row: Row) -> dict[str, Any]:
        split, ours = self.split(row.runs[0]), self.average(row.runs, row.views)
        if row.over:
            whole = self.average((row.over,), "ten")
            ours = [mine - theirs for mine, theirs in zip(ours, whole, strict=True)]
        return {"ours": ours, "split": split, "images": self.data[RUNS[row.runs[0]].data].samples(split)}

    def average(self, names: Sequence[str], views: str) -> list[float]:
        """Top-1 and top-5 error of the mean of the runs' predictions."""
        import torch

        from cli import predictions
        from cli.ensemble import check_alike
        from model.ensemble import average
        from model.evaluate import rates, tally

        paths = [self.output(name, views) for name in names]
        found = [predictions.read(path) for path in paths]
        for path, each in zip(paths, found, strict=True):
            check_alike(paths[0], found[0], path, each)
        mean = average([torch.from_numpy(each.probabilities) for each in found], [1] * len(found))
        errors = rates(tally(mean, torch.from_numpy(found[0].labels).long()))
        return [errors["top1_err"], errors["top5_err"]]

    def speed(self, row: Speed) -> dict[str, Any]:
        from model.run import read_metrics

        epochs = []
        for name in row.runs:
            rows = read_metrics(self.folder / name / "metrics.jsonl")
            reached = [r["epoch"] for r in rows if r["kind"] == "train" and r["top1_err"] <= row.error]
            if not reached:
                return {"ours": None, "why": f"{name} did not reach {row.error:g} % training error"}
            epochs.append(reached[0])
        return {"ours": [epochs[0] / epochs[1]], "epochs": epochs}


def chain(name: str) -> list[str]:
    """A run and those that it begins with, the first of them first."""
    run = RUNS[name]
    return [*(chain(run.begins) if isinstance(run, Run) and run.begins else []), name]


def work_off(steps: Sequence[Step]) -> set[str]:
    """All steps; the runs of which one failed, which leaves out the steps that need them."""
    failed: set[str] = set()
    with Commands() as commands:
        for step in steps:
            if failed.intersection(step.needs):
                continue
            status = commands.run(step.words)
            if commands.stopped or status in STOPPED:
                click.echo("stopped; the same command goes on from there", err=True)
                sys.exit(commands.stopped or status)
            if status:
                failed.add(step.run)
    return failed


@dataclass
class Commands:
    """Processes of alexnet-dali, one after the other. Signals are passed on, and noted as a status."""

    stopped: int = 0
    child: "subprocess.Popen[bytes] | None" = None
    before: list[Any] = field(default_factory=list)

    def __enter__(self) -> "Commands":
        self.before = [signal.signal(number, self.receive) for number in SIGNALS]
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in zip(SIGNALS, self.before, strict=True):
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        self.stopped = 128 + number
        if self.child:
            self.child.send_signal(number)

    def run(self, words: Sequence[str]) -> int:
        """As if typed, and shown so; its status. Should this process be killed, it stops as by SIGTERM."""
        click.echo(f"\n$ alexnet-dali {shlex.join(words)}")
        if self.stopped:
            return self.stopped
        libc, home = ctypes.CDLL(None), str(Path(__file__).parent.parent)
        paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        self.child = subprocess.Popen(
            [sys.executable, "-m", "cli", *words],
            env={**os.environ, "PYTHONPATH": paths},  # this cli, wherever we are
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        if self.stopped:  # in between
            self.child.terminate()
        return self.child.wait()


def show(table: Table, found: Sequence[dict[str, Any]]) -> None:
    """The paper's table with our column."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table as Drawn

    console = Console(highlight=False, soft_wrap=True)
    submitted = any(row.get("submitted") for row in found)
    drawn = Drawn(title=f"{table.title}, top-1 / top-5 error in percent", title_justify="left", box=SIMPLE)
    drawn.add_column("", no_wrap=True)
    for heading in ("the paper", *(["on test"] if submitted else []), "2012 logs", "ours"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    drawn.add_column("on", no_wrap=True)
    for row, said in zip(table.rows, found, strict=True):
        cells = [row.name, *cells_of(row, said)]
        if submitted:
            cells.insert(2, f"- / {said['submitted']}" if said["submitted"] else "-")
        drawn.add_row(*cells)
    console.print(drawn)
    for said in found:
        if said["ours"] is None:
            console.print(f"{said['name']}: {said['why']}")


def cells_of(row: Row | Speed, said: dict[str, Any]) -> tuple[str, str, str, str]:
    """The paper's, the logs', ours, and what ours was measured on."""
    ours = said["ours"]
    if isinstance(row, Speed):
        on = "{:.3g} and {:.3g} epochs".format(*said["epochs"]) if ours else ""
        return f"{row.paper:g} times", "-", f"{ours[0]:.2g} times" if ours else "-", on
    sign = "+" if row.over else ""
    mine = " / ".join(f"{error:{sign}.2f}" for error in ours) if ours else "-"
    on = f"{said['images']:,} {said['split']}, {VIEWS[row.views]}" if ours else ""
    return written(row.paper, sign), written(row.log, sign), mine, on


def written(errors: Errors, sign: str) -> str:
    if errors == (None, None):
        return "-"
    return " / ".join("-" if error is None else f"{error:{sign}}" for error in errors)
