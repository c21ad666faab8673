"""First stop of a batch: read its images from the shards, and hand on what DALI makes of them to torch.

On a CPU batches leave DALI without a copy. On a GPU they are copied: DALI waits for the whole device before
it takes back memory that it lent, which ends the recording of a CUDA graph and lets batches pile up.
A training stream starts at any step and never ends; an evaluation stream gives every image of its split once.
"""

import mmap
import re
import resource
import shlex
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakMethod

import numpy as np
import torch
from nvidia.dali.plugin.pytorch.torch_utils import to_torch_tensor

from pipeline import graph, image
from pipeline.dataset import PIXELS, Dataset, read_index, read_names
from pipeline.errors import DataError
from pipeline.order import draws, epoch_order

# What DALI says of an image: that its bytes are damaged (3), or of a kind that it does not know (4, 5)
REFUSED = re.compile("nvImageCodec failure: '#[345]'|Failed to decode")
ROOM, ROOM_OF_THREAD = 2**28, 2**26  # bytes of address space that DALI takes, about
AHEAD = 4  # batches that the disk is told of before they are read; two are inside DALI

Batch = tuple[torch.Tensor, torch.Tensor]
Colour = Callable[[int], np.ndarray]
Rows = Callable[[int], range]  # of so many images, those of this process
Fed = tuple[np.ndarray, tuple[Any, ...]]  # sample numbers, and what the graph takes
Feed = Iterator[Fed]


class Stream:
    """Represent a DALI pipeline as an iterator of torch batches: images (..., 3, height, width), and labels.

    `make` builds the graph around a source. A subclass says what the source yields (`_feed`), and what to
    raise of a sample that DALI cannot decode (`_damage`); where that is nothing, the sample is left out.
    """

    def __init__(self, make: Callable[..., Any], device: torch.device) -> None:
        self.make, self.device, self.feed = make, device, self._feed()
        self.running: deque[Fed] = deque()  # the batches inside DALI
        self.pipe = self._start()

    def _feed(self) -> Feed:
        raise NotImplementedError

    def _damage(self, number: int) -> DataError | None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self.pipe is None:
            raise StopIteration
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        try:
            images, labels = self.pipe.run(stream)
        except StopIteration:
            self.close()
            raise
        except RuntimeError as error:
            self._leave_out_damage(error)
            return next(self)
        rows = len(self.running.popleft()[0])
        pixels, numbers = (
            to_torch_tensor(output.as_tensor(), copy=stream is not None)[:rows] for output in (images, labels)
        )
        return pixels.movedim(-1, -3), numbers

    def close(self) -> None:
        """End the stream: threads, files and device memory go at once. At its end a stream does so itself.

        Otherwise they wait for Python's garbage collector, as a stream and what feeds it hold each other.
        """
        self.pipe, self.feed = None, iter(())
        self.running.clear()

    def _start(self) -> Any:
        source = WeakMethod(self._source)  # DALI's objects hold each other, and so whatever they call
        return self.make(lambda: source()())  # type: ignore[misc]

    def _source(self) -> tuple[Any, ...]:
        self.running.append(next(self.feed))
        return self.running[-1][1]

    def _leave_out_damage(self, error: RuntimeError) -> None:
        """Try the samples inside DALI one at a time, and start it again with those that it decodes."""
        again: list[Fed] = []
        for chosen, inputs in self.running:
            good = [row for row in range(len(chosen)) if self._decodes(inputs, row)]
            for number in np.delete(chosen, good).tolist():
                if damage := self._damage(number):
                    raise damage from None
            if good:
                kept = (
                    [part[row] for row in good] if isinstance(part, list) else part[good] for part in inputs
                )
                again.append((chosen[good], tuple(kept)))
        if sum(len(chosen) for chosen, _ in again) == sum(len(chosen) for chosen, _ in self.running):
            raise error  # no image is to blame
        self.feed = chain(again, self.feed)
        self.running.clear()
        self.pipe = self._start()

    def _decodes(self, inputs: tuple[Any, ...], row: int) -> bool:
        alone = tuple(part[row : row + 1] for part in inputs)
        try:
            self.make(lambda: alone).run()
        except RuntimeError as error:
            if REFUSED.search(str(error)):
                return False
            raise  # no image is to blame, but the machine
        return True


class TrainBatches(Stream):
    """Yield (images, labels) from step `start` on: float (rows, 3, crop, crop) RGB 0..255, int64 (rows,).

    It never ends. A global batch is `batch_size` images, the last of an epoch what is left; this process
    takes its `rows`. colour: epoch (from 1) -> (3, 3) matrix that turns three N(0, 1) numbers into an RGB
    shift in 0..255 units, which is added to all of an image's pixels. DataError names an image that cannot be
    decoded.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        crop: int,
        batch_size: int,
        offsets: int,
        colour: Colour,
        seed: int,
        start: int,
        device: torch.device,
        threads: int,
        rows: Rows = range,
    ) -> None:
        self.samples = Samples(dataset, "train")
        self.batch_size, self.offsets, self.colour, self.seed = batch_size, offsets, colour, seed
        self.step, self.rows = start, rows
        self.steps_per_epoch = -(-len(self.samples) // batch_size)
        make = partial(
            graph.train_graph,
            crop=crop,
            kind=dataset.kind,
            **executor(device, threads, len(rows(batch_size)) + 1),  # of a shorter batch it may be one more
        )
        super().__init__(make, device)

    def total(self, step: int) -> int:
        """Return the number of images in the global batch of `step`."""
        return min(self.batch_size, len(self.samples) - step % self.steps_per_epoch * self.batch_size)

    def _feed(self) -> Feed:
        while True:
            epoch, skip = divmod(self.step, self.steps_per_epoch)
            matrix = self.colour(epoch + 1)
            order = epoch_order(self.samples.index["shard"], self.seed, epoch)
            for first in range(skip * self.batch_size, len(order), self.batch_size):
                total = self.total(self.step)
                rows = self.rows(total)
                # DALI takes no empty batch: where there is no row for this process, the first one stands in
                fed = rows or range(1)
                chosen = order[first + fed.start : first + fed.stop]
                random = draws(self.seed, self.step, total, fed, self.offsets)
                shift = (random.normal @ matrix.T).astype(np.float32)
                images, labels = self.samples.read(chosen)
                ahead = first + AHEAD * self.batch_size
                self.samples.expect(order[ahead + fed.start : ahead + fed.stop])
                self.step += 1
                inputs = (images, labels, random.top, random.left, random.mirror, shift)
                yield chosen[: len(rows)], inputs

    def _damage(self, number: int) -> DataError:
        return self.samples.damage(number)


class EvaluationBatches(Stream):
    """Yield this process's share of a split, each image once and in order.

    Images are uint8 (rows, views, 3, crop, crop) RGB, labels int64 (rows,), -1 where there is none.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        crop: int,
        views: tuple[tuple[int, int, int], ...],
        batch_size: int,
        device: torch.device,
        threads: int,
        rows: Rows = range,
    ) -> None:
        self.samples = Samples(dataset, split)
        self.rows = rows(len(self.samples))
        self.batch_size = batch_size
        make = partial(
            graph.evaluation_graph,
            crop=crop,
            kind=dataset.kind,
            views=views,
            **executor(device, threads, batch_size),
        )
        super().__init__(make, device)

    def _feed(self) -> Feed:
        for first in range(self.rows.start, self.rows.stop, self.batch_size):
            chosen = np.arange(first, min(first + self.batch_size, self.rows.stop))
            yield chosen, self.samples.read(chosen)

    def _damage(self, number: int) -> DataError:
        return self.samples.damage(number)


class Samples:
    """Hold the samples of one split: zero-copy views of their images in the memory-mapped shards."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.dataset, self.split, self.raw = dataset, split, dataset.kind == "raw"
        self.index = read_index(dataset, split)
        # A mapped file keeps a descriptor: 1,252 for ImageNet, where most systems allow 1,024 unless asked.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.maps = [_map(dataset.root / shard.name) for shard in dataset.splits[split]]
        self.shards = [np.frombuffer(shard, np.uint8) for shard in self.maps]

    def __len__(self) -> int:
        return len(self.index)

    def read(self, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return JPEG bytes, uint8 one array each, or raw pixels (256, 256, 3); and labels (rows,) int64."""
        images = [self.shards[shard][first : first + size] for shard, first, size in self._places(chosen)]
        if self.raw:
            images = [image.reshape(PIXELS) for image in images]
        return images, self.index["label"][chosen].astype(np.int64)

    def expect(self, chosen: np.ndarray) -> None:
        """Tell the system that these samples are read soon, so that it has them in memory by then."""
        for shard, first, size in self._places(chosen):
            start = first - first % mmap.PAGESIZE
            self.maps[shard].madvise(mmap.MADV_WILLNEED, start, first + size - start)

    def square(self, number: int) -> np.ndarray:
        """Return the (256, 256, 3) uint8 that prep made, or would have made, of one image; for pictures."""
        ((stored,), _) = self.read(np.array([number]))
        return stored if self.raw else image.stored(stored.tobytes())

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
            f"check with alexnet-dali prep --out {shlex.quote(str(self.dataset.root))} --verify"
        )


def executor(device: torch.device, threads: int, batch_size: int) -> dict[str, Any]:
    _refuse_narrow(threads)
    gpu = device.type == "cuda"
    return {
        "gpu": gpu,
        "device_id": device.index or 0 if gpu else None,
        "num_threads": threads,
        "batch_size": batch_size,
        "prefetch_queue_depth": 2,
        "exec_dynamic": True,  # outputs own their memory, so they can be handed over without a copy
    }


def _refuse_narrow(threads: int) -> None:
    """Refuse an address space in which DALI cannot start its threads: it would abort the program."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    needed = ROOM + threads * ROOM_OF_THREAD
    if limit != resource.RLIM_INFINITY and limit - mapped < needed:
        raise DataError(
            f"out of memory: the limit of address space (ulimit -v) leaves {(limit - mapped) / 1e6:,.0f} MB, "
            f"and {threads} threads of DALI need {needed / 1e6:,.0f}; raise it, or give fewer --workers"
        )


def _map(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
