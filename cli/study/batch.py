"""Show the images of one training step, stage by stage."""

from typing import Any

import numpy as np
import torch
from msgspec.structs import replace

from cli.compose.images import stream_options, train_batches
from cli.compose.trained import first_word
from model import schedule
from pipeline.arguments import read_mean
from pipeline.order import draws, epoch_order
from pipeline.source.names import name_older


def training_images(
    dataset: Any, recipe: Any, seed: int, step: int, count: int
) -> tuple[dict[str, Any], list[str]]:
    """Return the images of each stage by row, and their classes. The last stage is the network's input."""
    shared = stream_options(recipe, torch.device("cpu"), None)
    mean = read_mean(dataset, recipe.crop).numpy()
    noisy, plain = (
        train_batches(dataset, changed, seed, step, shared)
        for changed in (recipe, replace(recipe, noise=0.0))
    )

    def visible(values: Any) -> list[Any]:
        """Turn (N, 3, crop, crop) in 0..255 into pictures."""
        return list(np.rint(values).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))

    count = min(count, noisy.total(step))
    (images, labels), (noisy_images, _) = next(plain), next(noisy)
    plain.close()
    noisy.close()
    cropped, noisy_ones = images[:count].numpy(), noisy_images[:count].numpy()
    epoch, skip = divmod(step, noisy.steps_per_epoch)
    divisor = schedule.divisor(recipe, epoch + 1)
    order = epoch_order(noisy.samples.index["shard"], seed, epoch)[skip * recipe.batch_size :]
    squares = map(noisy.samples.square, order[:count].tolist())
    corners = draws(seed, step, noisy.total(step), range(count), recipe.offsets)
    top, left = (corner.astype(int) + noisy.margin for corner in (corners.top, corners.left))
    places = zip(squares, top, left, strict=True)
    rows = {
        "stored image,\ncrop highlighted": [frame(square, y, x, recipe.crop) for square, y, x in places],
        "cropped, flipped": visible(cropped),
        "with colour noise": visible(noisy_ones),
        "mean subtracted:\nnetwork input": visible(127.5 + (noisy_ones - mean) / divisor / 2),
    }
    classes = name_older(dataset.classes)
    return rows, [first_word(classes, label) for label in labels[:count].tolist()]


def frame(image: Any, top: int, left: int, side: int) -> Any:
    """Return the image, whitened outside of a square."""
    faint = (image // 3 + 170).astype(image.dtype)
    kept = slice(top, top + side), slice(left, left + side)
    faint[kept] = image[kept]
    return faint
