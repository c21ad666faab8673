"""Average several networks' probabilities, and search for their weights as the 2012 source did."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.evaluate import tally

STEPS = [n / 20 for n in range(21)]  # candidate weights: 0, 0.05 ... 1
PASSES = 5


def average(probabilities: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean, (images, classes); its rows sum to 1 if the given ones do."""
    total = sum(weight * each for weight, each in zip(weights, probabilities, strict=True))
    assert isinstance(total, Tensor)
    return total / sum(weights)


def search(
    probabilities: Sequence[Tensor], labels: Tensor, tell: Callable[[int, list[float], float], None]
) -> list[float]:
    """Find weights of low top-5 error by coordinate descent, as avg-valid.py of the 2012 source does.

    All start at 0.5. In up to five passes each weight in turn takes any of STEPS that gives fewer errors than
    the best so far; a pass without a change is the last. tell: called after each pass with its number,
    the weights and the errors.
    """
    weights = [0.5] * len(probabilities)
    least = _errors(average(probabilities, weights), labels)
    for number in range(1, PASSES + 1):
        before = list(weights)
        for index, this in enumerate(probabilities):
            rest = [(w, p) for i, (w, p) in enumerate(zip(weights, probabilities, strict=True)) if i != index]
            others = sum((w * p for w, p in rest), torch.zeros_like(this))
            for step in STEPS:
                if step + sum(w for w, _ in rest) == 0:
                    continue
                errors = _errors(others + step * this, labels)
                if errors < least:
                    least, weights[index] = errors, step
        tell(number, weights, least)
        if weights == before:
            break
    return weights


def _errors(scores: Tensor, labels: Tensor) -> float:
    """Count images whose label is not among the five highest scores."""
    return float(tally(scores, labels)[3])
