"""Improved Fisher vectors (Perronnin, Sanchez, Mensink 2010; Sanchez and others, IJCV 2013): an image as the
gradient of a Gaussian mixture's log likelihood of its descriptors."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

SCALE = 512  # length of OpenCV's descriptors


@dataclass(frozen=True)
class FisherVectors:
    """A mixture of k Gaussians of diagonal covariance over the first d principal components."""

    centre: np.ndarray  # (128,) float32, as all of them
    axes: np.ndarray  # (d, 128)
    weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    variances: np.ndarray  # (k, d)

    @classmethod
    def fit(cls, descriptors: np.ndarray, *, dimensions: int, components: int, seed: int) -> "FisherVectors":
        """By EM from k-means. descriptors: (n, 128). Where n is small, d and k are, too: n/10 at most."""
        from sklearn.decomposition import PCA
        from sklearn.mixture import GaussianMixture

        x, most = _unit(descriptors), max(1, len(descriptors) // 10)
        pca = PCA(min(dimensions, most), svd_solver="covariance_eigh").fit(x)
        mixture = GaussianMixture(min(components, most), covariance_type="diag", random_state=seed)
        with warnings.catch_warnings(action="ignore"):  # that it could go on
            mixture.fit(pca.transform(x))
        arrays = (pca.mean_, pca.components_, mixture.weights_, mixture.means_, mixture.covariances_)
        return cls(*(np.asarray(array, np.float32) for array in arrays))

    @property
    def length(self) -> int:
        """Numbers a region."""
        return 2 * self.means.size

    @property
    def sizes(self) -> dict[str, int]:
        """What `fit` made of those it was asked for."""
        return {"dimensions": len(self.axes), "components": len(self.weights)}

    def encode(self, descriptors: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Of an image: (regions * 2 * k * d,) float32 of length 1.

        descriptors: (n, 128). inside: (regions, n), which descriptors are of which region. Of each region the
        gradients by the means, then by the deviations, Gaussian by Gaussian; zeros where it is empty.
        """
        x = (_unit(descriptors) - self.centre) @ self.axes.T
        shares = self.posteriors(x)
        gradients = np.stack([self._gradient(x[part], shares[part]) for part in inside])
        vectors: np.ndarray = np.sign(gradients) * np.sqrt(np.abs(gradients))
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        vectors /= math.sqrt(len(inside))
        return vectors.ravel()

    def posteriors(self, x: np.ndarray) -> np.ndarray:
        """p(Gaussian | descriptor), (n, k). x: (n, d), on the axes."""
        squares = x**2 @ (1 / self.variances).T - 2 * x @ (self.means / self.variances).T
        constants = (self.means**2 / self.variances + np.log(self.variances)).sum(1)
        logs = np.log(self.weights) - (squares + constants) / 2
        shares: np.ndarray = np.exp(logs - logs.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return shares

    def _gradient(self, x: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Divided by the square root of the Fisher information (IJCV 2013, section 2), (2 * k * d,)."""
        zeroth, first, second = shares.sum(0)[:, None], shares.T @ x, shares.T @ x**2
        deviations, size = np.sqrt(self.variances), max(1, len(x)) * np.sqrt(self.weights)[:, None]
        by_means = (first - self.means * zeroth) / deviations / size
        by_deviations = (
            (second - 2 * self.means * first + (self.means**2 - self.variances) * zeroth)
            / self.variances
            / (math.sqrt(2) * size)
        )
        return np.concatenate([by_means.ravel(), by_deviations.ravel()])


def _unit(descriptors: np.ndarray) -> np.ndarray:
    """Of length 1."""
    return descriptors.astype(np.float32) / np.float32(SCALE)
