"""First stop: feed DALI's graph, and yield the images and labels that it computes as torch tensors.

On a CPU batches share DALI's memory. On a GPU they are copied: DALI waits for the whole device before it
reuses memory that it shared, which ends the recording of a CUDA graph and lets batches pile up.
A training stream starts at any step; an evaluation stream gives every image of its split once.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, count
from typing import Any, NoReturn, Self
from weakref import WeakMethod

import numpy as np
import torch
from nvidia.dali.plugin.pytorch.torch_utils import to_torch_tensor

from pipeline import graph
from pipeline.arguments import (
    Noise,
    check_count,
    check_dataset,
    check_dtype,
    check_share,
    colour_noise,
    find_device,
    read_mean,
)
from pipeline.dataset import Dataset
from pipeline.errors import DataError
from pipeline.order import draws, epoch_order, share
from pipeline.samples import Samples

# What DALI says of an image: that its bytes are damaged (3), or of a kind that it does not know (4, 5)
REFUSED = re.compile("nvImageCodec failure: '#[345]'|Failed to decode")
AHEAD = 4  # batches from the one that is read to the one that the disk is asked for; two are inside DALI

Batch = tuple[torch.Tensor, torch.Tensor]
Fed = tuple[np.ndarray, tuple[Any, ...]]  # sample numbers, and what the graph takes
Feed = Iterator[Fed]


class Stream:
    """Represent a DALI pipeline as an iterator of torch batches: images (..., 3, height, width), and labels.

    `make` builds the graph around a source. A subclass says what the source yields (`_feed`), and what to
    raise for a sample that DALI cannot decode (`_damage`); if that is None, the sample is left out.
    mean: (3, height, width) on the device, to subtract. Each loop starts again with the first batch.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        device: torch.device,
        dtype: torch.dtype,
        mean: torch.Tensor | None = None,
    ) -> None:
        self.make, self.device, self.dtype, self.mean = make, device, dtype, mean
        self.running: deque[Fed] = deque()  # the batches inside DALI
        self.feed: Feed
        self._begin()

    def _feed(self) -> Feed:
        raise NotImplementedError

    def _damage(self, number: int) -> DataError | None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        if not self.fresh:
            self._begin()
        return self

    def __next__(self) -> Batch:
        if self.pipe is None:
            raise StopIteration
        self.fresh = False
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
        pixels = pixels.movedim(-1, -3)
        return (pixels if self.mean is None else pixels - self.mean).to(self.dtype), numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream and free its threads, files and device memory; a stream at its end does so itself.

        Otherwise only Python's garbage collector frees them, as a stream and its feed refer to each other.
        """
        self.pipe, self.feed, self.fresh = None, iter(()), False
        self.running.clear()

    def _begin(self) -> None:
        self.running.clear()
        self.feed = self._feed()
        self.fresh = True
        self.pipe = self._start()

    def _start(self) -> Any:
        source = WeakMethod(self._source)  # DALI's objects refer to each other, and so keep what they call
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
    """Yield training batches by `epoch(n)` or `endless()`: (rows, 3, crop, crop) RGB, int64 (rows,) labels.

    Each epoch has every image once. Order, crops, flips and noise follow from seed, epoch and step alone. A
    batch has `batch_size` images; the last of an epoch has the rest. Process `rank` of `world` yields its
    share of each batch, which may be empty where the batch has fewer images than there are processes.

    device: where the images are made, "cpu", "cuda", "cuda:1". crop: side of the images, in pixels.
    offsets: number of crop positions along each side, around the centre; None: all that there are.
    mirror: mirror half of the images, at random.
    noise: the standard deviation of the colour noise's factors (paper, section 4.1), or a function of the
    epoch, from 0, that returns it; None: no noise. noise_basis: what the factors multiply, the "deviations"
    along the colours' principal components, as in 2012, or the "eigenvalues", as in the paper.
    subtract_mean: subtract the centre of the training images' mean image; without it values are 0..255, plus
    the noise. dtype: float32, bfloat16, or uint8 without noise and mean.
    start: the first step, counted from 0 over all epochs; batches before it are left out.
    threads: number of DALI's threads; None: one more than the cores that this process may use.

    ValueError says what an argument may be; DataError names what is missing, or an image that cannot be
    decoded.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        device: torch.device | str,
        *,
        crop: int = 224,
        offsets: int | None = None,
        mirror: bool = True,
        noise: Noise = 0.1,
        noise_basis: str = "deviations",
        subtract_mean: bool = False,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        threads: int | None = None,
    ) -> None:
        check_dataset(dataset)
        check_count("batch_size", batch_size, 1)
        check_count("crop", crop, 1, dataset.side)
        places = dataset.side - crop + 1
        if offsets is not None:
            check_count("offsets", offsets, 1, places)
        check_count("seed", seed, 0)
        check_count("start", start, 0)
        check_share(rank, world)
        check_dtype(dtype, subtract_mean, noise)
        device = find_device(device)
        self.samples = Samples(dataset, "train")
        self.colour = colour_noise(dataset, noise, noise_basis)
        self.batch_size, self.offsets, self.seed = batch_size, offsets or places, seed
        self.mirror = mirror
        self.margin = (places - self.offsets) // 2  # around all crops
        self.floats = dtype != torch.uint8
        self.start = self.step = start  # step: that of the next batch
        self.rank, self.world = rank, world
        self.images = len(self.samples)
        self.steps_per_epoch = -(-self.images // batch_size)
        largest = len(share(batch_size, rank, world)) + 1  # of a shorter batch it may be one more
        make = partial(
            graph.train_graph,
            crop=crop,
            kind=dataset.kind,
            side=dataset.side,
            floats=self.floats,
            **graph.executor(device, threads, largest),
        )
        super().__init__(make, device, dtype, read_mean(dataset, crop, device) if subtract_mean else None)

    def __iter__(self) -> NoReturn:
        raise TypeError("training never ends: loop over epoch(0), epoch(1) and so on, or over endless()")

    def __next__(self) -> Batch:
        batch = super().__next__()
        self.step += 1
        return batch

    def epoch(self, number: int) -> Iterator[Batch]:
        """Return the batches of an epoch, counted from 0, as an iterator; those before `start` are left out.

        DALI runs on into the next epoch. After `close`, or a loop that was left early, it starts again.
        """
        check_count("epoch", number, 0)
        first = number * self.steps_per_epoch
        return self._at(range(max(first, self.start), first + self.steps_per_epoch))

    def endless(self) -> Iterator[Batch]:
        """Return all batches from step `start` on, as an iterator that never ends."""
        return self._at(count(self.start))

    def _at(self, steps: Iterable[int]) -> Iterator[Batch]:
        try:
            for step in steps:
                if self.pipe is None or step != self.step:
                    self.step = step
                    self._begin()
                yield next(self)
        except GeneratorExit:  # left early: what is prefetched is of no use
            self.close()
            raise

    def total(self, step: int) -> int:
        """Return the number of images in the global batch of `step`."""
        return min(self.batch_size, self.images - step % self.steps_per_epoch * self.batch_size)

    def _feed(self) -> Feed:
        step = self.step
        while True:
            epoch, skip = divmod(step, self.steps_per_epoch)
            matrix = self.colour(epoch)
            order = epoch_order(self.samples.index["shard"], self.seed, epoch)
            for first in range(skip * self.batch_size, len(order), self.batch_size):
                total = self.total(step)
                rows = share(total, self.rank, self.world)
                # DALI takes no empty batch: where there is no row for this process, the first one stands in
                fed = rows or range(1)
                chosen = order[first + fed.start : first + fed.stop]
                random = draws(self.seed, step, total, fed, self.offsets)
                shift = [(random.normal @ matrix.T).astype(np.float32)] if self.floats else []
                images, labels = self.samples.read(chosen)
                ahead = first + AHEAD * self.batch_size
                self.samples.expect(order[ahead + fed.start : ahead + fed.stop])
                step += 1
                top, left = random.top + self.margin, random.left + self.margin
                yield chosen[: len(rows)], (images, labels, top, left, random.mirror * self.mirror, *shift)

    def _damage(self, number: int) -> DataError:
        return self.samples.damage(number)


class EvaluationBatches(Stream):
    """Yield this process's share of a split, each image once and in order; each loop starts again.

    Images are (rows, 3, crop, crop) RGB, the centre, values 0..255; if `ten_crop` (rows, 10, 3, crop, crop),
    the corners and the centre, and these mirrored. Labels are int64 (rows,), -1 where there is none.
    Arguments and errors are those of TrainBatches; batch_size: of this process, and in images, not views.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        device: torch.device | str,
        *,
        batch_size: int = 128,
        crop: int = 224,
        ten_crop: bool = False,
        subtract_mean: bool = False,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world: int = 1,
        threads: int | None = None,
    ) -> None:
        check_dataset(dataset)
        check_count("batch_size", batch_size, 1)
        check_count("crop", crop, 1, dataset.side)
        check_share(rank, world)
        check_dtype(dtype, subtract_mean)
        device = find_device(device)
        self.samples = Samples(dataset, split)
        self.rows = share(len(self.samples), rank, world)
        self.batch_size = batch_size
        make = partial(
            graph.evaluation_graph,
            crop=crop,
            kind=dataset.kind,
            side=dataset.side,
            views=graph.TEN_VIEWS if ten_crop else graph.CENTRE_VIEW,
            **graph.executor(device, threads, batch_size),
        )
        super().__init__(make, device, dtype, read_mean(dataset, crop, device) if subtract_mean else None)

    def _feed(self) -> Feed:
        for first in range(self.rows.start, self.rows.stop, self.batch_size):
            chosen = np.arange(first, min(first + self.batch_size, self.rows.stop))
            yield chosen, self.samples.read(chosen)

    def _damage(self, number: int) -> DataError:
        return self.samples.damage(number)
