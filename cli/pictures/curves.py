"""Draw loss and errors over the epochs, of one run or of several."""

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cli.pictures.canvas import DPI, Target, box, new_figure, save, short
from model.recipes import spelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Row = dict[str, Any]
End = tuple[float, str, str]  # a curve's last value, as text, and its colour
Entry = tuple[str, str, Any]  # of the legend: text, colour, style of the line
TRAIN, TOP1, TOP5, GUESSING = "#8a8f98", "#c8102e", "#1f5fa8", "#2e8540"
DASHED, DOTTED = (0, (4, 2)), (0, (1, 2))
COLUMNS = 4  # of the legend
COLOURS = ("#c8102e", "#1f5fa8", "#2e8540", "#b8860b", "#6b4c9a", "#444444")  # of runs


def curves(metrics: Sequence[Row], path: Target, title: str, classes: int | None = None) -> None:
    """Draw loss and errors over the epochs; vertical lines mark changes of the learning rate.

    classes: of the dataset, for the lines of guessing among them.
    """
    train = [row for row in metrics if row["kind"] == "train"]
    val = [row for row in metrics if row["kind"] == "val"]
    figure, loss, error = loss_and_error(title)
    noisy_line(loss, train, "loss", TRAIN)
    noisy_line(error, train, "top1_err", TRAIN)
    ends = {
        loss: [marked_line(loss, val, "loss", TOP1, "{:.2f}")],
        error: [
            marked_line(error, val, "top1_err", TOP1, "{:.1f} %"),
            marked_line(error, val, "top5_err", TOP5, "{:.1f} %", linestyle=DASHED),
        ],
    }
    mark_guessing(loss, error, classes)
    for axes in (loss, error):
        finish(axes, metrics, ends[axes])
        mark_drops(axes, train)
    entries: list[Entry] = [("training (running mean)", TRAIN, "-")] if train else []
    if val:
        entries += [("validation: loss, top-1", TOP1, "-"), ("validation: top-5", TOP5, DASHED)]
    add_legend(figure, [*entries, *guessing(classes)])
    save(figure, path)


def compare(runs: Mapping[str, Sequence[Row]], path: Target, title: str, classes: int | None = None) -> None:
    """Draw several runs over one another, one colour each: training faint, top-5 dashed."""
    rows = -(-(len(runs) + 3) // COLUMNS)  # of the legend
    figure, loss, error = loss_and_error(title, rows)
    ends: dict[Axes, list[End | None]] = {loss: [], error: []}
    entries: list[Entry] = []
    for (name, metrics), colour in zip(runs.items(), cycle(COLOURS), strict=False):
        train = [row for row in metrics if row["kind"] == "train"]
        val = [row for row in metrics if row["kind"] == "val"]
        noisy_line(loss, train, "loss", colour, mean=False)
        ends[loss].append(marked_line(loss, val, "loss", colour, "{:.2f}"))
        ends[error].append(marked_line(error, val, "top1_err", colour, "{:.1f} %"))
        ends[error].append(marked_line(error, val, "top5_err", colour, "{:.1f} %", linestyle=DASHED))
        for axes in (loss, error):
            mark_drops(axes, train, colour, text=False)
        entries.append((short(name, 30), colour, "-"))
    mark_guessing(loss, error, classes)
    for axes in (loss, error):
        finish(axes, [row for metrics in runs.values() for row in metrics], ends[axes])
    add_legend(
        figure,
        [
            *entries,
            ("faint lines: training", TRAIN, "-"),
            ("dashed: top-5", TRAIN, DASHED),
            *guessing(classes),
        ],
    )
    save(figure, path)


def loss_and_error(title: str, legend_rows: int = 1) -> "tuple[Figure, Axes, Axes]":
    """Return a figure with two axes, and room for the legend below them."""
    foot = 62 + 22 * legend_rows  # pixels
    figure = new_figure(1200, 440 + foot, title, 66)
    loss, error = (box(figure, left, 92, 470, 340) for left in (66, 648))
    loss.set_title("loss", loc="left", fontsize=11)
    error.set_title("error (%)", loc="left", fontsize=11)
    return figure, loss, error


def add_legend(figure: "Figure", entries: Sequence[Entry]) -> None:
    """Explain colours and styles of lines below the axes, where no curve can be."""
    from matplotlib.lines import Line2D

    if not entries:
        return
    lines = [Line2D([], [], color=colour, linestyle=style, linewidth=1.6) for _, colour, style in entries]
    labels = [f" {name}" for name, _, _ in entries]  # matplotlib leaves out what begins with _
    looks: dict[str, Any] = {"frameon": False, "fontsize": 10, "borderaxespad": 0.3}
    figure.legend(lines, labels, loc="lower center", ncols=min(COLUMNS, len(lines)), **looks)


def mark_guessing(loss: "Axes", error: "Axes", classes: int | None) -> None:
    """Draw lines at the loss and the top-1 error of guessing."""
    if classes:
        for axes, value in ((loss, np.log(classes)), (error, 100 - 100 / classes)):
            axes.axhline(value, color=GUESSING, linewidth=1.2, linestyle=DOTTED, zorder=0)


def guessing(classes: int | None) -> list[Entry]:
    return [(f"guessing among {classes:,} classes: loss, top-1", GUESSING, DOTTED)] if classes else []


def finish(axes: "Axes", metrics: Sequence[Row], ends: "Sequence[End | None]") -> None:
    """Add limits, ticks and the curves' last values, once everything is drawn."""
    from matplotlib.ticker import MaxNLocator

    last = max((row["epoch"] for row in metrics), default=1)
    axes.set_xlabel("epoch")
    axes.set_xlim(0, last)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    shown = sorted(filter(None, ends))
    high = axes.get_window_extent().height
    scale = high / axes.get_ylim()[1]  # pixels a unit
    places = spread([value * scale for value, _, _ in shown], 9, high)
    for (_, text, colour), height in zip(shown, places, strict=True):
        axes.annotate(
            text,
            (last, 0),
            (8, height * 72 / DPI),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=10,
            annotation_clip=False,
        )


def spread(heights: Sequence[float], floor: float, ceiling: float, apart: float = 17) -> list[float]:
    """Move heights, lowest first, apart from one another, between floor and ceiling as far as they fit."""
    result = list(heights)
    for place, height in enumerate(result):
        result[place] = max(height, result[place - 1] + apart if place else floor)
    for place in reversed(range(len(result))):
        above = result[place + 1] - apart if place + 1 < len(result) else ceiling
        result[place] = max(min(result[place], above), floor + place * apart)
    return result


def noisy_line(axes: "Axes", rows: Sequence[Row], key: str, colour: str, mean: bool = True) -> None:
    """Draw every value, faint, and their running mean."""
    if not rows:
        return
    epochs, values = (np.array([row[name] for row in rows], float) for name in ("epoch", key))
    marker = "." if len(rows) == 1 else ""  # a line of one point cannot be seen
    middles = epochs - np.diff(epochs, prepend=0) / 2  # a row is the mean of the steps before it
    axes.plot(middles, values, color=colour, linewidth=0.7, alpha=0.4, marker=marker)
    if mean:
        axes.plot(epochs, running_mean(epochs, values), color=colour, linewidth=1.6)


def running_mean(epochs: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the mean around each row. epochs, values: (rows,); a row counts by the steps that it covers.

    The last row of an epoch covers few steps: counted like the others it would bend the curve.
    """
    ends = np.concatenate([[0], epochs])
    lengths = np.diff(ends)
    sums = np.concatenate([[0], np.cumsum(values * lengths)])
    half = max(epochs[-1] / 60, float(np.median(lengths)))
    first, last = np.maximum(epochs - half, 0), np.minimum(epochs + half, epochs[-1])
    result: npt.NDArray[Any] = (np.interp(last, ends, sums) - np.interp(first, ends, sums)) / (last - first)
    return result


def marked_line(
    axes: "Axes", rows: Sequence[Row], key: str, colour: str, form: str, linestyle: Any = "-"
) -> "End | None":
    """Draw one value per epoch; return what `finish` writes at its end."""
    if not rows:
        return None
    epochs, values = [row["epoch"] for row in rows], [row[key] for row in rows]
    axes.plot(
        epochs, values, color=colour, linewidth=1.6, marker="o", markersize=3, ls=linestyle, clip_on=False
    )
    return values[-1], form.format(values[-1]), colour


def mark_drops(axes: "Axes", train: Sequence[Row], colour: str = "#444444", text: bool = True) -> None:
    for before, after in pairwise(row for row in train if "lr" in row):  # a baseline's have none
        if after["lr"] != before["lr"]:
            rate = spelled(float(f"{after['lr']:.2g}"))
            axes.axvline(after["epoch"], color=colour, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
            if text:
                axes.annotate(
                    f"lr {rate}",
                    (after["epoch"], 1),
                    (0, 3),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha="center",
                    color=colour,
                    fontsize=8,
                )
