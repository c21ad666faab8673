"""Run the parts of training and evaluation that bench times, as endless generators of image counts."""

import gc
import io
import itertools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from cli.bench.meter import Work
from cli.compose.devices import choose_devices, cores, recorder, use_device
from cli.compose.images import evaluation_options, stream_options, train_batches
from cli.compose.training import make_step
from cli.options import Machine
from model.evaluate import evaluate
from model.placement import Images, autocast, prefetch_to_devices
from model.recipe import Recipe
from model.recipes import title
from pipeline import graph
from pipeline.batches import EvaluationBatches, Feed, TrainBatches
from pipeline.dataset import Dataset
from pipeline.image import encode
from pipeline.prep.shard import prepare_image
from pipeline.samples import Samples


class EndlessEvaluation(EvaluationBatches):
    """Repeat a split without end."""

    def _feed(self) -> Feed:
        while True:
            yield from super()._feed()


class Workloads:
    """Run all that a training of `recipe` on `dataset` uses, part by part."""

    def __init__(
        self, dataset: Dataset, recipe: Recipe, machine: Machine, cuda_graph: bool = False, seed: int = 0
    ) -> None:
        gc.collect()  # earlier Parts: they and their generators refer to each other
        torch.cuda.empty_cache()
        self.dataset, self.recipe = dataset, recipe
        self.devices = choose_devices(machine)
        self.device = self.devices[0]
        self.precision = use_device(self.device, machine.precision)
        self.images = stream_options(recipe, self.device, machine.workers)
        self.cores = cores(machine.workers)
        self.samples = Samples(dataset, "train")
        record = recorder(cuda_graph, self.devices)
        self.training_step = make_step(recipe, dataset, self.devices, self.precision, record, seed)
        self.network = self.training_step.network
        self.waited = self.trained = 0.0  # seconds
        self.works: dict[str, Work] = {
            "storage": self.storage(),
            "decode, bound": self.decode_bound(),
            "decode": self.decode(),
            "loader": self.loader(),
            "step": self.step(),
            "train": self.train(),
            "eval, centre": self.evaluation(ten_crop=False),
            "eval, ten views": self.evaluation(ten_crop=True),
            "prep, one core": self.prep(),
        }

    def storage(self) -> Work:
        """Read shards from end to end, from the disk as far as the system lets go of its cache."""
        for number in itertools.cycle(range(len(self.dataset.splits["train"]))):
            shard = self.dataset.splits["train"][number]
            with open(self.dataset.root / shard.name, "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while file.read(1 << 20):
                    pass
            yield shard.samples

    def chosen(self) -> Iterator[np.ndarray]:
        """Yield random sample numbers, a batch at a time."""
        random = np.random.default_rng(0)
        while True:
            yield random.integers(len(self.samples), size=self.recipe.batch_size)

    def jpegs(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Return the samples' JPEGs; for a raw dataset, its first images encoded as JPEGs."""
        if self.dataset.kind == "raw":
            return [self.made[number % len(self.made)] for number in numbers]
        return self.samples.read(numbers)[0]

    @cached_property
    def made(self) -> list[np.ndarray]:
        squares = map(self.samples.square, range(min(512, len(self.samples))))
        return [np.frombuffer(encode(Image.fromarray(square)), np.uint8) for square in squares]

    def decode_bound(self) -> Work:
        """Decode the same bytes by libjpeg-turbo alone, one thread per core: an upper bound of decoding."""

        def work(jpegs: list[np.ndarray]) -> None:
            for jpeg in jpegs:
                decode(jpeg)

        with ThreadPoolExecutor(self.cores) as pool:
            for numbers in self.chosen():
                jpegs = self.jpegs(numbers)
                list(pool.map(work, [jpegs[i :: self.cores] for i in range(self.cores)]))
                yield len(jpegs)

    def decode(self) -> Work:
        """Run DALI's decoder alone."""
        chosen = self.chosen()

        def source() -> tuple[Any, ...]:
            numbers = next(chosen)
            return self.jpegs(numbers), numbers

        options = graph.executor(self.device, self.images["threads"], self.recipe.batch_size)
        pipe = graph.decode_graph(source, **options)
        while True:
            pipe.run()
            yield self.recipe.batch_size

    def batches(self) -> TrainBatches:
        return train_batches(self.dataset, self.recipe, seed=0, start=0, images=self.images)

    def on_each(self) -> Iterator[tuple[Images, torch.Tensor]]:
        """Yield batches on the devices, as the steps of training get them."""
        return prefetch_to_devices(self.batches().endless(), self.devices)

    def loader(self) -> Work:
        """Run all that happens to an image before the network."""
        for images, _ in self.batches().endless():
            self.wait()
            yield len(images)

    def step(self) -> Work:
        """Run the step of training on one batch that is there already."""
        images, labels = next(self.on_each())
        for number in itertools.count():
            self.training_step(images, labels, number, len(labels))
            self.wait()
            yield len(labels)

    def train(self) -> Work:
        """Run loader and step together, as training does."""
        batches = self.on_each()
        for number in itertools.count():
            asked = time.perf_counter()
            images, labels = next(batches)
            self.waited += time.perf_counter() - asked
            self.training_step(images, labels, number, len(labels))
            if number % 50 == 49:  # where training looks at the loss
                self.wait()
            self.trained += time.perf_counter() - asked
            yield len(labels)

    def evaluation(self, ten_crop: bool) -> Work:
        """Evaluate validation images, again and again."""
        kept = evaluation_options(self.recipe, ten_crop) | self.images
        for batch in EndlessEvaluation(self.dataset, "val", **kept):
            evaluate(self.network, [batch], precision=self.precision)
            self.wait()
            yield len(batch[1])

    def prep(self) -> Work:
        """Do what prep does to an image, in one process, with the dataset's own images."""
        for numbers in self.chosen():
            for jpeg in self.jpegs(numbers[:8]):
                prepare_image(jpeg.tobytes(), str(self.dataset.side), self.dataset.store, "ignore")
            yield 8

    def normalisations(self) -> Work:
        """Run a step's response normalisations alone, forward and backward, on a batch like theirs."""
        (images, _), divisor = next(self.batches()), self.training_step.divisor
        calls: list[tuple[Any, str, torch.Tensor, torch.Tensor]] = []
        with torch.no_grad(), autocast(self.device, self.precision):
            for shape, part, pieces in self.network.run_layers(self.network.subtract_mean(images, divisor)):
                if part != "linear":
                    continue
                for step in {"lrn", "spatial", "contrast"} & set(shape.layer.then):
                    for tower, x in zip(self.network.towers, pieces, strict=True):
                        calls.append((tower.after, step, x.clone().requires_grad_(), torch.randn_like(x)))
        while True:
            for after, step, x, slope in calls:
                after(step, x).backward(slope)
                x.grad = None
            self.wait()
            yield len(images)

    def wait(self) -> None:
        """Wait for the device to finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def about(self) -> dict[str, Any]:
        """Return what was measured, and on what."""
        gpus = [torch.cuda.get_device_name(device) for device in self.devices if device.type == "cuda"]
        return {
            "data": str(self.dataset.root),
            "size": self.dataset.size,
            "store": self.dataset.store,
            "recipe": title(self.recipe, "classes", "batch_size", "width"),
            "width": self.recipe.width,
            "batch_size": self.recipe.batch_size,
            "devices": [str(device) for device in self.devices],
            "gpus": gpus,
            "precision": self.precision,
            "cuda_graph": self.training_step.captured is not None,
            "cores": self.cores,
            "torch": torch.__version__,
        }

    def memory(self) -> dict[str, int]:
        """Return the bytes in use on each GPU, DALI's included."""
        used = {}
        for device in {device for device in self.devices if device.type == "cuda"}:
            free, total = torch.cuda.mem_get_info(device)
            used[str(device)] = total - free
        return used


def decode(stored: Any) -> np.ndarray:
    """Return (height, width, 3) uint8 decoded by libjpeg-turbo alone, or by Pillow if it is no RGB JPEG."""
    if stored.ndim == 3:  # a raw dataset's
        return np.asarray(stored)
    try:
        return np.asarray(simplejpeg.decode_jpeg(stored))
    except ValueError:
        return np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"))
