"""Compute the mean image of the training images, and the statistics of their colours.

Sums are integers, over the squares that prep cuts out, before JPEG compression: exact, in any order.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.atomic import replacing
from pipeline.errors import DataError
from pipeline.schema import Array, Unfit, read_npz

# The colour products of 4 neighbouring pixels are one 12x12 Gram matrix: BLAS is slow at 3 columns.
TOGETHER = 4
ARRAYS = {
    "mean": Array((np.float32,), ("side", "side", 3)),
    **{name: Array((np.float64,), (3,)) for name in ("channel_mean", "eigenvalues", "deviations")},
    **{name: Array((np.float64,), (3, 3)) for name in ("covariance", "eigenvectors")},
}


class Sums:
    """Hold integer sums over images: each pixel's, and the products of the colours at a pixel."""

    def __init__(self, side: int) -> None:
        self.images = 0
        self.pixels = np.zeros((side, side, 3), np.uint64)
        self.products = np.zeros((3, 3), np.uint64)

    def add(self, image: np.ndarray) -> None:
        """Add an image, (side, side, 3) uint8."""
        self.images += 1
        self.pixels += image
        # float64 holds every partial sum exactly: 1024^2 pixels * 255^2 < 2^53
        together = math.gcd(TOGETHER, len(image))
        rows = image.reshape(-1, 3 * together).astype(np.float64)
        gram = (rows.T @ rows).reshape(together, 3, together, 3)
        self.products += np.einsum("kikj->ij", gram).astype(np.uint64)

    def merge(self, images: int, pixels: np.ndarray, products: np.ndarray) -> None:
        """Add the sums over other images."""
        self.images += images
        self.pixels += pixels
        self.products += products


@dataclass(frozen=True)
class Statistics:
    """Hold the statistics of the training images, in 0..255 units and RGB order."""

    mean: np.ndarray  # (side, side, 3) float32: the mean image
    channel_mean: np.ndarray  # (3,) float64
    covariance: np.ndarray  # (3, 3) float64, of the colours of all pixels
    eigenvectors: np.ndarray  # (3, 3) float64, columns, the largest first
    eigenvalues: np.ndarray  # (3,) float64
    deviations: np.ndarray  # (3,) float64: the eigenvalues' square roots, which the colour noise multiplies

    @classmethod
    def of(cls, sums: Sums) -> Self:
        """Compute the statistics from the sums over all training images."""
        # Python's integers have no limit and their quotient is rounded once.
        n = sums.images * sums.pixels[..., 0].size
        total = [int(x) for x in sums.pixels.sum((0, 1))]
        products = sums.products.tolist()
        covariance = np.array(
            [[(n * products[i][j] - total[i] * total[j]) / n**2 for j in range(3)] for i in range(3)]
        )
        values, vectors = np.linalg.eigh(covariance)
        vectors *= np.where(vectors.sum(0) < 0, -1, 1)  # of the two signs, one for all machines
        return cls(
            mean=(sums.pixels / sums.images).astype(np.float32),
            channel_mean=np.array([x / n for x in total]),
            covariance=covariance,
            eigenvectors=vectors[:, ::-1],
            eigenvalues=values[::-1],
            deviations=np.sqrt(np.maximum(values[::-1], 0)),
        )

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Load what `save` wrote; DataError if the file is anything else."""
        try:
            loaded = cls(**read_npz(Path(path), ARRAYS))
            loaded._check()
        except OSError as error:
            reason = error.strerror
        except Unfit as error:
            reason = str(error)
        else:
            return loaded
        raise DataError(f"cannot read {path} ({reason}): repair it with alexnet-dali prep")

    def _check(self) -> None:
        """Raise Unfit if the numbers are not finite or do not agree."""
        if not all(np.isfinite(getattr(self, name)).all() for name in ARRAYS):
            raise Unfit("it holds NaN or infinite numbers")
        vectors, scale = self.eigenvectors, max(1.0, np.abs(self.covariance).max())
        if not (
            np.allclose(vectors * self.eigenvalues @ vectors.T, self.covariance, atol=1e-6 * scale)
            and np.allclose(vectors.T @ vectors, np.eye(3), atol=1e-6)
            and np.allclose(self.deviations**2, np.maximum(self.eigenvalues, 0), atol=1e-6 * scale)
            and self.mean.shape[0] == self.mean.shape[1]
            and 0 <= self.mean.min() <= self.mean.max() <= 255
        ):
            raise Unfit("its numbers do not agree")

    def noise_matrix(self, noise: float, basis: str) -> np.ndarray:
        """Return the (3, 3) that turns three N(0, 1) numbers into an RGB shift in 0..255 units.

        The 2012 code multiplied the eigenvectors by standard deviations. The paper says eigenvalues, which
        make sense for pixels in 0..1 only. In 0..255 units such a shift is a 255th of the variance.
        """
        sizes = {"deviations": self.deviations, "eigenvalues": self.eigenvalues / 255}
        if basis not in sizes:
            raise ValueError(f"noise_basis={basis!r}: give {' or '.join(map(repr, sizes))}")
        matrix: np.ndarray = noise * self.eigenvectors * sizes[basis]
        return matrix

    def save(self, path: Path | str) -> None:
        """Write the arrays as a .npz."""
        with replacing(Path(path)) as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})
