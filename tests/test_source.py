"""Every layout against the others and against the devkit as scipy reads it; every root that is not right."""

import gzip
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.source.find import Source, find_source
from pipeline.source.miniature import WNIDS, write_archives, write_class_tars

Content = dict[str, list[tuple[str, int, bytes | None]]]


def content(source: Source) -> Content:
    return {
        split: [(sample.name, sample.label, sample.read(10**9)) for sample in samples]
        for split, samples in source.splits.items()
    }


def devkit(root: Path) -> dict[str, bytes]:
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz") as tar:
        return {Path(m.name).name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.write_bytes(tarred(files))


def tarred(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def copy(archives: Path, tmp_path: Path) -> Path:
    """The archives, to be spoilt."""
    return shutil.copytree(archives, tmp_path / "root")


@pytest.fixture
def copy_2010(archives_2010: Path, tmp_path: Path) -> Path:
    """ILSVRC-2010's archives, to be spoilt."""
    return shutil.copytree(archives_2010, tmp_path / "root")


def unpack_train(root: Path, out: Path) -> None:
    """train.tar -> class tars, as half of ImageNet's own instructions do."""
    with tarfile.open(root / "ILSVRC2012_img_train.tar") as tar:
        tar.extractall(out, filter="data")


def test_layouts_agree(archives: Path, folders: Path, flat: Path, kaggle: Path, tmp_path: Path) -> None:
    sources = {root: find_source(root) for root in (archives, folders, flat, kaggle)}
    expected = content(sources[archives])
    assert {split: len(images) for split, images in expected.items()} == {"train": 31, "val": 9, "test": 5}
    for source in sources.values():
        assert content(source) == expected
    kinds = [source.kind for source in sources.values()]
    for kind, words in zip(kinds, ["archives", "class folders", "devkit", "Kaggle"], strict=True):
        assert words in kind


def test_kaggle_from_inside(kaggle: Path) -> None:
    expected = find_source(kaggle)
    for inside in ("ILSVRC", "ILSVRC/Data/CLS-LOC"):
        assert find_source(kaggle / inside) == expected


def test_class_tars(archives: Path, tmp_path: Path) -> None:
    unpack_train(archives, tmp_path / "train")
    for path in archives.iterdir():
        if "train" not in path.name:
            (tmp_path / path.name).symlink_to(path)
    assert content(find_source(tmp_path)) == content(find_source(archives))


@pytest.mark.parametrize("shape", ["tar", "folder", "bare"])
def test_devkit_shapes(shape: str, copy: Path, archives: Path) -> None:
    packed = copy / "ILSVRC2012_devkit_t12.tar.gz"
    if shape == "tar":
        (copy / "ILSVRC2012_devkit_t12.tar").write_bytes(gzip.decompress(packed.read_bytes()))
    else:
        with tarfile.open(packed) as tar:
            tar.extractall(copy, filter="data")
        if shape == "bare":
            (copy / "ILSVRC2012_devkit_t12/data").rename(copy / "data")
    packed.unlink()
    found = find_source(copy)
    assert found.classes == find_source(archives).classes
    assert content(found) == content(find_source(archives))


def test_labels_go_through_meta_mat(archives: Path) -> None:
    """The devkit's numbers are not labels: they name a wnid, whose place in sorted order is the label."""
    files = devkit(archives)
    synsets = scipy.io.loadmat(io.BytesIO(files["meta.mat"]), squeeze_me=True)["synsets"]
    wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    leaves = sorted(str(row["WNID"]) for row in synsets if row["num_children"] == 0)
    truth = [int(line) for line in files["ILSVRC2012_validation_ground_truth.txt"].split()]
    source = find_source(archives)
    assert [category.wnid for category in source.classes] == leaves
    assert [sample.label for sample in source.splits["val"]] == [leaves.index(wnid_of[i]) for i in truth]
    assert [wnid_of[category.ilsvrc_id or 0] for category in source.classes] == leaves
    assert [leaves.index(wnid_of[i]) for i in truth] != [i - 1 for i in truth]  # or the test shows nothing
    for sample in source.splits["train"]:
        assert sample.name.startswith(leaves[sample.label] + "_")
    assert [sample.name for sample in source.splits["val"]] == [
        f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 10)
    ]


def test_2010(archives: Path, archives_2010: Path) -> None:
    """Labels of val and test go through meta.mat; the patches take the place of blank images."""
    source = find_source(archives_2010)
    expected = {
        split: [(name.replace("ILSVRC2012", "ILSVRC2010"), label, data) for name, label, data in images]
        for split, images in content(find_source(archives)).items()
    }
    by_hand = [1, 2, 0, 1, 2]  # the truth is 3, 1, 2, 3, 1; the labels 0, 1, 2 have the ids 2, 3, 1
    expected["test"] = [(x[0], label, x[2]) for x, label in zip(expected["test"], by_hand, strict=True)]
    assert content(source) == expected
    assert [category.ilsvrc_id for category in source.classes] == [2, 3, 1]
    assert source.kind == (
        f"ILSVRC-2010's archives in {archives_2010}: ILSVRC2010_images_train.tar, "
        "ILSVRC2010_images_val.tar labelled by ILSVRC2010_devkit-1.0.tar.gz, "
        "ILSVRC2010_images_test.tar labelled by ILSVRC2010_test_ground_truth.txt, 3 images from patch_images"
    )


def unpack(tar: Path, into: Path) -> None:
    with tarfile.open(tar) as archive:
        archive.extractall(into, filter="data")


@pytest.mark.parametrize("folders", ["split", "archive", "class"])
def test_2010_unpacked(folders: str, archives_2010: Path, tmp_path: Path) -> None:
    """All in one place; each archive into a folder of its name; val and test sorted into class folders."""
    expected = content(find_source(archives_2010))
    for split in ("train", "val", "test"):
        tar = archives_2010 / f"ILSVRC2010_images_{split}.tar"  # those of val and test hold a folder
        beside = tmp_path / "train" if split == "train" else tmp_path
        unpack(tar, tmp_path / tar.stem if folders == "archive" else beside)
    unpack(archives_2010 / "patch_images.tar", tmp_path)
    unpack(archives_2010 / KIT_2010, tmp_path)
    shutil.copy(archives_2010 / TEST_TRUTH, tmp_path / ("devkit-1.0/data" if folders == "archive" else ""))
    if folders == "class":
        for split in ("val", "test"):
            for name, label, _ in expected[split]:
                (tmp_path / split / WNIDS[label]).mkdir(exist_ok=True)
                (tmp_path / split / name).rename(tmp_path / split / WNIDS[label] / name)
    source = find_source(tmp_path)
    assert content(source) == expected
    by = "folder" if folders == "class" else TEST_TRUTH
    assert source.kind.startswith("class tars") and f"test labelled by {by}, 3 images from" in source.kind


def test_2010_by_hand(tmp_path: Path) -> None:
    """A devkit written here: numbers in an order of their own, an ancestor, Windows' line ends."""
    synsets = np.zeros(
        (4, 1), [(name, object) for name in ("ILSVRC2010_ID", "WNID", "words", "num_children")]
    )
    rows = [(1, "n03", "cherry", 0), (2, "n01", "apple", 0), (3, "n02", "bean", 0), (4, "n00", "fruit", 3)]
    synsets[:, 0] = rows
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets, "cost_matrix": np.zeros((3, 3), np.uint8)})
    kit = {"meta.mat": meta.getvalue(), "ILSVRC2010_validation_ground_truth.txt": b"1\r\n3\r\n2\r\n"}
    files = {f"devkit-1.0/data/{name}": data for name, data in kit.items()} | {TEST_TRUTH: b"3\n3\n1\n2\n"}
    files |= {f"train/{wnid}/{wnid}_7.JPEG": b"image" for wnid in ("n01", "n02", "n03")}
    files |= {f"val/ILSVRC2010_val_{number:08d}.JPEG": b"image" for number in (1, 2, 3)}
    files |= {f"test/ILSVRC2010_test_{number:08d}.JPEG": b"image" for number in (1, 2, 3, 4)}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    source = find_source(tmp_path)
    assert [(c.wnid, c.words, c.ilsvrc_id) for c in source.classes] == [
        ("n01", "apple", 2),
        ("n02", "bean", 3),
        ("n03", "cherry", 1),
    ]
    assert [sample.label for sample in source.splits["val"]] == [2, 1, 0]
    assert [sample.label for sample in source.splits["test"]] == [1, 1, 2, 0]


def test_2010_without_labels_of_test(copy_2010: Path, archives_2010: Path) -> None:
    (copy_2010 / TEST_TRUTH).unlink()
    source = find_source(copy_2010)
    assert {sample.label for sample in source.splits["test"]} == {-1}
    assert f"_test.tar without labels, which need {TEST_TRUTH} and {KIT_2010}" in source.kind
    assert content(source) | {"test": []} == content(find_source(archives_2010)) | {"test": []}


def test_both_years_in_one_folder(archives: Path, archives_2010: Path, tmp_path: Path) -> None:
    """Nothing of one year gets into the other."""
    for root in (archives, archives_2010):
        for path in root.iterdir():
            (tmp_path / path.name).symlink_to(path)
    assert content(find_source(tmp_path)) == content(find_source(archives))
    (tmp_path / TRAIN).unlink()
    assert content(find_source(tmp_path)) == content(find_source(archives_2010))


def test_class_folders_of_test(folders: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(folders / split)
    (tmp_path / "test").symlink_to(folders / "val")
    splits = find_source(tmp_path).splits
    assert [sample[3:] for sample in splits["test"]] == [sample[3:] for sample in splits["val"]]


def test_many_classes(tmp_path: Path) -> None:
    """Fall 2011: class tars alone, in the archive, unpacked; a class of one image stays in train."""
    tars, folders, whole = (tmp_path / name for name in ("tars", "folders", "whole"))
    write_class_tars(tars, classes=40, train=3, damaged=False)
    for wnid in WNIDS:
        unpack(tars / f"{wnid}.tar", folders / wnid)
    for wnid in WNIDS[::4]:
        for number in (1, 2):
            (folders / wnid / f"{wnid}_{number}.JPEG").unlink()
        write_tar(tars / f"{wnid}.tar", {path.name: path.read_bytes() for path in (folders / wnid).iterdir()})
    whole.mkdir()
    write_tar(whole / "fall11_whole.tar", {path.name: path.read_bytes() for path in tars.iterdir()})
    for root, kind in ((tars, "class tars"), (folders, "class folders"), (whole, "Fall 2011's archive")):
        source = find_source(root, 0.3, seed=5)
        assert source.kind.startswith(f"{kind} in") and source.kind.endswith("0.3 of each class for val")
        assert [category.wnid for category in source.classes] == sorted(WNIDS)
        assert content(source) == content(find_source(folders, 0.3, seed=5))
        counts = {
            split: np.bincount([sample.label for sample in samples], minlength=40).tolist()
            for split, samples in source.splits.items()
        }
        assert counts == {"train": [1, 2, 2, 2] * 10, "val": [0, 1, 1, 1] * 10}
        with pytest.raises(DataError, match="--val-fraction"):
            find_source(root)


def test_val_fraction(folders: Path) -> None:
    everything = find_source(folders).splits["train"]
    source = find_source(folders / "train", val_fraction=0.25, seed=1)
    train, val = source.splits["train"], source.splits["val"]
    assert sorted(train + val) == sorted(everything)
    for label in range(3):
        count = sum(sample.label == label for sample in everything)
        assert sum(sample.label == label for sample in val) == round(count * 0.25)
    assert find_source(folders / "train", val_fraction=0.25, seed=1) == source
    assert find_source(folders / "train", val_fraction=0.25, seed=2) != source


def test_other_names(folders: Path, tmp_path: Path) -> None:
    """Folders of any name: spaces, other alphabets, bytes that are no text. Other files are passed over."""
    root = tmp_path / "mein Bücherregal 图像"
    for name in ("gelbe Äpfel", "蜜蜂", os.fsdecode(b"caf\xe9")):
        (root / name).mkdir(parents=True)
        for number in range(2):
            (root / name / f"ein Bild {number}.jpg").write_bytes(b"...")
        for other in ("notes.txt", ".hidden.jpg", "Thumbs.db"):
            (root / name / other).write_text("no image")
    source = find_source(root, val_fraction=0.5)
    assert [len(images) for images in source.splits.values()] == [3, 3]
    assert source.splits["train"][0].read(100) == b"..."


def test_tar_names_are_no_paths(tmp_path: Path) -> None:
    image = b"image"
    names = ("../../evil.JPEG", "/etc/evil.JPEG", "a/b/good.JPEG", "nested/../x.JPEG")
    root = tmp_path / "root"
    root.mkdir()
    write_tar(root / "ILSVRC2012_img_train.tar", {"../n01.tar": tarred(dict.fromkeys(names, image))})
    source = find_source(root, val_fraction=0.5)
    assert [category.wnid for category in source.classes] == ["n01"]
    samples = source.splits["train"] + source.splits["val"]
    assert sorted(sample.name for sample in samples) == ["evil.JPEG", "evil.JPEG", "good.JPEG", "x.JPEG"]
    assert {sample.read(100) for sample in samples} == {image}
    assert list(tmp_path.iterdir()) == [root]


def cut(name: str, keep: float, block: int = 512) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        os.truncate(root / name, int((root / name).stat().st_size * keep) // block * block)

    return spoil


def without(*names: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        for name in names:
            (root / name).unlink()

    return spoil


def with_devkit(change: Callable[[dict[str, bytes]], object]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        files = devkit(root)
        change(files)
        packed = gzip.compress(tarred({f"ILSVRC2012_devkit_t12/data/{name}": files[name] for name in files}))
        (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(packed)

    return spoil


TRAIN, VAL, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KIT_2010, TEST_TRUTH = "ILSVRC2010_devkit-1.0.tar.gz", "ILSVRC2010_test_ground_truth.txt"


def zero_header(root: Path) -> None:
    """A header in the middle that tarfile would silently take for the end."""
    data = bytearray((root / VAL).read_bytes())
    with tarfile.open(root / VAL) as tar:
        data[(header := tar.getmembers()[4].offset) : header + 100] = b"x" * 100
    (root / VAL).write_bytes(data)


def negative_size(name: str) -> Callable[[Path], None]:
    """A size that would send tarfile back to the same header for ever."""

    def spoil(root: Path) -> None:
        data = bytearray(tarred({"a.JPEG": b"123", "b.JPEG": b"456"}))
        data[1024 + 124 : 1024 + 136] = (-1024).to_bytes(12, "big", signed=True)
        data[1024 + 148 : 1024 + 156] = b" " * 8
        data[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(data[1024:1536])
        (root / name).write_bytes(data)

    return spoil


def twice(root: Path) -> None:
    with tarfile.open(root / TRAIN, "a") as tar:
        tar.addfile(tar.getmembers()[0], io.BytesIO(bytes(10**7)))


def empty_class(root: Path) -> None:
    with tarfile.open(root / TRAIN, "a") as tar:
        info = tarfile.TarInfo("n99999999.tar")
        info.size = len(tarred({}))
        tar.addfile(info, io.BytesIO(tarred({})))


SPOILS = {
    "no train": (without(TRAIN), "no ImageNet root.*Looked for"),
    "no val": (without(VAL), "no ILSVRC2012_img_val.tar and no val/"),
    "no devkit": (without(KIT), "labels are missing: put ILSVRC2012_devkit_t12.tar.gz"),
    "train cut": (cut(TRAIN, 0.6), f"{TRAIN} is.* byte"),
    "val cut": (cut(VAL, 0.6), f"{VAL} is (cut off|damaged)"),
    "val empty": (cut(VAL, 0), f"{VAL} is (cut off|damaged)"),
    "val header": (zero_header, f"{VAL} is cut off or damaged at byte"),
    "val negative size": (negative_size(VAL), f"{VAL} is damaged"),
    "devkit negative size": (negative_size(KIT), f"{KIT} is damaged"),
    "class twice": (twice, r"holds n\d+.tar twice"),
    "class empty": (empty_class, "no images of the class n99999999"),
    "devkit cut": (cut(KIT, 0.5, block=1), f"cannot read .*{KIT}"),
    "devkit of another kind": (with_devkit(lambda files: files.pop("meta.mat")), "lacks data/meta.mat"),
    "meta.mat damaged": (
        with_devkit(lambda files: files.update({"meta.mat": b"no"})),
        "meta.mat cannot be read",
    ),
    "truth short": (
        with_devkit(lambda files: files.update({TRUTH: files[TRUTH].split(b"\n", 1)[1]})),
        "labels 8 val images, but there are 9",
    ),
    "truth no number": (
        with_devkit(lambda files: files.update({TRUTH: b"1\nzwei\n"})),
        f"{TRUTH}, line 2: 'zwei'",
    ),
    "truth out of range": (
        with_devkit(lambda files: files.update({TRUTH: b"9999\n"})),
        "'9999' is not a class",
    ),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_bad_archives(spoil: str, copy: Path) -> None:
    check_refused(copy, *SPOILS[spoil])


def check_refused(root: Path, change: Callable[[Path], object], message: str) -> None:
    change(root)
    with pytest.raises(DataError, match=message) as error:
        find_source(root)
    assert "\n" not in str(error.value)


def truth_of_test(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        lines = (root / TEST_TRUTH).read_bytes().splitlines()
        (root / TEST_TRUTH).write_bytes(b"\n".join(change(lines)) + b"\n")

    return spoil


def kit_of_2012(root: Path) -> None:
    """The other year's files in an archive of this name."""
    files = {f"devkit-1.0/data/{name}": b"1\n" for name in ("meta.mat", TRUTH)}
    (root / KIT_2010).write_bytes(gzip.compress(tarred(files)))


SPOILS_2010 = {
    "no val": (without("ILSVRC2010_images_val.tar"), "no ILSVRC2010_images_val.tar and no val/"),
    "no devkit": (without(KIT_2010), f"labels are missing: put {KIT_2010}"),
    "devkit cut": (cut(KIT_2010, 0.5, block=1), f"cannot read .*{KIT_2010}"),
    "devkit of 2012": (kit_of_2012, "lacks data/ILSVRC2010_validation.*: it is not ILSVRC2010_devkit-1.0"),
    "test cut": (cut("ILSVRC2010_images_test.tar", 0.6), "_test.tar is (cut off|damaged)"),
    "patches cut": (cut("patch_images.tar", 0.6), "patch_images.tar is (cut off|damaged)"),
    "truth short": (truth_of_test(lambda lines: lines[1:]), f"{TEST_TRUTH} labels 4 test images, .* are 5"),
    "truth long": (truth_of_test(lambda lines: [*lines, b"1"]), "labels 6 test images, but there are 5"),
    "truth empty": (truth_of_test(lambda lines: []), "labels 0 test images, but there are 5"),
    "truth no number": (
        truth_of_test(lambda lines: [b"1", b"two", *lines[2:]]),
        f"{TEST_TRUTH}, line 2: 'two' is not a class of meta.mat",
    ),
    "truth of an ancestor": (truth_of_test(lambda lines: [b"4", *lines[1:]]), "line 1: '4' is not a class"),
    "truth from zero": (truth_of_test(lambda lines: [b"0", *lines[1:]]), "line 1: '0' is not a class"),
}


@pytest.mark.parametrize("spoil", SPOILS_2010)
def test_bad_archives_of_2010(spoil: str, copy_2010: Path) -> None:
    check_refused(copy_2010, *SPOILS_2010[spoil])


def test_bad_folders(folders: Path, flat: Path, kaggle: Path, tmp_path: Path) -> None:
    def check(root: Path, message: str, fraction: float | None = None) -> None:
        with pytest.raises(DataError, match=message):
            find_source(root, fraction)

    check(tmp_path, "no ImageNet root")
    check(tmp_path, "no ImageNet root", 0.1)
    check(folders, "leave --val-fraction out", 0.1)
    root = shutil.copytree(folders, tmp_path / "a")
    (root / "train/n00000001").mkdir()
    check(root, "no images of the class n00000001")
    (root / "train/n00000001").rmdir()
    (root / "val/n00000001").mkdir()
    check(root, "has the class n00000001, which train lacks")
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    check(root, "val holds no images")
    shutil.rmtree(root / "val")
    shutil.copytree(folders / "val", root / "val")
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    check(root, "test holds no images")
    root = shutil.copytree(flat, tmp_path / "b")
    shutil.rmtree(next((root / "train").iterdir()))
    check(root, "labels val images as n.*, a class that train lacks")
    root = shutil.copytree(kaggle, tmp_path / "c")
    solution = root / "LOC_val_solution.csv"
    lines = solution.read_text().splitlines()
    solution.write_text("\n".join(lines[:-1]))
    check(root, "labels 8 val images, but there are 9")
    solution.write_text("\n".join([*lines[:-1], "other,n1 1 2 3 4"]))
    check(root, "has no label for the val image 'ILSVRC2012_val")
    solution.write_text("\n".join([*lines, lines[1].split(",")[0] + ",n00000000 1 2 3 4"]))
    check(root, "has two labels")
    solution.write_text("\n".join([*lines, "a,b,c"]))
    check(root, f"line {len(lines) + 1}: expected ImageId")
    single = tmp_path / "d/n1"
    single.mkdir(parents=True)
    (single / "a.jpg").touch()
    check(single.parent, "no class has a second image", 0.5)


@pytest.mark.parametrize("name", [TRAIN, VAL])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 511)), min_size=1, max_size=6),
    values=st.binary(min_size=6, max_size=12),
    keep=st.floats(0.2, 2),
)
def test_any_tar(
    name: str,
    places: list[tuple[int, int]],
    values: bytes,
    keep: float,
    tmp_path: Path,
    tars: dict[str, bytes],
) -> None:
    """Changed headers and cuts: a DataError or a source, in a moment, and nothing written."""
    data = bytearray(tars[name])
    for (block, byte), value in zip(places, values, strict=False):
        if headers := [match.start() - 257 for match in re.finditer(b"ustar", data)]:
            data[headers[block % len(headers)] + byte] = value
    for other in tars:
        (tmp_path / other).write_bytes(tars[other])
    (tmp_path / name).write_bytes(data[: int(keep * len(data))])
    with suppress(DataError):
        find_source(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(tars)


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("tars")
    write_archives(root, classes=2, train=2, val=2, damaged=False)
    return {name: (root / name).read_bytes() for name in (TRAIN, VAL)}  # no devkit: quicker


NEW = st.one_of(
    st.binary(max_size=40), st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace"))
)


@pytest.mark.parametrize(
    ("layout", "name", "examples"),
    [
        ("flat", f"ILSVRC2012_devkit_t12/data/{TRUTH}", 8),
        ("flat", "ILSVRC2012_devkit_t12/data/meta.mat", 12),
        ("2010", TEST_TRUTH, 10),
        ("kaggle", "LOC_val_solution.csv", 80),
        ("kaggle", "LOC_synset_mapping.txt", 80),
    ],
)
def test_any_labels(layout: str, name: str, examples: int, kits: dict[str, Path]) -> None:
    """Any bytes in the devkit or Kaggle's CSV files: a DataError or a source. scipy can crash on some."""
    root = kits[layout]
    before = (root / name).read_bytes()

    @settings(max_examples=examples, deadline=None)
    @example(start=0.0, length=0, new=b"\x1c")  # white space to str.strip(), not to int()
    @given(start=st.floats(0, 1), length=st.integers(0, 40), new=NEW)
    def check(start: float, length: int, new: bytes) -> None:
        place = int(start * len(before))
        (root / name).write_bytes(before[:place] + new + before[place + length :])
        with suppress(DataError):
            find_source(root)

    try:
        check()
    finally:
        (root / name).write_bytes(before)


@pytest.fixture(scope="module")
def kits(
    flat: Path, kaggle: Path, archives_2010: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("kits")
    shutil.copytree(flat, root / "flat")
    shutil.copytree(kaggle, root / "kaggle")
    packed = root / "flat" / KIT
    with tarfile.open(packed) as tar:
        tar.extractall(root / "flat", filter="data")
    packed.unlink()
    shutil.copytree(archives_2010, root / "2010")
    return {name: root / name for name in ("flat", "kaggle", "2010")}
