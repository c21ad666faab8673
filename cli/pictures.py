"""The pictures of a run, PNG or PDF by suffix: what convolutions have learned, how loss and errors fell."""

import io
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cli.text import plain
from pipeline.atomic import writing

if TYPE_CHECKING:  # matplotlib takes half a second to import, which --help should not
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
Target = Path | io.BytesIO  # where a picture goes: a file, PNG or PDF by suffix, or memory, as PNG
End = tuple[float, str, str]  # a curve's last value, as text, and its colour

DPI = 100
WIDE, HIGH = 1152, 480  # pixels: 16 kernels in a row; a tower where its kernels would be taller
TRAIN, TOP1, TOP5 = "#8a8f98", "#c8102e", "#1f5fa8"
COLOURS = ("#c8102e", "#1f5fa8", "#2e8540", "#b8860b", "#6b4c9a", "#444444")  # of runs


def filters(weight: npt.NDArray[Any], path: Target, title: str, towers: int = 2) -> None:
    """The kernels of a convolution, (kernels, maps read, height, width), tower a's above tower b's.

    Three maps read are the colours of the image: the paper's figure 3. Others are told apart by column, a row
    is a kernel, and as many are shown as fit: of each tower those of the largest weights.
    """
    sheets = [
        mosaic(part) if weight.shape[1] == 3 else table(part) for part in np.array_split(weight, towers)
    ]
    high, wide = sheets[0].shape[:2]
    zoom = max(1, min(16, WIDE // wide, max(3, HIGH // high)))
    sheets = [sheet.repeat(zoom, axis=0).repeat(zoom, axis=1) for sheet in sheets]
    left, top, gap, edge = 40, 56, 16, 16  # pixels
    figure = new_figure(
        max(left + max(sheet.shape[1] for sheet in sheets) + edge, 480),
        top + sum(sheet.shape[0] for sheet in sheets) + gap + edge,
        title,
        left,
    )
    for number, sheet in enumerate(sheets):
        axes = picture(figure, sheet, left, top)
        axes.set_ylabel(tower_name(number, towers), fontsize=11)
        top += sheet.shape[0] + gap
    save(figure, path)


def tower_name(number: int, towers: int) -> str:
    """What a tower is called where it is not the only one."""
    return f"tower {'ab'[number]}" if towers > 1 else ""


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


def table(kernels: npt.NDArray[Any], rows: int = 24, columns: int = 48) -> npt.NDArray[np.uint8]:
    """A row a kernel, a column a map that it reads; orange above zero, blue below, a range to each row."""
    size = np.abs(kernels).sum(axis=(2, 3))  # (kernels, maps read)
    kernels = kernels[np.sort(size.sum(1).argsort()[::-1][:rows])][:, :columns]
    count, read, height, width = kernels.shape
    sheet = np.full((count * (height + 1) - 1, read * (width + 1) - 1, 3), 255, np.uint8)
    for y, kernel in enumerate(kernels):
        for x, colours in enumerate(signed(kernel)):
            at = y * (height + 1), x * (width + 1)
            sheet[at[0] : at[0] + height, at[1] : at[1] + width] = colours
    return sheet


def signed(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """(...) -> (..., 3): blue below zero, black at zero, orange above, in one range on both sides."""
    level = values / (np.abs(values).max() or 1)
    above, below = np.clip(level, 0, 1)[..., None], np.clip(-level, 0, 1)[..., None]
    return np.rint(above * (255, 200, 120) + below * (110, 180, 255)).astype(np.uint8)


def curves(metrics: Sequence[Row], path: Target, title: str) -> None:
    """Loss and errors over the epochs; a vertical line where the learning rate changed."""
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
    """Several runs over one another, a colour each: training faint, validation marked, top-5 dashed."""
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
    """Limits, ticks, legend and the curves' last values, once everything is drawn."""
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
    """Every value, faint, and their running mean."""
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
    """One value an epoch; returns what `finish` writes at its end."""
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


def new_figure(width: int, height: int, title: str = "", left: float = 28) -> "Figure":
    """A white figure of that many pixels, known to nobody else: no pyplot. No text is a formula."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update({"text.parse_math": False, "text.usetex": False})
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    write(figure, left, 34, short(title, int((width - left) / 9)), fontsize=13)
    return figure


def save(figure: "Figure", path: Target) -> None:
    """A letter that the font has not is an empty box."""
    drawn, kind = (path, "png") if isinstance(path, io.BytesIO) else (io.BytesIO(), path.suffix[1:])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(drawn, format=kind)
    if isinstance(path, Path):
        with writing(path) as file:
            file.write(drawn.getbuffer())


def box(figure: "Figure", left: float, top: float, width: float, height: float, **options: Any) -> "Axes":
    """Axes at a place in pixels, counted from the figure's top left corner."""
    wide, high = figure.get_size_inches() * DPI
    place = (left / wide, 1 - (top + height) / high, width / wide, height / high)
    return figure.add_axes(place, **options)


def picture(
    figure: "Figure", image: npt.NDArray[Any], left: float, top: float, size: float | None = None
) -> "Axes":
    """An image at a place in pixels, each of its pixels one of the figure's, or `size` wide."""
    high, wide = image.shape[:2]
    axes = box(
        figure, left, top, size or wide, (size or wide) * high / wide, xticks=[], yticks=[], frame_on=False
    )
    axes.imshow(image, interpolation="none" if size is None or size >= wide else "antialiased", aspect="auto")
    return axes


def write(figure: "Figure", left: float, baseline: float, text: str, **options: Any) -> None:
    """Text at a place in pixels, counted from the figure's top left corner."""
    wide, high = figure.get_size_inches() * DPI
    text = "\n".join(map(plain, text.split("\n")))
    figure.text(left / wide, 1 - baseline / high, text, **options)


def short(text: str, width: int) -> str:
    """One line of at most `width` letters, the last one an ellipsis where some are missing."""
    text = plain(text)
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
