"""Draw the confusion matrix of a network; count what it shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cli.pictures.canvas import GREY, Target, box, new_figure, percent, save, short, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELLS = 1000  # rows of a confusion matrix, at most
BARS = "#a9c1de"  # of counts


@dataclass(frozen=True)
class Pair:
    """Count the images of one class that were predicted as another."""

    true: str
    taken: str
    images: int
    of: int  # images of the true class


class Counts(NamedTuple):
    """Hold the pairs of true and predicted class that occur, (pairs,) each: few of all that could."""

    true: npt.NDArray[Any]
    taken: npt.NDArray[Any]
    images: npt.NDArray[Any]


def matrix(counts: Counts, classes: int) -> npt.NDArray[Any]:
    """Return (cells, cells): rows are true, columns predicted classes, several to a cell if over CELLS."""
    beside = -(-classes // CELLS)
    cells = -(-classes // beside)
    result = np.zeros((cells, cells), np.int64)
    np.add.at(result, (counts.true // beside, counts.taken // beside), counts.images)
    return result


def class_errors(counts: Counts, classes: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return each class's images and how many of them are misclassified, (classes,) each."""
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
    key.set_xlabel("percent of the images of the true class", fontsize=9)
    axes.set_xlabel("predicted class" if few else "predicted class, in the order of the rows")
    axes.set_ylabel("true class" if few else "true class, highest error first")
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
    draw_pairs(figure, pairs, at, top, bar)
    save(figure, path)


def draw_pairs(figure: "Figure", pairs: Sequence[Pair], left: float, top: float, row: float) -> None:
    """Draw a bar for each pair at a place in pixels, a row each."""
    write(figure, left - 320, top - 14, "Most frequent confusions: true class → predicted class", fontsize=11)
    if not pairs:
        write(figure, left - 320, top + 16, "none: every prediction is right", fontsize=10, color=GREY)
        return
    bars = box(figure, left, top, 270, len(pairs) * row, xticks=[], ylim=(len(pairs) - 0.5, -0.5))
    bars.barh(range(len(pairs)), [p.images for p in pairs], height=0.7, color=BARS)
    bars.set_yticks(range(len(pairs)), [f"{short(p.true, 19)}  →  {short(p.taken, 19)}" for p in pairs])
    bars.tick_params(length=0, labelsize=9)
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    for place, p in enumerate(pairs):
        text = f" {p.images:,} of {p.of:,} images ({percent(p.images / p.of)})"
        bars.text(p.images, place, text, va="center", fontsize=8, color=GREY)
    bars.set_xlim(0, 1.8 * max(p.images for p in pairs))
