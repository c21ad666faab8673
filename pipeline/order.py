"""Second stop: choose images, crops, flips and noise, by pure functions of seed, epoch and step.

No state: a run resumes from its step alone, and is the same whatever number of processes share a batch.
"""

from dataclasses import dataclass

import numpy as np

WINDOW = (
    32  # shards mixed with one another: disk and page cache see a few large reads, the network sees a shuffle
)

_ORDER, _DRAWS = range(2)  # separate random streams from one seed


def epoch_order(shards: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return every sample once: shards in random order, samples shuffled within windows of WINDOW shards.

    shards: (samples,) shard number of each sample, ascending; epoch counts from 0. Returns (samples,) int64.
    Images were shuffled over all shards when the dataset was written, so a window is a random sample of it.
    """
    random = np.random.default_rng([seed, _ORDER, epoch])
    starts = np.searchsorted(shards, np.arange(shards[-1] + 2))
    visits = random.permutation(len(starts) - 1)
    windows = [visits[i : i + WINDOW] for i in range(0, len(visits), WINDOW)]
    members = [np.concatenate([np.arange(starts[s], starts[s + 1]) for s in window]) for window in windows]
    return np.concatenate([random.permutation(samples) for samples in members])


def share(total: int, rank: int, world: int) -> range:
    """Return the rows of `total` of process `rank`: contiguous, as many as any other's to within one."""
    return range(total * rank // world, total * (rank + 1) // world)


@dataclass(frozen=True)
class Draws:
    """Hold the random choices for the rows of one batch."""

    top: np.ndarray  # (rows,) float32, 0..offsets-1
    left: np.ndarray  # (rows,) float32, 0..offsets-1
    mirror: np.ndarray  # (rows,) int32, 0 or 1
    normal: np.ndarray  # (rows, 3) float32, N(0, 1)


def draws(seed: int, step: int, total: int, rows: range, offsets: int) -> Draws:
    """Draw crop corners, flips and colour noise of `rows` among the `total` images of one global batch."""
    random = np.random.default_rng([seed, _DRAWS, step])
    corners = random.integers(offsets, size=(2, total)).astype(np.float32)
    mirror = random.integers(2, size=total, dtype=np.int32)
    normal = random.standard_normal((total, 3), dtype=np.float32)
    return Draws(corners[0, rows], corners[1, rows], mirror[rows], normal[rows])
