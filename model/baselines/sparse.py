"""Compute sparse codes of descriptors, max-pooled by region (ScSPM: Yang, Yu, Gong, Huang, CVPR 2009)."""

import warnings
from dataclasses import dataclass

import numpy as np

PENALTY = 0.15  # of |code|, added to |x - code D|^2 / 2; `gamma` in the authors' program
BATCH = 256


@dataclass(frozen=True)
class SparseCodes:
    """Encode descriptors by a learned dictionary."""

    dictionary: np.ndarray  # (words, 128) float32, rows of length 1

    @classmethod
    def fit(cls, descriptors: np.ndarray, *, words: int, seed: int) -> "SparseCodes":
        """Fit by one pass of online dictionary learning (Mairal and others 2009).

        descriptors: (n, 128), in any order. Words are at most n/10.
        """
        from sklearn.decomposition import MiniBatchDictionaryLearning

        learning = MiniBatchDictionaryLearning(
            min(words, max(1, len(descriptors) // 10)),
            alpha=PENALTY, batch_size=BATCH, max_iter=1, max_no_improvement=None, random_state=seed,
        )  # fmt: skip
        with warnings.catch_warnings(action="ignore"):
            learning.fit(_unit(descriptors))
        return cls(learning.components_.astype(np.float32))

    @property
    def length(self) -> int:
        """Return the features per region."""
        return len(self.dictionary)

    @property
    def sizes(self) -> dict[str, int]:
        """Return the actual sizes, which `fit` may have reduced."""
        return {"words": len(self.dictionary)}

    def encode(self, descriptors: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Return an image's (regions * words,) float32 features of length 1.

        descriptors: (n, 128). inside: (regions, n) bool, which descriptors are in which region.
        """
        from sklearn.decomposition import sparse_encode

        with warnings.catch_warnings(action="ignore"):  # that words are nearly collinear
            codes = sparse_encode(_unit(descriptors), self.dictionary, algorithm="lasso_lars", alpha=PENALTY)
        pooled = pool(codes, inside).ravel()
        pooled /= np.maximum(np.linalg.norm(pooled), 1e-12)
        return pooled


def pool(codes: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return each word's largest absolute code per region, (regions, words); 0 in empty regions."""
    return np.stack([np.abs(codes[part]).max(0, initial=0) for part in inside]).astype(np.float32)


def _unit(descriptors: np.ndarray) -> np.ndarray:
    """Scale to length 1; a descriptor of zeros stays zero."""
    x = descriptors.astype(np.float32)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1)
    return x
