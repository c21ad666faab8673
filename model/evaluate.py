"""Compute top-1 and top-5 errors as the paper does, for one view or averaged over ten (section 4.1)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from model.errors import RunError
from model.placement import autocast

Batch = tuple[torch.Tensor, torch.Tensor]
LOST = (
    "the outputs are not finite: the training diverged, or the file is damaged; "
    "try --checkpoint best, or another run"
)


def tally(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (4,) float64 sums over a batch: images, -log p(label), top-1 errors, top-5 errors.

    probabilities: (rows, classes); labels: (rows,) int64. Classes that tie with the label share the remaining
    places, as in the 2012 code (src/layer_kernels.cu), so that a constant output scores as chance. An image
    whose p(label) is not finite counts as wrong and makes the loss not finite.
    """
    of_label = probabilities.gather(1, labels[:, None])
    above = (probabilities > of_label).sum(1)
    ties = (probabilities == of_label).sum(1).clamp_min(1)  # NaN does not equal itself
    sound = of_label[:, 0].isfinite()
    wrong = [(1 - ((top - above) / ties).clamp(0, 1) * sound).double().sum() for top in (1, 5)]
    loss = -of_label.double().clamp_min(torch.finfo(torch.float32).tiny).log().sum()
    return torch.stack([torch.full_like(loss, len(labels)), loss, *wrong])


def error_percentages(sums: torch.Tensor) -> dict[str, float]:
    """Return a tally as loss (nats per image) and errors (percent). Waits for the device."""
    images, loss, top1, top5 = sums.tolist()
    return {"loss": loss / images, "top1_err": 100 * top1 / images, "top5_err": 100 * top5 / images}


def sound_rates(sums: torch.Tensor, source: object) -> dict[str, float]:
    """Return `error_percentages`; RunError names the source if the loss is not finite."""
    measured = error_percentages(sums)
    if not math.isfinite(measured["loss"]):
        raise RunError(f"{source}: the loss is {measured['loss']}, for {LOST}")
    return measured


@dataclass(frozen=True)
class Evaluation:
    """Hold what `evaluate` computed."""

    sums: torch.Tensor  # (4,), see `tally`
    probabilities: torch.Tensor  # (images, classes) float32 on the CPU, in order; no rows unless `keep`


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    precision: str,
    keep: bool = False,
    each: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Evaluate each image of `batches` once, averaging the softmax outputs of its views.

    images: (rows, 3, crop, crop) or (rows, views, 3, crop, crop), labels: (rows,) int64; the tally of unknown
    labels (-1) is meaningless. keep: also return the probabilities. each: called after a batch with its
    number of images.
    """
    sums, kept = torch.zeros(4, dtype=torch.float64), []
    for images, labels in batches:
        probabilities = over_views(network, images, precision)
        sums = sums.to(labels.device) + tally(probabilities, labels.clamp_min(0))
        if keep:
            kept.append(probabilities.cpu())
        each(len(labels))
    return Evaluation(sums, torch.cat(kept) if kept else torch.empty(0, 0))


def over_views(network: nn.Module, images: torch.Tensor, precision: str) -> torch.Tensor:
    """Return (rows, classes): the views' mean softmax output. images: as for `evaluate`."""
    views = images if images.ndim == 5 else images[:, None]
    with autocast(images.device, precision):
        logits = network(views.flatten(0, 1))
    probabilities: torch.Tensor = logits.float().softmax(1).unflatten(0, views.shape[:2]).mean(1)
    return probabilities
