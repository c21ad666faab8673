"""Which device holds which tower, and the copies between them: the only `.to()` of the network."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.recipe import Recipe, RunError

Pieces = list[Tensor]  # of one tensor (N, maps, ...), split by maps: a piece a device, in the towers' order


def placed(recipe: Recipe, devices: Sequence[torch.device | str]) -> list[torch.device]:
    """The devices to place the towers on: one for all of them, or one each (the same may come twice)."""
    if len(devices) not in (1, recipe.towers):
        count = recipe.towers
        where = (
            f"{count} towers go on one device or on {count}" if count > 1 else "1 tower goes on one device"
        )
        raise RunError(f"{where}, not on {len(devices)}")
    return [torch.device(device) for device in devices]


def exchange(pieces: Pieces, devices: Sequence[torch.device]) -> Pieces:
    """All of every piece on each of the devices: what a layer reads that crosses the towers."""
    return [torch.cat([piece.to(device) for piece in pieces], 1) if len(pieces) > 1 else pieces[0].to(device)
            for device in devices]  # fmt: skip


def bordered(pieces: Pieces, reach: int) -> list[tuple[Tensor, int]]:
    """Each piece with up to `reach` maps of its neighbours on either side, and how many came before it."""
    result = []
    for i, piece in enumerate(pieces):
        before = [near[:, -reach:].to(piece.device) for near in pieces[max(0, i - 1) : i]]
        after = [near[:, :reach].to(piece.device) for near in pieces[i + 1 : i + 2]]
        result.append((torch.cat([*before, piece, *after], 1), sum(near.shape[1] for near in before)))
    return result
