"""Compute improved Fisher vectors (Perronnin, Sanchez, Mensink 2010; Sanchez and others, IJCV 2013): an image
as the gradient of a Gaussian mixture's log likelihood of its descriptors."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

SCALE = 512  # length of OpenCV's descriptors


@dataclass(frozen=True)
class FisherVectors:
    """Represent a mixture of k Gaussians with diagonal covariance over the first d principal components."""

    centre: np.ndarray  # (128,), float32 like all of them
    axes: np.ndarray  # (d, 128)
    weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    variances: np.ndarray  # (k, d)

    @classmethod
    def fit(cls, descriptors: np.ndarray, *, dimensions: int, components: int, seed: int) -> "FisherVectors":
        """Fit by EM, starting at k-means. descriptors: (n, 128). d and k are at most n/10."""
        from sklearn.decomposition import PCA
        from sklearn.mixture import GaussianMixture

        x, most = _unit(descriptors), max(1, len(descriptors) // 10)
        pca = PCA(min(dimensions, most), svd_solver="covariance_eigh").fit(x)
        mixture = GaussianMixture(min(components, most), covariance_type="diag", random_state=seed)
        with warnings.catch_warnings(action="ignore"):  # that EM has not converged
            mixture.fit(pca.transform(x))
        arrays = (pca.mean_, pca.components_, mixture.weights_, mixture.means_, mixture.covariances_)
        return cls(*(np.asarray(array, np.float32) for array in arrays))

    @property
    def length(self) -> int:
        """Return the features per region."""
        return 2 * self.means.size

    @property
    def sizes(self) -> dict[str, int]:
        """Return the actual sizes, which `fit` may have reduced."""
        return {"dimensions": len(self.axes), "components": len(self.weights)}

    def encode(self, descriptors: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Return an image's (regions * 2 * k * d,) float32 features of length 1.

        descriptors: (n, 128). inside: (regions, n) bool, which descriptors are in which region. Per region
        the gradients by means, then by standard deviations, Gaussian by Gaussian; zeros if it is empty.
        """
        x = (_unit(descriptors) - self.centre) @ self.axes.T
        shares = self.posteriors(x)
        gradients = np.stack([self._gradient(x[part], shares[part]) for part in inside])
        vectors: np.ndarray = np.sign(gradients) * np.sqrt(np.abs(gradients))
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        vectors /= math.sqrt(len(inside))
        return vectors.ravel()

    def posteriors(self, x: np.ndarray) -> np.ndarray:
        """Return p(Gaussian | descriptor), (n, k). x: (n, d), projected onto the axes."""
        squares = x**2 @ (1 / self.variances).T - 2 * x @ (self.means / self.variances).T
        constants = (self.means**2 / self.variances + np.log(self.variances)).sum(1)
        logs = np.log(self.weights) - (squares + constants) / 2
        shares: np.ndarray = np.exp(logs - logs.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return shares

    def _gradient(self, x: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the gradient / root of the Fisher information (IJCV 2013, section 2), (2 * k * d,)."""
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
    """Scale to length 1."""
    return descriptors.astype(np.float32) / np.float32(SCALE)
