"""Compute LRN over maps on a GPU: one Triton kernel forward, one backward, with the ReLU before it.

model/lrn.py has the formulas, and computes them without Triton in a dozen passes over memory. Here there is
one: each element reads its own window, from the cache; neighbouring maps lie `step` elements apart (1 if
channels-last). So no program depends on another, and towers of any width fit a block.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.layers import ResponseNorm

DTYPES = torch.float32, torch.bfloat16, torch.float16  # in memory; computed in float32
BLOCK = 256  # elements per program, one per thread, so that reads of neighbouring threads are coalesced
MOST = 2**31 - BLOCK  # elements: they are indexed with 32 bits


def across_maps(x: Tensor, norm: ResponseNorm, groups: int, rectified: bool) -> Tensor:
    """Compute `model.lrn.across_maps` for fewer than `MOST` elements of one of `DTYPES`."""
    result: Tensor = _AcrossMaps.apply(x, norm, groups, rectified)  # type: ignore[no-untyped-call]
    return result


class _AcrossMaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: ResponseNorm, groups: int, rectified: bool) -> Tensor:
        x = x.contiguous(memory_format=_order(x))
        ctx.save_for_backward(x)
        ctx.options = _options(x, norm, groups, rectified)
        result = torch.empty_like(x)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _forward[_grid(x)](x, result, x.numel(), **ctx.options)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        grad, result = grad.contiguous(memory_format=_order(x)), torch.empty_like(x)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _backward[_grid(x)](x, grad, result, x.numel(), **ctx.options)
        return result, None, None, None


def _order(x: Tensor) -> torch.memory_format:
    beside = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if beside else torch.contiguous_format


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK),)


def _options(x: Tensor, norm: ResponseNorm, groups: int, rectified: bool) -> dict[str, Any]:
    """Return the kernels' constants: distance of maps in memory, maps per tower, the formula's numbers."""
    return {
        "step": 1 if _order(x) is torch.channels_last else x.shape[2] * x.shape[3],
        "maps": x.shape[1] // groups,
        "size": norm.size,
        "k": float(norm.k),
        "alpha": float(norm.alpha),
        "beta": float(norm.beta),
        "rectified": rectified,
        "block": BLOCK,
        "num_warps": 8,
        "enable_fp_fusion": True,  # fused multiply-add, as in torch's kernels
    }


@triton.jit  # type: ignore[untyped-decorator]
def _read(x, inside, rectified: tl.constexpr):  # type: ignore[no-untyped-def]
    value = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    if rectified:
        value = tl.where(value < 0.0, 0.0, value)  # unlike a maximum, this keeps NaN
    return value


@triton.jit  # type: ignore[untyped-decorator]
def _denominator(  # type: ignore[no-untyped-def]
    x, map, inside, shift: tl.constexpr, step: tl.constexpr, maps: tl.constexpr, size: tl.constexpr,
    k: tl.constexpr, alpha: tl.constexpr, rectified: tl.constexpr,
):  # fmt: skip
    """Compute s, `shift` maps from the elements at x, which are in map `map` of their tower."""
    total = 0.0
    for i in tl.static_range(size):
        off = shift + i - size // 2  # the same expression for each shift: the compiler loads values once
        there = inside & (map + off >= 0) & (map + off < maps)
        value = _read(x + off * step, there, rectified)
        total += value * value
    return k + alpha * total


@triton.jit  # type: ignore[untyped-decorator]
def _powers(s, beta: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute p = s ** -beta, by the roots of model/lrn.py, and p / s."""
    if beta == 0.75:
        root = tl.rsqrt(s)
        p = tl.sqrt(root) * root
        return p, p * root * root
    p = tl.exp2(-beta * tl.log2(s))
    return p, p / s


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    x, y, count, step: tl.constexpr, maps: tl.constexpr, size: tl.constexpr, k: tl.constexpr,
    alpha: tl.constexpr, beta: tl.constexpr, rectified: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside, map = at < count, at // step % maps
    p, _ = _powers(_denominator(x + at, map, inside, 0, step, maps, size, k, alpha, rectified), beta)
    tl.store(y + at, (_read(x + at, inside, rectified) * p).to(y.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    x, grad, result, count, step: tl.constexpr, maps: tl.constexpr, size: tl.constexpr, k: tl.constexpr,
    alpha: tl.constexpr, beta: tl.constexpr, rectified: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Compute g p - 2 alpha beta x windows(g x p / s), and 0 where the ReLU's output is 0."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside, map = at < count, at // step % maps
    inner = 0.0
    for i in tl.static_range(size):
        off = i - size // 2
        there = inside & (map + off >= 0) & (map + off < maps)
        s = _denominator(x + at, map, inside, off, step, maps, size, k, alpha, rectified)
        _, over = _powers(s, beta)
        g = tl.load(grad + at + off * step, mask=there, other=0.0).to(tl.float32)
        inner += g * _read(x + at + off * step, there, rectified) * over
    p, _ = _powers(_denominator(x + at, map, inside, 0, step, maps, size, k, alpha, rectified), beta)
    value = _read(x + at, inside, rectified)
    slope = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32) * p
    slope -= 2 * alpha * beta * value * inner
    if rectified:
        slope = tl.where(value <= 0.0, 0.0, slope)
    tl.store(result + at, slope.to(result.dtype.element_ty), mask=inside)
