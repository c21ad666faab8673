"""Make and run a Trainer from a recipe, a dataset and a run folder."""

import os
import platform
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nvidia.dali
import torch

from cli.compose import trained
from cli.compose.announce import tell_end, tell_start
from cli.compose.devices import choose_devices, machine_errors, recorder, use_device
from cli.compose.images import evaluation_options, stream_options, train_batches
from cli.compose.runs import recommend
from cli.compose.watching import watching
from cli.display import disk_size, say, say_row, warn
from cli.options import Machine
from cli.signals import StopRequest, handled
from model.captured import Record
from model.errors import RunError
from model.evaluate import Evaluation, evaluate
from model.exchange import weights
from model.network import AlexNet
from model.optim import Momentum
from model.placement import prefetch_to_devices
from model.recipe import Recipe
from model.replicas import Replicas, joined
from model.run import RunDirectory
from model.step import Step
from model.train import RunState, Stopped, Trainer, Watch, resume
from pipeline.arguments import read_mean
from pipeline.batches import EvaluationBatches
from pipeline.dataset import Dataset

COPIES = ("dataset.json", "statistics.npz")  # what predict needs to know if the dataset is gone


@dataclass(frozen=True)
class TrainSettings:
    """Say how a recipe is trained, as asked for on the command line."""

    machine: Machine
    cuda_graph: bool
    seed: int
    save_minutes: float
    stop_after: float | None  # minutes
    allow_changes: bool
    init_from: str | None


def train(recipe: Recipe, dataset: Dataset, path: Path, settings: TrainSettings, stop: StopRequest) -> int:
    """Train the run at `path`, from its last checkpoint if there is one; return the exit status."""
    if settings.stop_after is not None and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise RunError(
            "--stop-after does not work under torchrun --max-restarts, which would start the stopped run "
            "again: leave one of them out"
        )
    devices = choose_devices(settings.machine)
    precision = use_device(devices[0], settings.machine.precision)
    record = recorder(settings.cuda_graph, devices)
    with (
        handled(signal.SIG_DFL) as change,  # nothing to save yet, and other processes may never join
        machine_errors(recipe.batch_size, devices),
        joined(devices[0], warn) as replicas,
        RunDirectory(path, replicas.first) as run,
    ):
        step = make_step(recipe, dataset, devices, precision, record, settings.seed, replicas)
        identity = identify(step, dataset, settings.init_from)
        state = find_state(step, dataset, run, identity, settings)
        if replicas.first:
            stop.unbroken(tell_start)(identity, state)
        with watching(stop, step, dataset, state.step) as watch:
            trainer = make_trainer(step, dataset, run, identity, state, watch, settings)
            change(stop.receive)
            try:
                trainer.train()
            except Stopped as stopped:
                if replicas.first:
                    say(f"stopped at step {state.step:,}; the same command resumes there", err=True)
                return stopped.status
        if replicas.first:
            machine = settings.machine if replicas.world == 1 else Machine()
            tell_end(path, state.history, len(dataset.classes))
            say_row("next", recommend("eval", "--ten-crop", run=path, machine=machine))
    return 0


def make_step(
    recipe: Recipe,
    dataset: Dataset,
    devices: list[torch.device],
    precision: str,
    record: Record | None,
    seed: int,
    replicas: Replicas | None = None,
) -> Step:
    """Make the step of a new run; without replicas, of this process alone."""
    network = AlexNet(recipe, devices, seed, read_mean(dataset, recipe.crop))
    return Step(network, Momentum(network, recipe), precision, replicas, record)


def find_state(
    step: Step, dataset: Dataset, run: RunDirectory, identity: dict[str, Any], settings: TrainSettings
) -> RunState:
    """Find where the run in its folder stands, bring the step there and open the folder for more."""
    state = resume(run.path, step, identity, settings.allow_changes, warn)
    if settings.init_from and state.step == 0:
        begin_with(step.network, settings.init_from, step.replicas)
    if step.replicas.first:
        if step.recipe.anew and state.step == 0 and not settings.init_from:
            name = step.recipe.name
            warn(
                f"recipe {name} continues another training; without --init-from RUN "
                "all layers start at random"
            )
        tell_room(run.path, step.recipe)
        known = [dataset.root / name for name in COPIES]
        run.open(state.step, len(state.history), about_run(dataset, identity), known)
    return state


def make_trainer(
    step: Step,
    dataset: Dataset,
    run: RunDirectory,
    identity: dict[str, Any],
    state: RunState,
    watch: Watch,
    settings: TrainSettings,
) -> Trainer:
    """Join the step to the images of training, from `state` on, and of validation."""
    devices = step.network.devices
    images = stream_options(step.recipe, devices[0], settings.machine.workers)
    images |= {"rank": step.replicas.rank, "world": step.replicas.world}
    batches = train_batches(dataset, step.recipe, step.network.seed, state.step, images)
    return Trainer(
        step=step,
        batches=prefetch_to_devices(batches.endless(), devices),
        images=dataset.samples("train"),
        validate=make_validation(step, dataset, images),
        run=run,
        identity=identity,
        state=state,
        watch=watch,
        save_seconds=60 * settings.save_minutes,
    )


def tell_room(folder: Path, recipe: Recipe) -> None:
    """Warn if the disk may be too small for a run's four checkpoints: a new one, last, previous and best."""
    size = state_size(recipe)
    there, free = sum(path.stat().st_size for path in folder.glob("*.pt")), shutil.disk_usage(folder).free
    if free + there < 4 * size:
        warn(
            f"{folder} will hold up to four checkpoints of {disk_size(size)} each, but only "
            f"{disk_size(free)} are free there"
        )


def state_size(recipe: Recipe) -> int:
    """Return the bytes of a state: weights and velocities."""
    return 2 * 4 * sum(shape.parameters for shape in recipe.shapes())


def begin_with(network: AlexNet, source: str, replicas: Replicas) -> None:
    """Load the weights of another training, as far as they fit, in place of those drawn."""
    path, saved = trained.open_checkpoint(source, "last")
    try:
        drawn = weights.load_matching(network, saved["weights"])
    except RunError as error:
        raise RunError(f"--init-from {source}: {error}") from None
    if replicas.first:
        left = f"; these layers start at random: {', '.join(drawn)}" if drawn else ""
        say_row("weights", f"from {path}{left}")


def make_validation(
    step: Step, dataset: Dataset, images: dict[str, Any]
) -> Callable[[Callable[[int], None]], Evaluation]:
    """Return a function that evaluates the centre view of every validation image."""

    def validate(each: Callable[[int], None]) -> Evaluation:
        views = EvaluationBatches(dataset, "val", **evaluation_options(step.recipe, ten_crop=False), **images)
        return evaluate(step.network, views, precision=step.precision, each=each)

    return validate


def identify(step: Step, dataset: Dataset, init_from: str | None) -> dict[str, Any]:
    """Return all that the bits of a run depend on: if it changes, the run is another."""

    def name(device: torch.device) -> str:
        cuda = device.type == "cuda"
        return torch.cuda.get_device_name(device) if cuda else f"CPU x {torch.get_num_threads()}"

    identity = {
        "recipe": step.recipe.to_dict(),
        "seed": step.network.seed,
        "dataset": dataset.fingerprint[:16],
        "processes": step.replicas.world,
        "devices": " + ".join(map(name, step.network.devices)),
        "precision": step.precision,
        "torch": version("torch"),
        "dali": nvidia.dali.__version__,  # the wheel's name depends on CUDA
    }
    return identity | ({"init_from": init_from} if init_from else {})


def about_run(dataset: Dataset, identity: dict[str, Any]) -> dict[str, Any]:
    """Return run.json's content: what the run is, and how it was started this time."""
    start = {key: value for key, value in identity.items() if key not in ("recipe", "dataset")}
    return {
        "recipe": identity["recipe"],
        "data": {"path": str(dataset.root.resolve()), "fingerprint": dataset.fingerprint},
        "starts": {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": shlex.join(["alexnet-dali", *sys.argv[1:]]),
            **start,
            "python": platform.python_version(),
        },
    }
