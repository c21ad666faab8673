"""Make a recipe's training batches, and the options of all streams of batches."""

from typing import Any

import torch

from cli.compose.devices import cores
from model import schedule
from model.recipe import Recipe
from pipeline.batches import TrainBatches
from pipeline.dataset import Dataset

VIEWS = 10  # of an image, where it has more than its centre


def stream_options(recipe: Recipe, device: torch.device, workers: int | None) -> dict[str, Any]:
    """Return the options that all streams of batches have in common; threads: see `executor`."""
    return {"crop": recipe.crop, "device": device, "threads": cores(workers) + 1}


def evaluation_options(recipe: Recipe, ten_crop: bool) -> dict[str, Any]:
    """Return the options of evaluation: uint8 images, as many crops in a batch as in training."""
    size = max(1, recipe.batch_size // (VIEWS if ten_crop else 1))
    return {"ten_crop": ten_crop, "batch_size": size, "dtype": torch.uint8}


def name_views(count: int) -> str:
    """Return what so many views of an image are called."""
    return "ten views" if count > 1 else "centre crop"


def train_batches(
    dataset: Dataset, recipe: Recipe, seed: int, start: int, images: dict[str, Any]
) -> TrainBatches:
    """Return the recipe's training batches from step `start` on.

    images: `stream_options`, and where several processes share a batch, `rank` and `world`.
    """
    return TrainBatches(
        dataset,
        recipe.batch_size,
        offsets=recipe.offsets,
        mirror=recipe.mirror,
        noise=lambda epoch: recipe.noise if schedule.noise(recipe, epoch + 1) else 0.0,
        noise_basis=recipe.noise_basis,
        seed=seed,
        start=start,
        **images,
    )
