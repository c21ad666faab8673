"""Find exact nearest neighbours by Euclidean distance, block by block: the vectors may be in a file."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def nearest(
    queries: Floats, vectors: Floats, count: int, block: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return rows of `vectors` nearest to each query, nearest first, and their distances: (Q, count) each.

    queries: (Q, n), vectors: (V, n), of which `block` rows are in memory at a time. Equal distances are
    ordered by row. Blocks are searched in float32 by |q|^2 - 2 q.x + |x|^2; candidates within its rounding
    error are computed again in float64, so the result is that of float64 throughout.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    count = min(count, len(vectors))
    rows = np.empty((len(queries), 0), np.int64)
    distances = np.empty((len(queries), 0))  # squared
    for first in range(0, len(vectors), block):
        part = np.asarray(vectors[first : first + block], np.float32)
        least, most = _bounds(queries, part)
        limit = np.partition(most, min(count, len(part)) - 1, axis=1)[:, min(count, len(part)) - 1]
        if rows.shape[1] == count:
            limit = np.minimum(limit, distances[:, -1])
        merged = [
            _merge(query, part, np.flatnonzero(near), first, row, distance, count)
            for query, near, row, distance in zip(
                queries, least <= limit[:, None], rows, distances, strict=True
            )
        ]
        rows, distances = (np.stack(arrays) for arrays in zip(*merged, strict=True))
    return rows, np.sqrt(distances)


def _bounds(queries: Floats, part: Floats) -> tuple[Floats, Floats]:
    """Return lower and upper bounds of the squared distances, (Q, rows): in any order, float32 sums of n
    products err by at most n units in the last place of (|q| + |x|)^2.
    """
    size_q = np.einsum("ij,ij->i", queries, queries)[:, None]
    size_x = np.einsum("ij,ij->i", part, part)[None]
    squared = size_q - 2 * (queries @ part.T) + size_x
    slack = (queries.shape[1] + 8) * 2.0**-24 * 1.01 * (np.sqrt(size_q) + np.sqrt(size_x)) ** 2
    return squared - slack, squared + slack


def _merge(
    query: Floats,
    part: Floats,
    near: npt.NDArray[np.int64],
    first: int,
    rows: npt.NDArray[np.int64],
    distances: npt.NDArray[np.float64],
    count: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the best `count` of the rows so far and those `near` in this part, which starts at `first`."""
    exact = [((part[at : at + 1].astype(np.float64) - query) ** 2).sum() for at in near]
    rows = np.concatenate([rows, near + first])
    distances = np.concatenate([distances, exact])
    best = np.lexsort((rows, distances))[:count]
    return rows[best], distances[best]
