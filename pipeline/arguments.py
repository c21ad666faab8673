"""Check the arguments of the streams of batches: a ValueError is one line that says what is allowed."""

import numbers
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from pipeline.dataset import Dataset
from pipeline.image import centre
from pipeline.statistics import Statistics

Noise = float | Callable[[int], float] | None
DTYPES = (torch.float32, torch.bfloat16, torch.uint8)


def check_dataset(dataset: object) -> None:
    """Raise ValueError unless it is an open dataset."""
    if not isinstance(dataset, Dataset):
        raise ValueError(f"dataset={dataset!r}: give what pipeline.open_dataset(FOLDER) returns")


def check_count(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise ValueError unless `value` is a whole number from `least` to `most`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and least <= int(value) and (most is None or int(value) <= most)):  # type: ignore[call-overload]
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name}={value!r}: give a whole number, {allowed}")


def check_share(rank: int, world: int) -> None:
    """Raise ValueError unless process `rank` is one of `world`."""
    check_count("world", world, 1)
    check_count("rank", rank, 0, world - 1)


def check_dtype(dtype: torch.dtype, subtract_mean: bool, noise: object = None) -> None:
    """Raise ValueError unless images can have this type with these options."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: give {', '.join(map(str, DTYPES[:-1]))} or {DTYPES[-1]}")
    if dtype == torch.uint8 and (subtract_mean or noise is not None):
        raise ValueError(
            "dtype=torch.uint8 holds whole numbers from 0 to 255: give noise=None and no subtract_mean, or "
            "another dtype"
        )


def find_device(device: torch.device | str) -> torch.device:
    """Return the device with its number; ValueError unless it is the CPU, or a GPU that is there."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r}: give 'cpu', or 'cuda' or 'cuda:0' and so on")
    if found.type == "cuda":
        there = torch.cuda.device_count()
        if there == 0:
            raise ValueError(f"device={str(device)!r}: no GPU was found; 'cpu' does without")
        number = torch.cuda.current_device() if found.index is None else found.index
        check_count("device number", number, 0, there - 1)
        return torch.device("cuda", number)
    return found


def read_statistics(dataset: Dataset) -> Statistics:
    """Read the mean image and the colour statistics of a dataset's training images."""
    return Statistics.load(dataset.root / "statistics.npz")


def read_mean(dataset: Dataset, crop: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return (3, crop, crop) float32: the centre of the mean image, which is subtracted from every crop."""
    kept = np.float32(centre(read_statistics(dataset).mean, crop))
    return torch.from_numpy(kept).to(device).permute(2, 0, 1)


def colour_noise(dataset: Dataset, noise: Noise, basis: str) -> Callable[[int], np.ndarray]:
    """Return a function of the epoch, from 0: the (3, 3) matrix that makes RGB shifts of N(0, 1) numbers."""
    if noise is None:
        return lambda epoch: np.zeros((3, 3))
    if not (callable(noise) or (isinstance(noise, numbers.Real) and 0 <= noise < np.inf)):
        raise ValueError(f"noise={noise!r}: give a number, 0 or more, or None")
    matrix = partial(read_statistics(dataset).noise_matrix, basis=basis)
    matrix(0)  # a wrong basis is reported at once
    return lambda epoch: matrix(noise(epoch) if callable(noise) else noise)
