"""alexnet-dali predict."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options
from cli.compose import trained
from cli.rows import GUESSES, LOST, Row, Source, open_sinks
from cli.text import progress, say

if TYPE_CHECKING:
    from cli.compose.trained import Trained


@click.command("predict")
@click.argument("images", nargs=-1, metavar="[IMAGE|FOLDER|PATTERN]...")
@options.using_network
@click.option("--ten-crop", is_flag=True, help="Average ten views: corners, centre, and mirrored.")
@click.option(
    "--split", type=click.Choice(["val", "train", "test"]), help="Of a prepared dataset, not files."
)
@options.run_data
@trained.exif
@click.option(
    "--json", "json_path", type=options.output_or_dash, help="Write a list of objects; - is the terminal."
)
@click.option(
    "--csv", "csv_path", type=options.output_or_dash, help="Write a line an image; - is the terminal."
)
@click.option("--picture", type=options.picture, help="Draw images and guesses, .png or .pdf.")
@click.option("--count", type=click.IntRange(1), default=8, help="Images in the picture, at most.")
@click.option("--only-errors", is_flag=True, help="Leave out what was recognised; needs known classes.")
def command(images: Sequence[str], run_name: str | None, checkpoint: str, **settings: Any) -> None:
    """The five likeliest classes of each image.

    Images are decoded, resized and cropped as in evaluation. The class of an image is known where its
    folder is called as the class is (n01440764), or its name begins so. An image that cannot be decoded is
    a row that says why; a damaged JPEG is decoded as far as it goes, with a note.
    """
    if bool(images) == bool(settings["split"]):
        raise click.UsageError("give images, folders or patterns, or else --split")
    run = trained.open_run(run_name, checkpoint, settings)
    source = from_split(run, settings) if settings["split"] else from_files(run, images, settings)
    totals, started = Totals(), time.monotonic()
    with ExitStack() as stack:
        sinks = list(open_sinks(run, source, settings, stack))
        done = stack.enter_context(progress("images", len(source.names)))
        for number, row in enumerate(source.rows()):
            totals.add(row)
            done(1)
            if row.wrong or not settings["only_errors"] or row.fault:
                for sink in sinks:
                    sink(number, row)
    totals.tell(time.monotonic() - started)


def from_files(run: "Trained", arguments: Sequence[str], settings: dict[str, Any]) -> Source:
    from pipeline.files import FileBatches, find_images, square

    paths = find_images(arguments)
    views, upright = choose_views(settings), settings["exif"] == "honour"
    known = {category.wnid: category.index for category in run.facts.classes}
    batches = FileBatches(
        paths,
        views=views,
        batch_size=run.batch_size(len(views), files=True),
        upright=upright,
        **run.image_options(),
    )

    def truth(path: Path) -> int | None:
        return known.get(path.absolute().parent.name, known.get(path.name.partition("_")[0]))

    def rows() -> Iterator[Row]:
        """In the files' order, the broken ones between the others."""
        following = 0
        for number, classes, probabilities in guess(run, batches):
            yield from map(broken, range(following, number))
            fault = None if classes else LOST
            note, path = batches.notes.get(number), paths[number]
            yield Row(str(path), truth(path), fault, note, classes, probabilities)
            following = number + 1
        yield from map(broken, range(following, len(paths)))

    def broken(number: int) -> Row:
        return Row(str(paths[number]), truth(paths[number]), batches.faults[number])

    return Source([str(path) for path in paths], rows, lambda number: square(paths[number], upright))


def from_split(run: "Trained", settings: dict[str, Any]) -> Source:
    from pipeline.batches import EvaluationBatches
    from pipeline.dataset import read_names

    dataset, split, views = run.data(settings["data"]), settings["split"], choose_views(settings)
    batches = EvaluationBatches(
        dataset, split, views=views, batch_size=run.batch_size(len(views)), **run.image_options()
    )
    names = read_names(dataset, split)

    def rows() -> Iterator[Row]:
        for name, (label, classes, probabilities) in zip(names, guess(run, batches), strict=True):
            known = label if label >= 0 else None
            yield Row(name, known, None if classes else LOST, None, classes, probabilities)

    return Source(names, rows, batches.samples.square)


def choose_views(settings: dict[str, Any]) -> tuple[tuple[int, int, int], ...]:
    from pipeline.graph import CENTRE_VIEW, TEN_VIEWS

    return TEN_VIEWS if settings["ten_crop"] else CENTRE_VIEW


def guess(run: "Trained", batches: Any) -> Iterator[tuple[int, list[int], list[float]]]:
    """Image by image its label, its likeliest classes and their probabilities, or none that is not finite."""
    from model.study.layers import predict

    for labels, probabilities in predict(run.network, batches, run.precision):
        best, classes = probabilities.topk(min(GUESSES, probabilities.shape[1]))
        sound = probabilities.isfinite().all(1)
        for row in zip(labels.tolist(), classes.tolist(), best.tolist(), sound.tolist(), strict=True):
            yield row[:3] if row[3] else (row[0], [], [])


@dataclass
class Totals:
    images: int = 0
    broken: int = 0
    damaged: int = 0  # of the others
    known: int = 0
    top1: int = 0
    top5: int = 0

    def add(self, row: Row) -> None:
        self.images += 1
        self.broken += row.fault not in (None, LOST)
        self.damaged += row.note is not None
        if row.truth is not None and row.fault in (None, LOST):
            self.known += 1
            self.top1 += row.wrong
            self.top5 += row.truth not in row.classes

    def tell(self, seconds: float) -> None:
        text = f"{self.images:,} images, {self.broken:,} broken, {self.images / seconds:,.0f} images/s"
        if self.damaged:
            text += f"; {self.damaged:,} damaged, decoded as far as they go"
        if self.known:
            text += f"; of {self.known:,} whose class is known, {100 * self.top1 / self.known:.2f} % wrong"
            text += f", {100 * self.top5 / self.known:.2f} % not among five guesses"
        say(text, err=True)
