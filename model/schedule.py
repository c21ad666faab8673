"""Learning rates and colour noise by epoch: pure functions of a recipe, an epoch and the errors so far.

A schedule is a list of changes to the recipe's first rates. Three are the notes of 2012 (the comments at the
end of its layer-params-*.cfg); "plateau" is the paper's rule: its changes follow from the validation errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.recipe import Recipe


@dataclass(frozen=True)
class Change:
    """From `epoch` on, `layers` learn at these factors of the recipe's first rates; None leaves what was.

    No layers named: all that are not frozen. An epoch that is no whole number waits for the next to start.
    """

    epoch: float
    weight: float | None = None
    bias: float | None = None
    layers: tuple[str, ...] = ()
    noise: bool | None = None


@dataclass(frozen=True)
class Schedule:
    """`epochs` in all, if the errors do not end it earlier, and the changes that are known beforehand."""

    epochs: int
    changes: tuple[Change, ...] = ()


def _slices(factor: float, count: int, epochs: int) -> list[tuple[float, float]]:
    """(epoch, rate factor) of `count` equal slices of the run that end at 1 / factor: dexp of src/lr.cu."""
    return [(1 + epochs * i / count, factor ** (-i / (count - 1))) for i in range(1, count)]


SCHEDULES = {
    # The run of the paper's 40.7 / 18.2. Its file ends with the biases' first rate, 0.02, for all but the
    # frozen conv1: they were never lowered.
    "145": Schedule(
        90,
        (
            Change(25, weight=1e-1),
            Change(51, weight=1e-2),
            Change(67, weight=1e-3, layers=("conv1",), noise=False),
            Change(72, weight=0, bias=0, layers=("conv1",)),
            Change(79, weight=1e-3),
        ),
    ),
    # The run of the paper's 37.5 / 17.0. Its file ends with 0.002 for biases; that this came with the first
    # drop is what the one schedule kept as a script (run4.sh) does.
    "145-2010": Schedule(
        92,
        (
            Change(23, weight=1e-1, bias=1e-1),
            Change(51, weight=1e-2),
            Change(68, weight=1e-3, layers=("conv1",), noise=False),
            Change(72, weight=0, bias=0, layers=("conv1",)),
            Change(78, weight=1e-3),
        ),
    ),
    # Made right after the paper: weights dexp(250, 4 slices), biases dexp(10, 2 slices).
    "170": Schedule(
        95,
        (
            *(Change(epoch, weight=factor) for epoch, factor in _slices(250, 4, 95)),
            *(Change(epoch, bias=factor) for epoch, factor in _slices(10, 2, 95)),
            Change(68, noise=False),
            Change(74, weight=0, bias=0, layers=("conv1",)),
        ),
    ),
    # The paper: "divide the learning rate by 10 when the validation error rate stopped improving with the
    # current learning rate", "reduced three times prior to termination", "roughly 90 cycles" (here at most).
    "plateau": Schedule(90),
}
REDUCTIONS = 3


@dataclass(frozen=True)
class Rates:
    """The rates of one epoch by layer name, and whether its images get colour noise."""

    weight: dict[str, float]
    bias: dict[str, float]
    noise: bool


def epochs(recipe: "Recipe") -> int:
    """How many epochs the recipe trains, at most."""
    return recipe.epochs or SCHEDULES[recipe.schedule].epochs


def rates(recipe: "Recipe", epoch: int, history: Sequence[float] = ()) -> Rates:
    """The rates of `epoch` (the first is 1), given the top-1 error after each finished epoch.

    Other than the schedule's own number of epochs stretches it: a change waits for the same part of the run.
    """
    names = [layer.name for layer in recipe.layers]
    weight, bias, noise = dict.fromkeys(names, 1.0), dict.fromkeys(names, 1.0), True
    for change in sorted(_changes(recipe, history[: epoch - 1]), key=lambda change: change.epoch):
        if change.epoch > epoch:
            break
        for name in change.layers or [name for name in names if weight[name] > 0]:
            weight[name] = weight[name] if change.weight is None else change.weight
            bias[name] = bias[name] if change.bias is None else change.bias
        noise = noise if change.noise is None else change.noise
    return Rates(
        {name: recipe.rate * factor for name, factor in weight.items()},
        {name: recipe.rate * recipe.bias_factor * factor for name, factor in bias.items()},
        noise,
    )


def noise(recipe: "Recipe", epoch: int) -> bool:
    """Whether the images of `epoch` get colour noise; never a matter of errors, as the loader runs ahead."""
    return rates(recipe, epoch).noise


def divisor(recipe: "Recipe", epoch: int) -> float:
    """What the images of `epoch` are divided by at last; in 2012 only while there was noise."""
    return 1 + recipe.noise if recipe.noise_divided and noise(recipe, epoch) else 1.0


def finished(recipe: "Recipe", history: Sequence[float]) -> bool:
    """Whether training ends after the epochs whose top-1 errors these are."""
    return len(history) >= epochs(recipe) or len(_plateaus(recipe, history)) > REDUCTIONS


def table(recipe: "Recipe") -> list[tuple[str, float, float, float, bool]]:
    """(epochs, weight rate, bias rate, first layer's weight rate, noise) of each stage, for --show-recipe."""
    first, last = recipe.layers[0].name, recipe.layers[-1].name

    def row(epoch: int, history: Sequence[float] = ()) -> tuple[float, float, float, bool]:
        now = rates(recipe, epoch, history)
        return now.weight[last], now.bias[last], now.weight[first], now.noise

    if recipe.schedule == "plateau":
        stop = recipe.patience + 1  # epochs of a stage that never improves on its first
        stages = [row(1 + stop * i, [0.0] * (stop * i)) for i in range(REDUCTIONS + 1)]
        return [(f"to plateau {i}", *stage) for i, stage in enumerate(stages, 1)]
    rows = []
    for stage, group in groupby(range(1, epochs(recipe) + 1), key=row):
        numbers = list(group)
        rows.append((f"{numbers[0]}-{numbers[-1]}", *stage))
    return rows


def _changes(recipe: "Recipe", history: Sequence[float]) -> list[Change]:
    """The schedule's changes at the epochs of this recipe, and those that the errors so far have brought."""
    own = SCHEDULES[recipe.schedule]
    stretched = [
        replace(change, epoch=1 + (change.epoch - 1) * epochs(recipe) / own.epochs) for change in own.changes
    ]
    drops = _plateaus(recipe, history)[:REDUCTIONS]
    return stretched + [Change(epoch, weight=10.0**-i, bias=10.0**-i) for i, epoch in enumerate(drops, 1)]


def _plateaus(recipe: "Recipe", history: Sequence[float]) -> list[int]:
    """The epochs before which the error had stopped improving: `patience` epochs without a new best.

    Best is counted anew at each rate: the paper asks for improvement "with the current learning rate".
    """
    if recipe.schedule != "plateau":
        return []
    found, best, waited = [], float("inf"), 0
    for epoch, error in enumerate(history, 1):
        best, waited = (error, 0) if error < best else (best, waited + 1)
        if waited == recipe.patience:
            found.append(epoch + 1)
            best, waited = float("inf"), 0
    return found
