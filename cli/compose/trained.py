"""Open a trained network, and read and evaluate images with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cli import options
from cli.compose.devices import choose_devices, use_device
from cli.compose.images import VIEWS, evaluation_options, name_views, stream_options
from cli.compose.predictions import Predictions, write
from cli.compose.runs import find_run
from cli.display import progress, say
from model import checkpoint
from model.errors import RunError
from model.evaluate import Evaluation, evaluate, sound_rates
from model.exchange import weights
from model.network import AlexNet
from model.recipe import Recipe
from model.replicas import Replicas
from model.run import read_about
from model.trained import cut_centre
from pipeline.batches import EvaluationBatches
from pipeline.dataset import (
    Category,
    Dataset,
    check_file,
    has_labels,
    open_dataset,
    read_description,
    read_names,
)
from pipeline.errors import DataError
from pipeline.files import FileBatches
from pipeline.schema import Unfit, convert
from pipeline.source.names import name_older
from pipeline.statistics import Statistics

FILES = 16  # decoded at a time; of 24 megapixels each, 1.2 GB of pixels


@dataclass(frozen=True)
class Facts:
    """Hold what a network must be told of the images that it was trained on."""

    classes: tuple[Category, ...]
    mean: np.ndarray  # (side, side, 3)
    dataset: str  # its fingerprint, or the beginning of it

    @property
    def side(self) -> int:
        """Return the pixels along the squares that crops are cut from."""
        return len(self.mean)


@dataclass(frozen=True)
class Trained:
    """Hold a network as a run saved it, on its devices, and what it takes to show it images."""

    path: Path  # of the checkpoint, or of an exported file
    step: int
    recipe: Recipe
    network: AlexNet
    devices: list[torch.device]
    precision: str
    facts: Facts
    workers: int | None

    @property
    def source(self) -> Path:
        """Return what --run calls it: a run's folder, or an exported file."""
        return self.path.parent if self.path.suffix == ".pt" else self.path

    def batches(
        self, dataset: Dataset, split: str, ten_crop: bool = False, **options: Any
    ) -> EvaluationBatches:
        """Return a split's images as the network reads them, as many crops in a batch as in training."""
        return EvaluationBatches(dataset, split, **self._images(ten_crop) | options)

    def file_batches(self, paths: Sequence[Path], upright: bool, ten_crop: bool = False) -> FileBatches:
        """Return files' images likewise, a few in a batch: a GPU decodes them whole."""
        options = self._images(ten_crop)
        options["batch_size"] = min(options["batch_size"], FILES)
        return FileBatches(paths, side=self.facts.side, upright=upright, **options)

    def _images(self, ten_crop: bool) -> dict[str, Any]:
        shared = stream_options(self.recipe, self.devices[0], self.workers)
        return shared | evaluation_options(self.recipe, ten_crop)

    def name(self, output: int) -> str:
        """Return the first word for a class."""
        return first_word(self.facts.classes, output)

    def data(self, root: Path | None) -> Dataset:
        """Open the dataset at `root`, or the one that the run was trained on; of the same classes."""
        known = root or recorded_data(self.source)
        if not root and not known.exists():
            raise RunError(
                f"{known}, which {self.source} was trained on, does not exist any more; give its new place "
                "with --data"
            )
        dataset = open_dataset(known)
        if [c.wnid for c in dataset.classes] != [c.wnid for c in self.facts.classes]:
            raise RunError(
                f"{known} has other classes than {self.source} was trained on; give another --data"
            )
        if dataset.side != self.facts.side:
            raise RunError(
                f"{known} holds images of {dataset.side} pixels, and {self.source} was trained on images of "
                f"{self.facts.side}; give another --data"
            )
        return dataset


def open_run(run_name: str | None, state: str, machine: options.Machine) -> Trained:
    """Open the named run, or the newest; on the CPU if there is no GPU and no device was asked for."""
    path, saved = open_checkpoint(run_name, state)
    recipe = Recipe.from_dict(saved["identity"]["recipe"])
    if not (machine.device or machine.gpus or torch.cuda.is_available()):
        machine = replace(machine, device="cpu")
    devices = choose_devices(machine)
    facts = saved.get("facts") or find_facts(path.parent, saved["identity"]["dataset"])
    facts = replace(facts, classes=name_older(facts.classes))
    network = AlexNet(recipe, devices, seed=0, mean=cut_centre(facts.mean, recipe.crop))
    network.load(saved["weights"])
    return Trained(
        path=path,
        step=saved["step"],
        recipe=recipe,
        network=network,
        devices=devices,
        precision=use_device(devices[0], machine.precision),
        facts=facts,
        workers=machine.workers,
    )


def open_checkpoint(run_name: str | None, state: str) -> tuple[Path, dict[str, Any]]:
    """Return path and content of a run's checkpoint, or of an exported file as far as it has that."""
    path = Path(run_name or "")
    if path.suffix == ".safetensors":
        return path, read_export(path)
    if path.suffix != ".pt":
        if path.is_file():
            raise RunError(f"{path} is not a run, a .pt of one or a .safetensors of alexnet-dali export")
        folder = find_run(run_name)
        path = folder / f"{state}.pt"
        if not path.exists():
            there = ", ".join(sorted(state.name for state in folder.glob("*.pt")))
            first = (
                "training has saved nothing yet; it does so after each epoch and every --save-minutes (10)"
            )
            what = f"it has {there}" if there else first
            raise RunError(f"{folder} has no {path.name}: {what}")
    try:
        return path, checkpoint.read(path)
    except checkpoint.Damaged as error:
        others = [path.with_name(name) for name in ("last.pt", "previous.pt", "best.pt")]
        there = " and ".join(str(other) for other in others if other != path and other.exists())
        raise RunError(f"{error}" + (f"; try --run with {there}" if there else "")) from None


def read_export(path: Path) -> dict[str, Any]:
    """Return what a checkpoint has, as far as a file of `export` holds it, and the facts."""
    file = weights.read(path)
    step, dataset = file.about["step"], file.about["dataset"]
    try:
        classes = convert(file.about["classes"], tuple[Category, ...])
    except Unfit as error:
        raise RunError(f"{path} was not written by alexnet-dali export, or is damaged: {error}") from None
    return {
        "weights": file.state,
        "step": step,
        "identity": {"recipe": file.recipe.to_dict(), "dataset": dataset},
        "facts": Facts(classes, file.mean.numpy(), dataset),
    }


def find_facts(folder: Path, fingerprint: str) -> Facts:
    """Return the facts of a run's images: its own copy, or that of the same dataset."""
    copied = (folder / "dataset.json").exists()
    root = folder if copied else recorded_data(folder)
    try:
        known = read_description(root)
        check_file(known, "statistics.npz")
        mean = Statistics.load(root / "statistics.npz").mean
    except DataError as error:
        what = str(error).partition(": ")[0]
        advice = f"remove dataset.json and statistics.npz of {root}: then the dataset's own are read"
        raise RunError(f"{what}; {advice}" if copied else str(error)) from None
    if not known.fingerprint.startswith(fingerprint):
        raise RunError(f"{root} is no longer the dataset that {folder} was trained on")
    return Facts(known.classes, mean, known.fingerprint)


def recorded_data(folder: Path) -> Path:
    """Return where the dataset was when the run was trained."""
    if not folder.is_dir():
        raise RunError(f"{folder} does not say where a dataset is; name one with --data")
    try:
        return Path(read_about(folder / "run.json")["data"]["path"])
    except FileNotFoundError:
        raise RunError(f"{folder} has no run.json, which says where its dataset is; give --data") from None


def title(path: Path) -> str:
    """Return what pictures call the network of a checkpoint or an exported file."""
    return path.parent.name if path.suffix == ".pt" else path.stem


def first_word(classes: Sequence[Category], output: int) -> str:
    return classes[output].words.partition(",")[0] if output < len(classes) else f"output {output}"


def evaluate_run(
    run: Trained,
    dataset: Dataset,
    replicas: Replicas,
    split: str,
    ten_crop: bool,
    predictions: Path | None,
) -> dict[str, Any]:
    """Return a network's errors on a split, in percent; in the first process, those of all processes.

    predictions: where to write the probabilities, if at all.
    """
    mine = (run.step, dataset.fingerprint, run.precision)
    if replicas.broadcast(mine) != mine:
        raise RunError(f"process {replicas.rank} has another checkpoint, dataset or precision than process 0")
    batches = run.batches(dataset, split, ten_crop, rank=replicas.rank, world=replicas.world)
    views = VIEWS if ten_crop else 1
    what = f"{split}, {name_views(views)}"
    evaluation = compute(run, batches, replicas, what, keep=bool(predictions))
    sums, samples = replicas.gather_sums(evaluation.sums).sum(0), dataset.samples(split)
    images = int(sums[0])
    if images != samples:
        raise RunError(f"{images} images were counted, {dataset.root} has {samples} in {split}")
    errors = sound_rates(sums, run.path)
    if predictions:
        probabilities = replicas.gather_rows(evaluation.probabilities)
        if replicas.first:
            labels, wnids = batches.samples.index["label"], [category.wnid for category in dataset.classes]
            content = Predictions(probabilities.numpy(), labels, read_names(dataset, split), wnids)
            write(predictions, content)
    counted = errors if has_labels(dataset, split) else {}
    return {"split": split, "images": images, "views": views, **counted, "precision": run.precision}


def compute(
    run: Trained, batches: EvaluationBatches, replicas: Replicas, what: str, keep: bool
) -> Evaluation:
    """Evaluate this process's share, in step with the others after each batch: none waits for long."""
    with progress(what, len(batches.rows), quiet=not replicas.first) as done:

        def each(images: int) -> None:
            done(images)
            replicas.max_over_processes([1])

        evaluation = evaluate(run.network, batches, precision=run.precision, keep=keep, each=each)
        while replicas.max_over_processes([0])[0]:  # others may have a batch more
            pass
    return evaluation


def read_images(run: Trained, paths: Sequence[Path], upright: bool) -> Any:
    """Yield each path and the (1, 3, crop, crop) that the network reads; a broken image is an error."""
    batches = run.file_batches(paths, upright)
    for images, numbers in batches:
        for row, number in enumerate(numbers.tolist()):
            if note := batches.notes.get(number):
                say(f"warning: {paths[number]} {note}", err=True)
            yield paths[number], images[row : row + 1]
    for number, fault in batches.faults.items():
        raise DataError(f"{paths[number]} {fault}")
