"""Predict the classes of images, and write them as a table, JSON, CSV or picture, row by row."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cli.compose.classes import find_classes
from cli.compose.trained import Trained, first_word, title
from cli.display import in_words, lines, plain, plural, say, say_row, top_errors
from cli.pictures import panels
from model.study.layers import predict
from pipeline.dataset import Category, Dataset, read_names
from pipeline.files import find_images, square
from pipeline.image import centre

GUESSES = 5
LOST = "the network's outputs for it are not finite"  # a fault that is not the image's
FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # what formulas begin with, in both widths


@dataclass(frozen=True)
class GuessRow:
    """Hold what is said of one image."""

    name: str
    truth: int | None = None  # its class, where that is known
    fault: str | None = None  # why no class is predicted
    note: str | None = None  # what is wrong with the image all the same
    classes: list[int] = field(default_factory=list)  # the likeliest first
    probabilities: list[float] = field(default_factory=list)

    @property
    def wrong(self) -> bool:
        return self.truth is not None and self.classes[:1] != [self.truth]


RowSink = Callable[[int, GuessRow], None]  # is told of each row, with the number of its image


@dataclass
class ImageSource:
    """Hold images in order: their names, their rows as they are computed, their pixels."""

    names: Sequence[str]
    rows: Callable[[], Iterator[GuessRow]]
    square: Callable[[int], np.ndarray]  # of an image by its number, (side, side, 3) uint8


@dataclass(frozen=True)
class Outputs:
    """Say what is written, and which rows of it."""

    json: str | None
    csv: str | None
    picture: Path | None
    count: int  # rows in the picture, at most
    only_errors: bool


def open_sinks(run: Trained, source: ImageSource, asked: Outputs, stack: ExitStack) -> Iterator[RowSink]:
    """Open where rows go: the files asked for, or else a table on the terminal."""
    classes = run.facts.classes
    if asked.picture:  # opened first, written last: rows are not lost with it
        yield stack.enter_context(drawing(run, source, asked.picture, asked))
    for path, sink in ((asked.json, json_file), (asked.csv, csv_file)):
        if path:
            yield stack.enter_context(sink(path, classes))
    if not (asked.json or asked.csv or asked.picture):
        say(f"{'image':<40} {'probability':>11}  class")
        yield lambda number, row: print_row(run, row)


def print_row(run: Trained, row: GuessRow) -> None:
    """Print five lines of the table; an image's own class is marked."""
    name = plain(row.name)
    name = name if len(name) <= 40 else "…" + name[-39:]
    if row.fault:
        say(f"{name:<40} {row.fault}")
    elif row.note:
        say(f"{name:<40} {row.note}")
        name = ""
    for place, (output, p) in enumerate(zip(row.classes, row.probabilities, strict=True)):
        mark = "  <- true class" if output == row.truth else ""
        say(f"{'' if place else name:<40} {p:>11.2%}  {run.name(output)}{mark}")


@contextmanager
def json_file(path: str, classes: Sequence[Category]) -> Iterator[RowSink]:
    def named(output: int) -> dict[str, Any]:
        if output >= len(classes):
            return {"output": output}
        return {"output": output, "wnid": classes[output].wnid, "words": classes[output].words}

    with lines(path) as file:
        before = "["

        def add(number: int, row: GuessRow) -> None:
            nonlocal before
            guesses = zip(row.classes, row.probabilities, strict=True)
            content = {
                "image": row.name,
                "fault": row.fault,
                "note": row.note,
                "class": None if row.truth is None else named(row.truth),
                "guesses": [{**named(output), "probability": p} for output, p in guesses],
            }
            file.write(f"{before}\n{json.dumps(content)}")
            before = ","

        yield add
        file.write("[]\n" if before == "[" else "\n]\n")


@contextmanager
def csv_file(path: str, classes: Sequence[Category]) -> Iterator[RowSink]:
    def wnid(output: int | None) -> str:
        return "" if output is None else classes[output].wnid if output < len(classes) else f"{output}"

    with lines(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["image", "fault", "note", "class"]
            + [f"{what}_{n}" for n in range(1, GUESSES + 1) for what in ("guess", "words", "probability")]
        )

        def add(number: int, row: GuessRow) -> None:
            cells = [row.name, row.fault or "", row.note or "", wnid(row.truth)]
            for output, p in zip(row.classes, row.probabilities, strict=True):
                cells += [wnid(output), first_word(classes, output), f"{p:.6g}"]
            writer.writerow(map(cell, cells))

        yield add


def cell(text: str) -> str:
    """Return the text in one line, a quote before what a spreadsheet would take for a formula."""
    text = plain(text)
    return f"'{text}" if text.startswith(FORMULA) else text


@contextmanager
def drawing(run: Trained, source: ImageSource, path: Path, asked: Outputs) -> Iterator[RowSink]:
    """Draw the first `count` rows as a picture, at the end."""
    drawn: list[panels.Guess] = []

    def add(number: int, row: GuessRow) -> None:
        if row.fault or len(drawn) == asked.count:
            return
        drawn.append(
            panels.Guess(
                image=centre(source.square(number), run.recipe.crop),
                caption=Path(row.name).name if row.truth is None else run.name(row.truth),
                classes=[run.name(output) for output in row.classes],
                probabilities=row.probabilities,
                correct=row.classes.index(row.truth) if row.truth in row.classes else None,
                known=row.truth is not None,
            )
        )

    yield add
    what = "Misclassified images" if asked.only_errors else "Predicted classes"
    if drawn:
        panels.guesses(drawn, path, f"{what}, {title(run.path)}")
        say_row("drawn", path, err=True)
    else:
        say_row("drawn", "nothing: there is no such image", err=True)


def from_files(run: Trained, arguments: Sequence[str], ten_crop: bool, upright: bool) -> ImageSource:
    paths = find_images(arguments)
    batches = run.file_batches(paths, upright, ten_crop)
    wnids = {category.wnid: category.index for category in run.facts.classes}

    @cache
    def of_folder(name: str) -> int | None:
        found = find_classes(run.facts.classes, name)
        return found[0].index if len(found) == 1 else None  # there are two cranes

    def truth(path: Path) -> int | None:
        found = of_folder(path.absolute().parent.name)
        return wnids.get(path.name.partition("_")[0]) if found is None else found

    def rows() -> Iterator[GuessRow]:
        """Yield rows in the files' order, the broken ones between the others."""
        following = 0
        for number, classes, probabilities in guess(run, batches):
            yield from map(broken, range(following, number))
            fault = None if classes else LOST
            note, path = batches.notes.get(number), paths[number]
            yield GuessRow(str(path), truth(path), fault, note, classes, probabilities)
            following = number + 1
        yield from map(broken, range(following, len(paths)))

    def broken(number: int) -> GuessRow:
        return GuessRow(str(paths[number]), truth(paths[number]), batches.faults[number])

    def pixels(number: int) -> np.ndarray:
        return square(paths[number], upright, run.facts.side)

    return ImageSource([str(path) for path in paths], rows, pixels)


def from_split(run: Trained, dataset: Dataset, split: str, ten_crop: bool) -> ImageSource:
    batches = run.batches(dataset, split, ten_crop)
    names = read_names(dataset, split)

    def rows() -> Iterator[GuessRow]:
        for name, (label, classes, probabilities) in zip(names, guess(run, batches), strict=True):
            known = label if label >= 0 else None
            yield GuessRow(name, known, None if classes else LOST, None, classes, probabilities)

    return ImageSource(names, rows, batches.samples.square)


def guess(run: Trained, batches: Any) -> Iterator[tuple[int, list[int], list[float]]]:
    """Yield each image's label, likeliest classes and their probabilities, or none if not finite."""
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

    def add(self, row: GuessRow) -> None:
        self.images += 1
        self.broken += row.fault not in (None, LOST)
        self.damaged += row.note is not None
        if row.truth is not None and row.fault in (None, LOST):
            self.known += 1
            self.top1 += row.wrong
            self.top5 += row.truth not in row.classes

    def tell(self, seconds: float, classes: int) -> None:
        say_row("images", f"{self.images:,}, {self.images / seconds:,.0f} images/s", err=True)
        if self.broken:
            say_row("broken", f"{self.broken:,}, cannot be decoded", err=True)
        if self.damaged:
            say_row("damaged", f"{self.damaged:,}, decoded as far as possible", err=True)
        if self.known:
            errors = {"top1_err": 100 * self.top1 / self.known, "top5_err": 100 * self.top5 / self.known}
            of = f"{plural(self.known, 'image')} of known class"
            say_row("result", f"{in_words(top_errors(errors, classes))} on {of}", err=True)
