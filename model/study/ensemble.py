"""Averages of several networks' probabilities, and the search for their weights of the 2012 source."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.evaluate import tally

STEPS = [n / 20 for n in range(21)]  # the weights that are tried: 0, 0.05 ... 1
PASSES = 5


def average(probabilities: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """(images, classes), rows that sum to 1 where those given do."""
    total = sum(weight * each for weight, each in zip(weights, probabilities, strict=True))
    assert isinstance(total, Tensor)
    return total / sum(weights)


def search(
    probabilities: Sequence[Tensor], labels: Tensor, tell: Callable[[int, list[float], float], None]
) -> list[float]:
    """Weights of the lowest top-5 error, coordinate by coordinate, as avg-valid.py of 2012 looked for them.

    All start at a half. In up to five passes each in turn takes the first of its steps that has fewer errors
    than the best so far; a pass that changes nothing is the last. `tell` hears the pass, the weights and the
    errors after it.
    """
    weights = [0.5] * len(probabilities)
    least = _errors(average(probabilities, weights), labels)
    for number in range(1, PASSES + 1):
        before = list(weights)
        for index, own in enumerate(probabilities):
            rest = [(w, p) for i, (w, p) in enumerate(zip(weights, probabilities, strict=True)) if i != index]
            others = sum((w * p for w, p in rest), torch.zeros_like(own))
            for step in STEPS:
                if step + sum(w for w, _ in rest) == 0:
                    continue
                errors = _errors(others + step * own, labels)
                if errors < least:
                    least, weights[index] = errors, step
        tell(number, weights, least)
        if weights == before:
            break
    return weights


def _errors(scores: Tensor, labels: Tensor) -> float:
    """Images whose label is not among the five highest."""
    return float(tally(scores, labels)[3])
