"""Ninth stop: normalise responses, y = x * s ** -beta with s = k + alpha * (sum of x ** 2 over a window).

One autograd function for all: over neighbouring maps at the same place (the paper's section 3.3); over
neighbouring places in the same map (the 2012 source's `cnorm2`, which the paper leaves out); and over places,
with the mean around each of them taken off before squaring (the same of nets 131 and 135).
Written out because torch's local_response_norm takes nearly half of a training step on a CPU; this takes a
tenth of one, and keeps nothing for the backward pass but its input. On a GPU the first is model/kernels.py's.
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
from model.recipe import ResponseNorm


def across_maps(x: Tensor, norm: ResponseNorm, groups: int = 1, rectified: bool = False) -> Tensor:
    """LRN over windows of maps, which end at the border of a group (a tower). (N, C, H, W) in and out.

    rectified: of max(x, 0), which may overwrite x.
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
    """Where there is Triton, which comes with torch's CUDA builds and compiles what launches its kernels."""
    try:
        import triton

        from model import kernels
    except ImportError:
        return None
    try:
        triton.runtime.driver.active.utils  # noqa: B018
    except Exception as error:
        raise RunError(
            f"Triton cannot compile ({error}): it wants gcc and Python's headers (Debian: gcc, python3-dev)"
        ) from None
    return kernels


def across_places(x: Tensor, norm: ResponseNorm) -> Tensor:
    """The same over size x size places of one map. (N, C, H, W) in and out."""
    return _normalise(x.permute(0, 2, 3, 1), norm, (1, 2), centred=False).permute(0, 3, 1, 2)


def contrast(x: Tensor, norm: ResponseNorm) -> Tensor:
    """The same of x less the mean of the size x size places around it. (N, C, H, W) in and out.

    The gradient is 2012's (`convContrastNormUndo`), which takes that mean for a constant.
    """
    return _normalise(x.permute(0, 2, 3, 1), norm, (1, 2), centred=True).permute(0, 3, 1, 2)


def _normalise(x: Tensor, norm: ResponseNorm, dims: tuple[int, ...], centred: bool) -> Tensor:
    """x with its maps last, as they lie in memory; dims: those that windows reach over."""
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
        for rows, part, windows in _blocks(x, norm.size, dims):
            measured = _off_mean(part, norm.size, dims) if centred else part
            s = _denominator(measured, windows, norm)
            torch.mul(windows.cut(_power(s, norm.beta)), part, out=result[rows])
            del s  # a block's memory is the next one's, while it is in the cache
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
    """Sums over centred windows of odd `size` along each of `dims`, clipped at the borders.

    Of what is written to `inside`, a tensor of x's shape. Behind each line lie as many zeros as a window
    reaches, so that all windows are sums of a few shifted copies of one long line: quick, whatever the shape.
    """

    def __init__(self, x: Tensor, size: int, dims: tuple[int, ...]) -> None:
        reach, self.size, self.given = size // 2, size, x.shape
        self.shape = [length + reach * (dim in dims) for dim, length in enumerate(x.shape)]
        self.strides = [math.prod(self.shape[dim + 1 :]) for dim in dims]
        before = reach * sum(self.strides)
        self.line = x.new_zeros(before + math.prod(self.shape) + before)
        self.inside = self.cut(self.line[before : len(self.line) - before])

    def cut(self, line: Tensor) -> Tensor:
        """In x's shape, what belongs to x of a line with its zeros."""
        return line.view(self.shape)[tuple(map(slice, self.given))]

    def sums(self) -> Tensor:
        """As a line, new memory; what lies where the zeros were means nothing."""
        line = self.line.clone() if self.size == 1 else self.line
        for stride in self.strides:
            line = _slide(line, self.size, stride)
        return line


def _slide(line: Tensor, count: int, stride: int) -> Tensor:
    """Sums of each element and those one, two, .. count - 1 strides behind it, by halves."""
    if count == 1:
        return line
    half = _slide(line, count // 2, stride)
    length, apart = len(line) - (count - 1) * stride, count // 2 * stride
    total = half[:length] + half[apart : apart + length]
    return total.add_(line[-length:]) if count % 2 else total


def _blocks(x: Tensor, size: int, dims: tuple[int, ...]) -> Iterator[tuple[slice, Tensor, _Windows]]:
    """Rows, what is there, room for their windows. A GPU takes all rows at once; a CPU as few as stay in its
    cache through the two dozen steps above.
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
    """Sums over centred windows of odd `size` along each of `dims`, clipped at the borders; shaped as x."""
    windows = _Windows(x, size, dims)
    windows.inside.copy_(x)
    return windows.cut(windows.sums())


def _off_mean(x: Tensor, size: int, dims: tuple[int, ...]) -> Tensor:
    """x less the mean of the window around it: of fewer values at the borders."""
    count = window_sum(torch.ones_like(x[:1, ..., :1]), size, dims)
    return x - window_sum(x, size, dims) / count


def _denominator(x: Tensor, windows: _Windows, norm: ResponseNorm) -> Tensor:
    """s, as a line of `windows`."""
    torch.mul(x, x, out=windows.inside)
    sums, k = windows.sums(), x.new_full((), norm.k)  # filled there: a CUDA graph cannot record a copy
    return torch.add(k, sums, alpha=norm.alpha, out=sums)


def _power(s: Tensor, beta: float) -> Tensor:
    """s ** -beta, new memory; 2012's 3/4 takes two roots instead of a logarithm and an exponential."""
    if beta == 0.75:
        root = s.rsqrt()
        return root.div_(root.rsqrt())
    return s.pow(-beta)
