"""What is made of a network's layers and gradients, against NumPy; nearest neighbours against float64."""

from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from reference import Node

from model.errors import RunError
from model.network import AlexNet
from model.recipes import get_recipe
from model.study.layers import gradient, outputs, predict
from model.study.nearest import nearest

RECIPE = get_recipe("original", width=1 / 16, classes=7)
PLACEMENTS = pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]], ids=["fused", "towers"])


def images(count: int = 2) -> torch.Tensor:
    draw = np.random.default_rng(0)
    return torch.from_numpy(draw.normal(scale=60, size=(count, 3, 224, 224)).astype(np.float32))


def parameters(network: AlexNet) -> dict[str, Node]:
    return {name: Node(tensor.double().numpy()) for name, tensor in network.state().items()}


def walk(p: dict[str, Node], x: Node) -> dict[str, Node]:
    """conv5, fc6, fc7 and fc8 of the original in evaluation."""
    found = {"conv5": reference.features(p, x, "original")}
    found["fc6"] = reference.scale(
        reference.relu(reference.dense(found["conv5"], p["fc6.weight"], p["fc6.bias"])), 0.5
    )
    found["fc7"] = reference.scale(
        reference.relu(reference.dense(found["fc6"], p["fc7.weight"], p["fc7.bias"])), 0.5
    )
    return found | {"fc8": reference.dense(found["fc7"], p["fc8.weight"], p["fc8.bias"])}


def close(ours: torch.Tensor, theirs: np.ndarray) -> bool:
    assert ours.shape == theirs.shape
    return bool(np.linalg.norm(ours.double().numpy() - theirs) < 1e-4 * np.linalg.norm(theirs))


@PLACEMENTS
def test_outputs_are_what_the_next_layer_reads(devices: list[str]) -> None:
    network, x = AlexNet(RECIPE, devices, seed=1), images()
    theirs = walk(parameters(network), Node(x.double().numpy()))
    ours = outputs(network, x, list(theirs), "float32")
    assert all(close(ours[name], theirs[name].value) for name in theirs)
    assert torch.allclose(ours["fc8"], network(x), atol=1e-4)  # asking for layers changes none behind them


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(RunError, match=r"no layer fc9; it has conv1, .*, fc8"):
        outputs(AlexNet(RECIPE, ["cpu"], seed=1), images(1), ["fc7", "fc9"], "float32")


@PLACEMENTS
def test_the_gradient_is_the_reference_s(devices: list[str]) -> None:
    network, x, classes = AlexNet(RECIPE, devices, seed=1), images(), torch.tensor([3, 0])
    node = Node(x.double().numpy())
    loss = reference.cross_entropy(walk(parameters(network), node)["fc8"], classes.numpy())
    reference.backpropagate(loss)
    assert close(gradient(network, x, classes), -len(x) * node.grad)


def test_predict_averages_the_views() -> None:
    network, x = AlexNet(RECIPE, ["cpu"], seed=1), images(4)
    batches = [
        (x[:2].unflatten(0, (1, 2)), torch.tensor([5])),
        (x[2:].unflatten(0, (1, 2)), torch.tensor([8])),
    ]
    labels, probabilities = zip(*predict(network, batches, "float32"), strict=True)
    with torch.no_grad():
        expected = network(x).softmax(1).unflatten(0, (2, 2)).mean(1)
    assert torch.cat(labels).tolist() == [5, 8] and torch.allclose(torch.cat(probabilities), expected)


def brute_force(queries: np.ndarray, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    difference = queries[:, None].astype(np.float64) - vectors[None].astype(np.float64)
    squared = (difference**2).sum(2)
    order = np.argsort(squared, axis=1, kind="stable")[:, :count]
    return order, np.sqrt(np.take_along_axis(squared, order, 1))


def same(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.array_equal(ours[0], theirs[0])
    assert np.allclose(ours[1], theirs[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("count", [1, 6, 300])
def test_nearest_is_brute_force(block: int, count: int) -> None:
    draw = np.random.default_rng(0)
    vectors, queries = draw.random((200, 50), np.float32), draw.random((5, 50), np.float32)
    vectors[11] = vectors[150] = queries[2]  # found at distance 0, in the order of rows
    same(nearest(queries, vectors, count, block), brute_force(queries, vectors, count))


@pytest.mark.parametrize("block", [30, 400])
def test_nearest_is_exact_where_float32_is_not(block: int) -> None:
    """All vectors far from the origin and near to one another: float32 loses every digit of a distance."""
    draw = np.random.default_rng(1)
    vectors = (1000 + draw.normal(scale=0.01, size=(400, 256))).astype(np.float32)
    queries = (1000 + draw.normal(scale=0.01, size=(3, 256))).astype(np.float32)
    theirs = brute_force(queries, vectors, 6)
    naive = (queries**2).sum(1)[:, None] - 2 * queries @ vectors.T + (vectors**2).sum(1)
    assert not np.array_equal(np.argsort(naive, 1, kind="stable")[:, :6], theirs[0])
    same(nearest(queries, vectors, 6, block), theirs)


def test_nearest_in_a_file_of_float16(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    vectors = draw.random((300, 40)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", vectors)
    table = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    queries = draw.random((4, 40), np.float32)
    same(nearest(queries, table, 6, 64), brute_force(queries, vectors, 6))
