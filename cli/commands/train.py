"""Define alexnet-dali train: train a network, or go on with a run."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.compose.announce import tell_plan
from cli.signals import StopRequest
from cli.study.recipe import print_recipe
from model.errors import RunError
from model.recipes import RECIPES, get_recipe
from model.schedules import SCHEDULES
from pipeline.dataset import need_labels, open_dataset


@click.command("train")
@options.data
@options.machine
@options.cuda_graph
@click.option(
    "--recipe", "recipe_name", type=click.Choice(list(RECIPES)), default="original", help="The numbers."
)
@click.option("--run", "run_name", help="Name of the run, or a path.  [default: the recipe's name, in runs/]")
@click.option("--epochs", type=options.EPOCHS, help="Stretches the schedule.  [default: the schedule's own]")
@click.option(
    "--batch-size", type=options.SEVERAL, help="Images an update, over all processes.  [default: 128]"
)
@click.option(
    "--schedule", type=click.Choice(list(SCHEDULES)), help="Of learning rates.  [default: the recipe's]"
)
@click.option("--classes", type=click.IntRange(2, 2**20), help="Outputs.  [default: the dataset's classes]")
@click.option("--width", type=options.WIDTH, help="Of every layer: 0.25 is a quarter.  [default: 1]")
@click.option(
    "--seed", type=options.SEED, default=0, help="Of the initial weights and all else that is drawn."
)
@click.option(
    "--save-minutes",
    type=options.MINUTES,
    default=10.0,
    help="Between checkpoints, beside the one each epoch.",
)
@click.option(
    "--stop-after", type=options.MINUTES, metavar="MINUTES", help="Save and stop then, with exit status 75."
)
@click.option(
    "--allow-changes",
    is_flag=True,
    help="Go on though epochs, schedule, processes, devices, precision or versions changed.",
)
@click.option(
    "--init-from",
    metavar="RUN|FILE",
    help="Begin with the weights of a run, its .pt or a .safetensors of `export`, as far as they fit and the "
    "recipe wants them.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be done, how long it takes and what disk it needs; write nothing.",
)
@click.option("--show-recipe", is_flag=True, help="Print the recipe and its schedule, and exit.")
def command(
    data: Path,
    recipe_name: str,
    run_name: str | None,
    epochs: int | None,
    batch_size: int | None,
    schedule: str | None,
    classes: int | None,
    width: float | None,
    dry_run: bool,
    show_recipe: bool,
    **settings: Any,
) -> None:
    """Train, or go on with a run that was stopped.

    The run's folder holds run.json, metrics.jsonl, TensorBoard events, last.pt and best.pt. SIGTERM,
    SIGHUP and Ctrl-C save and stop; the same command goes on, to the same bits as if nothing had happened.

    Exit status: 0 trained, 75 stopped by --stop-after, 143 by SIGTERM, 129 by SIGHUP, 130 by Ctrl-C, 141 by
    the end of a pipe that is printed to, 1 failed.
    """
    make = partial(
        get_recipe, recipe_name, epochs=epochs, batch_size=batch_size, schedule=schedule, width=width
    )
    if show_recipe:
        print_recipe(make(classes=classes))
        return
    dataset = open_dataset(data)
    need_labels(dataset, "train", "val")
    recipe = make(classes=classes or len(dataset.classes))
    if recipe.classes < len(dataset.classes):
        raise RunError(f"--classes {recipe.classes}: {data} has {len(dataset.classes)} classes")
    path = options.run_path(run_name or recipe_name)
    stop = StopRequest(settings["stop_after"])
    stop.unbroken(tell_plan)(recipe, dataset, path)
    from cli.compose.forecast import forecast  # torch, which takes seconds
    from cli.compose.training import TrainSettings, train

    if dry_run:
        forecast(recipe, dataset, path, TrainSettings(**settings))
    elif status := train(recipe, dataset, path, TrainSettings(**settings), stop):
        sys.exit(status)
