"""Load training images as a user without DALI would load them: for tools/compare/peers.py.

All read the same JPEG bytes (or raw pixels) and compute what TrainBatches does: a random crop, perhaps
flipped, with a colour shift, as float32 (rows, 3, crop, crop) on the device, in the main process.
"""

import io
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, get_worker_info

from cli.bench.workloads import decode
from model.recipe import Recipe
from pipeline.dataset import Dataset
from pipeline.order import draws, epoch_order
from pipeline.samples import Samples

Batch = tuple[torch.Tensor, torch.Tensor]
SHUFFLED = 1000  # images in webdataset's buffer
COPIED = 10_000  # images in FFCV's file
STORED = 256  # pixels along the squares that crops are cut from
EPOCH = 1_000_000  # images; each of FFCV's epochs starts anew


@dataclass(frozen=True)
class Job:
    """Hold the task of all loaders; see TrainBatches. matrix: of the first epoch's colour noise."""

    dataset: Dataset
    recipe: Recipe
    matrix: np.ndarray
    device: torch.device
    precision: str
    cores: int
    folder: Path = Path()  # for files that a loader must write first
    seed: int = 0


class Draw(NamedTuple):
    """Represent one image of a batch with its crop, flip and colour shift."""

    number: int
    top: float
    left: float
    mirror: bool
    shift: list[float]


class Batches:
    """Yield the random choices of TrainBatches for each batch: a batch sampler for DataLoader."""

    def __init__(self, job: Job, samples: Samples) -> None:
        self.job, self.shards = job, samples.index["shard"]

    def __iter__(self) -> Iterator[list[Draw]]:
        recipe, step, epoch = self.job.recipe, 0, 0
        while True:
            order = epoch_order(self.shards, self.job.seed, epoch)
            for first in range(0, len(order), recipe.batch_size):
                chosen = order[first : first + recipe.batch_size]
                total = len(chosen)
                random = draws(self.job.seed, step, total, range(total), recipe.offsets)
                shift = (random.normal @ self.job.matrix.T).tolist()
                places = random.top.tolist(), random.left.tolist(), (random.mirror * recipe.mirror).tolist()
                yield list(map(Draw, chosen.tolist(), *places, shift))
                step += 1
            epoch += 1


class Images:
    """Represent a map-style dataset whose keys are `Draw`s."""

    def __init__(self, job: Job, samples: Samples, crop: Callable[..., np.ndarray], floats: bool) -> None:
        self.job, self.samples, self.crop, self.floats = job, samples, crop, floats

    def __getitem__(self, draw: Draw) -> tuple[Any, ...]:
        """Return (image, label), or where floats are not wanted (pixels, label, shift)."""
        (stored,), (label,) = self.samples.read(np.array([draw.number]))
        pixels = self.crop(stored, draw.top, draw.left, self.job.recipe.crop)
        pixels = pixels[:, ::-1] if draw.mirror else pixels
        shift = np.array(draw.shift, np.float32)
        if self.floats:
            return finish(pixels, shift), label
        return np.ascontiguousarray(pixels), label, shift


def finish(pixels: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Turn (crop, crop, 3) uint8 into (3, crop, crop) float32, by the quickest way in NumPy and torch."""
    image = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    image += shift[:, None, None]
    return image


def shifted(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Shift the colours of (rows, crop, crop, 3) float32 in place; return them as (rows, 3, crop, crop).

    A line of pixels at a time: three times as quick as (rows, 3, 1, 1).
    """
    rows, lines = images.shape[:2]
    images.view(rows, lines, -1).add_(shift.repeat(1, lines)[:, None])
    return images.permute(0, 3, 1, 2)


def place(size: tuple[int, ...], top: float, left: float, crop: int) -> tuple[float, float, float]:
    """Return y, x and side, in pixels of an image of (height, width), of a crop of its STORED square."""
    scale = min(size) / STORED
    y, x = ((length - STORED * scale) / 2 for length in size)
    return y + top * scale, x + left * scale, crop * scale


def crop_pillow(jpeg: Any, top: float, left: float, crop: int) -> np.ndarray:
    """Return (crop, crop, 3) uint8 of a JPEG's bytes; decoded, cropped and resized by Pillow."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    y, x, side = place((image.height, image.width), top, left, crop)
    box = (x, y, x + side, y + side)
    if side == crop:
        return np.asarray(image.crop(box))
    return np.asarray(image.resize((crop, crop), Image.Resampling.BILINEAR, box))


def crop_opencv(jpeg: Any, top: float, left: float, crop: int) -> np.ndarray:
    import cv2

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return crop_pixels(np.asarray(cv2.imdecode(jpeg, flags)), top, left, crop)


def crop_simplejpeg(stored: Any, top: float, left: float, crop: int) -> np.ndarray:
    return crop_pixels(decode(stored), top, left, crop)


def crop_torchvision(jpeg: Any, top: float, left: float, crop: int) -> np.ndarray:
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2.functional import resized_crop

    pixels = decode_jpeg(torch.from_numpy(jpeg.copy()), mode=ImageReadMode.RGB)
    y, x, side = place(tuple(pixels.shape[1:]), top, left, crop)
    region = round(y), round(x), round(side), round(side)
    kept: np.ndarray = resized_crop(pixels, *region, [crop, crop]).permute(1, 2, 0).numpy()
    return kept


def crop_quickly(stored: Any, top: float, left: float, crop: int) -> np.ndarray:
    """Resize from the four source pixels around each place: a tenth of the time, and aliased."""
    return crop_pixels(decode(stored), top, left, crop, "INTER_LINEAR")


def crop_pixels(
    pixels: np.ndarray, top: float, left: float, crop: int, way: str = "INTER_AREA"
) -> np.ndarray:
    """Return the region that is kept, from a whole source pixel on, resized by OpenCV where needed."""
    y, x, side = place(pixels.shape[:2], top, left, crop)
    first, before, end = round(y), round(x), round(side)
    region = pixels[first : first + end, before : before + end]
    if side == crop:
        return region
    import cv2

    return np.asarray(cv2.resize(region, (crop, crop), interpolation=getattr(cv2, way)))


def loader(job: Job, crop: Callable[..., np.ndarray], floats: bool, left: bool = False) -> Iterator[Batch]:
    """Yield batches of torch's DataLoader: float32, or uint8 from the workers, which stay so if `left`."""
    samples = Samples(job.dataset, "train")
    for images, labels, *shift in DataLoader(
        Images(job, samples, crop, floats),  # type: ignore[arg-type]
        batch_sampler=Batches(job, samples),
        worker_init_fn=one_thread,
        **workers(job),
    ):
        images = images.to(job.device, non_blocking=True)
        if shift and not left:
            images = shifted(images.float(), shift[0].to(job.device))
        yield images, labels.to(job.device, non_blocking=True)


def workers(job: Job) -> dict[str, Any]:
    return {
        "num_workers": job.cores,
        "multiprocessing_context": "fork",
        "pin_memory": job.device.type == "cuda",
    }


def one_thread(worker: int) -> None:
    """Stop OpenCV's own threads: in each of several workers they would only be in each other's way."""
    if find_spec("cv2"):
        import cv2

        cv2.setNumThreads(0)


def webdataset(job: Job) -> Iterator[Batch]:
    """Yield batches of webdataset from the same shards, by simplejpeg; its order and crops are its own."""
    import webdataset as wds

    def examples(samples: Iterator[dict[str, bytes]]) -> Iterator[tuple[np.ndarray, int]]:
        worker = get_worker_info()
        random = np.random.default_rng([job.seed, worker.id if worker else 0])
        for sample in samples:
            top, left = random.integers(job.recipe.offsets, size=2).tolist()
            shift = (job.matrix @ random.standard_normal(3)).astype(np.float32)
            pixels = crop_simplejpeg(np.frombuffer(sample["jpg"], np.uint8), top, left, job.recipe.crop)
            yield finish(pixels[:, ::-1] if random.integers(2) else pixels, shift), int(sample["cls"])

    shards = [str(job.dataset.root / shard.name) for shard in job.dataset.splits["train"]]
    stages = wds.WebDataset(shards, resampled=True, shardshuffle=False).shuffle(SHUFFLED).compose(examples)
    batches = stages.batched(job.recipe.batch_size)
    for images, labels in wds.WebLoader(batches, batch_size=None, worker_init_fn=one_thread, **workers(job)):
        yield images.to(job.device, non_blocking=True), labels.to(job.device, non_blocking=True)


def ffcv(job: Job, noise: bool) -> Iterator[Batch]:
    """Yield batches of FFCV's own operators, which have no colour noise: torch adds it, or it is left out."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    path, crop = Path(mkdtemp(dir=job.folder), "images.beton"), job.recipe.crop
    count = write_beton(job, path)
    batches = Loader(
        str(path),
        batch_size=job.recipe.batch_size,
        num_workers=job.cores,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=np.tile(np.arange(count), -(-EPOCH // count)),
        pipelines={
            "image": [
                RandomResizedCropRGBImageDecoder((crop, crop), ((crop / STORED) ** 2,) * 2, (1, 1)),
                RandomHorizontalFlip(),
                NormalizeImage(np.zeros(3), np.ones(3), np.float32),
                ToTensor(),
                ToTorchImage(),
            ],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    random = torch.Generator().manual_seed(job.seed)
    matrix = torch.from_numpy(job.matrix).float()
    while True:
        for images, labels in batches:
            images = images.to(job.device, non_blocking=True)
            if noise:
                shift = torch.randn(len(images), 3, generator=random) @ matrix.T
                images = shifted(images.permute(0, 2, 3, 1), shift.to(job.device))
            yield images, labels.to(job.device, non_blocking=True)


def write_beton(job: Job, path: Path) -> int:
    """Write the first images as FFCV keeps them, the same bytes; return how many."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.writer import DatasetWriter

    def encode(place: Any, stored: np.ndarray, allocate: Callable[..., Any]) -> None:
        place["mode"] = IMAGE_MODES["raw" if job.dataset.kind == "raw" else "jpg"]
        place["height"] = place["width"] = STORED
        place["data_ptr"], storage = allocate(stored.size)
        storage[:] = stored.reshape(-1)

    samples = Samples(job.dataset, "train")
    count = min(COPIED, len(samples))
    multiprocessing.set_start_method("fork", force=True)  # of its writer
    field = RGBImageField()
    field.encode = encode
    rows = list(zip(*samples.read(np.arange(count)), strict=True))
    writer = DatasetWriter(str(path), {"image": field, "label": IntField()}, num_workers=job.cores)
    with redirect_stderr(io.StringIO()):  # a progress bar
        writer.from_indexed_dataset(rows)
    return count
