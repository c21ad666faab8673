"""Tenth stop: normalise responses, y = x * s ** -beta with s = k + alpha * (sum of x ** 2 over a window).

One autograd function for all: over neighbouring maps at the same place (the paper's section 3.3); over
neighbouring places in the same map (the 2012 source's `cnorm2`, which the paper leaves out); and over places,
with the mean of the window subtracted before squaring (nets 131 and 135 in place of the second).
Torch's local_response_norm takes nearly half of a training step on a CPU; this takes a tenth of one, and
saves only its input for the backward pass. On a GPU model/kernels.py computes the first.
"""

import math
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.errors import RunError
from model.layers import ResponseNorm


def across_maps(x: Tensor, norm: ResponseNorm, groups: int = 1, rectified: bool = False) -> Tensor:
    """Apply LRN over windows of maps within a group (a tower). (N, C, H, W) in and out.

    rectified: normalise max(x, 0), which may overwrite x.
    """
    kernels = _kernels() if x.is_cuda else None
    if kernels and x.dtype in kernels.DTYPES and x.numel() < kernels.MOST:
        result: Tensor = kernels.across_maps(x, norm, groups, rectified)
        return result
    x = x.relu_() if rectified else x
    rows, maps, height, width = x.shape
    grouped = x.permute(0, 2, 3, 1).view(rows, height, width, groups, maps // groups)
    return _normalise(grouped, norm, (4,), centred=False).flatten(3).permute(0, 3, 1, 2)


@cache
def _kernels() -> ModuleType | None:
    """Return model/kernels.py, or None without Triton (in torch's CUDA builds); RunError without gcc."""
    try:
        import triton

        from model import kernels
    except ImportError:
        return None
    try:
        triton.runtime.driver.active.utils  # noqa: B018
    except Exception as error:
        raise RunError(
            f"Triton cannot compile ({error}): install gcc and Python's headers (Debian: gcc, python3-dev)"
        ) from None
    return kernels


def across_places(x: Tensor, norm: ResponseNorm) -> Tensor:
    """Normalise over size x size places of one map. (N, C, H, W) in and out."""
    return _normalise(x.permute(0, 2, 3, 1), norm, (1, 2), centred=False).permute(0, 3, 1, 2)


def contrast(x: Tensor, norm: ResponseNorm) -> Tensor:
    """Normalise over size x size places, their mean subtracted from x in s. (N, C, H, W) in and out.

    The gradient is that of 2012 (`convContrastNormUndo`), which takes the mean as a constant.
    """
    return _normalise(x.permute(0, 2, 3, 1), norm, (1, 2), centred=True).permute(0, 3, 1, 2)


def _normalise(x: Tensor, norm: ResponseNorm, dims: tuple[int, ...], centred: bool) -> Tensor:
    """Normalise x, whose maps come last, as in memory; dims: dimensions of the windows."""
    result: Tensor = _Normalise.apply(x, norm, dims, centred)  # type: ignore[no-untyped-call]
    return result


class _Normalise(torch.autograd.Function):
    """Compute y and dL/dx = g p - 2 alpha beta m windows(g x p / s).

    Here m = x or, if centred, x less its window's mean, g = dL/dy, p = s ** -beta. Half-precision inputs are
    computed in float32; only the result is rounded.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: ResponseNorm, dims: tuple[int, ...], centred: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.norm, ctx.dims, ctx.centred = norm, dims, centred
        result = torch.empty_like(x)
        for rows, part, windows in _blocks(x, norm.size, dims):
            measured = _off_mean(part, norm.size, dims) if centred else part
            s = _denominator(measured, windows, norm)
            torch.mul(windows.cut(_power(s, norm.beta)), part, out=result[rows])
            del s  # the next block reuses this memory while it is in the cache
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,), norm, dims = ctx.saved_tensors, ctx.norm, ctx.dims
        result = torch.empty_like(x)
        for rows, part, windows in _blocks(x, norm.size, dims):
            measured = _off_mean(part, norm.size, dims) if ctx.centred else part
            s = _denominator(measured, windows, norm)
            gp = windows.cut(_power(s, norm.beta)) * grad[rows]
            torch.mul(gp, part, out=windows.inside).div_(windows.cut(s))
            del s
            inner = windows.cut(windows.sums())
            torch.addcmul(gp, measured, inner, value=-2 * norm.alpha * norm.beta, out=result[rows])
            del gp, inner
        return result, None, None, None


class _Windows:
    """Sum what is written to `inside` over centred windows of odd `size` along `dims`, clipped at borders.

    `inside` has x's shape. Each line in memory is followed by `size // 2` zeros, so that all windows are sums
    of a few shifted copies of one long line: fast for any shape.
    """

    def __init__(self, x: Tensor, size: int, dims: tuple[int, ...]) -> None:
        reach, self.size, self.given = size // 2, size, x.shape
        self.shape = [length + reach * (dim in dims) for dim, length in enumerate(x.shape)]
        self.strides = [math.prod(self.shape[dim + 1 :]) for dim in dims]
        before = reach * sum(self.strides)
        self.line = x.new_zeros(before + math.prod(self.shape) + before)
        self.inside = self.cut(self.line[before : len(self.line) - before])

    def cut(self, line: Tensor) -> Tensor:
        """Return the elements of a line that are not padding, in x's shape."""
        return line.view(self.shape)[tuple(map(slice, self.given))]

    def sums(self) -> Tensor:
        """Return the sums as a line in new memory; its elements at the padding are meaningless."""
        line = self.line.clone() if self.size == 1 else self.line
        for stride in self.strides:
            line = _slide(line, self.size, stride)
        return line


def _slide(line: Tensor, count: int, stride: int) -> Tensor:
    """Sum each element and those 1, 2, .. count - 1 strides after it, recursively by halves."""
    if count == 1:
        return line
    half = _slide(line, count // 2, stride)
    length, apart = len(line) - (count - 1) * stride, count // 2 * stride
    total = half[:length] + half[apart : apart + length]
    return total.add_(line[-length:]) if count % 2 else total


def _blocks(x: Tensor, size: int, dims: tuple[int, ...]) -> Iterator[tuple[slice, Tensor, _Windows]]:
    """Yield slices of rows, their values in float32 or wider, and a buffer for their windows.

    A GPU gets all rows at once, a CPU as few as stay in its cache.
    """
    count = max(1, 2**20 * len(x) // max(1, x.numel())) if x.device.type == "cpu" else max(1, len(x))
    windows = None
    for start in range(0, len(x), count):
        rows = slice(start, start + count)
        part = x[rows].to(torch.promote_types(x.dtype, torch.float32))
        if windows is None or part.shape != windows.given:
            windows = _Windows(part, size, dims)
        yield rows, part, windows


def window_sum(x: Tensor, size: int, dims: tuple[int, ...]) -> Tensor:
    """Return sums over centred windows of odd `size` along `dims`, clipped at the borders; shaped as x."""
    windows = _Windows(x, size, dims)
    windows.inside.copy_(x)
    return windows.cut(windows.sums())


def _off_mean(x: Tensor, size: int, dims: tuple[int, ...]) -> Tensor:
    """Subtract the mean of the window around each element; windows are clipped at the borders."""
    count = window_sum(torch.ones_like(x[:1, ..., :1]), size, dims)
    return x - window_sum(x, size, dims) / count


def _denominator(x: Tensor, windows: _Windows, norm: ResponseNorm) -> Tensor:
    """Compute s as a line of `windows`."""
    torch.mul(x, x, out=windows.inside)
    sums, k = windows.sums(), x.new_full((), norm.k)  # on the device: a CUDA graph cannot record a copy
    return torch.add(k, sums, alpha=norm.alpha, out=sums)


def _power(s: Tensor, beta: float) -> Tensor:
    """Return s ** -beta in new memory; for beta 3/4 by two roots, not logarithm and exponential."""
    if beta == 0.75:
        root = s.rsqrt()
        return root.div_(root.rsqrt())
    return s.pow(-beta)
