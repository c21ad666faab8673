"""Tenth stop, the last: update the weights by the gradients of the loss, as executed in 2012.

    velocity <- momentum * velocity - rate * gradient - rate * decay * weight;  weight <- weight + velocity

The rate is inside the velocity, so when it drops the movement gathered at the old rate runs out by itself.
Biases have a rate of their own and no decay; at rate 0 a matrix does not move and its velocity is kept.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from model.network import AlexNet, State, canonical, fit, scatter
from model.recipe import Recipe
from model.schedule import Rates


@dataclass
class _Group:
    """Parameters that share a rate and a decay, which one fused kernel a device updates."""

    parameters: list[Tensor] = field(default_factory=list)
    opposite: list[Tensor] = field(default_factory=list)  # minus the velocity, which torch subtracts


class Momentum:
    """The network's velocities; `set_rates` before the first step and whenever the schedule changes them."""

    def __init__(self, network: AlexNet, recipe: Recipe) -> None:
        self.network, self.recipe = network, recipe
        self.opposite: dict[nn.Parameter, Tensor] = {
            piece: torch.zeros_like(piece) for _, _, pieces in network.pieces() for piece in pieces
        }
        self.groups: dict[tuple[float, float], _Group] = {}  # by rate and decay

    def set_rates(self, rates: Rates) -> None:
        """The rates of the next steps."""
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
        """One update from the parameters' gradients of the loss.

        torch's SGD is v <- momentum * v + (1 - dampening) * (g + decay * w), w <- w - lr * v: this rule, with
        the opposite of the velocity, when lr is 1 and dampening 1 - rate. Its fused kernel reads and writes
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
        """Forgets the gradients."""
        self.network.zero_grad()

    def state(self) -> State:
        """The velocities on the CPU in the network's canonical form; with the rates they are all there is."""
        return {
            f"{name}.{kind}": canonical([self.opposite[piece] for piece in pieces]).neg_()
            for name, kind, pieces in self.network.pieces()
        }

    def load(self, state: State) -> None:
        """Takes the `state` of any placement; RunError names the first velocity that does not fit."""
        fit(state, {name: tuple(tensor.shape) for name, tensor in self.state().items()})
        for name, kind, pieces in self.network.pieces():
            scatter(-state[f"{name}.{kind}"], [self.opposite[piece] for piece in pieces])
