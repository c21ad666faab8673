"""Make a recipe's images: mean, colour noise, training stream."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cli.compose.devices import cores
from model import schedule
from model.recipe import Recipe
from pipeline.batches import TrainBatches
from pipeline.dataset import Dataset
from pipeline.graph import CENTRE_VIEW, STORED, TEN_VIEWS
from pipeline.statistics import Statistics


def stream_options(recipe: Recipe, device: torch.device, workers: int | None) -> dict[str, Any]:
    """Return the options that all streams of batches have in common.

    Each of DALI's operators waits for its slowest thread: one thread more than cores keeps all of them busy.
    """
    return {"crop": recipe.crop, "device": device, "threads": cores(workers) + 1}


def choose_views(ten_crop: bool) -> tuple[tuple[int, int, int], ...]:
    """Return the paper's ten views of an image, or its centre alone."""
    return TEN_VIEWS if ten_crop else CENTRE_VIEW


def name_views(count: int) -> str:
    """Return what so many views of an image are called."""
    return "ten views" if count > 1 else "centre crop"


def read_mean(root: Path, recipe: Recipe) -> torch.Tensor:
    """Read the mean image beside a dataset's description; return what the network subtracts."""
    return centre_mean(Statistics.load(root / "statistics.npz").mean, recipe)


def centre_mean(mean: np.ndarray, recipe: Recipe) -> torch.Tensor:
    """Return (3, crop, crop): 2012 subtracts the mean's centre from every crop, flipped or not."""
    kept = slice((STORED - recipe.crop) // 2, (STORED + recipe.crop) // 2)
    return torch.from_numpy(np.float32(mean[kept, kept])).permute(2, 0, 1)


def train_batches(
    dataset: Dataset, recipe: Recipe, seed: int, start: int, images: dict[str, Any]
) -> TrainBatches:
    """Return the recipe's stream of training batches from step `start` on.

    images: `stream_options`, and where several processes share a batch, this one's `rows`.
    """
    return TrainBatches(
        dataset,
        batch_size=recipe.batch_size,
        offsets=recipe.offsets,
        colour=colour_noise(dataset, recipe),
        seed=seed,
        start=start,
        **images,
    )


def colour_noise(dataset: Dataset, recipe: Recipe) -> Callable[[int], np.ndarray]:
    """Return a function of the epoch: the matrix of its colour noise, in 0..255 units.

    2012 multiplied the eigenvectors by standard deviations. The paper says eigenvalues, which make sense for
    pixels in 0..1 only: a 255th of the variance in 0..255 units, once the shift is back in those units.
    """
    statistics = Statistics.load(dataset.root / "statistics.npz")
    size = {"deviations": statistics.deviations, "eigenvalues": statistics.eigenvalues / 255}[
        recipe.noise_basis
    ]
    matrix = recipe.noise * statistics.eigenvectors * size
    return lambda epoch: matrix if schedule.noise(recipe, epoch) else 0 * matrix
