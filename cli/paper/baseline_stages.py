"""Run the stages of a baseline. What each makes is in the run's folder once it is whole:

codebook.npz    learned from a random sample of descriptors: components and mixture, or a dictionary
SPLIT/*.npy     features, (images, n) float16, a file for each shard of the dataset
classifier.pt   the one-vs-rest classifiers, after each epoch
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from PIL import Image

from model import checkpoint
from model.baselines.fisher import FisherVectors
from model.baselines.linear import BATCH, RATE, OneVsRest
from model.baselines.sift import Grid, dense_sift, regions
from model.baselines.sparse import SparseCodes
from model.errors import RunError
from model.evaluate import Batch, Evaluation, evaluate, sound_rates, tally
from model.network import check_sizes
from model.run import RunDirectory
from pipeline import image
from pipeline.atomic import make_folder, replacing
from pipeline.dataset import Dataset, open_dataset
from pipeline.samples import Samples
from pipeline.schema import Array, Count, Positive, Unfit, map_npy, read_npz
from pipeline.workers import run_tasks

Codebook = FisherVectors | SparseCodes
Shard = tuple[str, int]  # its split and number
Each = Callable[[int], None]  # told of images as they are done
CODEBOOKS: dict[str, type[FisherVectors] | type[SparseCodes]] = {
    "sift-fv": FisherVectors,
    "sparse-coding": SparseCodes,
}
FLOAT = (np.float32,)
ARRAYS = {  # of codebook.npz
    "sift-fv": {
        "centre": Array(FLOAT, (128,)),
        "axes": Array(FLOAT, ("dimensions", 128)),
        "weights": Array(FLOAT, ("components",)),
        "means": Array(FLOAT, ("components", "dimensions")),
        "variances": Array(FLOAT, ("components", "dimensions")),
    },
    "sparse-coding": {"dictionary": Array(FLOAT, ("words", 128))},
}
SAMPLED, A_TASK = 5000, 16  # images that descriptors are sampled from, at most; images per task
EVALUATED = 256  # images at a time


class Classifier(Struct, forbid_unknown_fields=True):
    """Describe the content of classifier.pt."""

    format: int
    epochs: Positive
    epoch: Positive
    step: Count
    weights: dict[str, torch.Tensor]


@dataclass(frozen=True)
class BaselinePlan:
    """Hold all that features depend on, and where they go. Worker processes run its methods."""

    baseline: str
    grid: Grid
    levels: tuple[tuple[int, int], ...]  # of the spatial pyramid, (columns, rows)
    sizes: dict[str, int]  # of the codebook
    sample: int  # about so many descriptors teach the codebook
    seed: int
    data: Path
    folder: Path

    def settings(self) -> dict[str, Any]:
        """Return the settings as run.json has them."""
        fields = {**asdict(self), "levels": [list(level) for level in self.levels]}
        return {name: fields[name] for name in fields if name not in ("data", "folder")}

    @property
    def codebook_path(self) -> Path:
        return self.folder / "codebook.npz"

    def features_path(self, shard: Shard) -> Path:
        return self.folder / shard[0] / f"{shard[1]:06d}.npy"

    def sample_descriptors(self, numbers: Sequence[int]) -> np.ndarray:
        """Sample descriptors, as many of each of these training images: (n, 128) uint8."""
        samples, drawn = open_samples(self.data, "train"), []
        each = -(-self.sample // min(SAMPLED, len(samples)))
        for number in numbers:
            descriptors, _ = dense_sift(read_grey(samples, number), self.grid)
            order = np.random.default_rng((self.seed, number)).permutation(len(descriptors))
            drawn.append(descriptors[order[:each]])
        return np.concatenate(drawn)

    def write_features(self, shard: Shard) -> int:
        """Write the features of a shard's images; return their number."""
        samples, codebook = open_samples(self.data, shard[0]), open_codebook(self)
        numbers = np.flatnonzero(samples.index["shard"] == shard[1])
        shape = (len(numbers), self.regions * codebook.length)
        header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
        with replacing(self.features_path(shard)) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for number in numbers.tolist():
                descriptors, places = dense_sift(read_grey(samples, number), self.grid)
                vector = codebook.encode(descriptors, regions(places, self.levels))
                file.write(vector.astype(np.float16).tobytes())
        return len(numbers)

    @property
    def regions(self) -> int:
        return sum(columns * rows for columns, rows in self.levels)


@lru_cache
def open_samples(root: Path, split: str) -> Samples:
    return Samples(open_dataset(root), split)


def open_codebook(plan: BaselinePlan) -> Codebook:
    return CODEBOOKS[plan.baseline](**read_codebook(plan.baseline, plan.codebook_path))


def read_codebook(baseline: str, path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of codebook.npz."""
    try:
        arrays = read_npz(path, ARRAYS[baseline])
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise Unfit("it holds NaN or infinite numbers")
    except Unfit as error:
        raise RunError(f"{path} is damaged: {error}; remove it and run the same command again") from None
    return arrays


def read_grey(samples: Samples, number: int) -> np.ndarray:
    """Return a stored image's luma, (side, side) uint8."""
    try:
        pixels = samples.square(number)
    except image.BadImage:
        raise samples.damage(number) from None
    return np.asarray(Image.fromarray(pixels).convert("L"))


def learn_codebook(plan: BaselinePlan, dataset: Dataset, workers: int, each: Each) -> Codebook:
    """Return the codebook in the folder, or learn a new one."""
    if not plan.codebook_path.exists():
        numbers = np.random.default_rng(plan.seed).permutation(dataset.samples("train"))[:SAMPLED].tolist()
        tasks = [tuple(numbers[first : first + A_TASK]) for first in range(0, len(numbers), A_TASK)]
        sampled = {}
        for task, descriptors in run_tasks(plan.sample_descriptors, tasks, min(workers, len(tasks))):
            sampled[task] = descriptors
            each(len(task))
        descriptors = np.concatenate([sampled[task] for task in tasks])
        codebook = CODEBOOKS[plan.baseline].fit(descriptors, **plan.sizes, seed=plan.seed)
        with replacing(plan.codebook_path) as file:
            np.savez(file, **vars(codebook))
    return open_codebook(plan)


def missing(plan: BaselinePlan, dataset: Dataset, splits: Iterable[str]) -> list[Shard]:
    """Return the shards that have no features yet."""
    shards = [(split, number) for split in splits for number in range(len(dataset.splits[split]))]
    return [shard for shard in shards if not plan.features_path(shard).exists()]


def write_features(plan: BaselinePlan, shards: Sequence[Shard], workers: int, each: Each) -> None:
    for split, _ in shards:
        make_folder(plan.folder / split)
    for _, images in run_tasks(plan.write_features, shards, min(workers, len(shards))):
        each(images)


def read_features(plan: BaselinePlan, shard: Shard) -> Batch:
    """Read a shard's features, (images, n) float16, and labels, (images,) int64."""
    samples, path = open_samples(plan.data, shard[0]), plan.features_path(shard)
    labels = samples.index["label"][samples.index["shard"] == shard[1]].astype(np.int64)
    shape = (len(labels), plan.regions * open_codebook(plan).length)
    try:
        features = np.array(map_npy(path, Array((np.float16,), shape)))
    except Unfit as error:
        raise RunError(f"{path} is damaged: {error}; remove it and run the same command again") from None
    return torch.from_numpy(features), torch.from_numpy(labels)


def read_state(folder: Path, epochs: int) -> dict[str, Any]:
    """Read where the classifiers stand: step, epoch, and weights if there are some."""
    path = folder / "classifier.pt"
    if not path.exists():
        return {"step": 0, "epoch": 0}
    again = "remove it to train again on the same features"
    try:
        state = checkpoint.read_content(path, Classifier)
    except checkpoint.Damaged as error:
        raise RunError(f"{error}; {again}") from None
    if state["epochs"] != epochs:
        raise RunError(f"{path} is of --epochs {state['epochs']}, not {epochs}; repeat that, or {again}")
    return state


class Training:
    """Train the classifiers on the features of `plan`, from the `state` that `read_state` found."""

    def __init__(
        self, plan: BaselinePlan, dataset: Dataset, features: int, epochs: int, state: dict[str, Any]
    ) -> None:
        self.plan, self.dataset, self.epochs = plan, dataset, epochs
        self.classifiers = OneVsRest(features, len(dataset.classes))
        self.step, self.epoch = state["step"], state["epoch"]
        if self.epoch:
            try:
                check_sizes(
                    state["weights"], {n: tuple(t.shape) for n, t in self.classifiers.state_dict().items()}
                )
            except RunError as error:
                raise RunError(f"{error}: remove {plan.folder / 'classifier.pt'} to train again") from None
            self.classifiers.load_state_dict(state["weights"])

    def train(self, run: RunDirectory, each: Each) -> None:
        """Train to the end, and validate after each epoch."""
        while self.epoch < self.epochs:
            started = time.monotonic()
            sums = self.train_epoch(each)
            rate = sums[0].item() / (time.monotonic() - started)
            self.epoch += 1
            place = {"step": self.step, "epoch": self.epoch}
            run.add({"kind": "train", **place, **sound_rates(sums, run.path), "img_s": rate})
            run.add({"kind": "val", **place, **sound_rates(self.evaluate("val").sums, run.path)})
            run.sync()
            state = {"weights": self.classifiers.state_dict(), "epochs": self.epochs, **place}
            checkpoint.save(self.plan.folder / "classifier.pt", state)

    def train_epoch(self, each: Each) -> torch.Tensor:
        """Train for an epoch; return the tally of the scores before each update.

        Shards come in random order, and images in random order within them, as the dataset is shuffled
        already: one shard's features are in memory at a time.
        """
        random = np.random.default_rng((self.plan.seed, self.epoch))
        images, sums = self.dataset.samples("train"), torch.zeros(4, dtype=torch.float64)
        for number in random.permutation(len(self.dataset.splits["train"])).tolist():
            features, labels = read_features(self.plan, ("train", number))
            order = torch.from_numpy(random.permutation(len(labels)))
            for first in range(0, len(order), BATCH):
                rows = order[first : first + BATCH]
                done = (self.epoch + sums[0].item() / images) / self.epochs
                scores = self.classifiers.update(features[rows].float(), labels[rows], RATE * (1 - done))
                sums += tally(scores.softmax(1), labels[rows])
                self.step += 1
            each(len(labels))
        return sums

    def evaluate(self, split: str) -> Evaluation:
        """Evaluate the softmax of the scores: as probabilities, only its order means something."""
        return evaluate(self.classifiers, self.batches(split), precision="float32", keep=True)

    def batches(self, split: str) -> Iterator[Batch]:
        """Yield the features and labels of a split, as `evaluate` reads images of one view."""
        for number in range(len(self.dataset.splits[split])):
            features, labels = read_features(self.plan, (split, number))
            for first in range(0, len(labels), EVALUATED):
                rows = slice(first, first + EVALUATED)
                yield features[rows].float(), labels[rows]
