"""Compute probabilities, activations of layers, and gradients by the image, of a trained network."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from model.errors import RunError
from model.evaluate import LOST, Batch, over_views
from model.network import AlexNet
from model.placement import autocast


@torch.inference_mode()
def predict(network: AlexNet, batches: Iterable[Batch], precision: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each batch's labels (rows,) and mean probabilities over views, (rows, classes), on the CPU.

    batches: as for `model.evaluate.evaluate`.
    """
    for images, labels in batches:
        yield labels.cpu(), over_views(network, images, precision).cpu()


def layer_names(network: AlexNet) -> list[str]:
    """Return the names of all layers, first to last."""
    return [shape.layer.name for shape in network.shapes]


@torch.inference_mode()
def outputs(network: AlexNet, images: Tensor, wanted: list[str], precision: str) -> dict[str, Tensor]:
    """Return the wanted layers' activations after ReLU, pooling, normalisation and dropout scaling.

    images: (N, 3, crop, crop). Values are float32, (N, maps, height, width) or (N, units), of all towers, on
    the first device; the last layer's are the logits. Layers after the last wanted one are not computed.
    RunError if a value is not finite.
    """
    names = layer_names(network)
    if unknown := [name for name in wanted if name not in names]:
        raise RunError(f"the network has no layer {unknown[0]}; it has {', '.join(names)}")
    activations: dict[str, Tensor] = {}
    with autocast(images.device, precision):
        for shape, part, pieces in network.run_layers(network.subtract_mean(images)):
            if part == "output" and shape.layer.name in wanted:
                whole = torch.cat([piece.float().to(images.device) for piece in pieces], 1)
                activations[shape.layer.name] = whole
            if len(activations) == len(set(wanted)):
                break
    if broken := [name for name, values in activations.items() if not values.isfinite().all()]:
        raise RunError(f"{broken[0]}: {LOST}")
    return activations


def gradient(network: AlexNet, images: Tensor, classes: Tensor) -> Tensor:
    """Return d log p(class) / d pixel of each image, (N, 3, crop, crop). classes: (N,)."""
    centred = network.subtract_mean(images).requires_grad_()
    log_p = network.logits(centred).log_softmax(1).gather(1, classes.to(images.device)[:, None])
    (slope,) = torch.autograd.grad(log_p.sum(), centred)
    return slope[:, :, : images.shape[2], : images.shape[3]]
