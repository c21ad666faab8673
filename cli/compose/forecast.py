"""Say how long a training would take and how much room on the disk, and leave nothing behind."""

import shutil
from pathlib import Path

from cli.bench.meter import images_per_second
from cli.bench.workloads import Workloads
from cli.compose.announce import tell_rows, tell_start
from cli.compose.devices import choose_devices, machine_errors
from cli.compose.training import COPIES, TrainSettings, begin_with, identify, state_size
from cli.display import disk_size, short_time, warn
from model import schedule
from model.errors import RunError
from model.recipe import Recipe
from model.replicas import find_place
from model.train import RunState, Trainer, resume
from pipeline.dataset import Dataset

SECONDS = 3.0  # for training, and for validation
ROW = 400  # bytes, about, of a row of metrics.jsonl and of TensorBoard's events together


def forecast(recipe: Recipe, dataset: Dataset, path: Path, settings: TrainSettings) -> None:
    """Print what the run at `path` would do, and what its rest takes by the speed of a few steps made now."""
    if find_place().world > 1:
        raise RunError("--dry-run works in one process only: start it without torchrun")
    with machine_errors(recipe.batch_size, choose_devices(settings.machine)):
        parts = Workloads(dataset, recipe, settings.machine, settings.cuda_graph, settings.seed)
        step = parts.training_step
        identity = identify(step, dataset, settings.init_from)
        state = resume(path, step, identity, settings.allow_changes, warn)
        if settings.init_from and state.step == 0:
            begin_with(step.network, settings.init_from, step.replicas)
        tell_start(identity, state)
        training, validation = (
            images_per_second(parts.works[name], SECONDS) for name in ("train", "eval, centre")
        )
    seconds = count_seconds(recipe, dataset, state, training, validation)
    tell_rows(
        speed=f"training {training:,.3g} images/s, validation {validation:,.3g} images/s",
        time=f"about {short_time(seconds)}, not counting start-up and checkpoints",
        disk=tell_disk(recipe, dataset, path),
    )


def count_seconds(
    recipe: Recipe, dataset: Dataset, state: RunState, training: float, validation: float
) -> float:
    """Return the seconds to the end of the schedule at these speeds, in images/s."""
    epochs, images = schedule.epochs(recipe), dataset.samples("train")
    steps = -(-images // recipe.batch_size)
    train, val = epochs - state.step / steps, epochs - len(state.history)
    return train * images / training + val * dataset.samples("val") / validation


def count_bytes(recipe: Recipe, dataset: Dataset) -> int:
    """Return the most that the run's folder may take: four states, the metrics, what describes the data."""
    rows = schedule.epochs(recipe) * (dataset.samples("train") / recipe.batch_size / Trainer.log_steps + 3)
    copies = sum((dataset.root / name).stat().st_size for name in COPIES)
    return int(4 * state_size(recipe) + ROW * rows) + copies


def tell_disk(recipe: Recipe, dataset: Dataset, path: Path) -> str:
    """Return what the folder may take, of how much."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free = disk_size(shutil.disk_usage(there).free)
    return (
        f"at most {disk_size(count_bytes(recipe, dataset))}, of {free} free: "
        f"four checkpoints (last, previous, best, a new one) of {disk_size(state_size(recipe))}, and metrics"
    )
