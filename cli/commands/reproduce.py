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
@options.force
@click.option("--dry-run", is_flag=True, help="Print what would be run and how long it takes; run nothing.")
@click.option(
    "--bench", "bench_path", type=folder, help="A file of bench --json to reckon with, for all nets alike."
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
            warn(f"{error}; without them their rows are not made")
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
