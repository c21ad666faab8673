"""The drawn ImageNet is what the tests of everything else believe it is."""

import csv
import io
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from pipeline.source import miniature

Files = dict[str, bytes]


def tar_files(tar: Path | io.BytesIO) -> Files:
    with tarfile.open(tar) if isinstance(tar, Path) else tarfile.open(fileobj=tar) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def tree_files(root: Path) -> Files:
    return {path.name: path.read_bytes() for path in root.rglob("*.JPEG")}


def train_files(archives: Path) -> Files:
    of_class = tar_files(archives / "ILSVRC2012_img_train.tar")
    return {name: data for tar in of_class.values() for name, data in tar_files(io.BytesIO(tar)).items()}


def test_every_layout_holds_the_same_images(archives: Path, folders: Path, flat: Path, kaggle: Path) -> None:
    images = {"train": train_files(archives), "val": tar_files(archives / "ILSVRC2012_img_val.tar")}
    tests = tar_files(archives / "ILSVRC2012_img_test_v10102019.tar")
    images["test"] = {name.removeprefix("test/"): data for name, data in tests.items()}
    assert [len(images[split]) for split in ("train", "val", "test")] == [3 * 8 + 7, 3 * 3, 5]
    for root in folders, flat, kaggle / "ILSVRC/Data/CLS-LOC":
        assert {split: tree_files(root / split) for split in images} == images


def test_the_layouts_agree_on_the_labels(archives: Path, folders: Path, kaggle: Path) -> None:
    devkit = tar_files(archives / "ILSVRC2012_devkit_t12.tar.gz")
    meta = scipy.io.loadmat(io.BytesIO(devkit["ILSVRC2012_devkit_t12/data/meta.mat"]), squeeze_me=True)
    wnids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in meta["synsets"]}
    truth = devkit["ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"].split()
    by_devkit = {f"ILSVRC2012_val_{n:08d}": wnids[int(i)] for n, i in enumerate(truth, start=1)}
    by_folder = {path.stem: path.parent.name for path in (folders / "val").rglob("*.JPEG")}
    with (kaggle / "LOC_val_solution.csv").open(newline="") as file:
        by_kaggle = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    assert by_devkit == by_folder == by_kaggle
    mapping = (kaggle / "LOC_synset_mapping.txt").read_text().splitlines()
    assert mapping == [f"{miniature.WNIDS[label]} {miniature.WORDS[label]}" for label in range(3)]


def test_meta_mat_has_the_real_ones_traps(archives: Path) -> None:
    devkit = tar_files(archives / "ILSVRC2012_devkit_t12.tar.gz")
    meta = scipy.io.loadmat(io.BytesIO(devkit["ILSVRC2012_devkit_t12/data/meta.mat"]), squeeze_me=True)
    synsets = meta["synsets"]
    leaves = synsets[[synset["num_children"] == 0 for synset in synsets]]
    assert len(leaves) == 3 and len(synsets) > 3
    assert list(leaves["ILSVRC2012_ID"]) == [1, 2, 3] and list(leaves["WNID"]) != sorted(leaves["WNID"])
    assert str(leaves[0]["words"]) and leaves[0]["num_train_images"] == 8


def test_2010_is_the_same_but_for_names_blanks_and_labels_of_test(
    archives: Path, archives_2010: Path
) -> None:
    names = {path.name for path in archives_2010.iterdir()}
    assert names == {
        "ILSVRC2010_images_train.tar", "ILSVRC2010_images_val.tar", "ILSVRC2010_images_test.tar",
        "ILSVRC2010_devkit-1.0.tar.gz", "ILSVRC2010_test_ground_truth.txt", "patch_images.tar",
    }  # fmt: skip
    patches = tar_files(archives_2010 / "patch_images.tar")
    assert [name.split("/")[:2] for name in patches] == [
        ["patch_images", s] for s in ("train", "val", "test")
    ]
    tests = tar_files(archives / "ILSVRC2012_img_test_v10102019.tar")
    for number, (name, data) in enumerate(tar_files(archives_2010 / "ILSVRC2010_images_test.tar").items()):
        expected = tests[name.replace("2010", "2012")]
        assert (data == expected) == (number > 0)
        if not number:
            assert patches[f"patch_images/{name}"] == expected
            assert set(Image.open(io.BytesIO(data)).getextrema()) == {(255, 255)}
    kit = tar_files(archives_2010 / "ILSVRC2010_devkit-1.0.tar.gz")
    meta = scipy.io.loadmat(io.BytesIO(kit["devkit-1.0/data/meta.mat"]), squeeze_me=True)["synsets"]
    assert meta.dtype.names[:4] == ("ILSVRC2010_ID", "WNID", "words", "gloss")
    assert len(kit["devkit-1.0/data/ILSVRC2010_validation_ground_truth.txt"].split()) == 9
    assert (archives_2010 / "ILSVRC2010_test_ground_truth.txt").read_text() == "3\n1\n2\n3\n1\n"


def test_the_odd_files_are_what_they_are_called(archives: Path) -> None:
    damaged, seen = [], set()
    for name, data in train_files(archives).items():
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except OSError:
            damaged.append(name)
        else:
            seen |= {image.format, image.mode} | ({"turned"} if image.getexif().get(0x0112) == 6 else set())
    assert len(damaged) == miniature.DAMAGED
    assert seen == {"JPEG", "PNG", "RGB", "CMYK", "L", "turned"}


def test_without_damage_and_with_an_unpacked_devkit(tmp_path: Path) -> None:
    miniature.write_archives(tmp_path, classes=2, train=1, val=1, damaged=False, devkit_tar=True)
    assert sorted(train_files(tmp_path)) == [f"{wnid}_0.JPEG" for wnid in miniature.WNIDS[:2]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ILSVRC2012_devkit_t12.tar",
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
    ]
    assert "ILSVRC2012_devkit_t12/data/meta.mat" in tar_files(tmp_path / "ILSVRC2012_devkit_t12.tar")


def test_the_seed_decides() -> None:
    one, same, other = (miniature.Miniature(seed=seed).image(0, 4, 7) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_sizes_vary_as_imagenets_do() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([miniature.size(rng) for _ in range(2000)])
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    assert 0 < np.mean(short < 200) < 0.1 and np.mean(short >= 200) > 0.9 and long.max() / short.min() > 4
    assert 0.1 < np.mean(sizes[:, 0] > sizes[:, 1]) < 0.5


@pytest.mark.parametrize("label", range(len(miniature.WNIDS)))
def test_every_class_draws(label: int) -> None:
    image = miniature.draw(label, np.random.default_rng(label))
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert image.std() > 10


def test_the_mean_colour_says_little_about_the_class() -> None:
    rng = np.random.default_rng(0)
    means = np.array(
        [[miniature.draw(label, rng).mean(axis=(0, 1)) for _ in range(20)] for label in range(10)]
    )
    centres = means[:, :10].mean(axis=1)
    nearest = np.square(means[:, 10:, None] - centres).sum(axis=-1).argmin(axis=-1)
    assert np.mean(nearest == np.arange(10)[:, None]) < 0.3  # chance is 0.1


def test_drawing_is_fast() -> None:
    started = time.process_time()
    for _ in miniature.Miniature(train=3, damaged=False).train_files():
        pass
    assert (time.process_time() - started) / 30 < 0.05  # a few ms; this bound is for a slow, busy machine
