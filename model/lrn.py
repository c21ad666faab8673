"""The response normalisations: y = x * s ** -beta with s = k + alpha * (sum of x ** 2 over a window).

One autograd function for all: over neighbouring maps at the same place (the paper's section 3.3); over
neighbouring places in the same map (the 2012 source's `cnorm2`, which the paper leaves out); and over places,
with the mean around each of them taken off before squaring (the same of nets 131 and 135).
Written out because torch's local_response_norm takes nearly half of a training step on a CPU; this takes a
tenth of one, and keeps nothing for the backward pass but its input. On a GPU the first is model/kernels.py's.
"""

from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.recipe import ResponseNorm

MAPS, ROWS, COLUMNS = -3, -2, -1  # of (N, maps, height, width)


def across_maps(x: Tensor, norm: ResponseNorm, groups: int = 1, rectified: bool = False) -> Tensor:
    """LRN over windows of maps, which end at the border of a group (a tower). (N, C, H, W) in and out.

    rectified: of max(x, 0), which may overwrite x.
    """
    kernels = _kernels() if x.is_cuda else None
    if kernels and x.dtype in kernels.DTYPES and x.numel() < kernels.MOST:
        result: Tensor = kernels.across_maps(x, norm, groups, rectified)
        return result
    x = x.relu_() if rectified else x
    grouped = x.view(len(x), groups, x.shape[1] // groups, *x.shape[2:])
    return _normalise(grouped, norm, (MAPS,), centred=False).flatten(1, 2)


@cache
def _kernels() -> ModuleType | None:
    """Where there is Triton, which comes with torch's CUDA builds."""
    try:
        from model import kernels
    except ImportError:
        return None
    return kernels


def across_places(x: Tensor, norm: ResponseNorm) -> Tensor:
    """The same over size x size places of one map. (N, C, H, W) in and out."""
    return _normalise(x, norm, (ROWS, COLUMNS), centred=False)


def contrast(x: Tensor, norm: ResponseNorm) -> Tensor:
    """The same of x less the mean of the size x size places around it. (N, C, H, W) in and out.

    The gradient is 2012's (`convContrastNormUndo`), which takes that mean for a constant.
    """
    return _normalise(x, norm, (ROWS, COLUMNS), centred=True)


def _normalise(x: Tensor, norm: ResponseNorm, dims: tuple[int, ...], centred: bool) -> Tensor:
    result: Tensor = _Normalise.apply(x, norm, dims, centred)  # type: ignore[no-untyped-call]
    return result


class _Normalise(torch.autograd.Function):
    """With m = x or, centred, x less its mean, g = dL/dy and p = s ** -beta:
    dL/dx = g p - 2 alpha beta m windows(g x p / s).

    Half-precision inputs are computed in float32 and rounded once, on the way out.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: ResponseNorm, dims: tuple[int, ...], centred: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.norm, ctx.dims, ctx.centred = norm, dims, centred
        result = torch.empty_like(x)
        for rows in _passes(x):
            part = _wide(x[rows])
            measured = _off_mean(part, norm, dims) if centred else part
            result[rows] = _power(_denominator(measured, norm, dims), norm.beta).mul_(part)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,), norm, dims = ctx.saved_tensors, ctx.norm, ctx.dims
        result = torch.empty_like(x)
        for rows in _passes(x):
            part = _wide(x[rows])
            measured = _off_mean(part, norm, dims) if ctx.centred else part
            s = _denominator(measured, norm, dims)
            gp = _power(s, norm.beta).mul_(grad[rows])
            inner = window_sum((gp * part).div_(s), norm.size, dims)
            result[rows] = gp.addcmul_(measured, inner, value=-2 * norm.alpha * norm.beta)
        return result, None, None, None


def _passes(x: Tensor) -> Iterator[slice]:
    """A GPU takes all rows at once; a CPU as few as stay in its cache through the dozen steps above (3 x)."""
    count = max(1, 2**20 * len(x) // max(1, x.numel())) if x.device.type == "cpu" else max(1, len(x))
    return (slice(start, start + count) for start in range(0, len(x), count))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _off_mean(x: Tensor, norm: ResponseNorm, dims: tuple[int, ...]) -> Tensor:
    """x less the mean of the window around it: of fewer values at the borders."""
    count = window_sum(torch.ones_like(x[:1, :1]), norm.size, dims)
    return x - window_sum(x, norm.size, dims).div_(count)


def _denominator(x: Tensor, norm: ResponseNorm, dims: tuple[int, ...]) -> Tensor:
    return window_sum(x * x, norm.size, dims).mul_(norm.alpha).add_(norm.k)


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
