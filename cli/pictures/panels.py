"""Draw pictures with images in them: predictions, neighbours, activations, gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cli.pictures.canvas import GREY, Target, box, fit, new_figure, percent, picture, save, write
from cli.pictures.filters import tower_name

Image = npt.NDArray[np.uint8]  # (height, width, 3)
TRUE, OTHER = "#e58b8b", "#a9c1de"
BAR = 6  # pixels, of the height of a class's bar
ROWS = "At the left of each row is the number of its first map. Black is zero."
MAPS = """\
For each tower, the 12 maps with the
highest values are drawn. The number
of a map is below it. Black is zero;
the lightest colour is the highest
value in the layer."""


@dataclass(frozen=True)
class Guess:
    """Hold an image and its predicted classes, the likeliest first."""

    image: Image
    caption: str  # its true class where it is known, else its name
    classes: list[str]
    probabilities: list[float]
    correct: int | None  # which of the classes is the true one
    known: bool  # whether the true class is


def guesses(panels: Sequence[Guess], path: Target, title: str) -> None:
    """Draw the paper's figure 4, left: under each image its class and five bars, the true class in red."""
    side, gap, margin, line, top = 196, 36, 28, 25, 84
    columns = min(4, len(panels))
    most = max(len(panel.classes) for panel in panels)
    cell = side + 34 + most * line + 24
    rows = -(-len(panels) // columns)
    width = max(2 * margin + columns * (side + gap) - gap, 420)
    figure = new_figure(width, top + rows * cell, title, margin)
    key = [(TRUE, "true class"), (OTHER, "other classes")] if any(p.known for p in panels) else []
    for place, (colour, name) in enumerate(key):
        sample = box(figure, margin + 130 * place, 50, 22, BAR, xticks=[], yticks=[], facecolor=colour)
        sample.spines[:].set_visible(False)
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
            write(figure, x + side, at + 12, percent(p), ha="right", fontsize=8, color=GREY)
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
    write(figure, margin, top - 12, "query", fontsize=10, color=GREY)
    what = "most similar first, with class and distance"
    write(figure, margin + side + first, top - 12, what, fontsize=10, color=GREY)
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
    prediction: str,
    outputs: Mapping[str, npt.NDArray[Any]],
    path: Target,
    title: str,
    towers: int = 2,
) -> None:
    """Draw the image, its predicted class, strips of each convolution's maps, tower a's above tower b's.

    outputs: by layer (maps, height, width) or (units,). Of each tower the twelve maps with the highest peaks,
    each above its number; fc layers come last.
    """
    side, gap, below, margin, left, top, count = 72, 4, 16, 24, 340, 62, 12
    tall = sum(towers * (side + below) + 14 if maps.ndim == 3 else 46 for maps in outputs.values())
    width = left + count * (side + gap) - gap + margin
    figure = new_figure(width, top + max(tall, 350) + margin, title, margin)
    picture(figure, image, margin, top, 224)
    write(figure, margin, top + 240, "predicted class:", fontsize=8, color=GREY)
    fit(write(figure, margin, top + 257, prediction, fontsize=10), 224)
    write(figure, margin, top + 272, MAPS, va="top", fontsize=8, color=GREY, linespacing=1.4)
    y = float(top)
    for name, maps in outputs.items():
        size = f"{len(maps):,} units" if maps.ndim == 1 else "{} maps\nof {}x{}".format(*maps.shape)
        write(figure, left - 12, y + 12, name, ha="right", va="center", fontsize=11)
        write(figure, left - 12, y + 19, size, ha="right", va="top", fontsize=8, color=GREY)
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
                x, named = left + place * (side + gap), str(first + number)
                axes = box(figure, x, y, side, side, xticks=[], yticks=[])
                axes.imshow(part[number], cmap="magma", vmin=0, vmax=maps.max() or 1, interpolation="none")
                axes.spines[:].set_visible(False)
                write(figure, x + side / 2, y + side + 11, named, ha="center", fontsize=7, color=GREY)
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
    write(figure, margin, 52, ROWS, fontsize=8, color=GREY)
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
