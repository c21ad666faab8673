"""What a trained network makes of images: probabilities, what a layer hands on, what a class depends on."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from model.errors import RunError
from model.evaluate import LOST, Batch, over_views
from model.network import AlexNet
from model.placement import autocast


@torch.inference_mode()
def predict(network: AlexNet, batches: Iterable[Batch], precision: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch by batch the labels (rows,) and the mean probabilities over views, (rows, classes), on the CPU.

    batches: as for `model.evaluate.evaluate`.
    """
    for images, labels in batches:
        yield labels.cpu(), over_views(network, images, precision).cpu()


def layer_names(network: AlexNet) -> list[str]:
    return [shape.layer.name for shape in network.shapes]


@torch.inference_mode()
def outputs(network: AlexNet, images: Tensor, wanted: list[str], precision: str) -> dict[str, Tensor]:
    """What each wanted layer hands on to the next, after its ReLU, pooling, norms and dropout's factor.

    images: (N, 3, crop, crop). Values are float32, (N, maps, height, width) or (N, units), of all towers, on
    the first device. The last layer's are the logits. Nothing is computed behind the last layer wanted.
    RunError where one is not finite.
    """
    names = layer_names(network)
    if unknown := [name for name in wanted if name not in names]:
        raise RunError(f"the network has no layer {unknown[0]}; it has {', '.join(names)}")
    found: dict[str, Tensor] = {}
    with autocast(images.device, precision):
        for shape, part, pieces in network.run_layers(network.take(images)):
            if part == "output" and shape.layer.name in wanted:
                whole = torch.cat([piece.float().to(images.device) for piece in pieces], 1)
                found[shape.layer.name] = whole
            if len(found) == len(set(wanted)):
                break
    if broken := [name for name, values in found.items() if not values.isfinite().all()]:
        raise RunError(f"{broken[0]}: {LOST}")
    return found


def gradient(network: AlexNet, images: Tensor, classes: Tensor) -> Tensor:
    """(N, 3, crop, crop): how log p(class) of each image changes with each of its values. classes: (N,)."""
    taken = network.take(images).requires_grad_()
    log_p = network.logits(taken).log_softmax(1).gather(1, classes.to(images.device)[:, None])
    (slope,) = torch.autograd.grad(log_p.sum(), taken)
    return slope[:, :, : images.shape[2], : images.shape[3]]
