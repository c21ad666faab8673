"""Compute learning rates and colour noise by epoch: pure functions of recipe, epoch and errors so far.

A schedule is a list of changes to the recipe's initial learning rates: a named one (see schedules.py) or the
phases of a user's own recipe. Those of "plateau", the paper's rule, follow from the validation errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from model.recipe import Recipe
from model.recipes import spelled
from model.schedules import SCHEDULES, Change, Schedule

REDUCTIONS = 3


@dataclass(frozen=True)
class LearningRates:
    """Hold one epoch's learning rates by layer name, and whether its images get colour noise."""

    weight: dict[str, float]
    bias: dict[str, float]
    noise: bool


def epochs(recipe: Recipe) -> int:
    """Return how many epochs the recipe trains at most."""
    return recipe.epochs or _own(recipe).epochs


def learning_rates(recipe: Recipe, epoch: int, history: Sequence[float] = ()) -> LearningRates:
    """Return the learning rates of `epoch` (from 1), given the top-1 error after each finished epoch.

    If `epochs` is not the schedule's own, changes are stretched to the same fraction of the run.
    """
    names = [layer.name for layer in recipe.layers]
    weight, bias, noise = dict.fromkeys(names, 1.0), dict.fromkeys(names, 1.0), True
    for change in sorted(_changes(recipe, history[: epoch - 1]), key=lambda change: change.epoch):
        if change.epoch > epoch:
            break
        named = [name for name in names if name in change.layers]
        for name in named if change.layers else [name for name in names if weight[name] > 0]:
            weight[name] = weight[name] if change.weight is None else change.weight
            bias[name] = bias[name] if change.bias is None else change.bias
        noise = noise if change.noise is None else change.noise
    return LearningRates(
        {name: recipe.rate * factor for name, factor in weight.items()},
        {name: recipe.rate * recipe.bias_factor * factor for name, factor in bias.items()},
        noise,
    )


def noise(recipe: Recipe, epoch: int) -> bool:
    """Return whether images of `epoch` get colour noise; errors do not count, as the loader prefetches."""
    return learning_rates(recipe, epoch).noise


def divisor(recipe: Recipe, epoch: int) -> float:
    """Return what images of `epoch` are divided by; as in 2012, 1 + noise only while there is noise."""
    return 1 + recipe.noise if recipe.noise_divided and noise(recipe, epoch) else 1.0


def finished(recipe: Recipe, history: Sequence[float]) -> bool:
    """Return whether training ends after the epochs with these top-1 errors."""
    return len(history) >= epochs(recipe) or len(_plateaus(recipe, history)) > REDUCTIONS


def stages(recipe: Recipe) -> list[tuple[str, LearningRates]]:
    """Return each stage's epochs, as "1-24", and rates; for "plateau", "to plateau 1" and so on."""
    if recipe.schedule == "plateau":
        stop = recipe.patience + 1  # epochs of a stage that never improves on its first
        each = [learning_rates(recipe, 1 + stop * i, [0.0] * (stop * i)) for i in range(REDUCTIONS + 1)]
        return [(f"to plateau {i}", stage) for i, stage in enumerate(each, 1)]
    result = []
    for stage, group in groupby(
        range(1, epochs(recipe) + 1), key=lambda epoch: learning_rates(recipe, epoch)
    ):
        first, *rest = group
        result.append((f"{first}-{rest[-1]}" if rest else f"{first}", stage))
    return result


def table(recipe: Recipe) -> list[list[str]]:
    """Return the schedule as text: heads, a row per stage, a column per group of layers of equal rates.

    A cell has the learning rates of weights and biases; layers whose rates are zero are frozen.
    """
    all_stages = stages(recipe)
    columns: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for layer in recipe.layers:
        history = tuple((stage.weight[layer.name], stage.bias[layer.name]) for _, stage in all_stages)
        columns.setdefault(history, []).append(layer.name)
    names = [layer.name for layer in recipe.layers]
    heads = ["epochs", *(_ranges(column, names) for column in columns.values()), "colour noise"]
    rows = [
        [
            epochs,
            *(f"{spelled(w)}, biases {spelled(b)}" if w or b else "frozen" for w, b in cells),
            "on" if stage.noise and recipe.noise else "off",
        ]
        for (epochs, stage), cells in zip(all_stages, zip(*columns, strict=True), strict=True)
    ]
    return [heads, *rows]


def _ranges(some: Sequence[str], names: Sequence[str]) -> str:
    """Return names as "conv1, conv3-fc7": three or more in the order of `names` become a range."""
    pieces = []
    for inside, group in groupby(names, key=lambda name: name in some):
        run = list(group)
        if inside:
            pieces += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else run
    return ", ".join(pieces)


def _own(recipe: Recipe) -> Schedule:
    """Return the schedule that the recipe names, or that its phases make."""
    if isinstance(recipe.schedule, str):
        return SCHEDULES[recipe.schedule]
    start, changes = 1, list[Change]()
    for phase in recipe.schedule:
        learning = tuple(layer.name for layer in recipe.layers if layer.name not in phase.frozen)
        changes.append(Change(start, phase.factor, phase.factor, learning, phase.noise))
        if phase.frozen:
            changes.append(Change(start, 0, 0, phase.frozen))
        start += phase.epochs
    return Schedule(start - 1, tuple(changes))


def _changes(recipe: Recipe, history: Sequence[float]) -> list[Change]:
    """Return the schedule's changes at this recipe's epochs, and those caused by the errors so far."""
    own = _own(recipe)
    stretched = [
        replace(change, epoch=1 + (change.epoch - 1) * epochs(recipe) / own.epochs) for change in own.changes
    ]
    drops = _plateaus(recipe, history)[:REDUCTIONS]
    return stretched + [Change(epoch, weight=10.0**-i, bias=10.0**-i) for i, epoch in enumerate(drops, 1)]


def _plateaus(recipe: Recipe, history: Sequence[float]) -> list[int]:
    """Return the epochs after `patience` epochs without a new best error.

    The best restarts at each learning rate: the paper asks for improvement "with the current learning rate".
    """
    if recipe.schedule != "plateau":
        return []
    drops, best, waited = [], float("inf"), 0
    for epoch, error in enumerate(history, 1):
        best, waited = (error, 0) if error < best else (best, waited + 1)
        if waited == recipe.patience:
            drops.append(epoch + 1)
            best, waited = float("inf"), 0
    return drops
