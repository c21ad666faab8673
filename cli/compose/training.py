"""A Trainer from a recipe, a dataset and a run folder."""

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
from typing import TYPE_CHECKING, Any

from cli import options
from cli.display import say, warn
from cli.options import Machine
from cli.signals import StopWish, handled
from model import schedule
from model.errors import RunError
from model.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from model.evaluate import Evaluation
    from model.network import AlexNet
    from model.replicas import Replicas
    from model.run import RunDirectory
    from model.train import Trainer
    from pipeline.dataset import Dataset


@dataclass(frozen=True)
class TrainSettings:
    """How a recipe is trained, as asked for on the command line."""

    machine: Machine
    cuda_graph: bool
    seed: int
    save_minutes: float
    stop_after: float | None  # minutes
    allow_changes: bool
    init_from: str | None


def train(recipe: Recipe, dataset: "Dataset", path: Path, settings: TrainSettings) -> int:
    """The run at `path`, from its last checkpoint if there is one, to its schedule's end. The exit status."""
    if settings.stop_after is not None and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise RunError("--stop-after under torchrun --max-restarts: it would start the stopped run again")
    from cli.compose.devices import choose_devices, recorder, told_plainly, use_device
    from cli.display import Display
    from model.replicas import joined
    from model.run import RunDirectory
    from model.train import Stopped, Watch

    devices = choose_devices(settings.machine)
    precision = use_device(devices[0], settings.machine.precision)
    record = recorder(settings.cuda_graph, devices)
    stop = StopWish(settings.stop_after)
    with (
        handled(signal.SIG_DFL) as change,  # there is nothing to save yet, and others may never come
        told_plainly(recipe.batch_size, devices),
        joined(devices[0], warn) as replicas,
        RunDirectory(path, replicas.first) as run,
    ):
        trainer = make_trainer(recipe, dataset, run, devices, precision, replicas, settings)
        trainer.record = record
        per_epoch = -(-trainer.images // recipe.batch_size)
        quiet = not replicas.first
        with Display(schedule.epochs(recipe), per_epoch, trainer.state.step, quiet) as display:
            trainer.watch = Watch(stop, display.step, stop.unbroken(display.row))
            change(stop.receive)
            try:
                trainer.train()
            except Stopped as stopped:
                if replicas.first:
                    step = trainer.state.step
                    say(f"stopped at step {step:,}; the same command goes on from there", err=True)
                return stopped.status
        if replicas.first:
            which = "" if path.parent == options.RUNS else f" --run {shlex.quote(options.run_name(path))}"
            say(f"{path} is trained; now: alexnet-dali eval --ten-crop{which}")
    return 0


def make_trainer(
    recipe: Recipe,
    dataset: "Dataset",
    run: "RunDirectory",
    devices: "list[torch.device]",
    precision: str,
    replicas: "Replicas",
    settings: TrainSettings,
) -> "Trainer":
    """Network, velocities and batches, where the run in its folder stands."""
    from cli.compose.images import read_mean, stream_options, train_batches
    from model.network import AlexNet
    from model.optim import Momentum
    from model.placement import aside
    from model.train import Trainer, take_up

    seed = settings.seed
    images = stream_options(recipe, devices[0], settings.machine.workers)
    images |= {"rows": replicas.rows}
    mean = read_mean(dataset.root, recipe)
    identity = identify(recipe, dataset, devices, precision, replicas, seed)
    if settings.init_from:
        identity["init_from"] = settings.init_from
    network = AlexNet(recipe, devices, seed, mean)
    optimiser = Momentum(network, recipe)
    state = take_up(run.path, network, optimiser, identity, replicas, settings.allow_changes, warn)
    if settings.init_from and state.step == 0:
        begin(network, settings.init_from, replicas)
    if replicas.first:
        tell_room(run.path, recipe)
        # what predict must know, should the data be gone
        known = [dataset.root / name for name in ("dataset.json", "statistics.npz")]
        run.open(state.step, len(state.history), describe(dataset, identity), known)
    return Trainer(
        network=network,
        optimiser=optimiser,
        recipe=recipe,
        batches=aside(iter(train_batches(dataset, recipe, seed, state.step, images)), devices),
        images=dataset.samples("train"),
        validate=make_validation(network, dataset, recipe, precision, images),
        run=run,
        identity=identity,
        state=state,
        precision=precision,
        replicas=replicas,
        save_seconds=60 * settings.save_minutes,
    )


def tell_room(folder: Path, recipe: Recipe) -> None:
    """Warn where the states that a run keeps may not find room: a new one, last, previous and best."""
    size = 2 * 4 * sum(shape.parameters for shape in recipe.shapes())  # weights and velocities
    there, free = sum(path.stat().st_size for path in folder.glob("*.pt")), shutil.disk_usage(folder).free
    if free + there < 4 * size:
        warn(
            f"{folder} will hold up to four states of {size / 1e6:,.1f} MB each, and {free / 1e6:,.1f} MB "
            "are free there"
        )


def begin(network: "AlexNet", source: str, replicas: "Replicas") -> None:
    """The weights of another training, as far as they fit, in place of those drawn."""
    from cli.compose import trained
    from model.exchange import weights

    path, saved = trained.open_checkpoint(source, "last")
    try:
        drawn = weights.begin(network, saved["weights"])
    except RunError as error:
        raise RunError(f"--init-from {source}: {error}") from None
    if replicas.first:
        say(f"begins with {path}" + (f"; as drawn: {', '.join(drawn)}" if drawn else ""))


def make_validation(
    network: "AlexNet", dataset: "Dataset", recipe: Recipe, precision: str, images: dict[str, Any]
) -> Callable[[Callable[[int], None]], "Evaluation"]:
    """The centre view of every validation image, anew at each call."""
    from model.evaluate import evaluate
    from pipeline.batches import EvaluationBatches
    from pipeline.graph import CENTRE_VIEW

    def validate(each: Callable[[int], None]) -> "Evaluation":
        views = EvaluationBatches(dataset, "val", views=CENTRE_VIEW, batch_size=recipe.batch_size, **images)
        return evaluate(network, views, precision=precision, each=each)

    return validate


def identify(
    recipe: Recipe,
    dataset: "Dataset",
    devices: "list[torch.device]",
    precision: str,
    replicas: "Replicas",
    seed: int,
) -> dict[str, Any]:
    """All that the bits of a run depend on: where it changes, the run is another."""
    import nvidia.dali
    import torch

    def name(device: torch.device) -> str:
        cuda = device.type == "cuda"
        return torch.cuda.get_device_name(device) if cuda else f"CPU x {torch.get_num_threads()}"

    return {
        "recipe": recipe.to_dict(),
        "seed": seed,
        "dataset": dataset.fingerprint[:16],
        "processes": replicas.world,
        "devices": " + ".join(map(name, devices)),
        "precision": precision,
        "torch": version("torch"),
        "dali": nvidia.dali.__version__,  # the wheel is named after its CUDA
    }


def describe(dataset: "Dataset", identity: dict[str, Any]) -> dict[str, Any]:
    """run.json: what the run is, and how it was started this time."""
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
