"""Draw loss and errors over the epochs, of one run or of several."""

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.pictures.canvas import DPI, Target, new_figure, save, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Row = dict[str, Any]
End = tuple[float, str, str]  # a curve's last value, as text, and its colour
TRAIN, TOP1, TOP5 = "#8a8f98", "#c8102e", "#1f5fa8"
COLOURS = ("#c8102e", "#1f5fa8", "#2e8540", "#b8860b", "#6b4c9a", "#444444")  # of runs


def curves(metrics: Sequence[Row], path: Target, title: str) -> None:
    """Draw loss and errors over the epochs; a vertical line where the learning rate changed."""
    train = [row for row in metrics if row["kind"] == "train"]
    val = [row for row in metrics if row["kind"] == "val"]
    figure, loss, error = loss_and_error(title)
    noisy_line(loss, train, "loss", TRAIN, "training")
    noisy_line(error, train, "top1_err", TRAIN, "training, top-1")
    ends = {
        loss: [marked_line(loss, val, "loss", TOP1, "validation", "{:.2f}")],
        error: [
            marked_line(error, val, "top1_err", TOP1, "validation, top-1", "{:.1f} %"),
            marked_line(error, val, "top5_err", TOP5, "validation, top-5", "{:.1f} %"),
        ],
    }
    for axes in (loss, error):
        finish(axes, metrics, ends[axes])
        mark_drops(axes, train)
    save(figure, path)


def compare(runs: Mapping[str, Sequence[Row]], path: Target, title: str) -> None:
    """Draw several runs over one another, one colour each: training faint, top-5 dashed."""
    figure, loss, error = loss_and_error(title)
    ends: dict[Axes, list[End | None]] = {loss: [], error: []}
    for (name, metrics), colour in zip(runs.items(), cycle(COLOURS), strict=False):
        name = f" {short(name, 40)}"  # a legend leaves out what begins with _
        train = [row for row in metrics if row["kind"] == "train"]
        val = [row for row in metrics if row["kind"] == "val"]
        noisy_line(loss, train, "loss", colour, "", mean=False)
        ends[loss].append(marked_line(loss, val, "loss", colour, name, "{:.2f}"))
        ends[error].append(marked_line(error, val, "top1_err", colour, f"{name}, top-1", "{:.1f} %"))
        ends[error].append(
            marked_line(error, val, "top5_err", colour, f"{name}, top-5", "{:.1f} %", linestyle=(0, (4, 2)))
        )
        for axes in (loss, error):
            mark_drops(axes, train, colour, text=False)
    for axes in (loss, error):
        finish(axes, [row for metrics in runs.values() for row in metrics], ends[axes])
    loss.set_title("loss (training faint)", loc="left", fontsize=11)
    save(figure, path)


def loss_and_error(title: str) -> "tuple[Figure, Axes, Axes]":
    figure = new_figure(1200, 480, title, 66)
    loss, error = figure.subplots(
        1, 2, gridspec_kw={"left": 0.055, "right": 0.945, "bottom": 0.11, "top": 0.82, "wspace": 0.24}
    )
    loss.set_title("loss", loc="left", fontsize=11)
    error.set_title("error, %", loc="left", fontsize=11)
    return figure, loss, error


def finish(axes: "Axes", metrics: Sequence[Row], ends: "Sequence[End | None]") -> None:
    """Add limits, ticks, legend and the curves' last values, once everything is drawn."""
    from matplotlib.ticker import MaxNLocator

    last = max((row["epoch"] for row in metrics), default=1)
    axes.set_xlabel("epoch")
    axes.set_xlim(0, last)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", facecolor="white", framealpha=0.9, edgecolor="none")
    scale = axes.get_window_extent().height / axes.get_ylim()[1]  # pixels a unit
    floor = 9.0  # pixels above the axis
    for value, text, colour in sorted(filter(None, ends)):
        height = max(value * scale, floor)
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
        floor = height + 17  # the next one does not touch it


def noisy_line(
    axes: "Axes", rows: Sequence[Row], key: str, colour: str, label: str, mean: bool = True
) -> None:
    """Draw every value, faint, and their running mean."""
    if not rows:
        return
    points = np.array([(row["epoch"], row[key]) for row in rows])
    axes.plot(*points.T, color=colour, linewidth=0.7, alpha=0.4)
    if mean:
        width = max(1, len(points) // 60)
        smooth = [np.convolve(column, np.full(width, 1 / width), "valid") for column in points.T]
        axes.plot(*smooth, color=colour, linewidth=1.6, label=label)


def marked_line(
    axes: "Axes", rows: Sequence[Row], key: str, colour: str, label: str, form: str, linestyle: Any = "-"
) -> "End | None":
    """Draw one value per epoch; return what `finish` writes at its end."""
    if not rows:
        return None
    epochs, values = [row["epoch"] for row in rows], [row[key] for row in rows]
    axes.plot(
        epochs, values, color=colour, linewidth=1.6, marker="o", markersize=3, label=label, ls=linestyle,
        clip_on=False,
    )  # fmt: skip
    return values[-1], form.format(values[-1]), colour


def mark_drops(axes: "Axes", train: Sequence[Row], colour: str = "#444444", text: bool = True) -> None:
    for before, after in pairwise(row for row in train if "lr" in row):  # a baseline's have none
        if after["lr"] != before["lr"]:
            axes.axvline(after["epoch"], color=colour, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
            if text:
                axes.annotate(
                    f"lr {after['lr']:.2g}",
                    (after["epoch"], 1),
                    (0, 3),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha="center",
                    color=colour,
                    fontsize=8,
                )
