"""Eleventh stop, the last: update the parameters by the gradients of the loss, as the 2012 code does.

    velocity <- momentum * velocity - rate * gradient - rate * decay * weight;  weight <- weight + velocity

The learning rate is inside the velocity, so when it drops, the velocity from the old rate decays by momentum.
Biases have their own learning rate and no weight decay; at rate 0 a tensor is frozen and its velocity kept.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from model.network import AlexNet, StateDict, canonical, check_sizes, scatter
from model.recipe import Recipe
from model.schedule import LearningRates


@dataclass
class _Group:
    """Hold parameters of equal learning rate and weight decay, updated by one fused kernel per device."""

    parameters: list[Tensor] = field(default_factory=list)
    opposite: list[Tensor] = field(default_factory=list)  # minus the velocity: torch subtracts it


class Momentum:
    """Hold the velocities. Call `set_rates` before the first step and whenever the schedule changes them."""

    def __init__(self, network: AlexNet, recipe: Recipe) -> None:
        self.network, self.recipe = network, recipe
        self.opposite: dict[nn.Parameter, Tensor] = {
            piece: torch.zeros_like(piece) for _, _, pieces in network.pieces() for piece in pieces
        }
        self.groups: dict[tuple[float, float], _Group] = {}  # by learning rate and weight decay

    def set_rates(self, rates: LearningRates) -> None:
        """Set the learning rates of the next steps."""
        self.groups = defaultdict(_Group)
        for name, kind, pieces in self.network.pieces():
            rate, decay = (
                (rates.bias[name], 0.0) if kind == "bias" else (rates.weight[name], self.recipe.decay)
            )
            if rate > 0:
                group = self.groups[rate, decay]
                group.parameters += pieces
                group.opposite += [self.opposite[piece] for piece in pieces]

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters by the gradients of the loss that they hold.

        torch's SGD is v <- momentum * v + (1 - dampening) * (g + decay * w), w <- w - lr * v. With lr = 1 and
        dampening = 1 - rate that is our rule, v being minus the velocity. Its fused kernel reads and writes
        each number once.
        """
        assert self.groups, "set_rates comes before step"
        for (rate, decay), group in self.groups.items():
            sgd(
                group.parameters,
                [parameter.grad for parameter in group.parameters],  # type: ignore[misc]
                group.opposite,  # type: ignore[arg-type]
                fused=True,
                weight_decay=decay,
                momentum=self.recipe.momentum,
                lr=1.0,
                dampening=1 - rate,
                nesterov=False,
                maximize=False,
            )

    def zero_grad(self) -> None:
        """Discard the gradients."""
        self.network.zero_grad()

    def state(self) -> StateDict:
        """Return the velocities, the whole state, on the CPU in canonical form (see `AlexNet.state`)."""
        return {
            f"{name}.{kind}": canonical([self.opposite[piece] for piece in pieces]).neg_()
            for name, kind, pieces in self.network.pieces()
        }

    def load(self, state: StateDict) -> None:
        """Load the `state` of any placement; RunError names the first velocity of a wrong shape."""
        check_sizes(state, {name: tuple(tensor.shape) for name, tensor in self.state().items()})
        for name, kind, pieces in self.network.pieces():
            scatter(-state[f"{name}.{kind}"], [self.opposite[piece] for piece in pieces])
