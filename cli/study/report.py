"""Write the sections of the HTML report."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cli import options
from cli.compose.runs import recommend
from cli.compose.trained import Trained
from cli.display import progress, top_errors
from cli.options import Machine
from cli.paper.comparison import comparison
from cli.pictures import panels
from cli.pictures.confusion import confusion
from cli.pictures.curves import curves
from cli.pictures.filters import filters, kernels_shown
from cli.study import page
from cli.study.confusion import confused, count, error_rows
from cli.study.recipe import layer_rows, setting_rows
from model import schedule
from model.evaluate import evaluate, sound_rates, tally
from model.recipes import spelled
from model.study.layers import layer_names, outputs
from model.study.nearest import nearest
from pipeline.dataset import Dataset
from pipeline.image import centre
from pipeline.samples import Samples

SHOWN, QUERIES, NEAR = 8, 6, 6
SHAPES = (
    "Weights of a convolution: output maps x input maps x height x width of a kernel. Weights of a fully "
    "connected layer: output units x inputs. std: standard deviation of the initial weights. bias: initial "
    "value of the biases. Output: maps x height x width, or units."
)


@dataclass(frozen=True)
class Seen:
    """Hold the network's outputs for the validation images."""

    probabilities: np.ndarray  # (images, outputs) float32
    features: np.ndarray  # (images, n) float16, of the last layer but one
    labels: np.ndarray  # (images,)

    def errors(self, source: Path) -> dict[str, float]:
        return sound_rates(tally(torch.from_numpy(self.probabilities), torch.from_numpy(self.labels)), source)


def look(run: Trained, dataset: Dataset) -> Seen:
    """Compute the centre crops of the validation images in one pass."""
    hidden, last = layer_names(run.network)[-2:]
    batches = run.batches(dataset, "val")
    parts = []
    with progress("val", len(batches.samples)) as done:
        for images, labels in batches:
            values = outputs(run.network, images, [hidden, last], run.precision)
            features = values[hidden].flatten(1).half().cpu().numpy()
            parts.append((values[last].softmax(1).cpu().numpy(), features, labels.cpu().numpy()))
            done(len(labels))
    return Seen(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def ten_views(run: Trained, dataset: Dataset) -> dict[str, float]:
    batches = run.batches(dataset, "val", ten_crop=True)
    return sound_rates(evaluate(run.network, batches, precision=run.precision).sums, run.path)


def error_table(errors: dict[str, dict[str, float]], dataset: Dataset) -> str:
    classes, shown = len(dataset.classes), dict[str, str]()
    rows = []
    for name, row in errors.items():
        shown = top_errors(row, classes)
        rows.append([name, f"{row['loss']:.4f}", *shown.values()])
    rows += [[name, "", *others] for name, *others in comparison(dataset.classes, "val")]
    images = f"{dataset.samples('val'):,} validation images of {classes:,} classes"
    note = f"Evaluated on {images}, each counted once."
    headings = ["", "loss", *(f"{name} error" for name in shown)]
    return page.table(headings, rows, len(shown) + 1, own=len(errors) - 1) + page.text(note, faint=True)


def draw_training(metrics: Sequence[dict[str, Any]], name: str, classes: int) -> str:
    drawn = io.BytesIO()
    curves(metrics, drawn, f"Training of {name}", classes)
    return last_and_best(metrics, classes) + page.picture(
        drawn, "Loss and errors over the epochs. Vertical lines mark changes of the learning rate."
    )


def progress_of(metrics: Sequence[dict[str, Any]], epochs: int) -> str:
    """Return how far the training is: "epoch 7 of 40, unfinished"."""
    reached = max((row["epoch"] for row in metrics), default=0)
    return f"epoch {reached:.3g} of {epochs}{', unfinished' if reached < epochs else ''}"


def last_and_best(metrics: Sequence[dict[str, Any]], classes: int) -> str:
    """Return a table of the last validation beside the one of the lowest top-1 error."""
    val = [row for row in metrics if row["kind"] == "val"]
    if not val:
        return page.text("No epoch has been completed yet.")
    best = min(val, key=lambda row: row["top1_err"])
    rows, shown = [], dict[str, str]()
    for name, row in (("last", val[-1]), ("best", best)):
        shown = top_errors(row, classes)
        rows.append([f"{name}: epoch {row['epoch']:g}", f"{row['loss']:.4f}", *shown.values()])
    headings = ["validation during training", "loss", *(f"{name} error" for name in shown)]
    return page.table(headings, rows, len(shown) + 1)


def draw_filters(run: Trained) -> str:
    drawn, first = io.BytesIO(), run.network.shapes[0].layer.name
    weight = run.network.state()[f"{first}.weight"].numpy()
    filters(weight, drawn, f"{first}: {kernels_shown(weight, run.recipe.towers)}", run.recipe.towers)
    towers = " Those of tower a are above those of tower b." if run.recipe.towers > 1 else ""
    return page.picture(drawn, f"The kernels of the first layer, which reads the image.{towers}")


def draw_predictions(run: Trained, dataset: Dataset, seen: Seen) -> str:
    samples = Samples(dataset, "val")

    def predicted(row: int) -> panels.Guess:
        best = np.argsort(-seen.probabilities[row], kind="stable")[:5].tolist()
        own = int(seen.labels[row])
        return panels.Guess(
            image=centre(samples.square(row), run.recipe.crop),
            caption=run.name(own),
            classes=[run.name(output) for output in best],
            probabilities=seen.probabilities[row][best].tolist(),
            correct=best.index(own) if own in best else None,
            known=True,
        )

    wrong = np.flatnonzero(seen.probabilities.argmax(1) != seen.labels)
    result = ""
    # An image of the first picture is not repeated in the second.
    for name, rows in (("first", np.arange(len(seen.labels))), ("misclassified", wrong[wrong >= SHOWN])):
        if len(rows):
            drawn = io.BytesIO()
            panels.guesses(
                [predicted(int(row)) for row in rows[:SHOWN]], drawn, f"{name.capitalize()} images"
            )
            what = "with their likeliest classes. The bar of the true class is red"
            result += page.picture(drawn, f"{name.capitalize()} validation images {what}.")
    return result


def draw_confusion(run: Trained, seen: Seen) -> str:
    names = [run.name(output) for output in range(run.recipe.classes)]
    counts = count(seen.labels, seen.probabilities.argmax(1), len(names))
    drawn = io.BytesIO()
    confusion(counts, names, confused(names, counts)[:16], drawn, "Confusion matrix of the validation images")
    errors = [[name, f"{of:,}", f"{error:.2f} %"] for name, of, _, error in error_rows(names, counts)[:16]]
    about = "Rows are true classes, columns predicted classes, in percent of the row."
    table = page.table(["class (highest error first)", "images", "top-1 error"], errors, 2)
    return page.picture(drawn, f"{about} On the right are the most frequent confusions.") + table


def draw_similar(run: Trained, dataset: Dataset, seen: Seen) -> str:
    samples, crop = Samples(dataset, "val"), run.recipe.crop
    queries = min(QUERIES, len(seen.labels))
    rows, distances = nearest(seen.features[:queries].astype(np.float32), seen.features, NEAR + 1, 4096)

    def image(row: int) -> np.ndarray:
        return centre(samples.square(row), crop)

    def neighbours(query: int) -> panels.Neighbours:
        near = [
            (r, d) for r, d in zip(rows[query].tolist(), distances[query].tolist(), strict=True) if r != query
        ]
        return panels.Neighbours(
            image=image(query),
            caption=run.name(int(seen.labels[query])),
            near=[image(row) for row, _ in near],
            captions=[run.name(int(seen.labels[row])) for row, _ in near],
            distances=[distance for _, distance in near],
        )

    drawn = io.BytesIO()
    panels.neighbours(
        [neighbours(query) for query in range(queries)], drawn, "Most similar validation images"
    )
    hidden = run.network.shapes[-2].layer.name
    return page.picture(
        drawn,
        f"Nearest neighbours by Euclidean distance between {hidden} activations. The query is on the left.",
    )


def recipe_tables(run: Trained) -> str:
    def spell(value: Any) -> str:
        return "by default" if value is None else spelled(value)

    heads, *layers = layer_rows(run.recipe)
    rates, *stages = schedule.table(run.recipe)
    return (
        page.table(heads, layers, 1)
        + page.text(SHAPES, faint=True)
        + page.text("Learning rates:")
        + page.table(rates, stages)
        + page.text("Settings, named as in --set of train and in recipe files:")
        + page.table(["setting", "value", "explanation"], setting_rows(run.recipe, spell))
    )


def environment(about: dict[str, Any]) -> str:
    start = {key: value for key, value in about["starts"][-1].items() if key != "command"}
    rows = [[{"time": "last started"}.get(key, key), str(value)] for key, value in start.items()]
    rows += [["dataset", about["data"]["path"]], ["dataset fingerprint", about["data"]["fingerprint"]]]
    return page.table(["", ""], rows)


def commands(about: dict[str, Any], run: Trained, data: Path | None, machine: Machine) -> str:
    of_run = "--run", options.run_name(run.source)  # by its name: the page is read when others are the newest
    made = [
        recommend(*words, *of_run, data=data, machine=machine)
        for words in (("eval",), ("eval", "--ten-crop"), ("report",))
    ]
    return (
        page.text("The run was started with:")
        + page.code(start["command"] for start in about["starts"])
        + page.text("To reproduce these numbers:")
        + page.code(made)
    )
