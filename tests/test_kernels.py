"""The Triton kernels, without a GPU: interpreted, against NumPy's float64 and against torch; and compiled."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from reference import Node

from model import lrn
from model.errors import RunError
from model.layers import ResponseNorm
from model.network import AlexNet
from model.optim import Momentum
from model.recipes import get_recipe
from model.schedule import learning_rates

pytest.importorskip("triton", reason="pip install triton")

LAST, FIRST = torch.channels_last, torch.contiguous_format
NEAR = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}  # of each number: a rounding
NORM = get_recipe("original").lrn


@pytest.fixture(scope="module")
def interpreted() -> ModuleType:
    """A copy of the kernels, run by Triton's interpreter."""
    path = Path(lrn.__file__).with_name("kernels.py")
    spec = importlib.util.spec_from_file_location("interpreted_kernels", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    module.BLOCK = 2**14  # fewer programs, each of which costs the interpreter time
    return module


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 20


def expected(x: torch.Tensor, grad: torch.Tensor, norm: ResponseNorm, groups: int, rectified: bool):
    """In float64, tower by tower, by torch's own layer, whose alpha is divided by the size."""
    x = x.double().requires_grad_()
    parts = (x.relu() if rectified else x).chunk(groups, 1)
    y = torch.cat([F.local_response_norm(part, norm.size, norm.alpha * norm.size, norm.beta, norm.k)
                   for part in parts], 1)  # fmt: skip
    y.backward(grad.double())
    return y.detach(), x.grad


@pytest.mark.parametrize("order", [LAST, FIRST])
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(
    ("size", "beta", "groups", "rectified"),
    [(5, 0.75, 2, True), (5, 0.75, 1, False), (3, 0.6, 2, False), (9, 0.75, 3, True), (1, 0.5, 1, True)],
)
def test_interpreted_kernels_by_the_formula(interpreted, order, dtype, size, beta, groups, rectified):
    norm = ResponseNorm(size, alpha=1e-3, k=1.5, beta=beta)
    x, grad = (values(2, 12, 5, 7)[i:].to(dtype).contiguous(memory_format=order) for i in (0, 0))
    grad = grad.flip(1)
    y, slope = expected(x, grad, norm, groups, rectified)
    x.requires_grad_()
    ours = interpreted.across_maps(x, norm, groups, rectified)
    ours.backward(grad)
    assert ours.dtype == x.grad.dtype == dtype and ours.is_contiguous(memory_format=order)
    near = {"rtol": NEAR[dtype], "atol": NEAR[dtype] * 1e-3}
    torch.testing.assert_close(ours.double(), y, **near)
    torch.testing.assert_close(x.grad.double(), slope, **near | {"atol": 40 * NEAR[dtype]})


def test_interpreted_kernels_are_the_numpy_reference_s(interpreted):
    x, grad = values(2, 9, 6, 6).float().requires_grad_(), values(2, 9, 6, 6).flip(0).float()
    y, theirs = interpreted.across_maps(x, NORM, 1, False), reference.lrn(Node(x.detach().numpy()), 1e-4 / 5)
    y.backward(grad)
    np.testing.assert_allclose(y.detach(), theirs.value, rtol=2e-6)
    np.testing.assert_allclose(x.grad, theirs.back(grad.numpy())[0], rtol=2e-5, atol=1e-5)


def test_interpreted_kernels_take_any_memory(interpreted):
    """Rows of a larger tensor, a gradient that is one number, places that do not fill a block."""
    whole = values(3, 8, 5, 5).float()
    for x in (whole[:, :, 1:4, 2:], whole.transpose(0, 2), whole[:0]):
        x = x.detach().requires_grad_()
        interpreted.across_maps(x, NORM, 2 if x.shape[1] % 2 == 0 else 1, False).sum().backward()
        theirs = x.detach().clone().requires_grad_()
        lrn.across_maps(theirs.contiguous(), NORM, 2).sum().backward()
        torch.testing.assert_close(x.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_what_is_not_a_number_stays_so(interpreted):
    """A lost loss must be seen: the ReLU hides it no more than torch's."""
    x = values(1, 4, 2, 2).float()
    x[0, 1, 0, 0] = torch.nan
    ours, theirs = (f(x.clone(), NORM, 2, True) for f in (interpreted.across_maps, lrn.across_maps))
    assert torch.equal(ours.isnan(), theirs.isnan()) and ours.isnan().sum() == 2


def losses(monkeypatch, kernels):
    """Of ten steps of a narrow network."""
    with monkeypatch.context() as patch:
        if kernels:
            patch.setattr("model.network.across_maps", kernels.across_maps)
        network = AlexNet(get_recipe("paper", width=1 / 24, classes=3), ["cpu"], seed=0)
        optimiser, found = Momentum(network, network.recipe), []
        optimiser.set_rates(learning_rates(network.recipe, 1))
        for step in range(10):
            draw = torch.Generator().manual_seed(step)
            images, labels = torch.randn(2, 3, 224, 224, generator=draw) * 60, torch.tensor([0, step % 3])
            loss = F.cross_entropy(network(images, network.masks(step, 0, 2)), labels)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            found.append(loss.item())
    return found, network.state()


def test_ten_steps_with_interpreted_kernels(interpreted, monkeypatch):
    """Losses within 1e-4, weights within 1e-3 of torch's: float32 in another order."""
    (ours, weights), (theirs, others) = losses(monkeypatch, interpreted), losses(monkeypatch, None)
    assert ours == pytest.approx(theirs, rel=1e-4)
    for key, tensor in weights.items():
        assert (tensor - others[key]).norm() < 1e-3 * others[key].norm(), key


@pytest.mark.parametrize("name", ["_forward", "_backward"])
@pytest.mark.parametrize(("order", "dtype"), [(LAST, "bf16"), (FIRST, "fp32")])
def test_the_compiler_takes_the_kernels(name, order, dtype, monkeypatch, tmp_path):
    """For an H100, which need not be there: an interpreter takes more of Python than it does."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from model import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    options = kernels._options(values(2, 96, 5, 5).contiguous(memory_format=order), NORM, 2, True)
    kernel = getattr(kernels, name)
    launch = {key: options.pop(key) for key in ("num_warps", "enable_fp_fusion")}
    kinds = {key: "constexpr" if key in options else "i32" if key == "count" else f"*{dtype}"
             for key in kernel.arg_names}  # fmt: skip
    source, card = ASTSource(kernel, kinds, options), GPUTarget("cuda", 90, 32)
    compiled = triton.compile(source, target=card, options=launch)
    assert compiled.asm["cubin"]
    # 5 values of x and the one in the middle; the gradient reads 9, and 5 slopes, and the middle of both
    assert compiled.asm["ttir"].count("tt.load") == {"_forward": 6, "_backward": 16}[name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it can")
def test_a_triton_that_cannot_work_is_one_line():
    with pytest.raises(RunError, match=r"Triton cannot compile .*: install gcc"):
        lrn._kernels.__wrapped__()


@pytest.mark.gpu
@pytest.mark.parametrize("order", [LAST, FIRST])
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("rectified", [False, True])
def test_gpu_kernels_by_the_formula(order, dtype, rectified):
    x = values(4, 96, 27, 27).to("cuda", dtype).contiguous(memory_format=order)
    grad = x.flip(0)
    y, slope = expected(x, grad, NORM, 2, rectified)
    x.requires_grad_()
    ours = lrn.across_maps(x, NORM, 2, rectified)
    ours.backward(grad)
    assert "model.kernels" in sys.modules, "torch's CUDA builds bring Triton with them"
    torch.testing.assert_close(ours.double(), y, rtol=NEAR[dtype], atol=NEAR[dtype] * 1e-3)
    torch.testing.assert_close(x.grad.double(), slope, rtol=NEAR[dtype], atol=40 * NEAR[dtype])
