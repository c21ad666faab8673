"""Counting errors, against sorting by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from model.errors import RunError
from model.evaluate import error_percentages, evaluate, sound_rates, tally


def test_errors_by_sorting() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(50), size=200)
    labels = random.integers(50, size=200)
    ranked = np.argsort(-probabilities, axis=1)
    found = error_percentages(tally(torch.tensor(probabilities), torch.tensor(labels)))
    assert found["top1_err"] == pytest.approx(100 * np.mean(ranked[:, 0] != labels))
    top5 = [label not in best for label, best in zip(labels, ranked[:, :5], strict=True)]
    assert found["top5_err"] == pytest.approx(100 * np.mean(top5))
    assert found["loss"] == pytest.approx(-np.log(probabilities[np.arange(200), labels]).mean())


def test_ties_share_the_places_that_are_left() -> None:
    constant = torch.full((3, 20), 0.05)
    found = error_percentages(tally(constant, torch.tensor([0, 7, 19])))
    assert found["top1_err"] == pytest.approx(95)  # as guessing among 20
    assert found["top5_err"] == pytest.approx(75)
    assert found["loss"] == pytest.approx(math.log(20))
    # one class above, the label tied with one other: half of top-1's place is gone, both are in the top 5
    row = torch.tensor([[0.5, 0.2, 0.2, 0.1]])
    assert tally(row, torch.tensor([1])).tolist()[2:] == [1, 0]
    assert tally(torch.tensor([[0.4, 0.4, 0.2]]), torch.tensor([0])).tolist()[2] == 0.5


def test_an_impossible_label_costs_a_finite_loss() -> None:
    assert math.isfinite(error_percentages(tally(torch.tensor([[0.0, 1.0]]), torch.tensor([0])))["loss"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("classes", [3, 20])
def test_an_image_without_a_finite_probability_is_wrong(bad: float, classes: int) -> None:
    probabilities = torch.full((4, classes), 1 / classes)
    probabilities[0] = bad  # all of them, as softmax does
    probabilities[1, 1] = bad  # that of its class
    probabilities[2] = torch.eye(classes)[2]
    found = tally(probabilities, torch.arange(4) % classes)
    assert found[2:].tolist() == pytest.approx([2 + (1 - 1 / classes), 2 + max(0, 1 - 5 / classes)])
    assert not math.isfinite(found[1])
    with pytest.raises(RunError, match=r"runs/a/last.pt: the loss is (nan|-?inf), for the outputs"):
        sound_rates(found, "runs/a/last.pt")


def test_empty_batches_count_nothing() -> None:
    assert tally(torch.empty(0, 5), torch.empty(0, dtype=torch.long)).tolist() == [0, 0, 0, 0]


def test_probabilities_are_averaged_over_views() -> None:
    random = np.random.default_rng(1)
    weight = random.normal(size=(6, 12))
    images = random.normal(size=(5, 10, 3, 2, 2))
    logits = images.reshape(5, 10, 12) @ weight.T
    each = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 6, bias=False)).double()
    network[1].weight.data = torch.tensor(weight)
    labels = torch.tensor([0, 1, 2, 3, 4])
    batches = [(torch.tensor(images[i:j]), labels[i:j]) for i, j in ((0, 3), (3, 5))]
    found = evaluate(network, batches, precision="float32", keep=True)
    assert found.sums[0] == 5
    assert found.probabilities.numpy() == pytest.approx(each.mean(1), abs=1e-6)
