"""Sparse codes of descriptors, the largest of each region (ScSPM: Yang, Yu, Gong, Huang, CVPR 2009)."""

import warnings
from dataclasses import dataclass

import numpy as np

PENALTY = 0.15  # of |code|, beside |x - code D|^2 / 2; `gamma` of the authors' program
BATCH = 256


@dataclass(frozen=True)
class SparseCodes:
    dictionary: np.ndarray  # (words, 128) float32, rows of length 1

    @classmethod
    def fit(cls, descriptors: np.ndarray, *, words: int, seed: int) -> "SparseCodes":
        """By online dictionary learning (Mairal and others 2009) in one pass.

        descriptors: (n, 128), in any order. Where n is small, so are the words: n/10 at most.
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
        """Numbers a region."""
        return len(self.dictionary)

    @property
    def sizes(self) -> dict[str, int]:
        """What `fit` made of those it was asked for."""
        return {"words": len(self.dictionary)}

    def encode(self, descriptors: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Of an image: (regions * words,) float32 of length 1.

        descriptors: (n, 128). inside: (regions, n), which descriptors are of which region.
        """
        from sklearn.decomposition import sparse_encode

        with warnings.catch_warnings(action="ignore"):  # of words too much alike
            codes = sparse_encode(_unit(descriptors), self.dictionary, algorithm="lasso_lars", alpha=PENALTY)
        pooled = pool(codes, inside).ravel()
        pooled /= np.maximum(np.linalg.norm(pooled), 1e-12)
        return pooled


def pool(codes: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The largest size of each word's codes in each region, (regions, words); 0 where there are none."""
    return np.stack([np.abs(codes[part]).max(0, initial=0) for part in inside]).astype(np.float32)


def _unit(descriptors: np.ndarray) -> np.ndarray:
    """Of length 1, or 0 of a patch without any edge."""
    x = descriptors.astype(np.float32)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1)
    return x
