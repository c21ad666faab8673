"""Draw the kernels of a convolution."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cli.pictures.canvas import GREY, Target, new_figure, picture, save, write

ROWS, COLUMNS = 24, 48  # kernels of a tower and maps that a table shows, at most
IN_COLOURS = "Each kernel is scaled to its own range of values."
IN_ROWS = "Each row is a kernel, each column an input map. Orange: positive, blue: negative, black: zero."
WIDE, HIGH = 1152, 480  # pixels: 16 kernels in a row; a tower where its kernels would be taller


def filters(weight: npt.NDArray[Any], path: Target, title: str, towers: int = 2) -> None:
    """Draw a convolution's kernels, (kernels, maps read, height, width), tower a's above tower b's.

    Three maps read are the colours of the image: the paper's figure 3. Others are told apart by column, a row
    is a kernel, and as many are shown as fit: of each tower those of the largest weights.
    """
    sheets = [
        mosaic(part) if weight.shape[1] == 3 else table(part) for part in np.array_split(weight, towers)
    ]
    high, wide = sheets[0].shape[:2]
    zoom = max(1, min(16, WIDE // wide, max(3, HIGH // high)))
    sheets = [sheet.repeat(zoom, axis=0).repeat(zoom, axis=1) for sheet in sheets]
    left, top, gap, edge = 40, 66, 16, 16  # pixels
    figure = new_figure(
        max(left + max(sheet.shape[1] for sheet in sheets) + edge, 480),
        top + sum(sheet.shape[0] for sheet in sheets) + gap + edge,
        title,
        left,
    )
    colours = weight.shape[1] == 3
    write(figure, left, 55, IN_COLOURS if colours else IN_ROWS, fontsize=8, color=GREY)
    for number, sheet in enumerate(sheets):
        axes = picture(figure, sheet, left, top)
        axes.set_ylabel(tower_name(number, towers), fontsize=11)
        top += sheet.shape[0] + gap
    save(figure, path)


def kernels_shown(weight: npt.NDArray[Any], towers: int = 2) -> str:
    """Return how many of a convolution's kernels and maps `filters` draws."""
    count, maps, high, wide = weight.shape
    if maps == 3:
        return f"{count} kernels of {high}x{wide}"
    each = " in each tower" if towers > 1 else ""
    kernels = count // towers
    return f"{min(kernels, ROWS)} of {kernels} kernels{each}, {min(maps, COLUMNS)} of {maps} maps"


def tower_name(number: int, towers: int) -> str:
    """Return what a tower is called where it is not the only one."""
    return f"tower {'ab'[number]}" if towers > 1 else ""


def mosaic(kernels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Arrange kernels in rows, one pixel per weight, white lines between; each in its own range."""
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


def table(kernels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Arrange kernels in rows and the maps they read in columns; orange above zero, blue below."""
    size = np.abs(kernels).sum(axis=(2, 3))  # (kernels, maps read)
    kernels = kernels[np.sort(size.sum(1).argsort()[::-1][:ROWS])][:, :COLUMNS]
    count, read, height, width = kernels.shape
    sheet = np.full((count * (height + 1) - 1, read * (width + 1) - 1, 3), 255, np.uint8)
    for y, kernel in enumerate(kernels):
        for x, colours in enumerate(signed(kernel)):
            at = y * (height + 1), x * (width + 1)
            sheet[at[0] : at[0] + height, at[1] : at[1] + width] = colours
    return sheet


def signed(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Colour (...) as (..., 3): blue below zero, black at zero, orange above, in one range.

    A hundredth of the values is beyond it: a single large one would leave all others dark.
    """
    sizes = np.abs(values)
    level = values / (np.quantile(sizes, 0.99) or sizes.max() or 1)
    above, below = np.clip(level, 0, 1)[..., None], np.clip(-level, 0, 1)[..., None]
    return np.rint(above * (255, 200, 120) + below * (110, 180, 255)).astype(np.uint8)
