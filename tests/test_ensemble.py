"""Averages of predictions, the search for weights, the challenge's text: against counts by hand."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli import main
from cli.compose import predictions
from cli.compose.predictions import Predictions
from model.errors import RunError
from pipeline.dataset import Dataset

CLASSES, IMAGES = 12, 60


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def made(seed: int, skill: float) -> Predictions:
    """Probabilities that favour the label by `skill`."""
    draw = np.random.default_rng(seed)
    labels = np.arange(IMAGES) % CLASSES
    scores = draw.random((IMAGES, CLASSES)) + skill * np.eye(CLASSES)[labels]
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, IMAGES + 1)]
    wnids = [f"n{number:08d}" for number in range(CLASSES)]
    return Predictions((scores / scores.sum(1, keepdims=True)).astype(np.float32), labels, names, wnids)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.npz" for name in "abc"]
    for seed, (path, skill) in enumerate(zip(paths, (0.3, 0.2, 0.05), strict=True)):
        predictions.write(path, made(seed, skill))
    return paths


def top_errors(scores: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """First and five guesses by sorting."""
    order = np.argsort(-scores, axis=1)
    return int((order[:, 0] != labels).sum()), int((order[:, :5] != labels[:, None]).all(1).sum())


def test_the_average_is_weighted(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "mean.npz"
    result = run("ensemble", *three, "--weights", "3,1,0", "--out", out)
    assert result.exit_code == 0, result.output
    parts, mean = [predictions.read(path) for path in three], predictions.read(out)
    expected = 0.75 * parts[0].probabilities + 0.25 * parts[1].probabilities
    assert np.allclose(mean.probabilities, expected, atol=1e-6)
    assert (mean.names, mean.wnids) == (parts[0].names, parts[0].wnids)
    top1, top5 = top_errors(expected, parts[0].labels)
    line = next(line for line in result.output.splitlines() if "together" in line)
    assert f"{100 * top1 / IMAGES:.2f} %" in line and f"{100 * top5 / IMAGES:.2f} %" in line


def test_the_search_is_that_of_2012(three: list[Path]) -> None:
    parts, labels = (
        [predictions.read(path).probabilities for path in three],
        predictions.read(three[0]).labels,
    )
    weights, lines = [0.5, 0.5, 0.5], []
    least = top_errors(sum(w * p for w, p in zip(weights, parts, strict=True)), labels)[1]
    first = least
    for number in range(1, 6):
        before = list(weights)
        for index in range(3):
            for step in range(21):
                tried = [step / 20 if i == index else w for i, w in enumerate(weights)]
                errors = top_errors(sum(w * p for w, p in zip(tried, parts, strict=True)), labels)[1]
                if errors < least:
                    least, weights = errors, tried
        text = ",".join(f"{weight:g}" for weight in weights)
        lines.append(f"pass {number}: --weights {text}  top-5 error {100 * least / IMAGES:.2f} %")
        if weights == before:
            break
    result = run("ensemble", *three, "--search")
    assert result.output.splitlines()[: len(lines)] == lines
    assert least < first and not result.output.splitlines()[len(lines)].startswith("pass")


def test_a_submission(tmp_path: Path) -> None:
    """Ids of the development kit, lines by the images' names, whatever the order in the file."""
    content = made(0, 0.5)
    ids = list(range(CLASSES, 0, -1))
    shuffled = np.random.default_rng(0).permutation(IMAGES)
    names = [content.names[row] for row in shuffled]
    text = predictions.submission(
        replace(content, probabilities=content.probabilities[shuffled], names=names), ids
    )
    best = np.argsort(-content.probabilities, axis=1)[:, :5]
    assert text.splitlines() == [" ".join(str(CLASSES - output) for output in row) for row in best]
    predictions.check_submission(text, IMAGES, CLASSES)
    for spoilt, message in (
        (text + "1 2 3 4 5\n", "61 lines for 60 images"),
        ("1 2 3 4\n" + text.partition("\n")[2], "line 1"),
        ("1 2 3 4 4\n" + text.partition("\n")[2], "line 1"),
        ("0 2 3 4 5\n" + text.partition("\n")[2], "line 1"),
        ("13 2 3 4 5\n" + text.partition("\n")[2], "from 1 to 12"),
    ):
        with pytest.raises(RunError, match=message):
            predictions.check_submission(spoilt, IMAGES, CLASSES)


def test_a_submission_through_the_command(
    originals: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cli.commands import ensemble as module
    from pipeline.dataset import Category

    content = made(0, 0.5)
    predictions.write(tmp_path / "p.npz", replace(content, labels=np.full(IMAGES, -1)))
    classes = tuple(Category(i, wnid, "", CLASSES - i) for i, wnid in enumerate(content.wnids))
    known = replace(originals, classes=classes)
    monkeypatch.setattr(module, "read_description", lambda root: known)
    command = ("ensemble", tmp_path / "p.npz", "--submission", tmp_path / "s.txt")
    result = run(*command)
    assert result.exit_code == 0 and "60 lines of five ids, checked" in result.output
    assert len((tmp_path / "s.txt").read_text().splitlines()) == IMAGES
    monkeypatch.setattr(module, "read_description", lambda root: replace(known, classes=classes[1:]))
    assert "has other classes" in run(*command, "--force").output
    unknown = tuple(replace(category, ilsvrc_id=None) for category in classes)
    monkeypatch.setattr(module, "read_description", lambda root: replace(known, classes=unknown))
    assert "development kit" in run(*command, "--force").output


GOOD = vars(made(0, 0.1))
NONE = {name: np.array(GOOD[name])[:0] for name in ("probabilities", "labels", "names")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probabilities": GOOD["probabilities"][:, 0]}, "probabilities: expected the shape"),
        ({"probabilities": GOOD["probabilities"][:5]}, r"labels: expected the shape \(5\)"),
        ({"probabilities": GOOD["probabilities"].astype(str)}, "probabilities: expected float32 or float64"),
        ({"probabilities": GOOD["probabilities"].astype(">f4")}, "probabilities: expected float32"),
        ({"probabilities": GOOD["probabilities"] * np.nan}, "NaN or infinite"),
        ({"labels": GOOD["labels"][:5]}, "labels: expected the shape"),
        ({"labels": GOOD["labels"] + 100}, "expected labels of -1 to 11, not 100 to 111"),
        ({"labels": GOOD["labels"] - 2}, "expected labels of -1 to 11, not -2 to 9"),
        ({"labels": GOOD["labels"] + 0.5}, "labels: expected int32 or int64, not float64"),
        ({"labels": np.array([None] * IMAGES)}, "labels: expected int32 or int64, not object"),
        ({"names": GOOD["names"][1:]}, "names: expected the shape"),
        ({"wnids": [*GOOD["wnids"], "more"]}, "more classes than outputs"),
        (
            {name: GOOD[name][:0] for name in ("probabilities", "labels")} | {"names": np.array([], str)},
            "no ",
        ),
    ],
)
def test_a_file_of_predictions_is_checked(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, **(GOOD | changes))  # type: ignore[arg-type]
    with pytest.raises(RunError, match=rf"p.npz holds no predictions: .*{message}"):
        predictions.read(path)


def test_a_file_of_predictions_takes_no_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    """A header of 10^15 rows, zeros that are packed a thousandfold, and a plain array."""
    path, labels = tmp_path / "p.npz", io.BytesIO()
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(labels, header)
    np.savez(path, probabilities=GOOD["probabilities"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.npy", labels.getvalue())
    with pytest.raises(RunError, match=r"p.npz holds no predictions: labels: "):
        predictions.read(path)
    np.savez_compressed(path, **{name: np.zeros(10**7) for name in GOOD})
    with pytest.raises(RunError, match="claims to hold far more than its size"):
        predictions.read(path)
    np.savez_compressed(path, **GOOD)
    assert predictions.read(path).names == GOOD["names"]
    with path.open("wb") as file:
        np.save(file, GOOD["probabilities"])
    with pytest.raises(RunError, match=r"p.npz holds no predictions: .*not a zip file"):
        predictions.read(path)


def test_errors(three: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    content = made(3, 0.1)
    for change, what in (
        ({"names": content.names[::-1]}, "images"),
        ({"wnids": content.wnids[::-1]}, "classes"),
        ({"probabilities": np.pad(content.probabilities, ((0, 0), (0, 1)))}, "outputs"),
    ):
        predictions.write(other, replace(content, **change))
        assert f"{other} has other {what} than {three[0]}" in run("ensemble", three[0], other).output
    for weights in ("1,2", "1,2,x", "-1,1,1", "0,0,0", "inf,1,1"):
        result = run("ensemble", *three, f"--weights={weights}")
        assert result.exit_code == 1 and "give 3 numbers" in result.output
    (tmp_path / "no.npz").write_text("no")
    assert "holds no predictions" in run("ensemble", tmp_path / "no.npz").output
    predictions.write(other, replace(content, labels=content.labels * 0 - 1))
    assert run("ensemble", other, "--search").exit_code == 2
