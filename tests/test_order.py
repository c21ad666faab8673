"""The order of images and the random draws: pure functions of seed, epoch and step."""

import numpy as np
import pytest

from model.replicas import Replicas
from pipeline.order import WINDOW, draws, epoch_order

SHARDS = np.repeat(np.arange(100), 7)


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    orders = [epoch_order(SHARDS, seed=0, epoch=epoch) for epoch in range(3)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(700))
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 0.15
    assert not np.array_equal(orders[0], epoch_order(SHARDS, seed=1, epoch=0))
    assert np.array_equal(orders[2], epoch_order(SHARDS, seed=0, epoch=2))


def test_a_window_of_shards_is_read_before_the_next() -> None:
    order = SHARDS[epoch_order(SHARDS, seed=3, epoch=0)]
    windows = [set(order[i : i + 7 * WINDOW]) for i in range(0, 700, 7 * WINDOW)]
    assert [len(window) for window in windows] == [32, 32, 32, 4]
    assert len(set().union(*windows)) == 100


def test_few_shards_are_shuffled_as_one() -> None:
    order = epoch_order(np.repeat([0, 1], 500), seed=0, epoch=0)
    assert abs(np.mean(order[:500] < 500) - 0.5) < 0.1
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1


def test_draws_cover_every_offset_alike() -> None:
    drawn = [draws(0, step, 128, range(128), 33) for step in range(400)]
    for corners in (np.concatenate([d.top for d in drawn]), np.concatenate([d.left for d in drawn])):
        counts = np.bincount(corners.astype(int), minlength=33)
        assert len(counts) == 33
        # chi-squared of 32 degrees of freedom: 0.1 % of fair draws exceed 62.5
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 62.5
    assert np.mean([d.mirror for d in drawn]) == pytest.approx(0.5, abs=0.01)
    normal = np.concatenate([d.normal for d in drawn])
    assert normal.mean(0) == pytest.approx([0, 0, 0], abs=0.02)
    assert np.cov(normal.T) == pytest.approx(np.eye(3), abs=0.03)


@pytest.mark.parametrize("world", [1, 2, 3, 7, 40])
def test_shares_make_up_the_whole_batch(world: int) -> None:
    whole = draws(5, 9, 33, range(33), 33)
    parts = [draws(5, 9, 33, Replicas(rank, world).rows(33), 33) for rank in range(world)]
    for field in ("top", "left", "mirror", "normal"):
        assert np.array_equal(np.concatenate([getattr(p, field) for p in parts]), getattr(whole, field))
    sizes = [len(p.top) for p in parts]
    assert max(sizes) - min(sizes) <= 1
