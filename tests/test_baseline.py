"""The paper's other rows: their mathematics against loops and closed forms; whole runs, killed and not."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats
from triggers import Trigger, die, hang_up

from cli import main
from cli.compose import predictions
from cli.paper import baseline
from model.baselines import linear
from model.baselines.fisher import FisherVectors
from model.baselines.linear import OneVsRest
from model.baselines.sift import Grid, dense_sift, regions
from model.baselines.sparse import SparseCodes, pool
from pipeline.dataset import Dataset, read_names
from pipeline.source import miniature
from tools.commands import Command
from tools.soak import differing, rows

WHOLE = np.ones((1, 5), bool)


def grey(label: int) -> np.ndarray:
    image = miniature.draw(label, np.random.default_rng(label))
    return image[:192, :192].mean(2).astype(np.uint8)


def random_sift(count: int, seed: int = 0) -> np.ndarray:
    """Vectors of the length of OpenCV's."""
    draw = np.random.default_rng(seed).random((count, 128))
    return (512 * draw / np.linalg.norm(draw, axis=1, keepdims=True)).astype(np.uint8)


def test_sift_of_a_grid_at_scales() -> None:
    """(192 - 24) / 8 + 1 = 22 a side, then of 136, 96 and 68 pixels: 15, 10 and 6."""
    descriptors, places = dense_sift(grey(0), Grid(patch=24, step=8, scales=4))
    assert descriptors.shape == (22**2 + 15**2 + 10**2 + 6**2, 128) and descriptors.dtype == np.uint8
    assert places[0] == pytest.approx((12 / 192, 12 / 192)) and places.min() > 0 and places.max() < 1
    assert np.abs(np.linalg.norm(descriptors.astype(float), axis=1) - 512).max() < 16
    flat, _ = dense_sift(np.full((64, 64), 9, np.uint8), Grid(patch=24, step=8, scales=9))
    assert flat.shape == (6**2 + 3**2 + 2**2, 128)


def test_sift_knows_what_a_mirror_does_and_not_what_light_does() -> None:
    """Transposed, cells are transposed and a gradient's angle is 270 degrees less itself."""
    image, grid = grey(8), Grid(patch=24, step=12, scales=1)
    found = dense_sift(image, grid)[0].reshape(15, 15, 4, 4, 8).astype(int)
    turned = dense_sift(np.ascontiguousarray(image.T), grid)[0].reshape(15, 15, 4, 4, 8)
    expected = found.transpose(1, 0, 3, 2, 4)[..., (6 - np.arange(8)) % 8]
    assert np.abs(turned - expected).mean() < 1 < np.abs(turned - found).mean()
    dim = dense_sift((image // 2 + 90).astype(np.uint8), grid)[0].reshape(found.shape)
    assert np.abs(dim - found).mean() < 3


def test_regions_of_a_pyramid() -> None:
    """Whole, two halves, three stripes; the last place lies on the edge of everything."""
    places = np.array([[0.1, 0.1], [0.6, 0.5], [0.4, 0.9], [1.0, 1.0]])
    assert regions(places, [(1, 1), (2, 1), (1, 3)]).astype(int).tolist() == [
        [1, 1, 1, 1],
        [1, 0, 1, 0], [0, 1, 0, 1],
        [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1],
    ]  # fmt: skip


def test_fisher_vector_is_the_formula_s() -> None:
    """Loops in float64 over Gaussians and descriptors (Sanchez and others, IJCV 2013)."""
    draw = np.random.default_rng(1)
    k, d, x = 3, 4, random_sift(5)
    axes = np.linalg.qr(draw.standard_normal((128, d)))[0].T
    weights, means, variances = (
        np.array([0.5, 0.3, 0.2]), draw.normal(0, 0.1, (k, d)), draw.uniform(0.01, 0.1, (k, d))
    )  # fmt: skip
    centre = draw.uniform(0, 0.1, 128)
    arrays = (centre, axes, weights, means, variances)
    ours = FisherVectors(*(array.astype(np.float32) for array in arrays))
    inside = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)

    y = (x / 512 - centre) @ axes.T
    expected = []
    for part in inside:
        gradients = np.zeros((2, k, d))
        for point in y[part]:
            likely = [
                weights[j] * stats.norm.pdf(point, means[j], np.sqrt(variances[j])).prod() for j in range(k)
            ]
            for j in range(k):
                away = (point - means[j]) / np.sqrt(variances[j])
                share = likely[j] / sum(likely) / part.sum() / math.sqrt(weights[j])
                gradients[:, j] += share * away, share * (away**2 - 1) / math.sqrt(2)
        roots = np.sign(gradients) * np.abs(gradients) ** 0.5
        expected.append(roots.ravel() / max(np.linalg.norm(roots), 1e-12) / math.sqrt(3))
    found = ours.encode(x, inside)
    assert found.dtype == np.float32 and np.abs(found - np.concatenate(expected)).max() < 1e-5
    assert np.linalg.norm(found) == pytest.approx(math.sqrt(2 / 3), abs=1e-6)  # a region is empty
    assert ours.length == 2 * k * d


def test_few_descriptors_make_small_codebooks() -> None:
    mixture = FisherVectors.fit(random_sift(50), dimensions=64, components=256, seed=0)
    assert mixture.sizes == {"dimensions": 5, "components": 5}
    assert np.isfinite(mixture.encode(np.zeros((5, 128), np.uint8), WHOLE)).all()
    assert SparseCodes.fit(random_sift(50), words=1024, seed=0).sizes == {"words": 5}


def test_sparse_codes_of_unit_vectors_are_thresholds() -> None:
    """Where the dictionary is an identity, |x - c|^2 / 2 + 0.15 |c| is least at x less 0.15, or 0."""
    numbers = np.array([np.random.default_rng(row).permutation(128) for row in range(5)])
    x = (numbers**2 / 64).astype(np.uint8)
    unit = x / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    expected = np.maximum(unit - 0.15, 0).max(0)
    found = SparseCodes(np.eye(128, dtype=np.float32)).encode(x, WHOLE)
    assert expected.any() and np.abs(found - expected / np.linalg.norm(expected)).max() < 1e-5


def test_pooling_takes_the_largest_size() -> None:
    codes = np.array([[0.0, -3.0], [1.0, 2.0], [-0.5, 0.0]])
    inside = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]], bool)
    assert pool(codes, inside).tolist() == [[1, 3], [1, 2], [0.5, 0], [0, 0]]


@pytest.mark.parametrize(("classes", "weight"), [(3, 1.0), (65, 0.5)])
def test_an_update_follows_the_gradient(classes: int, weight: float) -> None:
    """Of the sum of hinges, written out and differentiated by torch in float64."""
    generator = torch.Generator().manual_seed(0)
    ours = OneVsRest(6, classes)
    ours.weight.copy_(torch.randn(classes, 6, generator=generator))
    x, labels = torch.randn(32, 6, generator=generator), torch.arange(32) % classes
    w, b = (tensor.double().requires_grad_() for tensor in (ours.weight.clone(), ours.bias.clone()))
    total = linear.DECAY / 2 * (w**2).sum()
    for row, label in zip(x.double(), labels.tolist(), strict=True):
        for k in range(classes):
            score = w[k] @ row + b[k]
            own = k == label
            total = total + (1 if own else weight) * torch.relu(1 - score if own else 1 + score) / 32
    total.backward()
    scores = ours.update(x, labels, rate=0.5)
    assert torch.allclose(scores.double(), x.double() @ w.T + b, atol=1e-5)
    assert torch.allclose(ours.weight.double(), w - 0.5 * w.grad, atol=1e-6)
    assert torch.allclose(ours.bias.double(), b - 0.5 * b.grad, atol=1e-6)


def test_classifiers_find_the_widest_margin() -> None:
    """Of one image at +1 and one at -1: scores are x and -x."""
    ours, x, labels = OneVsRest(1, 2), torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])
    for step in range(2000):
        ours.update(x, labels, rate=0.2 * (1 - step / 2000))
    assert torch.allclose(ours.weight, torch.tensor([[1.0], [-1.0]]), atol=0.01)
    assert torch.allclose(ours.bias, torch.zeros(2), atol=0.01)


SMALL = ("--step", 16, "--sample", 500, "--epochs", 3)
FISHER = ("baseline", "sift-fv", *SMALL, "--components", 8, "--dimensions", 16)


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    command = Command(*FISHER, "--data", dataset.root, "--out", run, "--workers", 1, folder=run.parent)
    assert command.wait() == 0, command.text
    assert "codebook  28 images in" in command.text and "features  37 images in" in command.text
    assert f"features  256 numbers per image, 0.0 MB in {run}" in command.text
    return run


def call(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def error(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.output
    return result.stderr


def check(run: Path, dataset: Dataset) -> None:
    """Errors are counted again from the predictions; chance would be wrong in two of three."""
    result, found = json.loads((run / "result.json").read_text()), predictions.read(run / "predictions.npz")
    wrong = (found.probabilities.argmax(1) != found.labels).mean()
    assert result["top1_err"] == pytest.approx(100 * wrong) and wrong < 0.4 and result["top5_err"] == 0
    assert result["images"] == len(found.labels) == 9 and found.names == read_names(dataset, "val")
    assert rows(run)[-1]["top1_err"] == result["top1_err"]
    assert [row["epoch"] for row in rows(run) if row["kind"] == "val"] == [1, 2, 3]


def test_sift_and_fisher_vectors(undisturbed: Path, dataset: Dataset) -> None:
    check(undisturbed, dataset)
    features = np.load(undisturbed / "train" / "000000.npy")
    assert features.shape == (28, 256) and features.dtype == np.float16
    assert np.abs(np.linalg.norm(features.astype(float), axis=1) - 1).max() < 1e-3
    again = call(*FISHER, "--data", dataset.root, "--out", undisturbed)  # finished is finished
    assert "images in" not in again and "top-1 error 66.67 % by guessing among 3 classes\n" in again


def test_sparse_coding(originals: Dataset, tmp_path: Path) -> None:
    words = ("--data", originals.root, "--out", tmp_path / "run", "--words", 60, "--workers", 1)
    assert "words is 50, not 60" in call("baseline", "sparse-coding", *SMALL, *words)
    check(tmp_path / "run", originals)
    assert np.load(tmp_path / "run" / "val" / "000000.npy").shape == (9, 21 * 50)


def test_another_split(dataset_2010: Dataset, tmp_path: Path) -> None:
    """Of a finished run: its features only, the result of a run that had it from the start; and back."""
    run, words = tmp_path / "run", (*FISHER, "--data", dataset_2010.root, "--workers", 1)
    first = call(*words, "--out", run)
    val, kept = (run / "result.json").read_bytes(), (run / "classifier.pt").read_bytes()
    assert "test images" not in first and not (run / "test").exists()
    test = call(*words, "--out", run, "--split", "test")
    assert (
        test.count(" images in ") == 1 and "features  5 images in" in test and " on 5 test images\n" in test
    )
    assert (run / "classifier.pt").read_bytes() == kept
    result, found = json.loads((run / "result.json").read_text()), predictions.read(run / "predictions.npz")
    assert found.labels.tolist() == [1, 2, 0, 1, 2]  # as miniature.py labels them
    assert found.names == read_names(dataset_2010, "test")
    assert (result["split"], result["images"]) == ("test", 5)
    assert result["top1_err"] == pytest.approx(100 * (found.probabilities.argmax(1) != found.labels).mean())
    call(*words, "--out", tmp_path / "at once", "--split", "test")
    assert (run / "result.json").read_bytes() == (tmp_path / "at once" / "result.json").read_bytes()
    assert " images in " not in call(*words, "--out", run)
    assert (run / "result.json").read_bytes() == val


def test_killed_and_with_more_workers_it_is_the_same(
    dataset: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (*FISHER, "--data", dataset.root, "--out", run, "--workers", 2)
    kills: dict[str, Callable[[], object]] = {
        # to each worker are given two tasks, and one for each that is done: in all of learning 4 + 2
        "when there are features of the first shard": Trigger("pipeline.workers:_give", 6 + 4 + 1, die),
        "in the second epoch": Trigger("cli.paper.baseline_stages:Training.train_epoch", 2, die),
    }
    for moment, trigger in kills.items():
        command = Command(*words, folder=tmp_path, before=trigger)
        assert command.wait() == -9, f"{moment}: {command.text}"
        assert len(list(run.glob("*/*.npy"))) >= 1, moment
    stopped = Command(
        *words, folder=tmp_path, before=Trigger("cli.paper.baseline_stages:Training.train_epoch", 1, hang_up)
    )
    assert stopped.wait() == 129
    assert "stopped by SIGHUP; the same command resumes here" in stopped.text
    command = Command(*words, folder=tmp_path)
    assert command.wait() == 0, command.text
    assert "codebook  28 images" not in command.text and "training  56 images" in command.text
    for name in ("train/000000.npy", "val/000000.npy", "result.json"):
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name
    ours, theirs = (torch.load(path / "classifier.pt") for path in (run, undisturbed))
    assert differing(ours, theirs) == []
    timeless = [[{**row, "img_s": 0} for row in rows(path)] for path in (run, undisturbed)]
    assert timeless[0] == timeless[1]


def test_what_is_refused(
    dataset: Dataset, originals: Dataset, undisturbed: Path, trained: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    words = (*FISHER, "--data", dataset.root, "--out", run)
    assert "components 8, not 9" in error(*words, "--components", 9)
    assert "seed 0, not 1" in error(*words, "--seed", 1)
    assert "other images" in error(*FISHER, "--data", originals.root, "--out", run)
    assert "holds another kind of run" in error(*words, "--out", trained)
    assert "of --epochs 3, not 4" in error(*words, "--epochs", 4)
    assert f"test images of {dataset.root} have no labels" in error(*words, "--split", "test")
    (run / "val" / "000000.npy").write_bytes(b"\x93NUMPY")
    assert "val/000000.npy is damaged: " in error(*words)
    (run / "val" / "000000.npy").unlink()
    monkeypatch.setattr(baseline.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
    assert "features need 0.0 MB" in error(*words)
    monkeypatch.setattr(baseline, "find_spec", lambda name: None)
    assert "pip install 'alexnet-dali[baselines]'" in error(*words)
