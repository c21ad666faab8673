"""List every learning-rate schedule as data: from the notes of 2012, the paper's rule, and our own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """Set the factors of the recipe's initial learning rates for `layers` from `epoch` on; None: unchanged.

    Without layers: all that are not frozen. Layers that the network does not have are ignored. A fractional
    epoch is rounded up.
    """

    epoch: float
    weight: float | None = None
    bias: float | None = None
    layers: tuple[str, ...] = ()
    noise: bool | None = None


@dataclass(frozen=True)
class Schedule:
    """Hold the number of epochs (errors may end a run earlier) and the changes known in advance."""

    epochs: int
    changes: tuple[Change, ...] = ()


def _slices(factor: float, count: int, epochs: int) -> list[tuple[float, float]]:
    """Return (epoch, rate factor) for `count` equal slices that end at 1 / factor: dexp of src/lr.cu."""
    return [(1 + epochs * i / count, factor ** (-i / (count - 1))) for i in range(1, count)]


def _by_hand(
    drops: Sequence[float],
    stopped: float,
    slow: float | None = None,
    frozen: float | None = None,
    quiet: float | None = None,
    first: tuple[str, ...] = ("conv1",),
    biases: bool = True,
) -> Schedule:
    """Return a schedule from a run's notes; arguments are epochs: weights' rates are divided by 10 at
    `drops`; the `first` layers get a thousandth at `slow` and 0 at `frozen`; no colour noise from `quiet` on;
    the run was `stopped` before or within that epoch.

    biases: whether their rates fall to a tenth at the first drop and stay there, as in the one schedule kept
    as a script (run4.sh). The notes never say; the last file of such runs has 0.002, not 0.02.
    """
    changes = [Change(epoch, weight=10.0**-i) for i, epoch in enumerate(drops, 1)]
    changes += [Change(drops[0], bias=0.1)] if biases else []
    changes += [Change(slow, weight=1e-3, layers=first)] if slow else []
    changes += [Change(frozen, weight=0, bias=0, layers=first)] if frozen else []
    changes += [Change(quiet, noise=False)] if quiet else []
    return Schedule(math.ceil(stopped - 1), tuple(changes))


CONV_1_2 = ("conv1", "conv2")
SCHEDULES = {
    # The run of the paper's 40.7 % / 18.2 % (ILSVRC-2012), and that of its 37.5 % / 17.0 % (2010).
    "145": _by_hand((25, 51, 79), 91, slow=67, frozen=72, quiet=67, biases=False),
    "145-2010": _by_hand((23, 51, 78), 93, slow=68, frozen=72, quiet=68),
    # The others of the five. The notes of 145-full end with "moved to gpu" at epoch 61: so does this. The
    # last file of 137 has 1e-4 for conv4 and conv5, of which its notes say nothing.
    "131": _by_hand((22, 46, 81), 100, slow=66, frozen=75, quiet=66, first=CONV_1_2),
    "135": _by_hand((20, 47, 81), 96, slow=66, frozen=75, quiet=66, first=CONV_1_2),
    "137": _by_hand((26, 50, 84), 99, frozen=75, quiet=75, first=CONV_1_2),
    "145-full": _by_hand((19, 47), 61, biases=False),
    # 141 on 2012, then on Fall 2009, then on 2012 again: the last two start at 0.001.
    "141": _by_hand((23, 48), 60, biases=False),
    "141-2009": _by_hand((1, 4.1189), 5.1596, biases=False),
    "141-2009-2012": _by_hand((1, 13, 43), 54, slow=26, frozen=32, quiet=26, first=CONV_1_2),
    # 146 on Fall 2009 with the convolutions of 145, on Fall 2011 with those of that; only layers with
    # new random weights start at 0.01.
    "146-2009": Schedule(
        6,
        (
            Change(1, weight=1e-1, layers=("conv1", "conv2", "conv3", "conv4", "conv5")),
            Change(1, bias=1e-1, layers=("conv6",)),
            Change(2.16, weight=1e-1),
        ),
    ),
    "146-2011": Schedule(
        8,
        (
            Change(1, weight=1e-1, layers=("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")),
            Change(1, bias=1e-1, layers=("conv6",)),
            Change(6, weight=1e-1),
        ),
    ),
    # 146 on 2012, begun with either; the first is the paper's 39.0 / 16.6. In all these files conv6's biases
    # have a rate of their own.
    "146-2012-2011": Schedule(
        53,
        (
            Change(1, weight=1e-1),
            Change(1, weight=1e-2, layers=("conv1",)),
            Change(1, bias=1.1, layers=("conv6",)),
            Change(1 + 300 / 1251, weight=1, layers=("fc8",)),  # after 300 of 1,251 files of images
            Change(5, weight=1e-3, layers=("conv1",)),
            Change(7, weight=0, bias=0, layers=("conv1",)),
            Change(9, weight=1e-1, layers=("fc8",)),
            Change(22, weight=1e-2),
            Change(38, noise=False),
            Change(42, weight=1e-3),
        ),
    ),
    "146-2012-2009": Schedule(
        51,
        (
            Change(1, weight=1e-1),
            Change(1, weight=1e-2, layers=("conv1",)),
            Change(1, bias=1e-1, layers=("conv6",)),
            Change(3, weight=1e-3, layers=("conv1",)),
            Change(4, weight=0, bias=0, layers=("conv1",)),
            Change(22, weight=1e-2),
            Change(38, noise=False),
            Change(42, weight=1e-3),
        ),
    ),
    # The ablations. The half net's last drop is not noted, though its file ends there: 78, as in 145-2010, on
    # the same data.
    "145-half": _by_hand((20, 48, 78), 96, slow=66, frozen=72, quiet=66, biases=False),
    "147": _by_hand((23, 51, 79), 90, frozen=79),
    "148": _by_hand((22, 44, 86), 97, slow=69, frozen=73, quiet=69, biases=False),
    # Made right after the paper: weights dexp(250, 4 slices), biases dexp(10, 2 slices).
    "170": Schedule(
        95,
        (
            *(Change(epoch, weight=factor) for epoch, factor in _slices(250, 4, 95)),
            *(Change(epoch, bias=factor) for epoch, factor in _slices(10, 2, 95)),
            Change(68, noise=False),
            Change(74, weight=0, bias=0, layers=("conv1",)),
        ),
    ),
    # Ours, for the paper's figure 1, whose axis ends near 40.
    "constant": Schedule(40),
    # The paper: "divide the learning rate by 10 when the validation error rate stopped improving with the
    # current learning rate", "reduced three times prior to termination", "roughly 90 cycles" (here at most).
    "plateau": Schedule(90),
}
