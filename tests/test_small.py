"""Datasets of other sides than 256: prepared as Pillow would, and read by every command."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageOps

from cli import main
from pipeline.batches import EvaluationBatches, TrainBatches
from pipeline.dataset import Dataset, open_dataset, read_names
from pipeline.errors import DataError
from pipeline.files import FileBatches
from pipeline.order import draws, epoch_order
from pipeline.prep.prepare import prepare
from pipeline.samples import Samples
from pipeline.source.find import find_source
from pipeline.statistics import Statistics


def by_pillow(path: Path, side: int) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    shorter = min(image.size)
    left, top = ((length - shorter) / 2 for length in image.size)
    box = (left, top, left + shorter, top + shorter)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box))


def run(*words: object) -> str:
    """Run a command that is to succeed; return what it prints."""
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*words: object) -> str:
    """Run a command that is to fail; return its last line."""
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code in (1, 2), result.output
    return result.output.splitlines()[-1]


@pytest.fixture(scope="module")
def odd(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """JPEGs of 33 x 33 pixels."""
    out = tmp_path_factory.mktemp("odd")
    return prepare(find_source(folders), out, size="33", workers=1, max_rejected=0.5)


@pytest.fixture(scope="module")
def trained_small(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "relu4"
    options = ("--batch-size", 16, "--epochs", 1, "--device", "cpu")
    run("train", "--data", small.root, "--run", path, "--recipe", "relu4", *options)
    return path


def test_raw_pixels_are_pillows(small: Dataset, folders: Path) -> None:
    files = {path.name: path for path in (folders / "train").rglob("*.*")}
    samples = Samples(small, "train")
    assert small.side == 32 and len(samples) == 28
    for number, name in enumerate(read_names(small, "train")):
        assert np.array_equal(samples.square(number), by_pillow(files[name], 32))


def test_statistics_are_numpys(small: Dataset, odd: Dataset, folders: Path) -> None:
    """Of an odd number of pixels, too; summed before JPEG codes them."""
    files = {path.name: path for path in (folders / "train").rglob("*.*")}
    for dataset in (small, odd):
        images = np.stack([by_pillow(files[name], dataset.side) for name in read_names(dataset, "train")])
        found = Statistics.load(dataset.root / "statistics.npz")
        np.testing.assert_allclose(found.mean, images.mean(0), rtol=1e-6)
        np.testing.assert_allclose(found.covariance, np.cov(images.reshape(-1, 3).T, bias=True), rtol=1e-9)


def test_jpegs_are_near_pillows(odd: Dataset, folders: Path) -> None:
    files = {path.name: path for path in (folders / "val").rglob("*.*")}
    ((images, _),) = EvaluationBatches(odd, "val", "cpu", crop=33)
    for name, image in zip(read_names(odd, "val"), images.permute(0, 2, 3, 1).numpy(), strict=True):
        assert np.abs(image - by_pillow(files[name], 33)).mean() < 4


def test_views_are_slices(odd: Dataset) -> None:
    """Five free pixels: the centre begins at the second, as that of the mean image."""
    whole, views = (
        next(iter(EvaluationBatches(odd, "val", "cpu", crop=crop, ten_crop=ten)))[0]
        for crop, ten in ((33, False), (28, True))
    )
    for view, (y, x) in enumerate([(0, 0), (0, 5), (2, 2), (5, 0), (5, 5)]):
        part = whole[:, :, y : y + 28, x : x + 28]
        assert torch.equal(views[:, view], part)
        assert torch.equal(views[:, view + 5], part.flip(-1))


@pytest.mark.parametrize(("crop", "offsets", "margin"), [(32, 1, 0), (27, 3, 1)])
def test_training_crops_are_slices(small: Dataset, crop: int, offsets: int, margin: int) -> None:
    """Around the middle of the image, if they do not reach its edges."""
    stream = TrainBatches(small, 8, "cpu", crop=crop, offsets=offsets, noise=None, seed=3)
    images, _ = next(stream.epoch(0))
    drawn, samples = draws(3, 0, 8, range(8), offsets), Samples(small, "train")
    for row, number in enumerate(epoch_order(np.zeros(28), 3, 0)[:8].tolist()):
        top, left = (int(each[row]) + margin for each in (drawn.top, drawn.left))
        part = samples.square(number)[top : top + crop, left : left + crop]
        part = part[:, ::-1] if drawn.mirror[row] else part
        assert np.array_equal(images[row].permute(1, 2, 0).numpy(), part)


def test_images_are_not_mirrored_unless_asked_for(small: Dataset) -> None:
    images, _ = next(TrainBatches(small, 8, "cpu", crop=32, mirror=False, noise=None, seed=3).epoch(0))
    for row, number in enumerate(epoch_order(np.zeros(28), 3, 0)[:8].tolist()):
        assert np.array_equal(images[row].permute(1, 2, 0).numpy(), Samples(small, "train").square(number))


def test_files_are_resized_as_the_dataset(folders: Path, small: Dataset) -> None:
    paths = sorted((folders / "val").rglob("*.JPEG"))[:4]
    ((images, _),) = FileBatches(paths, "cpu", side=32, crop=32)
    for path, image in zip(paths, images.permute(0, 2, 3, 1).numpy(), strict=True):
        error = np.abs(image - by_pillow(path, 32))
        assert error.mean() < 0.5 and error.max() < 16


def test_commands_read_small_images(
    trained_small: Path, small: Dataset, folders: Path, tmp_path: Path
) -> None:
    """predict computes on files what eval computes on the dataset's own squares of them."""
    of_run, cpu = ("--run", trained_small), ("--device", "cpu")
    assert "9 val images" in run("eval", *of_run, *cpu, "--ten-crop")
    run("eval", *of_run, *cpu, "--predictions", tmp_path / "eval.npz")
    run("predict", *of_run, *cpu, folders / "val", "--json", tmp_path / "files.json")
    names = read_names(small, "val")
    saved = dict(zip(names, np.load(tmp_path / "eval.npz")["probabilities"], strict=True))
    rows = [row for row in json.loads((tmp_path / "files.json").read_text()) if not row["fault"]]
    assert len(rows) >= len(names)
    for row in rows:
        if (name := Path(row["image"]).name) in saved:
            assert row["guesses"][0]["probability"] == pytest.approx(saved[name].max(), abs=1e-3)
    image = next((folders / "val").rglob("*.JPEG"))
    run("show", "batch", *of_run, "--out", tmp_path / "batch.png")
    run("show", "gradient", image, *of_run, *cpu, "--out", tmp_path / "gradient.png")
    run("features", *of_run, *cpu, "--split", "val", "--layer", "conv3", "--out", tmp_path / "f.npy")
    run("similar", image, "--features", tmp_path / "f.npy", *cpu, "--picture", tmp_path / "similar.png")
    run("report", *of_run, *cpu, "--out", tmp_path / "report.html")
    run("export", *of_run, "--out", tmp_path / "relu4.safetensors")
    assert "9 val images" in run("eval", "--run", tmp_path / "relu4.safetensors", "--data", small.root, *cpu)


def test_what_is_refused(
    trained_small: Path, trained: Path, small: Dataset, dataset: Dataset, tmp_path: Path
) -> None:
    train = ("train", "--device", "cpu", "--run", tmp_path / "run", "--data")
    assert f"{small.root} holds images of 32 pixels; recipe original needs 256: choose --recipe relu4" in (
        refusal(*train, small.root)
    )
    assert "recipe relu4 needs 32: choose --recipe original or paper, or prepare with --size 32" in refusal(
        *train, dataset.root, "--recipe", "relu4"
    )
    assert "choose --recipe relu4 or tanh4" in refusal("bench", "--data", small.root, "--device", "cpu")
    for crop, choice in ((250, "needs 282: choose a smaller crop or fewer"), (90, "choose a larger crop")):
        assert choice in refusal(*train, dataset.root, "--set", f"crop={crop}")
    assert not (tmp_path / "run").exists()
    for of_run, data in ((trained, small), (trained_small, dataset)):
        said = refusal("eval", "--run", of_run, "--device", "cpu", "--data", data.root)
        assert f"{data.root} holds images of {data.side} pixels, and {of_run} was trained on" in said
    assert "recipe original needs 256" in refusal("show", "batch", "--data", small.root, "--out", "b.png")
    with pytest.raises(ValueError, match="crop=224: give a whole number, 1 to 32"):
        TrainBatches(small, 8, "cpu")
    with pytest.raises(ValueError, match="crop=33: give a whole number, 1 to 32"):
        EvaluationBatches(small, "val", "cpu", crop=33)


def test_a_small_dataset_is_repaired_by_the_command_that_is_printed(
    small: Dataset, folders: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(small.root, tmp_path / "copy")
    (copy / "val/000000.tar").unlink()
    with pytest.raises(DataError, match=r"000000\.tar is missing: repair it with") as error:
        open_dataset(copy)
    words = shlex.split(str(error.value).partition("alexnet-dali ")[2].replace("DIR", str(folders)))
    run(*words)
    assert open_dataset(copy).fingerprint == small.fingerprint


def test_the_command_that_is_printed_has_the_seed(folders: Path, tmp_path: Path) -> None:
    """With another seed prep would refuse to repair."""
    made = prepare(
        find_source(folders), tmp_path / "out", size="8", seed=3, workers=1, exif="ignore", max_rejected=0.5
    )
    (tmp_path / "out/val/000000.tar").unlink()
    with pytest.raises(DataError, match="--seed 3") as error:
        open_dataset(made.root)
    run(*shlex.split(str(error.value).partition("alexnet-dali ")[2].replace("DIR", str(folders))))
    assert open_dataset(made.root).fingerprint == made.fingerprint


@pytest.mark.parametrize("size", ["7", "1025", "032", "32.0", "32\n", "large"])
def test_sizes_that_are_none(size: str, folders: Path, tmp_path: Path) -> None:
    said = refusal("prep", "--imagenet-root", folders, "--out", tmp_path / "data", "--size", size)
    assert "is neither a number from 8 to 1024 nor `original`" in said


def test_another_size_is_another_dataset(small: Dataset, folders: Path) -> None:
    words = ("prep", "--imagenet-root", folders, "--out", small.root, "--store", "raw", "--size")
    said = run(*words, 32)
    assert "is already prepared" in said
    assert f"{folders} was not read again: if its images have changed, choose another --out." in said
    assert "was prepared with --size 32, not 33" in refusal(*words, 33)
