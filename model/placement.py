"""Fifth stop: bring images to the devices; place towers, choose number formats, copy maps."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from model.errors import RunError
from model.recipe import Recipe

Pieces = list[Tensor]  # one tensor (N, maps, ...) split by maps: one piece per device, in the towers' order
Images = Tensor | list[Tensor]  # (N, 3, side, side) on the first device, or the same on each


def prefetch_to_devices(
    batches: Iterator[tuple[Tensor, Tensor]], devices: Sequence[torch.device]
) -> Iterator[tuple[Images, Tensor]]:
    """Yield the batches; for two GPUs, images are copied to both while the previous step still computes.

    The copies run on CUDA streams of their own, for which the streams of the steps wait.
    """
    if len(devices) == 1 or devices[0].type != "cuda":
        yield from batches
        return
    beside = [torch.cuda.Stream(device) for device in devices]  # type: ignore[no-untyped-call]
    while True:
        with ExitStack() as stack:
            for stream in reversed(beside):  # reversed: the first device becomes the current one
                stack.enter_context(torch.cuda.stream(stream))
            batch = next(batches, None)
            if batch is None:
                return
            images, labels = batch
            copies = [images.to(device, non_blocking=True) for device in devices]
        for stream, device in zip(beside, devices, strict=True):
            torch.cuda.current_stream(device).wait_stream(stream)
        for x in (*copies, labels):  # their memory must not be reused before the step is done
            x.record_stream(torch.cuda.current_stream(x.device))
        yield copies, labels


def spread(images: Images, devices: Sequence[torch.device]) -> list[Tensor]:
    """Return the same images on each of the devices."""
    return [images.to(device) for device in devices] if isinstance(images, Tensor) else images


def placed(recipe: Recipe, devices: Sequence[torch.device | str]) -> list[torch.device]:
    """Return the devices of the towers: one for all, or one each (may be the same); else RunError."""
    if len(devices) not in (1, recipe.towers):
        count = recipe.towers
        where = (
            f"{count} towers go on one device or on {count}" if count > 1 else "1 tower goes on one device"
        )
        raise RunError(f"{where}, not on {len(devices)}")
    return [torch.device(device) for device in devices]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Compute matrix products and convolutions in bfloat16 if `precision` says so; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def exchange(pieces: Pieces, devices: Sequence[torch.device]) -> Pieces:
    """Return all maps on each device, for a layer that reads both towers."""
    if len(pieces) == 1:
        return pieces
    return [torch.cat([piece.to(device) for piece in pieces], 1) for device in devices]


def bordered(pieces: Pieces, reach: int) -> list[tuple[Tensor, int]]:
    """Return each piece with up to `reach` maps of its neighbours on either side, and how many precede it."""
    result = []
    for i, piece in enumerate(pieces):
        before = [near[:, -reach:].to(piece.device) for near in pieces[max(0, i - 1) : i]]
        after = [near[:, :reach].to(piece.device) for near in pieces[i + 1 : i + 2]]
        result.append((torch.cat([*before, piece, *after], 1), sum(near.shape[1] for near in before)))
    return result
