"""alexnet-dali train."""

import math
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options
from model import schedule
from model.recipe import RECIPES, Recipe, RunError, get_recipe
from model.schedule import SCHEDULES

if TYPE_CHECKING:
    import torch

    from model.replicas import Replicas
    from pipeline.dataset import Dataset


@click.command("train")
@options.data
@options.gpus
@options.device
@options.precision
@options.workers
@click.option(
    "--recipe", "recipe_name", type=click.Choice(list(RECIPES)), default="original", help="The numbers."
)
@click.option("--run", "run_name", help="Name of the run, or a path.  [default: the recipe's name, in runs/]")
@click.option(
    "--epochs", type=click.IntRange(1), help="Stretches the schedule.  [default: the schedule's own]"
)
@click.option(
    "--batch-size", type=click.IntRange(1), help="Images an update, over all processes.  [default: 128]"
)
@click.option(
    "--schedule", type=click.Choice(list(SCHEDULES)), help="Of learning rates.  [default: the recipe's]"
)
@click.option("--classes", type=click.IntRange(2), help="Outputs.  [default: the dataset's classes]")
@click.option(
    "--width",
    type=click.FloatRange(0, min_open=True),
    help="Of every layer: 0.25 is a quarter.  [default: 1]",
)
@click.option("--seed", default=0, help="Of the initial weights and all else that is drawn.")
@click.option("--save-minutes", default=10.0, help="Between checkpoints, beside the one each epoch.")
@click.option("--stop-after", type=float, metavar="MINUTES", help="Save and stop then, as SIGTERM would.")
@click.option("--show-recipe", is_flag=True, help="Print the recipe and its schedule, and exit.")
def command(recipe_name: str, show_recipe: bool, data: Path, **settings: Any) -> None:
    """Train, or go on with a run that was stopped.

    The run's folder holds run.json, metrics.jsonl, TensorBoard events, last.pt and best.pt. SIGTERM and
    Ctrl-C save and stop; the same command goes on, to the same bits as if nothing had happened.
    """
    names = ("epochs", "batch_size", "schedule", "width", "classes")
    changes = {name: settings[name] for name in names if settings[name] is not None}
    if show_recipe:
        from cli.display import print_recipe

        print_recipe(get_recipe(recipe_name, **changes))
        return
    from pipeline.dataset import open_dataset

    dataset = open_dataset(data)
    recipe = get_recipe(recipe_name, **{"classes": len(dataset.classes), **changes})
    if recipe.classes < len(dataset.classes):
        raise RunError(f"--classes {recipe.classes}: {data} has {len(dataset.classes)} classes")
    train(recipe, dataset, options.run_path(settings["run_name"] or recipe_name), settings)


def train(recipe: Recipe, dataset: "Dataset", path: Path, settings: dict[str, Any]) -> None:
    """The run at `path`, from its last checkpoint if it has one, to the end of its schedule."""
    from cli import compose
    from cli.display import Display
    from cli.signals import StopSignal
    from model.evaluate import Evaluation, evaluate
    from model.network import AlexNet
    from model.optim import Momentum
    from model.run import RunDirectory
    from model.train import Stopped, Trainer, Watch, take_up
    from pipeline.batches import EvaluationBatches, TrainBatches
    from pipeline.graph import CENTRE_VIEW

    stop, deadline = StopSignal(), time.monotonic() + 60 * (settings["stop_after"] or math.inf)
    devices = compose.choose_devices(settings["gpus"], settings["device"])
    replicas = compose.join_replicas(devices[0])
    precision = compose.use_precision(settings["precision"], devices[0])
    images = compose.image_options(dataset, recipe, devices[0], replicas, settings["workers"])
    seed = settings["seed"]
    identity = {"recipe": recipe.to_dict(), "seed": seed, "dataset": dataset.fingerprint}

    with RunDirectory(path, replicas.first) as run:
        network = AlexNet(recipe, devices, seed)
        optimiser = Momentum(network, recipe)
        state = take_up(path, network, optimiser, identity, replicas, warn)
        batches = TrainBatches(
            dataset,
            batch_size=recipe.batch_size,
            offsets=recipe.offsets,
            colour=compose.colour_noise(dataset, recipe),
            seed=seed,
            start=state.step,
            **images,
        )

        def validate(each: Callable[[int], None]) -> Evaluation:
            views = EvaluationBatches(
                dataset, "val", views=CENTRE_VIEW, batch_size=recipe.batch_size, **images
            )
            return evaluate(network, views, precision=precision, each=each)

        if replicas.first:
            run.open(state.step, len(state.history), describe(recipe, dataset, devices, precision, replicas))
            for name in ("dataset.json", "statistics.npz"):  # what predict must know, should the data be gone
                shutil.copyfile(dataset.root / name, path / name)
        with Display(
            schedule.epochs(recipe), batches.steps_per_epoch, state.step, not replicas.first
        ) as display:
            trainer = Trainer(
                network=network,
                optimiser=optimiser,
                recipe=recipe,
                batches=iter(batches),
                images=dataset.samples("train"),
                validate=validate,
                run=run,
                identity=identity,
                state=state,
                precision=precision,
                replicas=replicas,
                watch=Watch(lambda: stop() or time.monotonic() > deadline, display.step, display.row),
                save_seconds=60 * settings["save_minutes"],
            )
            try:
                trainer.train()
            except Stopped:
                click.echo(f"stopped at step {state.step:,}; the same command goes on from there", err=True)
                sys.exit(stop.status)
    click.echo(f"{path} is trained; now: alexnet-dali eval --ten-crop")


def warn(text: str) -> None:
    """One line on stderr."""
    click.echo(f"warning: {text}", err=True)


def describe(
    recipe: Recipe, dataset: "Dataset", devices: "list[torch.device]", precision: str, replicas: "Replicas"
) -> dict[str, Any]:
    """run.json: what the run is, and how it was started this time."""
    import torch

    return {
        "recipe": recipe.to_dict(),
        "data": {"path": str(dataset.root.resolve()), "fingerprint": dataset.fingerprint},
        "starts": {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": shlex.join(["alexnet-dali", *sys.argv[1:]]),
            "devices": [str(device) for device in devices],
            "gpus": [torch.cuda.get_device_name(device) for device in devices if device.type == "cuda"],
            "processes": replicas.world,
            "precision": precision,
            "versions": {name: version(name) for name in ("torch", "numpy")}
            | {"python": platform.python_version()},
        },
    }
