"""Errors as the paper counts them: top-1 and top-5, of one view or averaged over ten (paper section 4.1)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from model.errors import RunError
from model.placement import autocast

Batch = tuple[torch.Tensor, torch.Tensor]
LOST = (
    "the outputs are not finite: the training diverged, or what it made was damaged; "
    "take another state (--checkpoint best) or another run"
)


def tally(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(4,) float64 sums over a batch: images, -log p(label), top-1 errors, top-5 errors.

    probabilities: (rows, classes); labels: (rows,) int64. Classes that tie with the label share the places
    left, as in the 2012 code (src/layer_kernels.cu), so that a constant output scores as chance. An image
    whose p(label) is not finite is wrong, and the loss is not finite then.
    """
    of_label = probabilities.gather(1, labels[:, None])
    above = (probabilities > of_label).sum(1)
    ties = (probabilities == of_label).sum(1).clamp_min(1)  # NaN is not even equal to itself
    sound = of_label[:, 0].isfinite()
    wrong = [(1 - ((top - above) / ties).clamp(0, 1) * sound).double().sum() for top in (1, 5)]
    loss = -of_label.double().clamp_min(torch.finfo(torch.float32).tiny).log().sum()
    return torch.stack([torch.full_like(loss, len(labels)), loss, *wrong])


def rates(sums: torch.Tensor) -> dict[str, float]:
    """A tally as loss (nats an image) and errors (percent). Waits for the device."""
    images, loss, top1, top5 = sums.tolist()
    return {"loss": loss / images, "top1_err": 100 * top1 / images, "top5_err": 100 * top5 / images}


def sound_rates(sums: torch.Tensor, source: object) -> dict[str, float]:
    """`rates`; RunError that names their source where the loss is not finite: then errors mean nothing."""
    found = rates(sums)
    if not math.isfinite(found["loss"]):
        raise RunError(f"{source}: the loss is {found['loss']}, for {LOST}")
    return found


@dataclass(frozen=True)
class Evaluation:
    sums: torch.Tensor  # (4,), as `tally`
    probabilities: (
        torch.Tensor
    )  # (images, classes) float32 on the CPU, in the order given; no rows unless kept


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    precision: str,
    keep: bool = False,
    each: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Every image of `batches` once; the softmax outputs of its views are averaged.

    images: (rows, views, 3, crop, crop), labels: (rows,); -1, an unknown label, gets a meaningless tally.
    `each` is called after a batch with its number of images.
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
    """The mean of the views' softmax outputs, (rows, classes). images: (rows, views, 3, crop, crop)."""
    with autocast(images.device, precision):
        logits = network(images.flatten(0, 1))
    probabilities: torch.Tensor = logits.float().softmax(1).unflatten(0, images.shape[:2]).mean(1)
    return probabilities
