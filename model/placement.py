"""Fifth stop: bring images to the devices; which holds which tower, how it computes, what is copied."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from model.errors import RunError
from model.recipe import Recipe

Pieces = list[Tensor]  # of one tensor (N, maps, ...), split by maps: a piece a device, in the towers' order
Images = Tensor | list[Tensor]  # (N, 3, side, side) on the first device, or the same on each


def aside(
    batches: Iterator[tuple[Tensor, Tensor]], devices: Sequence[torch.device]
) -> Iterator[tuple[Images, Tensor]]:
    """The batches; for two GPUs with their images on each, copied while the step before is still at work.

    The copies are on streams of their own, for which the streams of the steps wait.
    """
    if len(devices) == 1 or devices[0].type != "cuda":
        yield from batches
        return
    beside = [torch.cuda.Stream(device) for device in devices]  # type: ignore[no-untyped-call]
    while True:
        with ExitStack() as stack:
            for stream in reversed(beside):  # the last makes the first device the current one
                stack.enter_context(torch.cuda.stream(stream))
            batch = next(batches, None)
            if batch is None:
                return
            images, labels = batch
            copies = [images.to(device, non_blocking=True) for device in devices]
        for stream, device in zip(beside, devices, strict=True):
            torch.cuda.current_stream(device).wait_stream(stream)
        for x in (*copies, labels):  # nobody may have their memory before the step is through with it
            x.record_stream(torch.cuda.current_stream(x.device))
        yield copies, labels


def spread(images: Images, devices: Sequence[torch.device]) -> list[Tensor]:
    """The same images on each of the devices."""
    return [images.to(device) for device in devices] if isinstance(images, Tensor) else images


def placed(recipe: Recipe, devices: Sequence[torch.device | str]) -> list[torch.device]:
    """The devices to place the towers on: one for all of them, or one each (the same may come twice)."""
    if len(devices) not in (1, recipe.towers):
        count = recipe.towers
        where = (
            f"{count} towers go on one device or on {count}" if count > 1 else "1 tower goes on one device"
        )
        raise RunError(f"{where}, not on {len(devices)}")
    return [torch.device(device) for device in devices]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products and convolutions in bfloat16 where `precision` says so; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def exchange(pieces: Pieces, devices: Sequence[torch.device]) -> Pieces:
    """All of every piece on each of the devices: what a layer reads that crosses the towers."""
    if len(pieces) == 1:
        return pieces
    return [torch.cat([piece.to(device) for piece in pieces], 1) for device in devices]


def bordered(pieces: Pieces, reach: int) -> list[tuple[Tensor, int]]:
    """Each piece with up to `reach` maps of its neighbours on either side, and how many came before it."""
    result = []
    for i, piece in enumerate(pieces):
        before = [near[:, -reach:].to(piece.device) for near in pieces[max(0, i - 1) : i]]
        after = [near[:, :reach].to(piece.device) for near in pieces[i + 1 : i + 2]]
        result.append((torch.cat([*before, piece, *after], 1), sum(near.shape[1] for near in before)))
    return result
