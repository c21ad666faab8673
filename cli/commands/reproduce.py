"""Define alexnet-dali reproduce: make the paper's tables."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.table import Table as Drawn

from cli import options
from cli.display import console, say, top_errors, warn, write_json
from cli.paper.comparison import guessing
from cli.paper.plan import Plan, PlanSettings
from cli.paper.reproduction import find_lack, open_datasets, tell, work_off
from cli.paper.tables import TABLES, Errors, SpeedRow, Table, TableRow
from model.errors import RunError

folder = click.Path(path_type=Path)
UNSAID: Errors = (None, None)


@click.command("reproduce")
@click.argument("table", type=click.Choice([*TABLES, "all"]))
@options.data
@click.option(
    "--data-2010", type=folder, help="Folder of the prepared ILSVRC-2010.  [default: that of --data]"
)
@click.option(
    "--pretrain", type=folder, help="Folder of the prepared Fall 2011, or of other images of many classes."
)
@click.option(
    "--pretrain-2009", type=folder, help="Folder of the prepared Fall 2009.  [default: that of --pretrain]"
)
@click.option("--cifar", type=folder, help="Folder of the prepared CIFAR-10, for figure 1.")
@click.option(
    "--runs", type=folder, default="runs/reproduce", help="Folder of all runs; finished ones are reused."
)
@options.machine
@click.option(
    "--width",
    type=options.WIDTH,
    help="Scale of the number of maps and units in every layer of every network.  [default: 1]",
)
@click.option(
    "--batch-size", type=options.SEVERAL, help="Images per update in every training.  [default: 128]"
)
@click.option(
    "--epochs", type=options.EPOCHS, help="Number of epochs of every training.  [default: the schedules' own]"
)
@click.option("--seed", type=options.SEED, default=0, help="Random seed of every run.")
@click.option("--sample", type=click.IntRange(100), help="Baselines: number of descriptors to learn from.")
@click.option(
    "--step", type=click.IntRange(1), help="Baselines: number of pixels between descriptors; more is faster."
)
@click.option(
    "--components", type=click.IntRange(1), help="Baseline sift-fv: number of Gaussians in the mixture."
)
@click.option(
    "--words", type=click.IntRange(1), help="Baseline sparse-coding: number of words in the dictionary."
)
@click.option("--json", "json_path", type=options.output, help="Write the rows to this JSON file.")
@options.force
@click.option("--dry-run", is_flag=True, help="Print the commands and how long they would take. Run nothing.")
@click.option(
    "--bench",
    "bench_path",
    type=folder,
    help="File of bench --json; --dry-run takes its speeds for all networks.",
)
def command(
    table: str,
    data: Path,
    data_2010: Path | None,
    pretrain: Path | None,
    pretrain_2009: Path | None,
    cifar: Path | None,
    runs: Path,
    json_path: Path | None,
    dry_run: bool,
    bench_path: Path | None,
    **settings: Any,
) -> None:
    """Reproduce a table of the paper.

    What is missing is trained and evaluated. The table shows our errors beside the paper's.

    \b
    ilsvrc-2010   table 1, on test images if they have labels, else on validation
    ilsvrc-2012   table 2, on validation images
    5-cnns        each of the five networks that are averaged
    7-cnns        each of the seven networks that are averaged
    ablations     the change in error without each part of the network
    all           all of these

    Each command is printed before it runs, one after the other, and each run has its own folder in --runs. A
    stopped or killed reproduce resumes with the same command. If a command fails, the rows that need it stay
    empty, the other rows are completed, and the exit status is 1.

    Pretrained networks (*) are trained on ILSVRC-2012, Fall 2009, Fall 2011 and ILSVRC-2012 again, as in the
    2012 source. With --pretrain alone, that dataset stands for both Falls. Without it, their rows say so.

    Without --bench, --dry-run measures each network for some seconds, as `bench` does.
    """
    tables = TABLES if table == "all" else {table: TABLES[table]}
    paths = {
        "data": data,
        "data_2010": data_2010 or data,
        "pretrain": pretrain,
        "pretrain_2009": pretrain_2009 or pretrain,
        "cifar": cifar,
    }
    shelf = Plan(runs, open_datasets(paths), PlanSettings(**settings))
    steps = shelf.steps(tables.values())
    if dry_run:
        from cli.paper.cost import tell_cost

        tell_cost(steps, shelf, bench_path)
        for row in (row for one in tables.values() for row in one.rows):
            if lack := find_lack(row, shelf):
                say(f"{row.name}: needs {lack}")
        return
    if any(step.words[0] == "baseline" for step in steps):
        from cli.paper.baseline import need_libraries

        try:
            need_libraries()
        except RunError as error:  # said now, as the other rows may take days
            warn(f"{error}; without them their rows stay empty")
    failed = work_off(steps)
    results = {name: [tell(row, shelf, failed) for row in one.rows] for name, one in tables.items()}
    if json_path:
        write_json(json_path, results)
    for name, one in tables.items():
        show(one, results[name])
    if failed:
        sys.exit(1)


def show(table: Table, results: Sequence[dict[str, Any]]) -> None:
    """Print the paper's table with our column, and what its dashes need.

    On other images than the paper's there are no numbers of the paper; a line says what guessing would make.
    """
    screen = console(soft_wrap=True, width=120)
    guesses = dict(guessing(said["classes"]) for said in results if not (said["comparable"] or said["over"]))
    tops = " / ".join(
        top_errors({"top1_err": 0, "top5_err": 0}, max(said["classes"] or 6 for said in results))
    )
    drawn = Drawn(title=f"{table.title}, {tops} error in percent", title_justify="left", box=SIMPLE)
    drawn.add_column("", no_wrap=True)
    submitted = any(isinstance(row, TableRow) and row.submitted for row in table.rows)
    for heading in ("the paper", *(["on test"] if submitted else []), "2012 logs", "ours"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    drawn.add_column("on", no_wrap=True)
    for row, said in zip(table.rows, results, strict=True):
        if isinstance(row, TableRow) and not said["comparable"]:
            row = replace(row, paper=UNSAID, log=UNSAID, submitted=None)
        paper, *rest = speed_cells(row, said) if isinstance(row, SpeedRow) else error_cells(row, said)
        test = [written((None, row.submitted))] if submitted and isinstance(row, TableRow) else []
        drawn.add_row(row.name, paper, *test, *rest)
    screen.print(drawn)
    for name, errors in guesses.items():
        screen.print(f"{name}: {' / '.join(errors.values())}")
    for said in results:
        if said["ours"] is None:
            screen.print(f"{said['name']}: {said['why']}")


def error_cells(row: TableRow, said: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of the paper, the logs and ours, and what ours was measured on."""
    sign = "+" if row.over else ""
    shown = said["ours"] and (said["ours"] if said["classes"] > 5 else said["ours"][:1])
    ours = " / ".join(f"{error:{sign}.2f}" for error in shown) if shown else "-"
    on = f"{said['images']:,} {said['split']}, {row.views}" if said["ours"] else ""
    return written(row.paper, sign), written(row.log, sign), ours, on


def speed_cells(row: SpeedRow, said: dict[str, Any]) -> tuple[str, ...]:
    if not said["ours"]:
        return f"{row.paper:g} times", "-", "-", ""
    slow, fast = said["epochs"]
    return f"{row.paper:g} times", "-", f"{said['ours'][0]:.1f} times", f"{slow:.3g} and {fast:.3g} epochs"


def written(errors: Errors, sign: str = "") -> str:
    if errors == UNSAID:
        return "-"
    return " / ".join("-" if error is None else f"{error:{sign}}" for error in errors)
