"""Count and rank confused classes."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cli.compose import predictions
from cli.compose.trained import Trained
from cli.display import lines, progress
from cli.pictures.confusion import Counts, Pair, by_error, class_errors
from cli.study.guesses import cell
from model.errors import RunError
from model.evaluate import LOST
from model.study.layers import predict
from pipeline.dataset import Dataset, need_labels
from pipeline.source.names import ilsvrc_names


def count_run(run: Trained, dataset: Dataset, split: str) -> tuple[list[str], Counts]:
    """Return the classes' names, and how often each is predicted as which in a split."""
    need_labels(dataset, split)
    batches = run.batches(dataset, split)
    parts = []
    with progress(split, len(batches.samples)) as done:
        for own, probabilities in predict(run.network, batches, run.precision):
            if not probabilities.isfinite().all():
                raise RunError(f"{run.path}: {LOST}")
            parts.append((own.numpy(), probabilities.argmax(1).numpy()))
            done(len(own))
    names = [run.name(output) for output in range(run.recipe.classes)]
    labels, guesses = map(np.concatenate, zip(*parts, strict=True))
    return names, count(labels, guesses, len(names))


def count_file(path: Path) -> tuple[list[str], Counts]:
    """Return the same of a file that eval --predictions wrote."""
    content = predictions.read(path)
    if (content.labels < 0).any():
        raise RunError(f"{path} has images without labels; confusions need labels")
    classes = content.probabilities.shape[1]
    known = [ilsvrc_names().get(wnid, wnid).partition(",")[0] for wnid in content.wnids]
    names = [*known, *(f"output {output}" for output in range(len(content.wnids), classes))]
    return names, count(content.labels, content.probabilities.argmax(1), classes)


def count(labels: np.ndarray, guesses: np.ndarray, classes: int) -> Counts:
    """Count how often each pair of true and predicted class occurs. labels, guesses: (images,)."""
    pairs, images = np.unique(labels.astype(np.int64) * classes + guesses, return_counts=True)
    return Counts(pairs // classes, pairs % classes, images)


def write_errors(path: str, names: Sequence[str], counts: Counts) -> None:
    """Write each class's top-1 error as CSV, the highest first; - is the terminal."""
    with lines(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "images", "wrong", "top1_error_percent"])
        for name, images, wrong, error in error_rows(names, counts):
            writer.writerow([cell(name), images, wrong, f"{error:.4f}"])


def error_rows(names: Sequence[str], counts: Counts) -> list[tuple[str, int, int, float]]:
    """Return name, images, wrong ones and their percentage of each class with images, the highest first."""
    images, wrong = class_errors(counts, len(names))
    return [
        (names[n], int(images[n]), int(wrong[n]), 100 * float(wrong[n] / images[n]))
        for n in by_error(counts, len(names))
        if images[n]
    ]


def confused(names: Sequence[str], counts: Counts) -> list[Pair]:
    """Return pairs of a class and another as which it is predicted, the most frequent first."""
    of = np.bincount(counts.true, counts.images)
    order = np.argsort(-counts.images, kind="stable")
    return [
        Pair(names[true], names[taken], int(images), int(of[true]))
        for true, taken, images in zip(*(part[order] for part in counts), strict=True)
        if true != taken
    ]
