"""Compute dense SIFT (Lowe 2004), upright, by OpenCV; and the regions of a spatial pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np


@dataclass(frozen=True)
class Grid:
    """Describe where descriptors are: on patches of `patch` pixels every `step` pixels, of the image and of
    `scales` - 1 smaller ones, each 1/sqrt(2) of the one before."""

    patch: int
    step: int
    scales: int


def dense_sift(grey: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return descriptors (n, 128) uint8 of norm about 512, and their centres (n, 2), x and y in 0..1.

    grey: (H, W) uint8. Scales at which the image is smaller than a patch are skipped.
    """
    cv2.setNumThreads(1)  # one per process, of which there are many
    sift, descriptors, places = cv2.SIFT.create(), [], []
    for scale in range(grid.scales):
        height, width = (round(side / 2 ** (scale / 2)) for side in grey.shape)
        if min(height, width) < grid.patch:
            break
        smaller = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        points = _points(height, width, grid.patch, grid.step)
        descriptors.append(sift.compute(smaller, points)[1].astype(np.uint8))
        places.append(np.array([point.pt for point in points]) / (width, height))
    return np.concatenate(descriptors), np.concatenate(places)


@lru_cache(maxsize=16)
def _points(height: int, width: int, patch: int, step: int) -> "list[cv2.KeyPoint]":
    """Return points at whole pixels: OpenCV rounds. Descriptors have 4 x 4 cells of 1.5 x their size."""
    rows, columns = (range(patch // 2, side - patch // 2 + 1, step) for side in (height, width))
    return [cv2.KeyPoint(column, row, patch / 6, 0) for row in rows for column in columns]


def regions(places: np.ndarray, grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return which places are in which cell of a spatial pyramid, (cells, n) bool.

    Source: Lazebnik, Schmid, Ponce 2006. places: (n, 2), x and y in 0..1. grids: (columns, rows) of each
    level; its cells are in row-major order.
    """
    inside = []
    for columns, rows in grids:
        column, row = np.minimum((places * (columns, rows)).astype(int), (columns - 1, rows - 1)).T
        inside.append(row * columns + column == np.arange(columns * rows)[:, None])
    return np.concatenate(inside)
