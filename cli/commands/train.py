"""Define alexnet-dali train: train a network, or resume a run."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.compose.announce import tell_plan
from cli.compose.fitting import need_fitting
from cli.signals import StopRequest
from cli.study.recipe import print_recipe, print_toml
from model.errors import RunError
from model.schedules import SCHEDULES
from pipeline.dataset import need_labels, open_dataset


@click.command("train")
@options.data
@options.machine
@options.cuda_graph
@options.recipe
@click.option("--run", "run_name", help="Name of the run, or a path.  [default: the recipe's name, in runs/]")
@click.option(
    "--epochs",
    type=options.EPOCHS,
    help="Number of epochs. The learning-rate schedule is stretched or shrunk to fit.  "
    "[default: the schedule's own]",
)
@click.option(
    "--batch-size",
    type=options.SEVERAL,
    help="Images per update, summed over all processes.  [default: 128]",
)
@click.option(
    "--schedule",
    type=click.Choice(list(SCHEDULES)),
    help="Learning-rate schedule; --show-recipe prints it. Those with a number follow the notes of 2012.  "
    "[default: the recipe's]",
)
@click.option(
    "--classes",
    type=click.IntRange(2, 2**20),
    help="Number of outputs, at least the classes of the dataset.  [default: the dataset's classes]",
)
@click.option(
    "--width",
    type=options.WIDTH,
    help="Scale of the number of maps and units in every layer; 0.25 makes the network a quarter as wide.  "
    "[default: 1]",
)
@click.option(
    "--seed",
    type=options.SEED,
    default=0,
    help="Random seed of initial weights, shuffling, crops, flips, colour noise and dropout.",
)
@click.option(
    "--save-minutes",
    type=options.MINUTES,
    default=10.0,
    help="Save a checkpoint every so many minutes, besides the one after each epoch.",
)
@click.option(
    "--stop-after",
    type=options.MINUTES,
    metavar="MINUTES",
    help="Save and stop after so many minutes, with exit status 75.",
)
@click.option(
    "--allow-changes",
    is_flag=True,
    help="Resume even if epochs, schedule, processes, devices, precision or versions differ. The result is "
    "then not bit-identical.",
)
@click.option(
    "--init-from",
    metavar="RUN|FILE",
    help="Start from the weights of a run, its .pt or a .safetensors of `export`. Layers that do not fit, or "
    "that the recipe retrains, start at random; one line lists them.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print what would be done, how long it takes and how much disk it needs. Write nothing.",
)
@click.option("--show-recipe", is_flag=True, help="Print the recipe and its schedule, and exit.")
@click.option("--toml", is_flag=True, help="Print a file that --recipe reads, if --show-recipe is given.")
def command(
    data: Path,
    chosen: options.Chosen,
    run_name: str | None,
    epochs: int | None,
    batch_size: int | None,
    schedule: str | None,
    classes: int | None,
    width: float | None,
    dry_run: bool,
    show_recipe: bool,
    toml: bool,
    **settings: Any,
) -> None:
    """Train a network, or resume a stopped run.

    The run's folder holds run.json, metrics.jsonl, TensorBoard events, last.pt and best.pt. SIGTERM, SIGHUP
    and Ctrl-C save a checkpoint and stop. The same command resumes, and the result is bit-identical to that
    of a run without a stop.

    Exit status: 0 trained, 75 stopped by --stop-after, 143 by SIGTERM, 129 by SIGHUP, 130 by Ctrl-C, 141 by
    the end of the pipe that is printed to, 1 failed.
    """
    if toml and not show_recipe:
        raise click.UsageError("--toml needs --show-recipe: give both")
    make = partial(
        chosen.make, epochs=epochs, batch_size=batch_size, schedule=schedule, classes=classes, width=width
    )
    if show_recipe:
        recipe = make(None)
        print_toml(recipe) if toml else print_recipe(recipe)
        return
    dataset = open_dataset(data)
    need_labels(dataset, "train", "val")
    recipe = make(len(dataset.classes))
    if recipe.classes < len(dataset.classes):
        named = "--classes" if classes else "classes"
        raise RunError(f"{named} {recipe.classes} is too few: {data} has {len(dataset.classes)} classes")
    need_fitting(recipe, dataset)
    path = options.run_path(run_name or recipe.name)
    stop = StopRequest(settings["stop_after"])
    stop.unbroken(tell_plan)(recipe, dataset, path)
    from cli.compose.forecast import forecast  # torch, which takes seconds
    from cli.compose.training import TrainSettings, train

    if dry_run:
        forecast(recipe, dataset, path, TrainSettings(**settings))
    elif status := train(recipe, dataset, path, TrainSettings(**settings), stop):
        sys.exit(status)
