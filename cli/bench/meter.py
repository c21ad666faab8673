"""Measure images per second of a piece of work, in rounds."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

ROUNDS = 3
Work = Iterator[int]  # each next() does a piece of the work and returns its number of images
Meter = Callable[[float], float]  # works for so many seconds and returns images per second


def measure(
    meters: Mapping[str, Meter], seconds: float, tell: Callable[[str, int], None] = lambda name, done: None
) -> dict[str, list[float]]:
    """Return the images per second of each part in each round.

    tell: called before each with its name and how many measurements are done.
    """
    for name, meter in meters.items():  # warm up buffers, caches and kernels
        tell(name, 0)
        meter(0)
    rates: dict[str, list[float]] = {name: [] for name in meters}
    for number in range(ROUNDS):
        for place, (name, meter) in enumerate(meters.items()):
            tell(name, number * len(meters) + place)
            rates[name].append(meter(seconds))
    return rates


def summary(rates: list[float]) -> dict[str, float]:
    return {"img_s": statistics.median(rates), "least": min(rates), "most": max(rates)}


def images_per_second(work: Work, seconds: float) -> float:
    """Return images per second; what a pipeline has ready is used up first."""
    count(work, seconds / 5)
    images, passed = count(work, seconds)
    return images / passed


def count(work: Work, seconds: float) -> tuple[int, float]:
    """Return images and the seconds they took: at least one piece of work, and at least so many seconds."""
    started, images, passed = time.perf_counter(), 0, 0.0
    while images == 0 or passed < seconds:
        images += next(work)
        passed = time.perf_counter() - started
    return images, passed


def ratios(rounds: dict[str, list[float]], peers: Iterable[str]) -> dict[str, Any]:
    """Return our rate over each peer's, and the normalisations' share of the step: medians of rounds."""

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rounds[one], rounds[other], strict=True))

    ours = {name: ratio("step" if name == "plain step" else "loader", name) for name in peers}
    return {"ours": ours, "normalisations": ratio("step", "normalisations")}
