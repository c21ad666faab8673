"""Draw pictures with images in them: guesses, neighbours, layers, gradients, confusions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cli.pictures.canvas import Target, box, fit, new_figure, picture, save, short, write
from cli.pictures.filters import tower_name

Image = npt.NDArray[np.uint8]  # (height, width, 3)
TRUE, OTHER = "#e58b8b", "#a9c1de"
GREY = "#555555"
BAR = 6  # pixels, of the height of a guess's bar
CELLS = 1000  # rows of a confusion matrix, at most


@dataclass(frozen=True)
class Guess:
    """Hold an image and the classes guessed for it, the likeliest first."""

    image: Image
    caption: str  # its own class where it is known, else its name
    classes: list[str]
    probabilities: list[float]
    correct: int | None  # which of the guesses is its own class
    known: bool  # whether its own class is


def guesses(panels: Sequence[Guess], path: Target, title: str) -> None:
    """Draw the paper's figure 4, left: under each image its class and five bars, its own in red."""
    side, gap, margin, line, top = 196, 36, 28, 25, 84
    columns = min(4, len(panels))
    most = max(len(panel.classes) for panel in panels)
    cell = side + 34 + most * line + 24
    rows = -(-len(panels) // columns)
    width = max(2 * margin + columns * (side + gap) - gap, 420)
    figure = new_figure(width, top + rows * cell, title, margin)
    key = [(TRUE, "its true class"), (OTHER, "other classes")] if any(p.known for p in panels) else []
    for place, (colour, name) in enumerate(key):
        box(figure, margin + 130 * place, 50, 22, BAR, xticks=[], yticks=[]).set_facecolor(colour)
        write(figure, margin + 130 * place + 28, 57, name, fontsize=9, color=GREY)
    for number, panel in enumerate(panels):
        y, x = number // columns * cell + top, number % columns * (side + gap) + margin
        picture(figure, panel.image, x, y, side)
        caption = write(figure, x + side / 2, y + side + 20, panel.caption, ha="center", fontsize=10.5)
        fit(caption, side + gap - 8)
        y += side + 34
        for place, (name, p) in enumerate(zip(panel.classes, panel.probabilities, strict=True)):
            at = y + place * line
            fit(write(figure, x, at + 12, name, fontsize=8.5), side - 40)
            write(figure, x + side, at + 12, f"{p:.0%}", ha="right", fontsize=8, color=GREY)
            bar = box(figure, x, at + 15, side, BAR, xticks=[], yticks=[], xlim=(0, 1), frame_on=False)
            bar.barh(0, 1, height=1, color="#eef0f3")
            bar.barh(0, p, height=1, color=TRUE if place == panel.correct else OTHER)
            bar.set_ylim(-0.5, 0.5)
    save(figure, path)


@dataclass(frozen=True)
class Neighbours:
    """Hold an image, and the ones nearest to it, the nearest first."""

    image: Image
    caption: str
    near: list[Image]
    captions: list[str]
    distances: list[float]


def neighbours(rows: Sequence[Neighbours], path: Target, title: str) -> None:
    """Draw the paper's figure 4, right: per row an image, then those nearest to it."""
    side, gap, margin, first, top = 132, 8, 28, 30, 88
    columns = max(len(row.near) for row in rows)
    cell = side + 42
    width = 2 * margin + side + first + columns * (side + gap) - gap
    figure = new_figure(width, top + len(rows) * cell, title, margin)
    write(figure, margin, top - 12, "image", fontsize=10, color=GREY)
    write(figure, margin + side + first, top - 12, "nearest first; class, distance", fontsize=10, color=GREY)
    for number, row in enumerate(rows):
        y = top + number * cell
        picture(figure, row.image, margin, y, side)
        fit(write(figure, margin, y + side + 15, row.caption, fontsize=9), side)
        for place, (image, caption, distance) in enumerate(
            zip(row.near, row.captions, row.distances, strict=True)
        ):
            x = margin + side + first + place * (side + gap)
            picture(figure, image, x, y, side)
            fit(write(figure, x, y + side + 15, caption, fontsize=9), side)
            write(figure, x, y + side + 29, f"{distance:.1f}", fontsize=8, color=GREY)
    save(figure, path)


def grid(rows: Mapping[str, Sequence[Image]], path: Target, title: str, captions: Sequence[str] = ()) -> None:
    """Draw images in named rows, with a caption to each column."""
    side, gap, margin, left, top = 150, 8, 20, 164, 62
    columns = max(len(row) for row in rows.values())
    foot = 26 if captions else margin
    width = max(left + columns * (side + gap) - gap + margin, 420)
    figure = new_figure(width, top + len(rows) * (side + gap) + foot, title, margin)
    for number, (name, images) in enumerate(rows.items()):
        y = top + number * (side + gap)
        write(figure, left - 12, y + side / 2, name, ha="right", va="center", fontsize=10)
        for place, image in enumerate(images):
            picture(figure, image, left + place * (side + gap), y, side)
    for place, caption in enumerate(captions):
        x = left + place * (side + gap) + side / 2
        y = top + len(rows) * (side + gap) + 10
        fit(write(figure, x, y, caption, ha="center", fontsize=9), side)
    save(figure, path)


def layers(
    image: Image,
    guess: str,
    outputs: Mapping[str, npt.NDArray[Any]],
    path: Target,
    title: str,
    towers: int = 2,
) -> None:
    """Draw the image, the class guessed for it, strips of each convolution's maps, tower a's above tower b's.

    outputs: by layer (maps, height, width) or (units,). Of each tower the twelve maps with the highest peaks,
    each above its number; fc layers come last.
    """
    side, gap, below, margin, left, top, count = 72, 4, 16, 24, 340, 62, 12
    tall = sum(towers * (side + below) + 14 if maps.ndim == 3 else 46 for maps in outputs.values())
    width = left + count * (side + gap) - gap + margin
    figure = new_figure(width, top + max(tall, 270) + margin, title, margin)
    picture(figure, image, margin, top, 224)
    fit(write(figure, margin, top + 244, guess, fontsize=10), 224)
    write(figure, margin, top + 264, "below each map: its number", fontsize=8, color=GREY)
    y = float(top)
    for name, maps in outputs.items():
        size = "x".join(map(str, maps.shape))
        write(figure, left - 12, y + 12, name, ha="right", va="center", fontsize=11)
        write(figure, left - 12, y + 28, size, ha="right", fontsize=8, color=GREY)
        if maps.ndim == 1:
            strip = np.atleast_2d(maps / (maps.max() or 1))
            axes = box(figure, left, y, count * (side + gap) - gap, 30, xticks=[], yticks=[])
            axes.imshow(strip, cmap="magma", vmin=0, vmax=1, aspect="auto", interpolation="none")
            y += 46
            continue
        first = 0  # number of the tower's first map
        for tower, part in enumerate(np.array_split(maps, towers)):
            label = tower_name(tower, towers)
            write(figure, left - 12, y + side - 6, label, ha="right", fontsize=8, color=GREY)
            strongest = part.max(axis=(1, 2)).argsort()[::-1][:count]
            for place, number in enumerate(strongest):
                x = left + place * (side + gap)
                axes = box(figure, x, y, side, side, xticks=[], yticks=[])
                write(
                    figure,
                    x + side / 2,
                    y + side + 11,
                    str(first + number),
                    ha="center",
                    fontsize=7,
                    color=GREY,
                )
                axes.imshow(part[number], cmap="magma", vmin=0, vmax=maps.max() or 1, interpolation="none")
                axes.spines[:].set_visible(False)
            y += side + below
            first += len(part)
        y += 14
    save(figure, path)


def maps(output: npt.NDArray[Any], path: Target, title: str, towers: int = 2) -> None:
    """Draw every map of a layer, (maps, height, width), tower a's above tower b's, in one range.

    Each row has the number of its first map at its left.
    """
    from matplotlib import colormaps

    columns, margin, top, gap = 16, 60, 62, 20
    zoom = max(1, 1000 // (columns * (output.shape[2] + 1)))
    sheets = []
    for part in np.array_split(output / (output.max() or 1), towers):
        count, height, width = part.shape
        rows = -(-count // columns)
        sheet = np.full((rows * (height + 1) - 1, min(count, columns) * (width + 1) - 1, 3), 255, np.uint8)
        for number, values in enumerate(part):
            y, x = number // columns * (height + 1), number % columns * (width + 1)
            sheet[y : y + height, x : x + width] = 255 * colormaps["magma"](values)[..., :3]
        sheets.append(sheet.repeat(zoom, axis=0).repeat(zoom, axis=1))
    high = top + sum(sheet.shape[0] + gap for sheet in sheets)
    figure = new_figure(2 * margin + sheets[0].shape[1], high, title, margin)
    first, row = 0, zoom * (output.shape[1] + 1)  # pixels from one row to the next
    for number, (sheet, part) in enumerate(zip(sheets, np.array_split(output, towers), strict=True)):
        axes = picture(figure, sheet, margin, top)
        axes.set_ylabel(tower_name(number, towers), fontsize=11)
        starts = range(0, len(part), columns)
        axes.set_yticks(
            [(place + 0.5) * row for place in range(len(starts))], [str(first + n) for n in starts]
        )
        axes.tick_params(length=0, labelsize=7)
        first += len(part)
        top += sheet.shape[0] + gap
    save(figure, path)


@dataclass(frozen=True)
class Pair:
    """Count the images of one class that were taken for another."""

    true: str
    taken: str
    images: int
    of: int  # images of the true class


class Counts(NamedTuple):
    """Hold the pairs of true class and first guess that occur, (pairs,) each: few of all that could."""

    true: npt.NDArray[Any]
    taken: npt.NDArray[Any]
    images: npt.NDArray[Any]


def matrix(counts: Counts, classes: int) -> npt.NDArray[Any]:
    """Return (cells, cells): rows are true classes, columns guesses; CELLS says how many share a cell."""
    beside = -(-classes // CELLS)
    cells = -(-classes // beside)
    result = np.zeros((cells, cells), np.int64)
    np.add.at(result, (counts.true // beside, counts.taken // beside), counts.images)
    return result


def class_errors(counts: Counts, classes: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return each class's images and how many of them were taken for another, (classes,) each."""
    wrong = counts.images * (counts.true != counts.taken)
    images, wrong = (np.bincount(counts.true, n, classes).astype(np.int64) for n in (counts.images, wrong))
    return images, wrong


def by_error(counts: Counts, classes: int) -> npt.NDArray[Any]:
    """Return the classes' numbers, those of the highest error first, those without images last."""
    images, wrong = class_errors(counts, classes)
    return np.argsort(-np.where(images, wrong / np.maximum(images, 1), -1), kind="stable")


def confusion(counts: Counts, names: Sequence[str], pairs: Sequence[Pair], path: Target, title: str) -> None:
    """Draw the confusion matrix in percent of each true class, and the most frequent mistakes.

    More classes than can be named are ordered by error, and of more than CELLS neighbours share a row and a
    column.
    """
    from matplotlib.colors import PowerNorm

    few, classes = len(names) <= 30, len(names)
    side, top, margin, bar = 440, 172 if few else 90, 28, 22
    left = 220 if few else 90
    at = left + side + 360  # where bars begin
    figure = new_figure(at + 330, top + max(side + 112, len(pairs) * bar + 30), title, margin)
    axes = box(figure, left, top, side, side)
    if not few:
        rank = np.argsort(by_error(counts, classes))
        counts = Counts(rank[counts.true], rank[counts.taken], counts.images)
    cells, ends = matrix(counts, classes), (-0.5, classes - 0.5)
    share = 100 * cells / np.maximum(cells.sum(1, keepdims=True), 1)
    looks: dict[str, Any] = {"cmap": "Blues", "interpolation": "none", "aspect": "auto"}
    scale = PowerNorm(1 if few else 0.4, 0, 100)  # of a thousand classes most confusions are a percent or two
    shown = axes.imshow(share, norm=scale, extent=(*ends, *ends[::-1]), **looks)
    axes.tick_params(length=0, labelsize=9)
    key = box(figure, left + 140, top + side + 50, side - 140, 10)
    figure.colorbar(
        shown, cax=key, orientation="horizontal", ticks=[0, 25, 50, 75, 100] if few else [0, 1, 5, 20, 100]
    )
    key.tick_params(labelsize=8)
    key.set_xlabel("percent of the true class's images", fontsize=9)
    axes.set_xlabel("predicted class" if few else "predicted class, in the order of the rows")
    axes.set_ylabel("true class" if few else "true class, the highest error first")
    if few:
        labels = [short(name, 22) for name in names]
        axes.set_xticks(range(classes), labels, rotation=45, ha="left")
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("bottom")
        axes.set_yticks(range(classes), labels)
        axes.yaxis.set_label_coords(-190 / side, 0.5)
        for (row, column), value in np.ndenumerate(share):
            if value >= 0.5 and classes <= 15:
                colour = "white" if value > 55 else "#333333"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.spines[:].set_color("#bbbbbb")
    write(figure, at - 320, top - 14, "most frequent confusions: true class → predicted class", fontsize=11)
    if not pairs:
        write(figure, at - 320, top + 16, "none: every first guess was right", fontsize=10, color=GREY)
    else:
        bars = box(figure, at, top, 270, len(pairs) * bar, xticks=[], ylim=(len(pairs) - 0.5, -0.5))
        bars.barh(range(len(pairs)), [100 * p.images / p.of for p in pairs], height=0.7, color=OTHER)
        bars.set_yticks(range(len(pairs)), [f"{short(p.true, 19)}  →  {short(p.taken, 19)}" for p in pairs])
        bars.tick_params(length=0, labelsize=9)
        bars.spines[["top", "right", "bottom"]].set_visible(False)
        for place, p in enumerate(pairs):
            text = f" {100 * p.images / p.of:.0f} %  ({p.images} of {p.of})"
            bars.text(100 * p.images / p.of, place, text, va="center", fontsize=8, color=GREY)
        bars.set_xlim(0, 1.6 * max(100 * p.images / p.of for p in pairs))
    save(figure, path)
