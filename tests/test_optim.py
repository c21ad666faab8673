"""The update rule against NumPy, and a state that goes on to the same bits."""

import numpy as np
import pytest
import reference
import torch

from model.errors import RunError
from model.network import AlexNet
from model.optim import Momentum
from model.recipes import get_recipe
from model.schedule import LearningRates, learning_rates

RECIPE = get_recipe("original", width=1 / 64, classes=5)
NAMES = [layer.name for layer in RECIPE.layers]


def fixed(weight, bias, conv1=None):
    """Rates that are the same everywhere but in conv1."""
    last = {} if conv1 is None else {"conv1": conv1}
    return LearningRates(dict.fromkeys(NAMES, weight) | last, dict.fromkeys(NAMES, bias) | last, noise=True)


PLAN = {0: fixed(1e-2, 2e-2), 30: fixed(1e-3, 2e-2), 50: fixed(1e-3, 2e-3, 1e-5), 70: fixed(1e-4, 2e-3, 0.0),
        90: fixed(1e-2, 2e-2)}  # fmt: skip


def push(network, seed):
    """Gives every parameter the gradient that `seed` draws in canonical form; returns them."""
    draw, grads = np.random.default_rng(seed), {}
    for layer, kind, pieces in network.pieces():
        rows = sum(len(piece) for piece in pieces)
        grads[f"{layer}.{kind}"] = draw.normal(size=(rows, *pieces[0].shape[1:]))
        parts = torch.split(torch.from_numpy(grads[f"{layer}.{kind}"]), [len(piece) for piece in pieces])
        for piece, part in zip(pieces, parts, strict=True):
            piece.grad = part.to(piece.dtype)
    return grads


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]], ids=["fused", "towers"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_hundred_steps_are_the_reference(devices, dtype, tolerance):
    """Through drops of the rate, a slower and a frozen conv1, and conv1's return at the old velocity."""
    network = AlexNet(RECIPE, devices, seed=0).to(dtype)
    optimiser = Momentum(network, RECIPE)
    weights = {name: tensor.double().numpy() for name, tensor in network.state().items()}
    velocities = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in range(100):
        if step in PLAN:
            now = PLAN[step]
            optimiser.set_rates(now)
        grads = push(network, step)
        reference.update(weights, velocities, grads, now.weight, now.bias)
        optimiser.step()
    for ours, theirs in ((network.state(), weights), (optimiser.state(), velocities)):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert (
                np.abs(tensor.double().numpy() - theirs[name]).max() <= tolerance * np.abs(theirs[name]).max()
            ), name


def test_rate_zero_freezes():
    network = AlexNet(RECIPE, ["cpu"], seed=0)
    optimiser = Momentum(network, RECIPE)
    optimiser.set_rates(fixed(1e-2, 2e-2))
    push(network, 0)
    optimiser.step()
    before, moving = network.state(), optimiser.state()
    assert moving["conv1.weight"].abs().max() > 0
    optimiser.set_rates(learning_rates(RECIPE, 72))
    push(network, 1)
    optimiser.step()
    after, kept = network.state(), optimiser.state()
    for name in ("conv1.weight", "conv1.bias"):
        assert torch.equal(before[name], after[name])
        assert torch.equal(moving[name], kept[name])
    assert not torch.equal(before["conv2.weight"], after["conv2.weight"])


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]], ids=["fused", "towers"])
def test_a_saved_state_goes_on_to_the_same_bits(devices):
    straight = AlexNet(RECIPE, devices, seed=0)
    optimiser = Momentum(straight, RECIPE)
    for step in range(60):
        if step == 57:
            saved = {name: tensor.clone() for name, tensor in straight.state().items()}, optimiser.state()
        if step in PLAN:
            optimiser.set_rates(PLAN[step])
        push(straight, step)
        optimiser.step()
    resumed = AlexNet(RECIPE, devices, seed=1)
    again = Momentum(resumed, RECIPE)
    resumed.load(saved[0])
    again.load(saved[1])
    again.set_rates(PLAN[50])
    for step in range(57, 60):
        push(resumed, step)
        again.step()
    for ours, theirs in ((resumed.state(), straight.state()), (again.state(), optimiser.state())):
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_state_is_a_copy_and_must_fit():
    network = AlexNet(RECIPE, ["cpu"], seed=0)
    optimiser = Momentum(network, RECIPE)
    optimiser.set_rates(fixed(1e-2, 2e-2))
    state = optimiser.state()
    push(network, 0)
    optimiser.step()
    assert not any(tensor.any() for tensor in state.values())
    with pytest.raises(RunError, match=r"fc8.bias"):
        optimiser.load(state | {"fc8.bias": torch.zeros(6)})


def test_zero_grad_forgets():
    network = AlexNet(RECIPE, ["cpu"], seed=0)
    push(network, 0)
    Momentum(network, RECIPE).zero_grad()
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.gpu
def test_gpu_update_is_the_reference():
    network = AlexNet(RECIPE, ["cuda:0", "cuda:0"], seed=0)
    optimiser = Momentum(network, RECIPE)
    weights = {name: tensor.double().numpy() for name, tensor in network.state().items()}
    velocities = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in range(20):
        if step in (0, 10):
            now = PLAN[3 * step]
            optimiser.set_rates(now)
        draw = np.random.default_rng(step)
        grads = {}
        for layer, kind, pieces in network.pieces():
            parts = [draw.normal(size=piece.shape) for piece in pieces]
            grads[f"{layer}.{kind}"] = np.concatenate(parts)
            for piece, part in zip(pieces, parts, strict=True):
                piece.grad = torch.empty_like(piece).copy_(torch.from_numpy(part))  # in the weights' order
        reference.update(weights, velocities, grads, now.weight, now.bias)
        optimiser.step()
    for name, tensor in network.state().items():
        assert np.abs(tensor.numpy() - weights[name]).max() <= 1e-5 * np.abs(weights[name]).max()
