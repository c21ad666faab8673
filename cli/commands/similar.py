"""Define alexnet-dali similar: find the images with the nearest features."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import numpy as np
from msgspec import Struct

from cli import display, options
from cli.display import say, tell_written, warn, write_json
from cli.pictures import panels
from model.errors import RunError
from model.study.nearest import nearest
from pipeline.dataset import Dataset, open_dataset, read_index, read_names
from pipeline.schema import Array, Count, Fingerprint, Place, Unfit, map_npy, read_json

if TYPE_CHECKING:
    from cli.compose.trained import Trained

BLOCK = 64 << 20  # bytes of features in memory at a time, as float32


class Facts(Struct):
    """Describe how features were made."""

    run: Place
    checkpoint: str
    step: Count
    layer: str
    data: Place
    fingerprint: Fingerprint
    split: Literal["train", "val", "test"]
    precision: Literal["bfloat16", "tf32", "float32"]


@click.command("similar")
@click.argument("images", nargs=-1, required=True, metavar="[IMAGE|FOLDER|PATTERN]...")
@click.option(
    "--features", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
    help="File that `features` wrote, .npy.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1), default=6, help="Number of similar images for each IMAGE.")
@click.option(
    "--json",
    "json_path",
    type=options.output_or_dash,
    help="Write the similar images as JSON; - for standard output.",
)
@click.option(
    "--picture", type=options.picture, help="Draw the similar images to this .png, .pdf or .svg file."
)
@options.force
@click.option("--rows", type=click.IntRange(1), default=8, help="Largest number of IMAGEs in the picture.")
@options.exif
@options.machine
def command(
    images: Sequence[str],
    features: Path,
    count: int,
    json_path: str | None,
    picture: Path | None,
    rows: int,
    exif: str,
    machine: options.Machine,
) -> None:
    """Find the most similar images.

    For each IMAGE, these are the images whose features have the smallest Euclidean distance to its own, as in
    the paper's figure 4 (right). All features are compared, so the result is exact. The network is that of
    the run that `features` used.
    """
    from cli.compose.trained import open_run

    facts = read_facts(features)
    dataset, split = open_dataset(facts.data), facts.split
    names = read_names(dataset, split)
    if dataset.fingerprint != facts.fingerprint:
        raise RunError(
            f"{dataset.root} is no longer the dataset that {features} was made from; make it again"
        )
    machine = replace(machine, precision=machine.precision or facts.precision)
    run = open_run(facts.run, facts.checkpoint, machine)
    if run.step != facts.step:
        steps = f"{run.path} is at step {run.step:,}, not {facts.step:,}"
        raise RunError(f"{steps} as when {features} was made; make it again with alexnet-dali features")
    sizes = {shape.layer.name: math.prod(shape.out) for shape in run.network.shapes}
    table = read_table(features, len(names), sizes.get(facts.layer, 0))
    paths, queries = features_of(run, images, facts.layer, exif == "honour")
    nearest_rows, distances = nearest(queries, table, count, block=max(1, BLOCK // (4 * table.shape[1])))
    labels = read_index(dataset, split)["label"]
    result: list[dict[str, Any]] = [
        {
            "image": str(path),
            "neighbours": [
                {"row": row, "name": names[row], "class": word(run, labels[row]), "distance": distance}
                for row, distance in zip(rows_, distances_, strict=True)
            ],
        }
        for path, rows_, distances_ in zip(paths, nearest_rows.tolist(), distances.tolist(), strict=True)
    ]
    if json_path:
        write_json(json_path, result)
    if picture:
        draw(run, dataset, split, result[:rows], picture, exif == "honour")
    if not json_path and not picture:
        for each in result:
            say(each["image"])
            for near in each["neighbours"]:
                say(f"  {near['distance']:>10.3f}  {near['name']:<32} {near['class']}")
    tell_written(json_path, err=True)


def read_facts(features: Path) -> Facts:
    """Return how the features were made, as the file beside them says."""
    path = features.with_suffix(".json")
    try:
        return read_json(path, Facts)
    except (OSError, Unfit) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise RunError(
            f"{path} does not say how {features} was made: {what}; make both with alexnet-dali features"
        ) from None


def read_table(features: Path, images: int, numbers: int) -> np.ndarray:
    """Return the features, (images, numbers), mapped into memory."""
    try:
        return map_npy(features, Array((np.float32, np.float16), (images, numbers)))
    except Unfit as error:
        raise RunError(f"{features} is damaged: {error}; make it again with alexnet-dali features") from None


def features_of(
    run: "Trained", arguments: Sequence[str], layer: str, upright: bool
) -> tuple[list[Path], np.ndarray]:
    """Return the files that can be decoded, and their features, (files, n) float32."""
    from model.study.layers import outputs
    from pipeline.files import find_images

    paths = find_images(arguments)
    batches = run.file_batches(paths, upright)
    good, features = [], []
    for images, numbers in batches:
        good += [paths[number] for number in numbers.tolist()]
        features.append(outputs(run.network, images, [layer], run.precision)[layer].flatten(1).cpu().numpy())
    for number, fault in sorted((batches.faults | batches.notes).items()):
        warn(f"{paths[number]} {fault}")
    if not good:
        raise RunError("none of the images can be decoded; give others")
    return good, np.concatenate(features)


def word(run: "Trained", label: int) -> str | None:
    return run.name(int(label)) if label >= 0 else None


def draw(
    run: "Trained", dataset: Dataset, split: str, result: Sequence[dict[str, Any]], path: Path, upright: bool
) -> None:
    from cli.compose.trained import title
    from pipeline.files import square
    from pipeline.image import centre
    from pipeline.samples import Samples

    samples, crop = Samples(dataset, split), run.recipe.crop

    def neighbours(each: dict[str, Any]) -> panels.Neighbours:
        near = each["neighbours"]
        return panels.Neighbours(
            image=centre(square(Path(each["image"]), upright, run.facts.side), crop),
            caption=Path(each["image"]).name,
            near=[centre(samples.square(one["row"]), crop) for one in near],
            captions=[one["class"] or one["name"] for one in near],
            distances=[one["distance"] for one in near],
        )

    display.draw(
        path,
        panels.neighbours,
        [neighbours(each) for each in result],
        title=f"Most similar images, {title(run.path)}",
        err=True,
    )
