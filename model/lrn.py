"""The response normalisations: y = x * s ** -beta with s = k + alpha * (sum of x ** 2 over a window).

One autograd function for both of net 145's: over neighbouring maps at the same place (the paper's section
3.3), and over neighbouring places in the same map (the 2012 source's `cnorm2`, which the paper leaves out).
Written out because torch's local_response_norm takes nearly half of a training step on a CPU; this is four
times as fast, and keeps one float32 tensor for the backward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.recipe import ResponseNorm

MAPS, ROWS, COLUMNS = -3, -2, -1  # of (N, maps, height, width)


def across_maps(x: Tensor, norm: ResponseNorm, groups: int = 1) -> Tensor:
    """LRN over windows of maps, which end at the border of a group (a tower). (N, C, H, W) in and out."""
    return _normalise(x.view(len(x), groups, x.shape[1] // groups, *x.shape[2:]), norm, (MAPS,)).flatten(1, 2)


def across_places(x: Tensor, norm: ResponseNorm) -> Tensor:
    """The same over size x size places of one map. (N, C, H, W) in and out."""
    return _normalise(x, norm, (ROWS, COLUMNS))


def _normalise(x: Tensor, norm: ResponseNorm, dims: tuple[int, ...]) -> Tensor:
    result: Tensor = _Normalise.apply(x, norm, dims)  # type: ignore[no-untyped-call]
    return result


class _Normalise(torch.autograd.Function):
    """dy/dx, with g = dL/dy and p = s ** -beta: g p - 2 alpha beta x windows(g x p / s).

    Half-precision inputs are computed in float32 and rounded once, on the way out.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: ResponseNorm, dims: tuple[int, ...]) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        s = window_sum(wide * wide, norm.size, dims).mul_(norm.alpha).add_(norm.k)
        ctx.save_for_backward(x, s)
        ctx.norm, ctx.dims = norm, dims
        return _power(s, norm.beta).mul_(wide).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, s = ctx.saved_tensors
        norm, dims = ctx.norm, ctx.dims
        wide = x.to(s.dtype)
        p = _power(s, norm.beta).mul_(grad)  # g p
        inner = window_sum(p * wide / s, norm.size, dims)
        return p.addcmul_(wide, inner, value=-2 * norm.alpha * norm.beta).to(x.dtype), None, None


def _power(s: Tensor, beta: float) -> Tensor:
    """s ** -beta, new memory; 2012's 3/4 takes two square roots instead of a logarithm and an exponential."""
    if beta == 0.75:
        root = s.rsqrt()
        return root.sqrt().mul_(root)
    return s.pow(-beta)


def window_sum(x: Tensor, size: int, dims: tuple[int, ...]) -> Tensor:
    """Sums over centred windows of odd `size` along each of `dims`, clipped at the borders; shaped as x."""
    for dim in dims:
        total = x.clone()
        for shift in range(1, min(size // 2, x.shape[dim] - 1) + 1):
            rest = x.shape[dim] - shift
            total.narrow(dim, 0, rest).add_(x.narrow(dim, shift, rest))
            total.narrow(dim, shift, rest).add_(x.narrow(dim, 0, rest))
        x = total
    return x
