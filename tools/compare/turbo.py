"""Load training images by TurboLoader: for tools/compare/peers.py."""

import io
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from pipeline.samples import Samples
from tools.compare.loaders import COPIED, STORED, Batch, Batches, Draw, Job, place

AHEAD = 2  # batches that are in the making while one is used


def its_crops(job: Job) -> Iterator[Batch]:
    """Yield batches of TurboLoader's own loaders, which have no colour noise: torch adds it.

    From raw pixels it makes the crops that we make. From JPEGs it makes only pieces of random size and shape,
    8 to 100 % of the image, resized; it decodes no more than the piece.
    """
    samples = Samples(job.dataset, "train")
    stored, labels = samples.read(np.arange(min(COPIED, len(samples))))
    loader = (raw_loader if job.dataset.kind == "raw" else jpeg_loader)(job, stored)
    random = torch.Generator().manual_seed(job.seed)
    matrix, epoch = torch.from_numpy(job.matrix).float(), 0
    while True:
        loader.set_epoch(epoch)
        for pixels, about in loader:
            shift = torch.randn(len(pixels), 3, generator=random) @ matrix.T
            images = torch.from_numpy(pixels).to(job.device, non_blocking=True)
            images += shift.to(job.device)[:, :, None, None]
            yield images, torch.from_numpy(labels[about["indices"]]).to(job.device, non_blocking=True)
        epoch += 1


def jpeg_loader(job: Job, stored: list[np.ndarray]) -> Any:
    """Write JPEGs as a tar file, and return TurboLoader's iterator of it: float32, 0..255."""
    import turboloader

    path = Path(mkdtemp(dir=job.folder), "images.tar")
    with tarfile.open(path, "w") as archive:
        for number, jpeg in enumerate(stored):
            member = tarfile.TarInfo(f"{number:08}.jpg")
            member.size = len(jpeg)
            archive.addfile(member, io.BytesIO(jpeg.tobytes()))
    return turboloader.DataLoader(
        str(path),
        batch_size=job.recipe.batch_size,
        image_size=job.recipe.crop,
        output_format="pytorch",
        transform=turboloader.Normalize([0.0] * 3, [1 / 255] * 3),
        shuffle=True,
        seed=job.seed,
        train_aug=True,
        antialias=True,
    )


def raw_loader(job: Job, stored: list[np.ndarray]) -> Any:
    """Write raw pixels as TurboLoader keeps them, and return its iterator of them: float32, 0..255."""
    import turboloader

    path = Path(mkdtemp(dir=job.folder), "images.tbl")
    writer = turboloader.TblWriterV2(str(path), enable_compression=False)
    for pixels in stored:
        writer.add_sample(pixels.tobytes(), turboloader.SampleFormat.RAW_U8, width=STORED, height=STORED)
    writer.finalize()
    return turboloader.TblRawImageLoader(
        path,
        batch_size=job.recipe.batch_size,
        mean=[0.0] * 3,
        std=[1 / 255] * 3,
        seed=job.seed,
        hflip_prob=0.5,
        train_aug=True,
        scale=((job.recipe.crop / STORED) ** 2,) * 2,
        ratio=(1, 1),
        image_size=job.recipe.crop,
    )


def our_crops(job: Job) -> Iterator[Batch]:
    """Yield the batches of TrainBatches by TurboLoader's decoder and conversion to float32, on threads."""
    samples, crop = Samples(job.dataset, "train"), job.recipe.crop
    waiting: deque[tuple[torch.Tensor, np.ndarray, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(job.cores) as pool:
        for chosen in Batches(job, samples):
            stored, labels = samples.read(np.array([draw.number for draw in chosen]))
            images = torch.empty(len(chosen), 3, crop, crop)
            rows = list(zip(images.numpy(), stored, chosen, strict=True))
            work = [pool.submit(fill, rows[core :: job.cores]) for core in range(job.cores)]
            waiting.append((images, labels, work))
            if len(waiting) > AHEAD:
                images, labels, work = waiting.popleft()
                for part in work:
                    part.result()
                yield images.to(job.device), torch.from_numpy(labels).to(job.device)


def fill(rows: list[tuple[np.ndarray, np.ndarray, Draw]]) -> None:
    """Write (3, crop, crop) float32 of each image: its noise is a mean that TurboLoader subtracts.

    It decodes by libjpeg's fast transform, which is less exact, and resizes from four source pixels a place.
    """
    import turboloader

    for image, stored, draw in rows:
        pixels = stored if stored.ndim == 3 else turboloader.decode_jpeg(stored.tobytes())
        crop = image.shape[1]
        y, x, side = place(pixels.shape[:2], draw.top, draw.left, crop)
        colour = {"mean": [-value for value in draw.shift], "std": [1.0] * 3, "scale01": False}
        if side == crop:
            top, left = round(y), round(x)
            region = np.ascontiguousarray(pixels[top : top + crop, left : left + crop])
            if draw.mirror:
                region = torch.from_numpy(region).flip(1).numpy()  # ten times as quick as NumPy
            turboloader.normalize_u8_batch(region[None], image[None], **colour)
        else:
            box, mirror = np.array([[x, y, side, side]], np.float32), np.array([draw.mirror], np.uint8)
            first = np.zeros(1, np.int64)
            turboloader.crop_resize_normalize_u8_gather(
                pixels[None], first, box, mirror, image[None], **colour
            )
