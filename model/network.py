"""Eighth stop: compute AlexNet as a recipe describes it, by the same code on one device, two, and a CPU.

Images come from the loader, logits go to the loss in step.py. With one device both towers are groups of the
same convolutions; with two each device computes its own tower, and maps are copied only where the paper's
arrows cross. Parameters, states and dropout masks do not depend on the placement.

If a pooling window holds its maximum twice, torch sends the gradient to the first, the 2012 code to both.
Ties are zeros of a ReLU, whose gradient is zero anyway, or rounding in bfloat16: we keep torch's way.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.colour import coarse
from model.errors import RunError
from model.layers import Full
from model.lrn import across_maps, across_places, contrast
from model.placement import Images, Pieces, bordered, exchange, placed, spread
from model.recipe import Recipe, Shape

StateDict = dict[str, Tensor]
Masks = list[Pieces]  # per dropout layer, in order, one piece per device: (N, units) bool
Keys = Sequence[int | Tensor]  # one per dropout layer: signed 64-bit numbers, or int64 () on the device
RELU_LRN = "relu, lrn"  # two steps fused into one kernel on a GPU
GOLDEN, MIX = -0x61C8864680B583EB, (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # splitmix64's, as signed int64


class Part(nn.Module):
    """Hold one device's parameters of one layer, not yet initialised: the maps or units of its towers."""

    weight: Tensor  # (maps, maps read, kernel, kernel) or (units, units read)
    colour: Tensor  # (maps, 3, kernel, kernel), if the layer has a colour branch
    bias: Tensor  # (maps,)

    def __init__(self, shape: Shape, device: torch.device, share: int) -> None:
        super().__init__()
        for kind, (out, *read) in shape.tensors.items():
            # on a GPU images and convolutions' weights are channels-last
            beside = device.type == "cuda" and len(read) == 3
            order = torch.channels_last if beside else torch.contiguous_format
            values = torch.empty(out // share, *read, device=device, memory_format=order)
            self.register_parameter(kind, nn.Parameter(values))


class Tower(nn.Module):
    """Compute one device's part of each layer: one tower, or all as `groups` of the same convolutions."""

    def __init__(self, recipe: Recipe, shapes: Sequence[Shape], device: torch.device, share: int) -> None:
        super().__init__()
        self.recipe, self.groups = recipe, recipe.towers // share
        if taken := [s.layer.name for s in shapes if hasattr(nn.ModuleDict(), s.layer.name)]:
            raise RunError(f"recipe {recipe.name}: torch allows no layer called {taken[0]}: rename it")
        self.layers = nn.ModuleDict({s.layer.name: Part(s, device, share) for s in shapes})

    def linear(self, shape: Shape, x: Tensor, images: Tensor) -> Tensor:
        """Return the linear output for x, (N, maps read, height, width) or (N, units read).

        images: (N, 3, height, width) with border, which a colour branch reads as well.
        """
        part, layer = self.part(shape), shape.layer
        if isinstance(layer, Full):
            return F.linear(x.flatten(1), part.weight, part.bias)
        if x is not images:
            x = _pad_overhang(x, shape.overhang)
        x = F.conv2d(
            x, part.weight, part.bias, layer.stride, layer.pad, groups=1 if layer.crossing else self.groups
        )
        if layer.colour:
            side = self.recipe.side
            colours = _pad_overhang(coarse(images[:, :, :side, :side], layer.colour), shape.coarse_overhang)
            x.add_(F.conv2d(colours, part.colour, stride=layer.colour.stride))
        return x

    def part(self, shape: Shape) -> Part:
        """Return this device's parameters of a layer."""
        return self.layers[shape.layer.name]  # type: ignore[return-value]

    def after(self, step: str, x: Tensor) -> Tensor:
        """Apply a step after the linear one, in place where the backward pass does not need its input."""
        match step:
            case "relu":
                return x.relu_()
            case "tanh":
                return x.tanh_()
            case "pool":
                return F.max_pool2d(x, self.recipe.pool_size, self.recipe.pool_stride, ceil_mode=True)
            case "lrn" | "relu, lrn":
                groups = 1 if self.recipe.lrn_across_towers else self.groups
                return across_maps(x, self.recipe.lrn, groups, rectified=step == RELU_LRN)
            case "spatial":
                return across_places(x, self.recipe.spatial)
            case "contrast":
                return contrast(x, self.recipe.spatial)
        raise ValueError(step)


class AlexNet(nn.Module):
    """Compute class logits on one device, or on one per tower.

    seed: determines the initial weights and, with step and row, every dropout mask. mean: (3, crop, crop), is
    subtracted from the pixels; None: images come with their mean subtracted.
    """

    def __init__(
        self,
        recipe: Recipe,
        devices: Sequence[torch.device | str],
        seed: int,
        mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.seed = recipe, seed
        self.devices = placed(recipe, devices)
        mean = torch.zeros(3, recipe.crop, recipe.crop) if mean is None else mean
        self.mean = nn.Buffer(mean.to(self.devices[0]).permute(1, 2, 0).contiguous().permute(2, 0, 1))
        self.shapes = recipe.shapes()
        share = len(self.devices)
        self.towers = nn.ModuleList(Tower(recipe, self.shapes[:-1], device, share) for device in self.devices)
        self.head = Tower(recipe, self.shapes[-1:], self.devices[0], 1)  # the last layer, on the first device
        self.load(self._initial())

    @property
    def border(self) -> int:
        """Return how many pixels of zeros `subtract_mean` adds right of the images and below them."""
        return self.shapes[0].overhang if self.recipe.reduce == 1 else 0

    def towers_of(self, shape: Shape) -> list[Tower]:
        """Return the towers that hold a layer: all with a part each, or for the last layer the head alone."""
        return [self.head] if shape is self.shapes[-1] else list(self.towers)  # type: ignore[arg-type]

    def _initial(self) -> StateDict:
        """Draw normal weights and constant biases in canonical form, so that all placements start alike."""
        draw = torch.Generator().manual_seed(self.seed)
        state: StateDict = {}
        for shape in self.shapes:
            name, layer, sizes = shape.layer.name, shape.layer, shape.tensors
            state[f"{name}.weight"] = torch.randn(sizes["weight"], generator=draw).mul_(shape.std)
            if layer.colour:
                state[f"{name}.colour"] = torch.randn(sizes["colour"], generator=draw).mul_(layer.colour.std)
            state[f"{name}.bias"] = torch.full(sizes["bias"], float(layer.bias))
        return state

    def forward(self, images: Images, masks: Masks | None = None, divisor: float = 1.0) -> Tensor:
        """Return logits, (N, classes) on the first device, for images as `subtract_mean` takes them.

        images: (N, 3, crop, crop), or a copy on each device. In training, dropout multiplies by the masks, in
        evaluation (None) by `keep`, as in 2012; scaling by 1 / keep in training would double the inputs of
        fc7 and fc8.
        """
        if isinstance(images, Tensor):
            return self.logits(self.subtract_mean(images, divisor), masks)
        return self.logits([self.subtract_mean(copy, divisor) for copy in images], masks)

    def logits(self, centred: Images, masks: Masks | None = None) -> Tensor:
        """Return the logits of images from `subtract_mean`, as `forward` does."""
        for _, _, pieces in self.run_layers(centred, masks):  # noqa: B007
            pass
        return pieces[0]

    def run_layers(self, centred: Images, masks: Masks | None = None) -> Iterator[tuple[Shape, str, Pieces]]:
        """Yield each layer twice, one piece per device: its "linear" output, then its "output", which may
        overwrite it. centred: from `subtract_mean`, on the first device or on each.
        """
        images = [self.downsample(x) for x in spread(centred, self.devices)]
        pieces, kept = images, iter(masks or ())
        for shape in self.shapes:
            towers = self.towers_of(shape)
            if shape.layer.crossing and pieces is not images:  # the paper's arrows from tower to tower
                pieces = exchange(pieces, self.devices[: len(towers)])
            pieces = [tower.linear(shape, *x) for tower, *x in zip(towers, pieces, images, strict=False)]
            yield shape, "linear", pieces
            for step in _fused(shape.layer.then):
                if step == "dropout" and masks:
                    pieces = [x * mask for x, mask in zip(pieces, next(kept), strict=True)]
                elif step == "dropout":
                    pieces = [x * self.recipe.keep for x in pieces]
                elif step in ("lrn", RELU_LRN) and self.recipe.lrn_across_towers and len(pieces) > 1:
                    pieces = self._lrn_across(step, towers, pieces)
                else:
                    pieces = [tower.after(step, x) for tower, x in zip(towers, pieces, strict=True)]
            yield shape, "output", pieces

    def subtract_mean(self, images: Tensor, divisor: float = 1.0) -> Tensor:
        """Return (images - mean) / divisor for conv1, with a border of zeros where its windows hang over.

        images: (N, 3, crop, crop) RGB 0..255, uint8 or float, noise included. Images are channels-last in
        memory, and the layers keep that, which is a tenth faster on a CPU.
        """
        device, weights = images.device.type, self.mean.dtype
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights
        crop, side = self.recipe.crop, self.recipe.crop + self.border
        if images.requires_grad:  # the faster way below passes no gradient on
            centred = (images - self.mean.to(images.device)) / divisor
            return F.pad(centred, (0, self.border, 0, self.border)).to(dtype)
        centred = torch.empty(len(images), side, side, 3, dtype=dtype, device=images.device).permute(
            0, 3, 1, 2
        )
        centred[:, :, crop:].zero_()
        centred[:, :, :, crop:].zero_()
        scale = torch.full((), 1 / divisor, dtype=weights, device=images.device)
        torch.addcmul(self.mean.to(images.device) / -divisor, images, scale, out=centred[:, :, :crop, :crop])
        return centred

    def downsample(self, centred: Tensor) -> Tensor:
        """Average squares of `reduce` pixels a side, if the recipe says so, and add the border."""
        if self.recipe.reduce == 1:
            return centred
        return _pad_overhang(F.avg_pool2d(centred, self.recipe.reduce), self.shapes[0].overhang)

    @torch.no_grad()
    def signals(self, images: Tensor, divisor: float = 1.0) -> dict[str, tuple[float, float]]:
        """Return two root mean squares per layer: over units (and places), the linear output's standard
        deviation over the images; and the biases. Their ratio shows how well a layer distinguishes images.
        """
        biases = {name: pieces for name, kind, pieces in self.pieces() if kind == "bias"}
        result = {}
        for shape, part, pieces in self.run_layers(self.subtract_mean(images, divisor)):
            name, home = shape.layer.name, self.devices[0]
            if part != "linear":
                continue
            variance = torch.cat([x.float().var(0).flatten().to(home) for x in pieces])
            bias = torch.cat([x.to(home) for x in biases[name]])
            result[name] = (variance.mean().sqrt().item(), bias.square().mean().sqrt().item())
        return result

    def _lrn_across(self, step: str, towers: list[Tower], pieces: Pieces) -> Pieces:
        """Apply LRN with windows across towers, as the paper prints it: each reads two maps of the other."""
        wide = bordered(pieces, self.recipe.lrn.size // 2)
        return [tower.after(step, x).narrow(1, before, piece.shape[1])
                for tower, piece, (x, before) in zip(towers, pieces, wide, strict=True)]  # fmt: skip

    def masks(self, step: int, start: int, count: int) -> Masks:
        """Return the dropout masks of rows start to start + count of the global batch of `step`.

        A pure integer function of seed, step, row and unit, so that replicas, placements and kinds of device
        agree: the bits of a counter, mixed as splitmix64 does. keep is rounded to a multiple of 2 ** -16.
        """
        return self.masks_of(self.keys(step), start, count)

    def keys(self, step: int) -> list[int]:
        """Hash seed and step to one signed 64-bit key per dropout layer."""
        hashes = [hashlib.blake2b(f"{self.seed} {step} {index}".encode(), digest_size=8)
                  for index, shape in enumerate(self.shapes) if "dropout" in shape.layer.then]  # fmt: skip
        return [int.from_bytes(each.digest(), "little", signed=True) for each in hashes]

    def masks_of(self, keys: Keys, start: int, count: int) -> Masks:
        """Return the `masks` of the step that has these keys."""
        dropped = [shape for shape in self.shapes if "dropout" in shape.layer.then]
        return [self._mask(shape, key, start, count) for shape, key in zip(dropped, keys, strict=True)]

    def _mask(self, shape: Shape, key: int | Tensor, start: int, count: int) -> Pieces:
        units, share = shape.weight[0], shape.weight[0] // len(self.devices)
        words = math.ceil(units / 4)  # of 64 bits, 16 per unit
        most = max(1, round(self.recipe.keep * 2**16)) - 2**15 - 1  # the largest 16-bit number kept
        pieces = []
        for tower, device in enumerate(self.devices):
            x = torch.arange(start * words, (start + count) * words, device=device)
            x.mul_(GOLDEN).add_(key)
            for shift, factor in ((30, MIX[0]), (27, MIX[1]), (31, 1)):
                x.bitwise_xor_((x >> shift).bitwise_and_(2 ** (64 - shift) - 1)).mul_(factor)
            lanes = x.view(torch.int16).view(count, 4 * words)
            pieces.append(lanes[:, tower * share : (tower + 1) * share] <= most)
        return pieces

    def pieces(self) -> Iterator[tuple[str, str, list[nn.Parameter]]]:
        """Yield (layer name, kind as in `Shape.tensors`, its parameters in the devices' order)."""
        for shape in self.shapes:
            for kind in shape.tensors:
                yield shape.layer.name, kind, [getattr(t.part(shape), kind) for t in self.towers_of(shape)]

    def state(self) -> StateDict:
        """Return the parameters on the CPU in canonical form: "conv1.weight" holds both towers' filters."""
        return {f"{name}.{kind}": canonical(pieces) for name, kind, pieces in self.pieces()}

    def load(self, state: StateDict) -> None:
        """Load a `state` of any placement; RunError names the first tensor of a wrong shape."""
        check_sizes(state, {f"{shape.layer.name}.{kind}": size for shape in self.shapes
                    for kind, size in shape.tensors.items()})  # fmt: skip
        for name, kind, pieces in self.pieces():
            scatter(state[f"{name}.{kind}"], pieces)


def _fused(steps: Sequence[str]) -> list[str]:
    """Return the steps with RELU_LRN in place of a ReLU and an LRN after it."""
    result: list[str] = []
    for step in steps:
        if result[-1:] == ["relu"] and step == "lrn":
            result[-1] = RELU_LRN
        else:
            result.append(step)
    return result


def _pad_overhang(x: Tensor, overhang: int) -> Tensor:
    """Add zeros where the last windows extend beyond the right and bottom edges."""
    return F.pad(x, (0, overhang, 0, overhang)) if overhang else x


def canonical(pieces: Sequence[Tensor]) -> Tensor:
    """Return a copy on the CPU of a tensor that the devices hold in pieces."""
    return torch.cat([piece.detach().cpu() for piece in pieces]).contiguous()


@torch.no_grad()
def scatter(whole: Tensor, pieces: Sequence[Tensor]) -> None:
    """Copy a canonical tensor into the devices' pieces; the inverse of `canonical`."""
    for piece, part in zip(pieces, torch.split(whole, [len(piece) for piece in pieces]), strict=True):
        piece.copy_(part)


def check_sizes(state: StateDict, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise RunError unless the state has exactly these tensors of these sizes."""
    for name, size in sizes.items():
        if name not in state:
            raise RunError(f"the saved state has no {name}, which the recipe's network has")
        if tuple(state[name].shape) != size:
            raise RunError(f"the saved {name} is {tuple(state[name].shape)}, the recipe's is {size}")
    if extra := sorted(state.keys() - sizes.keys()):
        raise RunError(f"the saved state has {extra[0]}, which the recipe's network lacks")
