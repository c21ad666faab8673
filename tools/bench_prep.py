"""Measure prep against the same work in one process on one core: python -m tools.bench_prep

Draws photo-like JPEGs (1/f noise, 500x375, some 110 KB as ImageNet's are) into class folders, then by turns
makes all their shards in this process and prepares them with the workers, start-up and clean-up included.
Beside the rates, the processor time of an image: on a machine with other work it is the steadier of the two.

2 cores, otherwise idle, 6,000 images, 3 rounds: one process 432 images/s, 2 workers 825, 95 % of twice that
(2.31 and 2.37 ms of processor time). At that share 16 cores need 3.2 min for ImageNet, if the disk keeps up.
"""

import argparse
import io
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from PIL import Image

from pipeline.prep.plan import plan
from pipeline.prep.prepare import prepare
from pipeline.prep.shard import make_shard
from pipeline.source.find import find_source
from pipeline.workers import count_cores

IMAGENET, CORES = 1_281_167, 16


def draw_photo(rng: np.random.Generator) -> bytes:
    """Draw noise whose amplitude falls with frequency, as a photograph's, mostly the same in all colours."""
    height, width = 375, 500
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    noise = 0.8 * rng.normal(size=(height, width, 1)) + 0.3 * rng.normal(size=(height, width, 3))
    smooth = np.fft.irfft2(np.fft.rfft2(noise, axes=(0, 1)) / frequency[..., None], (height, width), (0, 1))
    file = io.BytesIO()
    pixels = np.clip(110 + 50 * smooth / smooth.std((0, 1)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=89)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=count_cores())
    parser.add_argument("--size", choices=["256", "original"], default="256")
    parser.add_argument("--folder", help="folder on the disk to measure (default: that of temporary files)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root, out, alone = (Path(folder, name) for name in ("root", "out", "alone"))
        rng = np.random.default_rng(0)
        photos = [Path(folder, f"{number}.JPEG") for number in range(64)]
        kilobytes = sum(photo.write_bytes(draw_photo(rng)) for photo in photos) / len(photos) / 1000
        for number in range(options.images):
            place = root / f"class{number % 4}" / f"{number:06d}.JPEG"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(photos[number % len(photos)])
        source = find_source(root, val_fraction=0.01)
        print(f"{options.images:,} images of {kilobytes:.0f} KB, --size {options.size}")
        rounds = []
        for _ in range(options.rounds):
            alone.mkdir()
            one = measure(
                options.images,
                lambda: [
                    make_shard(task) for task in plan(source, options.size, "jpeg", 0, source.exif, alone)
                ],
            )
            many = measure(
                options.images, lambda: prepare(source, out, size=options.size, workers=options.workers)
            )
            rounds.append((*one, *many))
            print(
                "  one process {:,.0f} images/s ({:.2f} ms), all {:,.0f} images/s ({:.2f} ms)".format(
                    *rounds[-1]
                )
            )
            shutil.rmtree(alone)
            shutil.rmtree(out)
    one, one_ms, many, many_ms = (median(column) for column in zip(*rounds, strict=True))
    share = many / one / options.workers
    print(f"median: {one:,.0f} and {many:,.0f} images/s: {share:.0%} of {options.workers} x one process")
    print(f"processor time: {one_ms:.2f} and {many_ms:.2f} ms an image: {one_ms / many_ms:.0%}")
    minutes = IMAGENET / (one * CORES * share) / 60
    print(f"at that share, {IMAGENET:,} images on {CORES} cores take {minutes:.0f} min, if the disk keeps up")


def measure(images: int, work: Callable[[], object]) -> tuple[float, float]:
    """Return images/s, and processor time in ms an image, of this process and those it waited for."""
    before, started = processor_time(), time.perf_counter()
    work()
    return images / (time.perf_counter() - started), 1000 * (processor_time() - before) / images


def processor_time() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


if __name__ == "__main__":
    main()
