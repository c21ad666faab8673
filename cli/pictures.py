"""The pictures of a run, PNG or PDF by suffix: what conv1 has learned, how the loss and the errors fell."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # matplotlib takes half a second to import, which --help should not
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]

DPI = 100
WIDE = 1152  # pixels, for 16 kernels in a row
TRAIN, TOP1, TOP5 = "#8a8f98", "#c8102e", "#1f5fa8"


def filters(weight: npt.NDArray[Any], path: Path, title: str) -> None:
    """The kernels of conv1, (kernels, 3, height, width), tower a's above tower b's: the paper's figure 3."""
    towers = [mosaic(tower) for tower in np.array_split(weight, 2)]
    zoom = min(16, WIDE // towers[0].shape[1])
    towers = [tower.repeat(zoom, axis=0).repeat(zoom, axis=1) for tower in towers]
    left, top, gap, edge = 40, 56, 16, 16  # pixels
    width = left + towers[0].shape[1] + edge
    height = top + towers[0].shape[0] + gap + towers[1].shape[0] + edge
    figure = new_figure(width, height)
    figure.text(left / width, 1 - 34 / height, title, fontsize=13)
    for name, tower, above in zip("ab", towers, (top, top + towers[0].shape[0] + gap), strict=True):
        high, wide = tower.shape[:2]
        place = (left / width, 1 - (above + high) / height, wide / width, high / height)
        axes = figure.add_axes(place, xticks=[], yticks=[], frame_on=False)
        axes.imshow(tower, interpolation="none", aspect="auto")
        axes.set_ylabel(f"tower {name}", fontsize=11)
    figure.savefig(path)


def mosaic(kernels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The kernels in rows, a pixel a weight, white lines between them; each in its own range of values."""
    count, channels, height, width = kernels.shape
    columns = max(n for n in range(1, 17) if count % n == 0)
    if columns < 8:  # no good divisor: the last row stays incomplete
        columns = min(count, 16)
    sheet = np.full(
        (-(-count // columns) * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, np.uint8
    )
    for number, kernel in enumerate(kernels.astype(np.float64)):
        y, x = number // columns * (height + 1), number % columns * (width + 1)
        low, high = kernel.min(), kernel.max()
        level = (kernel - low) / (high - low) if high > low else np.full_like(kernel, 0.5)
        sheet[y : y + height, x : x + width] = np.rint(255 * level).transpose(1, 2, 0)
    return sheet


def curves(metrics: Sequence[Row], path: Path, title: str) -> None:
    """Loss and errors over the epochs; a vertical line where the learning rate changed."""
    train = [row for row in metrics if row["kind"] == "train"]
    val = [row for row in metrics if row["kind"] == "val"]
    figure = new_figure(1200, 480)
    figure.text(0.055, 0.93, title, fontsize=13)
    loss, error = figure.subplots(
        1, 2, gridspec_kw={"left": 0.055, "right": 0.95, "bottom": 0.11, "top": 0.82, "wspace": 0.22}
    )
    noisy_line(loss, train, "loss", TRAIN, "training")
    marked_line(loss, val, "loss", TOP1, "validation", "{:.2f}")
    noisy_line(error, train, "top1_err", TRAIN, "training, top-1")
    marked_line(error, val, "top1_err", TOP1, "validation, top-1", "{:.1f} %")
    marked_line(error, val, "top5_err", TOP5, "validation, top-5", "{:.1f} %")
    for axes, name in (loss, "loss"), (error, "error, %"):
        axes.set_title(name, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        mark_drops(axes, train)
        if axes.lines:
            axes.legend(loc="upper right", facecolor="white", framealpha=0.9, edgecolor="none")
    figure.savefig(path)


def noisy_line(axes: "Axes", rows: Sequence[Row], key: str, colour: str, label: str) -> None:
    """Every value, faint, and their running mean."""
    if not rows:
        return
    points = np.array([(row["epoch"], row[key]) for row in rows])
    width = max(1, len(points) // 60)
    mean = [np.convolve(column, np.full(width, 1 / width), "valid") for column in points.T]
    axes.plot(*points.T, color=colour, linewidth=0.7, alpha=0.4)
    axes.plot(*mean, color=colour, linewidth=1.6, label=label)


def marked_line(axes: "Axes", rows: Sequence[Row], key: str, colour: str, label: str, form: str) -> None:
    """One value an epoch, the last one in figures."""
    if not rows:
        return
    epochs, values = [row["epoch"] for row in rows], [row[key] for row in rows]
    axes.plot(epochs, values, color=colour, linewidth=1.6, marker="o", markersize=3, label=label)
    axes.annotate(
        form.format(values[-1]),
        (epochs[-1], values[-1]),
        (6, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=10,
        annotation_clip=False,
    )


def mark_drops(axes: "Axes", train: Sequence[Row]) -> None:
    for before, after in pairwise(train):
        if after["lr"] != before["lr"]:
            axes.axvline(after["epoch"], color="#444444", linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
            axes.annotate(
                f"lr {after['lr']:.2g}",
                (after["epoch"], 1),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                color="#444444",
                fontsize=8,
            )


def new_figure(width: int, height: int) -> "Figure":
    """A white figure of that many pixels, known to nobody else: no pyplot, no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
