"""Loose image files, decoded, resized and cropped by the graph that evaluation uses."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline import graph, image
from pipeline.batches import Batch, Feed, Stream, executor
from pipeline.dataset import DataError

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".gif")


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Files as named, the images of a folder at any depth, what matches a pattern; sorted within each."""
    found: list[Path] = []
    for argument in arguments:
        if os.path.isdir(argument):
            inside = (Path(folder, name) for folder, _, names in os.walk(argument) for name in names)
            here = sorted(path for path in inside if path.suffix.lower() in SUFFIXES)
        elif os.path.exists(argument):
            here = [Path(argument)]
        else:
            here = sorted(Path(name) for name in glob.glob(argument, recursive=True) if os.path.isfile(name))
        if not here:
            if os.path.isdir(argument):
                raise DataError(f"{argument} holds no images, which end in {', '.join(SUFFIXES)}")
            raise DataError(f"{argument}: no such file or folder, and nothing matches it as a pattern")
        found += here
    return found


class FileBatches:
    """Each file once and in order; labels are the files' numbers, so that rows can be told apart.

    Images are uint8 (rows, views, 3, crop, crop). A file that cannot be decoded is in no batch: `faults` has
    its number and why, by the time a later file is given out.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        crop: int,
        views: tuple[tuple[int, int, int], ...],
        batch_size: int,
        device: torch.device,
        threads: int,
    ) -> None:
        self.paths, self.batch_size, self.threads = paths, batch_size, threads
        self.faults: dict[int, str] = {}
        make: Callable[..., object] = partial(
            graph.evaluation_graph,
            crop=crop,
            kind="original",
            views=views,
            **executor(device, threads, batch_size),
        )
        self._stream = Stream(make, self._feed(), lambda chosen: None, device)

    def __iter__(self) -> Iterator[Batch]:
        return self._stream

    def _feed(self) -> Feed:
        with ThreadPoolExecutor(self.threads) as pool:
            for first in range(0, len(self.paths), self.batch_size):
                numbers = range(first, min(first + self.batch_size, len(self.paths)))
                read = zip(numbers, pool.map(self._read, numbers), strict=True)
                good = {number: data for number, data in read if data is not None}
                if good:
                    yield np.array(list(good)), (list(good.values()), np.array(list(good), np.int64))

    def _read(self, number: int) -> np.ndarray | None:
        """The bytes of a file that is known to decode, in a format that DALI has."""
        try:
            data = self.paths[number].read_bytes()
            pixels = image.decode(data)
        except OSError as error:
            self.faults[number] = f"cannot be read: {error.strerror}"
            return None
        except image.BadImage as error:
            self.faults[number] = f"cannot be decoded: {error}"
            return None
        return np.frombuffer(data if image.dali_reads(data) else image.encode(pixels), np.uint8)
