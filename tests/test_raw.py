"""Raw shards: the pixels that prep decoded, in the same order, through the same graph without its decoder."""

import ctypes
import io
import itertools
import mmap
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pipeline.batches import EvaluationBatches, TrainBatches
from pipeline.dataset import Dataset, find_faults, open_dataset, read_names
from pipeline.order import draws, epoch_order
from pipeline.samples import Samples

CPU = {"device": torch.device("cpu"), "threads": 2, "crop": 224}


def square(path: Path) -> np.ndarray:
    """Pillow's: upright, shorter side to 256, centre 256x256."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR, box))


def test_pixels_are_those_of_the_source(raw: Dataset, folders: Path) -> None:
    files = {path.name: path for path in (folders / "train").rglob("*.*")}
    with tarfile.open(raw.root / "train/000000.tar") as tar:
        kept = [np.load(io.BytesIO(tar.extractfile(m).read())) for m in tar if m.name.endswith(".npy")]
    names, samples = read_names(raw, "train"), Samples(raw, "train")
    assert len(kept) == len(names) == len(samples) == 28
    for number, (pixels, name) in enumerate(zip(kept, names, strict=True)):
        assert np.array_equal(pixels, square(files[name]))
        assert np.array_equal(pixels, samples.square(number))


def test_the_same_order_as_jpegs(raw: Dataset, dataset: Dataset) -> None:
    """Same samples, labels, crops, flips and noise; pixels differ by what JPEG does to them."""
    settings = {"batch_size": 8, "noise": 0.1, "seed": 7}
    ours, theirs = (
        list(itertools.islice(TrainBatches(d, **settings, **CPU).endless(), 5)) for d in (raw, dataset)
    )
    for (a, labels), (b, others) in zip(ours, theirs, strict=True):
        assert torch.equal(labels, others)
        assert 0 < (a - b).abs().mean() < 3
    chosen = epoch_order(np.zeros(28), 7, 0)[:8]
    drawn = draws(7, 0, 8, range(8), 33)
    known = np.load(raw.root / "statistics.npz")
    shift = drawn.normal @ (0.1 * known["eigenvectors"] * known["deviations"]).T
    for row, image in enumerate(Samples(raw, "train").read(chosen)[0]):
        top, left = int(drawn.top[row]), int(drawn.left[row])
        crop = image[top : top + 224, left : left + 224]
        crop = (crop[:, ::-1] if drawn.mirror[row] else crop) + shift[row].astype(np.float32)
        assert np.array_equal(ours[0][0][row].permute(1, 2, 0).numpy(), crop.astype(np.float32))


def test_views_are_slices(raw: Dataset) -> None:
    ((images, _),) = EvaluationBatches(raw, "val", ten_crop=True, dtype=torch.uint8, **CPU)
    samples = Samples(raw, "val")
    for row in range(9):
        whole = samples.square(row).transpose(2, 0, 1)
        for view, (y, x) in enumerate([(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]):
            part = whole[:, y : y + 224, x : x + 224]
            assert np.array_equal(images[row, view], part)
            assert np.array_equal(images[row, view + 5], part[:, :, ::-1])


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [{}, {"noise": None, "dtype": torch.uint8}, {"subtract_mean": True, "dtype": torch.bfloat16}],
    ids=["default", "uint8", "mean"],
)
def test_gpu_batches_are_the_same_and_stay_so(raw: Dataset, options: dict[str, Any]) -> None:
    """All of twelve are kept, where DALI's own memory would be those of a few."""
    gpu = {**CPU, "device": torch.device("cuda:0")}
    streams = (TrainBatches(raw, batch_size=8, seed=7, **options, **at).endless() for at in (gpu, CPU))
    ours, theirs = (list(itertools.islice(stream, 12)) for stream in streams)
    for (a, labels), (b, others) in zip(ours, theirs, strict=True):
        assert torch.equal(a.cpu(), b)
        assert torch.equal(labels.cpu(), others)


def resident(samples: Samples, number: int) -> float:
    """The part of a sample's pages that is in memory, as mincore(2) has it."""
    ((shard, first, size),) = samples._places(np.array([number]))
    start = first - first % mmap.PAGESIZE
    pages = -(-(first + size - start) // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    address = samples.shards[shard].ctypes.data + start
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), pages * mmap.PAGESIZE, found) == 0
    return sum(byte & 1 for byte in found) / pages


def test_what_comes_next_is_read_ahead(raw: Dataset, tmp_path: Path) -> None:
    shutil.copytree(raw.root, tmp_path / "copy")
    with open(tmp_path / "copy/train/000000.tar", "r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    samples = Samples(open_dataset(tmp_path / "copy"), "train")
    if resident(samples, 20):
        pytest.skip("this file system keeps its pages")
    samples.expect(np.array([20]))
    assert any(resident(samples, 20) == 1 for _ in range(100_000))


def command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "cli", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent.parent)


def test_from_prep_to_eval(folders: Path, tmp_path: Path) -> None:
    """The three commands, a picture, and a shard repaired."""
    data, run = tmp_path / "data", tmp_path / "run"
    prep = ("prep", "--imagenet-root", folders, "--out", data, "--store", "raw", "--max-rejected", 0.5)
    assert "next" in command(*prep).stdout
    narrow = ("--width", 0.05, "--batch-size", 16, "--epochs", 1, "--device", "cpu")
    assert command("train", "--data", data, "--run", run, *narrow).returncode == 0
    result = command("eval", "--run", run, "--data", data, "--ten-crop", "--device", "cpu")
    assert result.returncode == 0 and "top-1" in result.stdout, result.stderr
    assert command("show", "batch", "--data", data, "--out", tmp_path / "batch.png").returncode == 0
    with open(data / "train/000000.tar", "r+b") as file:
        file.seek(5000)
        file.write(b"altered")
    faults = find_faults(open_dataset(data), checksums=True)
    assert list(faults) == ["train/000000.tar"]
    assert command(*prep, "--verify").returncode == 0
    assert not find_faults(open_dataset(data), checksums=True)
    other = command(*prep[:-4], "--max-rejected", 0.5)
    assert other.returncode == 1 and "prepared with --store raw, not jpeg" in other.stderr
    wrong = command(*prep, "--size", "original")
    assert wrong.returncode == 2 and "leave out --size original" in wrong.stderr
