"""Read and write the files of eval --predictions and of ensemble, one image per row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import RunError
from pipeline.atomic import writing
from pipeline.schema import Array, Unfit, read_npz

ARRAYS = {
    "probabilities": Array((np.float32, np.float64), ("images", "outputs")),
    "labels": Array((np.int32, np.int64), ("images",)),
    "names": Array((np.str_,), ("images",)),
    "wnids": Array((np.str_,), ("classes",)),
}


@dataclass(frozen=True)
class Predictions:
    probabilities: np.ndarray  # (images, outputs) float32
    labels: np.ndarray  # (images,), -1 where there is none
    names: list[str]
    wnids: list[str]  # of the classes; there may be more outputs


def read(path: Path) -> Predictions:
    """Read a file of predictions; raise RunError if it is none."""
    try:
        arrays = read_npz(path, ARRAYS)
        probabilities, labels, wnids = (arrays[name] for name in ("probabilities", "labels", "wnids"))
        if not 0 < len(wnids) <= probabilities.shape[1] or not len(labels):
            raise Unfit("it is of no images, or of more classes than outputs")
        if labels.min() < -1 or labels.max() >= len(wnids):
            raise Unfit(f"expected labels of -1 to {len(wnids) - 1}, not {labels.min()} to {labels.max()}")
        if not np.isfinite(probabilities).all():
            raise Unfit("it holds NaN or infinite probabilities")
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except Unfit as error:
        raise RunError(
            f"{path} holds no predictions: {error}; make them with alexnet-dali eval --predictions"
        ) from None
    return Predictions(probabilities, labels, arrays["names"].tolist(), wnids.tolist())


def write(path: Path, content: Predictions) -> None:
    with writing(path) as file:
        arrays: dict[str, Any] = vars(content)
        np.savez(file, **arrays)


def submission(content: Predictions, ids: Sequence[int]) -> str:
    """Return the challenge's text: five 1-based ids of the devkit per line, the likeliest first.

    Lines are in the order of the images' names, which is the challenge's. ids: of each class.
    """
    best = np.argsort(-content.probabilities[:, : len(ids)], axis=1, kind="stable")[:, :5]
    order = np.argsort(content.names, kind="stable")
    return "".join(" ".join(str(ids[output]) for output in best[row]) + "\n" for row in order)


def check_submission(text: str, images: int, classes: int) -> None:
    """Raise RunError that names the first line of a submission that breaks the challenge's rules."""
    lines = text.splitlines()
    if len(lines) != images:
        raise RunError(f"the submission has {len(lines):,} lines for {images:,} images")
    for number, line in enumerate(lines, 1):
        words = line.split()
        ids = {int(word) for word in words if word.isdecimal() and 1 <= int(word) <= classes}
        if len(words) != 5 or len(ids) != 5:
            raise RunError(
                f"line {number} of the submission: {line!r} is not five different ids from 1 to {classes}"
            )


def check_alike(first_path: Path, first: Any, path: Path, other: Any) -> None:
    for what, mine, theirs in (
        ("classes", first.wnids, other.wnids),
        ("images", first.names, other.names),
        ("outputs", first.probabilities.shape[1], other.probabilities.shape[1]),
    ):
        if mine != theirs:
            raise RunError(f"{path} has other {what} than {first_path}; make both with the same eval --split")
