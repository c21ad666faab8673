"""Place boxes, pictures and texts in figures by pixels; save as PNG, PDF or SVG by suffix."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from cli.display import plain
from pipeline.atomic import writing

if TYPE_CHECKING:  # importing matplotlib takes half a second, too long for --help
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
Target = Path | io.BytesIO  # where a picture goes: a file, its format by suffix, or memory, as PNG

DPI = 100  # of the pixels in which figures are laid out
GREY = "#555555"  # of explanations
SHARP = 2  # pixels of a PNG for each of them, along each side: 200 dpi
DATES: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
FIXED = {  # no text is a formula; PDF has letters, no curves; the same picture has the same bytes
    "text.parse_math": False,
    "text.usetex": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "alexnet-dali",
}


def new_figure(width: int, height: int, title: str = "", left: float = 28) -> "Figure":
    """Return a white figure of that many pixels, without pyplot's registry. A long title is set smaller."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update(FIXED)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    heading, room = write(figure, left, 34, plain(title), fontsize=13), width - left - 12
    with _empty_boxes():
        needed = heading.get_window_extent().width
    heading.set_fontsize(max(9.0, min(13.0, 12.8 * room / max(needed, 1))))
    fit(heading, room)
    return figure


@contextmanager
def _empty_boxes() -> Iterator[None]:
    """Let a letter that the font has not be an empty box, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def save(figure: "Figure", path: Target) -> None:
    drawn, kind = (path, "png") if isinstance(path, io.BytesIO) else (io.BytesIO(), path.suffix[1:])
    with _empty_boxes():
        figure.savefig(drawn, format=kind, dpi=SHARP * DPI, metadata=DATES.get(kind))
    if isinstance(path, Path):
        with writing(path) as file:
            file.write(drawn.getbuffer())


def box(figure: "Figure", left: float, top: float, width: float, height: float, **options: Any) -> "Axes":
    """Add axes at a place in pixels, counted from the figure's top left corner."""
    wide, high = figure.get_size_inches() * DPI
    place = (left / wide, 1 - (top + height) / high, width / wide, height / high)
    return figure.add_axes(place, **options)


def picture(
    figure: "Figure", image: npt.NDArray[Any], left: float, top: float, size: float | None = None
) -> "Axes":
    """Add an image at a place in pixels, each of its pixels one of the figure's, or `size` wide."""
    high, wide = image.shape[:2]
    axes = box(
        figure, left, top, size or wide, (size or wide) * high / wide, xticks=[], yticks=[], frame_on=False
    )
    axes.imshow(image, interpolation="none" if size is None or size >= wide else "antialiased", aspect="auto")
    return axes


def write(figure: "Figure", left: float, baseline: float, text: str, **options: Any) -> "Text":
    """Write text at a place in pixels, counted from the figure's top left corner."""
    wide, high = figure.get_size_inches() * DPI
    text = "\n".join(map(plain, text.split("\n")))
    return figure.text(left / wide, 1 - baseline / high, text, **options)


def fit(text: "Text", width: float) -> None:
    """Shorten a text until it is at most that many pixels wide; an ellipsis ends it then."""
    words = text.get_text()
    with _empty_boxes():
        while words and text.get_window_extent().width > width:
            words = words[:-1]
            text.set_text(f"{words.rstrip()}…")


def percent(share: float) -> str:
    """Write a share of 1 as 64 %; what is less than a percent but not zero, as < 1 %."""
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def short(text: str, width: int) -> str:
    """Return one line of at most `width` letters, the last an ellipsis if some are missing."""
    text = plain(text)
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
