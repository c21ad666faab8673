"""Measure images per second of a piece of work, in rounds."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

ROUNDS = 3
# Where one of these is passed, a ratio says nothing about the programs, and is not shown.
OTHERS = 0.1  # of the cores in use by other programs, on average
SPREAD = 1.25  # the quickest round over the slowest
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


def images_per_second(work: Work, seconds: float, pieces: int = 1) -> float:
    """Return images per second of at least so many pieces; what a pipeline has ready is used up first."""
    count(work, seconds / 5)
    images, passed = count(work, seconds, pieces)
    return images / passed


def count(work: Work, seconds: float, pieces: int = 1) -> tuple[int, float]:
    """Return images and the seconds they took: at least so many pieces of work and so many seconds."""
    started, images, passed, done = time.perf_counter(), 0, 0.0, 0
    while done < pieces or passed < seconds:
        images += next(work)
        passed = time.perf_counter() - started
        done += 1
    return images, passed


def too_busy(others: float, cores: int) -> bool:
    """Tell whether other programs use so much of these cores that no ratio may be shown."""
    return others > OTHERS * cores


def steady(rounds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Return the parts whose rounds agree."""
    return {name: rates for name, rates in rounds.items() if max(rates) <= SPREAD * min(rates)}


def ratios(rounds: Mapping[str, list[float]], peers: Iterable[str]) -> dict[str, Any]:
    """Return our rate over each peer's, and the normalisations' share of the step: medians of rounds.

    rounds: of the parts whose ratios may be shown; a ratio with another one is left out.
    """

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rounds[one], rounds[other], strict=True))

    against = dict.fromkeys(peers, "loader") | {"plain step": "step", "normalisations": "step"}
    found = {name: ratio(own, name) for name, own in against.items() if {name, own} <= set(rounds)}
    share = {name: found.pop(name) for name in {"normalisations"} & set(found)}
    return {"ours": found, **share}
