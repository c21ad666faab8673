"""The normalisations against loops, torch's own layer and numerical gradients."""

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from reference import Node, lrn, spatial

from model.layers import ResponseNorm
from model.lrn import across_maps, across_places, contrast, window_sum
from model.recipes import get_recipe

ORIGINAL = get_recipe("original")
DRAWN = torch.Generator().manual_seed(0)


def values(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.randn(shape, generator=DRAWN, dtype=torch.float64) * 20).to(dtype)


def test_lrn_by_the_formula():
    x = values(2, 12, 3, 4)
    expected = np.empty(x.shape)
    for n, i, row, column in np.ndindex(*x.shape):
        tower = i // 6 * 6  # windows end where the tower does
        window = range(max(tower, i - 2), min(tower + 5, i + 2) + 1)
        total = sum(float(x[n, j, row, column]) ** 2 for j in window)
        expected[n, i, row, column] = float(x[n, i, row, column]) / (2 + 1e-4 / 5 * total) ** 0.75
    np.testing.assert_allclose(across_maps(x, ORIGINAL.lrn, groups=2), expected, rtol=1e-13)


def test_spatial_norm_by_the_formula():
    x = values(2, 2, 7, 4)
    expected = np.empty(x.shape)
    for n, i, row, column in np.ndindex(*x.shape):
        window = x[n, i, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        expected[n, i, row, column] = (
            x[n, i, row, column] / (1 + 1e-3 / 25 * float((window**2).sum())) ** 0.75
        )
    np.testing.assert_allclose(across_places(x, ORIGINAL.spatial), expected, rtol=1e-13)


def test_contrast_norm_by_the_formula():
    x = values(2, 2, 7, 4)

    def around(x, row, column):
        return x[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]

    expected = np.empty(x.shape)
    for n, i, row, column in np.ndindex(*x.shape):
        image = x[n, i].numpy()
        off_mean = np.array([[image[r, c] - around(image, r, c).mean() for c in range(4)] for r in range(7)])
        total = (around(off_mean, row, column) ** 2).sum()
        expected[n, i, row, column] = image[row, column] / (1 + 1e-3 / 25 * total) ** 0.75
    np.testing.assert_allclose(contrast(x, ORIGINAL.spatial), expected, rtol=1e-13)


def test_the_gradient_of_contrast_takes_the_mean_for_a_constant():
    x, grad = values(2, 3, 6, 5).requires_grad_(), values(2, 3, 6, 5)
    contrast(x, ORIGINAL.spatial).backward(grad)
    theirs = x.detach().clone().requires_grad_()
    mean = F.avg_pool2d(theirs, 5, 1, 2, count_include_pad=False).detach()
    squares = F.avg_pool2d((theirs - mean) ** 2, 5, 1, 2)  # over 25 everywhere
    (theirs / (1 + 1e-3 * squares) ** 0.75).backward(grad)
    torch.testing.assert_close(x.grad, theirs.grad, rtol=1e-10, atol=1e-12)


NORMS = {
    "lrn": (lambda x: across_maps(x, ORIGINAL.lrn), lambda node: lrn(node, 1e-4 / 5)),
    "spatial": (lambda x: across_places(x, ORIGINAL.spatial), spatial),
    "contrast": (lambda x: contrast(x, ORIGINAL.spatial), reference.contrast),
}


@pytest.mark.parametrize("norm", NORMS)
def test_forward_and_gradient_of_the_reference(norm):
    x, grad = values(2, 9, 6, 6).requires_grad_(), values(2, 9, 6, 6)
    y, theirs = NORMS[norm][0](x), NORMS[norm][1](Node(x.detach().numpy()))
    y.backward(grad)
    np.testing.assert_allclose(y.detach(), theirs.value, rtol=1e-12)
    np.testing.assert_allclose(x.grad, theirs.back(grad.numpy())[0], rtol=1e-10)


@pytest.mark.parametrize("size", [1, 3, 5, 9])
@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_torchs_own_layer(size, beta):
    """Its alpha is divided by the window's size."""
    norm = ResponseNorm(size, alpha=1e-2 / size, k=1.5, beta=beta)
    x, grad = values(3, 7, 5, 4).requires_grad_(), values(3, 7, 5, 4)
    theirs = x.detach().clone().requires_grad_()
    across_maps(x, norm).backward(grad)
    F.local_response_norm(theirs, size, 1e-2, beta, 1.5).backward(grad)
    torch.testing.assert_close(x.grad, theirs.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(across_maps(x, norm), F.local_response_norm(x, size, 1e-2, beta, 1.5))


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_numerical_gradients(size):
    norm = ResponseNorm(size, alpha=0.02, k=1.5)
    x = (values(2, 6, 4, 5) / 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: across_maps(x, norm, 2), [x])
    assert torch.autograd.gradcheck(lambda x: across_places(x, norm), [x])


def test_windows_wider_than_the_maps():
    x = values(1, 2, 1, 3)
    torch.testing.assert_close(window_sum(x, 5, (1,)), x.sum(1, keepdim=True).expand_as(x))
    torch.testing.assert_close(window_sum(x, 9, (2, 3)), x.sum(-1, keepdim=True).expand_as(x))


def test_many_rows_as_few_rows():
    """A CPU takes some rows at a time: (40, 64, 40, 40) is four megabytes in several passes."""
    x = values(40, 64, 40, 40, dtype=torch.float32).requires_grad_()
    across_maps(x, ORIGINAL.lrn, 2).backward(torch.ones_like(x))
    for row in (0, 9, 10, 39):
        one = x[row : row + 1].detach().clone().requires_grad_()
        across_maps(one, ORIGINAL.lrn, 2).backward(torch.ones_like(one))
        assert torch.equal(x.grad[row], one.grad[0])


def test_half_precision_is_float32_rounded_once():
    x = values(2, 8, 5, 5, dtype=torch.bfloat16).requires_grad_()
    wide = x.detach().float().requires_grad_()
    for norm, _ in NORMS.values():
        x.grad = wide.grad = None
        norm(x).sum().backward()
        norm(wide).sum().backward()
        assert norm(x).dtype == torch.bfloat16
        assert torch.equal(norm(x), norm(wide).bfloat16())
        assert torch.equal(x.grad, wide.grad.bfloat16())


def test_channels_last_in_and_out():
    x = values(2, 8, 5, 6).contiguous(memory_format=torch.channels_last)
    y = across_maps(x, ORIGINAL.lrn, 2)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, across_maps(x.contiguous(), ORIGINAL.lrn, 2))
