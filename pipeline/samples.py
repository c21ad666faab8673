"""Third stop: read images and labels from the shards, which are mapped into memory and not copied."""

import mmap
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline import image
from pipeline.dataset import Dataset, read_index, read_names
from pipeline.errors import DataError


class Samples:
    """Hold the samples of one split: zero-copy views of their images in the memory-mapped shards."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.dataset, self.split, self.raw = dataset, split, dataset.kind == "raw"
        self.index = read_index(dataset, split)
        # Each mapped file takes a descriptor: 1,252 for ImageNet, where most systems allow 1,024 by default.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.maps = [_map(dataset.root / shard.name) for shard in dataset.splits[split]]
        self.shards = [np.frombuffer(shard, np.uint8) for shard in self.maps]

    def __len__(self) -> int:
        return len(self.index)

    def read(self, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return images, uint8: JPEG bytes (n,) or raw pixels (side, side, 3); and labels (rows,) int64."""
        images = [self.shards[shard][first : first + size] for shard, first, size in self._places(chosen)]
        if self.raw:
            images = [image.reshape(self.dataset.side, self.dataset.side, 3) for image in images]
        return images, self.index["label"][chosen].astype(np.int64)

    def expect(self, chosen: np.ndarray) -> None:
        """Tell the system that these samples are read soon, so that it has them in memory by then."""
        for shard, first, size in self._places(chosen):
            start = first - first % mmap.PAGESIZE
            self.maps[shard].madvise(mmap.MADV_WILLNEED, start, first + size - start)

    def square(self, number: int) -> np.ndarray:
        """Return an image as the (side, side, 3) uint8 that prep stores or would store; for pictures."""
        ((stored,), _) = self.read(np.array([number]))
        return stored if self.raw else image.stored(stored.tobytes(), self.dataset.side)

    def _places(self, chosen: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Return the (shard, offset, size) of each sample."""
        rows = self.index[chosen]
        return zip(rows["shard"].tolist(), rows["offset"].tolist(), rows["size"].tolist(), strict=True)

    def damage(self, number: int) -> DataError:
        """Return the error for a sample that cannot be decoded: where it lies, why, and what to do."""
        try:
            self.square(number)
            reason = "DALI does not take it"
        except image.BadImage as error:
            reason = str(error)
        row = self.index[number]
        path = self.dataset.root / self.dataset.splits[self.split][row["shard"]].name
        name = read_names(self.dataset, self.split)[number]
        return DataError(
            f"{path}, byte {row['offset']}: {name} cannot be decoded ({reason}); "
            f"check with {self.dataset.command()} --verify"
        )


def _map(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
