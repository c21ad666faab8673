"""Place boxes, pictures and texts in figures by pixels; save as PNG or PDF by suffix."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from cli.display import plain
from pipeline.atomic import writing

if TYPE_CHECKING:  # importing matplotlib takes half a second, too long for --help
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
Target = Path | io.BytesIO  # where a picture goes: a file, PNG or PDF by suffix, or memory, as PNG

DPI = 100


def new_figure(width: int, height: int, title: str = "", left: float = 28) -> "Figure":
    """Return a white figure of that many pixels, without pyplot's registry. No text is a formula."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update({"text.parse_math": False, "text.usetex": False})
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    write(figure, left, 34, short(title, int((width - left) / 9)), fontsize=13)
    return figure


def save(figure: "Figure", path: Target) -> None:
    """Save the figure; a letter that the font has not is an empty box."""
    drawn, kind = (path, "png") if isinstance(path, io.BytesIO) else (io.BytesIO(), path.suffix[1:])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(drawn, format=kind)
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


def write(figure: "Figure", left: float, baseline: float, text: str, **options: Any) -> None:
    """Write text at a place in pixels, counted from the figure's top left corner."""
    wide, high = figure.get_size_inches() * DPI
    text = "\n".join(map(plain, text.split("\n")))
    figure.text(left / wide, 1 - baseline / high, text, **options)


def short(text: str, width: int) -> str:
    """Return one line of at most `width` letters, the last an ellipsis if some are missing."""
    text = plain(text)
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
