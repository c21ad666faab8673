"""Define alexnet-dali ensemble: average the predictions of several networks."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.compose import predictions
from cli.display import plural, print_table, say, say_row, top_errors
from model.errors import RunError
from pipeline.atomic import writing
from pipeline.dataset import read_description


@click.command("ensemble")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PREDICTIONS..."
)
@click.option(
    "--weights", metavar="W,W...", help="Weight of each file, with commas between them.  [default: all equal]"
)
@click.option(
    "--search", is_flag=True, help="Search for the weights with the lowest top-5 error, as in 2012."
)
@click.option(
    "--out", type=options.output, help="Write the average as an .npz file like that of eval --predictions."
)
@click.option("--submission", type=options.output, help="Write a submission file for the challenge.")
@options.force
@options.data
def command(
    files: Sequence[Path],
    weights: str | None,
    search: bool,
    out: Path | None,
    submission: Path | None,
    data: Path,
) -> None:
    """Average the predictions of several networks.

    PREDICTIONS are files of eval --predictions for the same images. Search for weights on validation images
    (--search), then give them for the test images (--weights). A submission has one line per image, in the
    order of the images' names: five ids of the development kit, which are read from --data.
    """
    import torch

    from model.evaluate import sound_rates, tally
    from model.study import ensemble

    contents = [predictions.read(path) for path in files]
    for path, each in zip(files[1:], contents[1:], strict=True):
        predictions.check_alike(files[0], contents[0], path, each)
    first = contents[0]
    labelled = bool((first.labels >= 0).all())
    labels = torch.from_numpy(first.labels).long()
    parts = [torch.from_numpy(each.probabilities) for each in contents]
    factors = choose_weights(len(files), weights)
    ids = read_ids(data, first.wnids) if submission else []
    if search:
        if weights or not labelled:
            raise click.UsageError("--search needs images with labels, and does not go with --weights")
        if len(first.wnids) <= 5:
            raise click.UsageError("--search needs more than five classes, or the top-5 error is always 0")
        factors = ensemble.search(parts, labels, partial(tell_pass, len(labels)))
    mean = ensemble.average(parts, factors)
    if labelled:
        rows = {str(path): sound_rates(tally(part, labels), path)
                for path, part in zip(files, parts, strict=True)}  # fmt: skip
        rows["together"] = sound_rates(tally(mean, labels), "the average")
        print_errors(len(labels), rows, factors, len(first.wnids))
    result = predictions.Predictions(mean.numpy(), first.labels, first.names, first.wnids)
    if out:
        predictions.write(out, result)
        say_row("written", out)
    if submission:
        write_submission(submission, result, ids)


def choose_weights(count: int, text: str | None) -> list[float]:
    if text is None:
        return [1 / count] * count
    try:
        weights = [float(word) for word in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != count or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise RunError(f"--weights {text}: give {count} numbers of at least 0, with commas between them")
    return weights


def tell_pass(images: int, number: int, weights: list[float], errors: float) -> None:
    text = ",".join(f"{weight:g}" for weight in weights)
    say(f"pass {number}: --weights {text}  top-5 error {100 * errors / images:.2f} %")


def print_errors(
    images: int, rows: dict[str, dict[str, float]], weights: Sequence[float], classes: int
) -> None:
    lines, errors = [], dict[str, str]()
    for number, (name, row) in enumerate(rows.items()):
        weight = f"{weights[number]:.3g}" if number < len(weights) else ""
        errors = top_errors(row, classes)
        lines.append((name, weight, f"{row['loss']:.4f}", *errors.values()))
    headings = ("", "weight", "loss", *(f"{name} error" for name in errors))
    print_table(headings, lines, line=len(weights), title=plural(images, "image"))


def read_ids(data: Path, wnids: Sequence[str]) -> list[int]:
    """Return the development kit's ids of the classes of a submission."""
    dataset = read_description(data)
    if [category.wnid for category in dataset.classes] != wnids:
        raise RunError(f"{dataset.root} has other classes than the predictions; give --data of their classes")
    ids = [category.ilsvrc_id for category in dataset.classes if category.ilsvrc_id is not None]
    if len(ids) < 5 or len(ids) < len(wnids):
        raise RunError(
            f"a submission needs at least five classes and the development kit's ids, which {dataset.root} "
            "lacks; prepare a dataset from a root that has ILSVRC2012_devkit_t12"
        )
    return ids


def write_submission(path: Path, result: Any, ids: Sequence[int]) -> None:
    text = predictions.submission(result, ids)
    predictions.check_submission(text, len(result.names), len(ids))
    with writing(path) as file:
        file.write(text.encode())
    say_row("written", f"{path}, {plural(len(result.names), 'line')} of five ids, checked")
