"""What the commands that study a trained network share: its run, the network, the facts about its images."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options
from cli.evaluate import find_run
from model.recipe import Recipe, RunError

if TYPE_CHECKING:
    import torch

    from model.network import AlexNet
    from pipeline.dataset import Category, Dataset

run = click.option("--run", "run_name", help="The trained run.  [default: the newest in runs/]")
checkpoint = click.option(
    "--checkpoint", type=click.Choice(["last", "best"]), default="last", help="Which of its states."
)
data = click.option(
    "--data", type=click.Path(path_type=Path), help="The prepared dataset.  [default: the one of the run]"
)


class Picture(click.Path):
    """A file to draw into, of a kind that can be drawn."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if Path(value).suffix not in (".png", ".pdf"):
            self.fail(f"{value}: pictures are .png or .pdf", parameter, context)
        return super().convert(value, parameter, context)


def using_network(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that computes with a run's network."""
    for option in (options.workers, options.precision, options.device, options.gpus, checkpoint, run):
        command = option(command)
    return command


@dataclass(frozen=True)
class Trained:
    """A network as a run saved it, on its devices, and what it takes to show it images."""

    path: Path  # of the checkpoint
    step: int
    recipe: Recipe
    identity: dict[str, Any]
    network: "AlexNet"
    devices: "list[torch.device]"
    precision: str
    facts: "Dataset"  # classes and statistics of the training images; its shards need not be there
    workers: int | None

    def image_options(self) -> dict[str, Any]:
        """What a stream of evaluation images takes beside the images and the views."""
        from cli import compose
        from model.replicas import Replicas

        shared = compose.image_options(
            self.facts, self.recipe, self.devices[0], self.precision, Replicas(), self.workers
        )
        return {key: value for key, value in shared.items() if key not in ("rank", "world")}

    def batch_size(self, views: int) -> int:
        """As many crops at a time as in training."""
        return max(1, self.recipe.batch_size // views)

    def name(self, output: int) -> str:
        """The first word for a class."""
        return first_word(self.facts.classes, output)

    def data(self, root: Path | None) -> "Dataset":
        """The dataset at `root`, or the one that the run was trained on; of the same classes."""
        from pipeline.dataset import open_dataset

        dataset = open_dataset(root or recorded_data(self.path.parent))
        if [c.wnid for c in dataset.classes] != [c.wnid for c in self.facts.classes]:
            raise RunError(f"{dataset.root} has other classes than {self.path.parent} was trained on")
        return dataset


def open_run(run_name: str | None, state: str, settings: dict[str, Any]) -> Trained:
    """The named run, or the newest. settings: gpus, device, precision, workers of the command line."""
    import torch

    from cli import compose
    from model.network import AlexNet

    folder, saved = open_checkpoint(run_name, state)
    recipe = Recipe.from_dict(saved["identity"]["recipe"])
    device = settings["device"]
    if not (device or settings["gpus"] or torch.cuda.is_available()):
        device = "cpu"
    devices = compose.choose_devices(settings["gpus"], device)
    network = AlexNet(recipe, devices, seed=0)
    network.load(saved["weights"])
    return Trained(
        path=folder / f"{state}.pt",
        step=saved["step"],
        recipe=recipe,
        identity=saved["identity"],
        network=network,
        devices=devices,
        precision=compose.use_precision(settings["precision"], devices[0]),
        facts=find_facts(folder, saved["identity"]["dataset"]),
        workers=settings["workers"],
    )


def open_checkpoint(run_name: str | None, state: str) -> tuple[Path, dict[str, Any]]:
    """The run's folder, and what it saved."""
    from model import checkpoint

    folder = find_run(run_name)
    return folder, checkpoint.read(folder / f"{state}.pt")


def find_facts(folder: Path, fingerprint: str) -> "Dataset":
    """Classes and statistics of the images that a run was trained on: its own copy, or the dataset itself."""
    from pipeline.dataset import read_description

    if (folder / "dataset.json").exists():
        return read_description(folder)
    facts = read_description(recorded_data(folder))
    if not facts.fingerprint.startswith(fingerprint):
        raise RunError(f"{facts.root} is no longer the dataset that {folder} was trained on")
    return facts


def recorded_data(folder: Path) -> Path:
    """Where the dataset was when the run was trained."""
    try:
        return Path(json.loads((folder / "run.json").read_text())["data"]["path"])
    except FileNotFoundError:
        raise RunError(f"{folder} has no run.json, which says where its dataset is; give --data") from None
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{folder / 'run.json'} does not say where the dataset is; give --data") from None


def first_word(classes: "Sequence[Category]", output: int) -> str:
    return classes[output].words.partition(",")[0] if output < len(classes) else f"output {output}"
