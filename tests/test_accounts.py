"""Every file of a root is used, listed with its reason or passed over and counted; two readings stop prep."""

import io
import json
import os
import shutil
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli import main
from pipeline.dataset import open_dataset, read_names
from pipeline.errors import DataError
from pipeline.prep.prepare import prepare
from pipeline.source.find import Source, find_source


def photo(seed: int = 0, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


PHOTO = photo()


def put(path: Path, data: bytes = PHOTO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def folders(root: Path, *classes: str, each: int = 3, splits: tuple[str, ...] = ("train", "val")) -> Path:
    for split in splits:
        for name in classes:
            for number in range(each):
                put(root / split / name / f"{split}_{name}_{number}.JPEG")
    return root


def tarred(*members: tuple[str, bytes | None, dict[str, object]]) -> bytes:
    """A tar of (name, data, other fields of its header)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data, fields in members:
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data) if data else None)
    return file.getvalue()


def names(source: Source, split: str) -> list[str]:
    return [sample.name for sample in source.splits[split] if not sample.fault]


def faults(source: Source) -> dict[str, str]:
    """Why what is not used is not, by name."""
    faulty = {sample.name: sample.fault for samples in source.splits.values() for sample in samples}
    return {name: why for name, why in faulty.items() if why} | {
        each.name: each.reason for each in source.left
    }


DOG = tarred(
    ("dog_0.JPEG", PHOTO, {}),
    ("dog_twice.JPEG", photo(1), {}),
    ("sub/dog_deep.png", photo(2, "PNG"), {}),
    ("dog_hard.JPEG", None, {"type": tarfile.LNKTYPE, "linkname": "dog_0.JPEG"}),
    ("sub/dog_soft.JPEG", None, {"type": tarfile.SYMTYPE, "linkname": "../dog_later.JPEG"}),
    ("dog_out.JPEG", None, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
    ("dog_lost.JPEG", None, {"type": tarfile.LNKTYPE, "linkname": "gone.JPEG"}),
    ("dog_circle.JPEG", None, {"type": tarfile.SYMTYPE, "linkname": "dog_circle.JPEG"}),
    ("dog_pipe.JPEG", None, {"type": tarfile.FIFOTYPE}),
    ("dog_device.JPEG", None, {"type": tarfile.CHRTYPE}),
    ("dog_sparse.JPEG", None, {"type": tarfile.GNUTYPE_SPARSE}),
    ("dog.txt", b"text", {}),
    ("__MACOSX/._dog_0.JPEG", b"fork", {}),
    ("sub", None, {"type": tarfile.DIRTYPE}),
) + tarred(("dog_twice.JPEG", photo(3), {}), ("dog_later.JPEG", photo(4), {}))
USED = {"cat_0.JPEG", "cat_1.JPEG", "cat_2.JPEG", "cat_deep.jpg", "cat_bare", "cat.jfif", "cat_link.JPEG"} | {
    *("dog_0.JPEG", "dog_twice.JPEG", "dog_deep.png", "dog_hard.JPEG", "dog_soft.JPEG", "dog_later.JPEG"),
    *("fox_0.JPEG", "cat_5.JPEG"),
}
REJECTED = {
    "cat_half.JPEG": "Premature end",
    "cat_out.JPEG": "out of the root",
    "cat_gone.JPEG": "leads nowhere",
    "cat_pipe.JPEG": "a named pipe",
    "cat_to_pipe.JPEG": "a link to a named pipe",
    "cat_socket.JPEG": "a socket",
    "cat_zero.JPEG": "a link to a device",
    "dog_out.JPEG": "out of the archive",
    "dog_lost.JPEG": "does not hold",
    "dog_circle.JPEG": "to no file",
    "dog_pipe.JPEG": "a named pipe",
    "dog_device.JPEG": "a device",
    "dog_sparse.JPEG": "sparse",
}
LEFT = {
    "cat.txt": "no image",
    "again": "under another name",
    "away": "outside the root",
    "cats.zip": "unpack it",
    "dog_twice.JPEG": "replaced by a later member",
    "dog.txt": "no image",
    "classes.txt": "no image",
    "README": "beside the splits",
}
PASSED = (
    "train/.DS_Store",
    "train/cat/Thumbs.db",
    "train/cat/@eaDir/cat_0.JPEG",
    "val/desktop.ini",
    "__MACOSX/._train",
)


def write_all_kinds(root: Path, away: Path) -> None:
    """The root that USED, REJECTED, LEFT and PASSED describe."""
    cat = root / "train/cat"
    for number in range(3):
        put(cat / f"cat_{number}.JPEG", photo(10 + number))
    for name in ("part2/cat_deep.jpg", "images/a/cat_bare", "cat.jfif"):
        put(cat / name)
    put(cat / "cat.txt", b"text"), put(cat / "cats.zip", b"PK\3\4")
    put(cat / "cat_half.JPEG", PHOTO[: len(PHOTO) // 2])
    (cat / "cat_link.JPEG").symlink_to("part2/cat_deep.jpg")
    (cat / "cat_out.JPEG").symlink_to(put(away / "x.JPEG"))
    (cat / "cat_gone.JPEG").symlink_to("gone")
    (cat / "cat_zero.JPEG").symlink_to("/dev/zero")
    (cat / "again").symlink_to("..")
    (cat / "away").symlink_to(away)
    os.mkfifo(cat / "cat_pipe.JPEG")
    (cat / "cat_to_pipe.JPEG").symlink_to("cat_pipe.JPEG")
    os.chdir(cat)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("cat_socket.JPEG")
    put(root / "train/dog.tar", DOG)
    put(root / "train/fox.TAR", tarred(("fox_0.JPEG", PHOTO, {})))
    put(root / "train/classes.txt", b"cat dog fox")
    put(root / "val/cat/cat_5.JPEG")
    put(root / "README", b"text")
    for name in PASSED:
        put(root / name, b"other programs'")
    (root / "train/lost+found").mkdir()


def test_one_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root, out = tmp_path / "root", tmp_path / "root/data/imagenet"
    write_all_kinds(root, tmp_path / "away")
    arguments = [
        "prep",
        "--imagenet-root",
        str(root),
        "--out",
        str(out),
        "--workers",
        "1",
        "--max-rejected",
        "1",
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    dataset = open_dataset(out)
    used = read_names(dataset, "train") + read_names(dataset, "val")
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert sorted(used) == sorted(USED)
    for left, expected in ((False, REJECTED), (True, LEFT)):
        reasons = {line["name"]: line["reason"] for line in lines if line.get("left_out", False) == left}
        assert set(reasons) == set(expected)
        for name, reason in expected.items():
            assert reason in reasons[name], name
    passed = len(PASSED) + 2  # lost+found, and a member of the tar
    assert (dataset.made["rejected"], dataset.made["left_out"]) == (len(REJECTED), len(LEFT))
    assert dataset.made["passed_over"] == passed
    for row in (f"rejected  {len(REJECTED)},", f"left out  {len(LEFT)} ", f"ignored   {passed} "):
        assert row in result.output
    assert len(used) + len(lines) + passed == count_entries(root, out) + len(DOG_MEMBERS) + 1 - 2


with tarfile.open(fileobj=io.BytesIO(DOG), ignore_zeros=True) as dog:
    DOG_MEMBERS = [member.name for member in dog if not member.isdir()]


def count_entries(root: Path, out: Path) -> int:
    """Files of any kind, links, and folders of other programs, as one entry each; not what prep made."""
    count = 0
    for folder, inside, files in os.walk(root):
        links = [name for name in inside if Path(folder, name).is_symlink()]
        others = [name for name in inside if name in ("@eaDir", "__MACOSX", "lost+found")]
        inside[:] = [name for name in inside if name not in others and Path(folder, name) != out]
        count += len(files) + len(links) + len(others)
    return count


def test_links_to_one_another_end(tmp_path: Path) -> None:
    root = folders(tmp_path / "root", "cat", "dog")
    (root / "train/cat/dogs").symlink_to("../dog")
    (root / "train/dog/cats").symlink_to("../cat")
    (root / "train/loop").symlink_to(".")
    (root / "train/self.JPEG").symlink_to("self.JPEG")
    (root / "train/copy").symlink_to("cat")
    with pytest.raises(DataError, match=r"self.JPEG beside its classes"):
        find_source(root)
    (root / "train/self.JPEG").unlink()
    source = find_source(root)
    assert [category.wnid for category in source.classes] == ["cat", "dog"]
    assert len(names(source, "train")) == 12  # each class, and the other one through its link
    assert set(faults(source)) == {"cats", "dogs", "copy", "loop"}


def test_splits_and_classes_may_be_links(tmp_path: Path) -> None:
    """Also to class tars; and where all images of a split are links, they are what is meant."""
    away, root = folders(tmp_path / "away", "cat", "dog"), tmp_path / "root"
    put(away / "fox.tar", tarred(("fox_0.JPEG", PHOTO, {})))
    (root / "train").mkdir(parents=True)
    for name in ("train/cat", "train/dog"):
        (root / name).symlink_to(away / name)
    (root / "train/fox.tar").symlink_to(away / "fox.tar")
    for path in away.glob("val/*/*"):
        (root / path.relative_to(away).parent).mkdir(parents=True, exist_ok=True)
        (root / path.relative_to(away)).symlink_to(path)
    source = find_source(root)
    assert (len(names(source, "train")), len(names(source, "val")), faults(source)) == (7, 6, {})
    assert "val (links that lead out of the root) labelled by folder" in source.kind
    put(root / "val/cat/own.JPEG")
    source = find_source(root)
    assert names(source, "val") == ["own.JPEG"] and len(faults(source)) == 6
    with pytest.raises(DataError, match=r"6 of 14 images .*the first is .*val_cat_0.JPEG.*out of the root"):
        prepare(source, tmp_path / "out")


@pytest.mark.parametrize("split", ["training", "Train", "TRAIN"])
@pytest.mark.parametrize("val", ["validation", "valid", "Val"])
def test_splits_of_other_names(split: str, val: str, tmp_path: Path) -> None:
    folders(tmp_path, "cat", splits=(split, val, "testing"))
    assert {name: len(images) for name, images in find_source(tmp_path).splits.items()} == {
        "train": 3,
        "val": 3,
        "test": 3,
    }


def test_val_sorted_by_half(flat: Path, tmp_path: Path) -> None:
    """With the devkit's labels there is one reading, which is checked; without them none."""
    expected = find_source(flat)
    root = shutil.copytree(flat, tmp_path / "root")
    wnids = [category.wnid for category in expected.classes]
    for image in expected.splits["val"][::2]:
        (root / "val" / wnids[image.label]).mkdir(exist_ok=True)
        (root / "val" / image.name).rename(root / "val" / wnids[image.label] / image.name)
    found = find_source(root).splits["val"]
    assert [(image.name, image.label) for image in found] == [
        (image.name, image.label) for image in expected.splits["val"]
    ]
    second = expected.splits["val"][1]
    (root / "val" / second.name).rename(root / "val" / wnids[second.label - 1] / second.name)
    with pytest.raises(
        DataError, match=f"{second.name} lies in another class folder than {wnids[second.label]}"
    ):
        find_source(root)
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(
        DataError, match=r"val is only partly sorted: 3 images, as ILSVRC2012_val_0+4.JPEG, lie beside"
    ):
        find_source(root)


def test_archives_beside_what_was_unpacked_of_them(archives: Path, folders: Path, tmp_path: Path) -> None:
    """Of an archive and a folder the one is read that holds all; nothing twice, the other one is listed."""
    root = shutil.copytree(folders, tmp_path / "root")
    counts = {split: len(images) for split, images in find_source(root).splits.items()}

    def check(*left: str) -> Source:
        source = find_source(root)
        assert {split: len(images) for split, images in source.splits.items()} == counts
        assert set(faults(source)) == set(left)
        return source

    for split in ("train", "val"):
        tar = f"ILSVRC2012_img_{split}.tar"
        for place in (root / split / tar, root / tar):
            shutil.copy(archives / tar, place)
            check(tar)
            place.unlink()
    shutil.copy(archives / "ILSVRC2012_img_train.tar", root / "train")
    gone = next((root / "train").glob("*/*"))
    gone.unlink()
    assert "ImageNet's archives" in check("train").kind
    put(gone.with_name("another.JPEG"))
    with pytest.raises(DataError, match=r"both hold .* move one of them away"):
        find_source(root)


def test_class_tars_beside_class_folders(tmp_path: Path) -> None:
    root = folders(tmp_path, "cat", "dog")
    whole = [(f"train_cat_{number}.JPEG", PHOTO, {}) for number in range(3)]
    for place in (root / "train/cat.tar", root / "train/cat/cat.tar"):
        put(place, tarred(*whole))
        source = find_source(root)
        assert len(source.splits["train"]) == 6 and set(faults(source)) == {"cat.tar"}
        put(place, tarred(*whole, ("more.JPEG", PHOTO, {})))  # of which not all is unpacked
        source = find_source(root)
        assert len(source.splits["train"]) == 7 and set(faults(source)) == {"cat"}
        put(place, tarred(("more.JPEG", PHOTO, {})))
        source = find_source(root)
        assert len(source.splits["train"]) == 7 and not faults(source)
        put(place, tarred(*whole[:1], ("more.JPEG", PHOTO, {})))
        with pytest.raises(DataError, match=r"both hold train_cat_0.JPEG"):
            find_source(root)
        place.unlink()


STOPS: dict[str, tuple[dict[str, bytes], str]] = {
    **{
        f"class in {suffix}": (
            {f"train/fox{suffix}": b"?"},
            rf"train/fox{suffix} is an archive that cannot be read",
        )
        for suffix in (".tar.gz", ".tgz", ".zip", ".TGZ")
    },
    "tar that is gzipped": ({"train/fox.tar": b"\x1f\x8b\x08"}, "fox.tar is compressed, by its first bytes"),
    "stray image": ({"train/stray.JPEG": PHOTO}, "train holds the image stray.JPEG beside its classes"),
    "stray image without suffix": ({"train/stray": PHOTO}, "train holds the image stray beside its classes"),
    "stray validation image": (
        {"val/stray.JPEG": PHOTO},
        "val is only partly sorted: 1 images, as stray.JPEG",
    ),
    "class of val alone": ({"val/fox/a.JPEG": PHOTO}, "val has the class fox, which train lacks"),
    "class without images": ({"train/fox/notes.txt": b"text"}, "train has no images of the class fox"),
    "two folders for val": ({"valid/cat/a.JPEG": PHOTO}, "val and .*valid may both be val"),
    "names alike in print": (
        {"train/a\rb/1.jpg": PHOTO, "train/a\\rb/1.jpg": PHOTO},
        "differ only in what cannot",
    ),
    "a dataset": ({"dataset.json": b"{}", "statistics.npz": b""}, "is what prep or train has made"),
}


@pytest.mark.parametrize("stop", STOPS)
def test_roots_that_stop_prep(stop: str, tmp_path: Path) -> None:
    files, message = STOPS[stop]
    folders(tmp_path, "cat", "dog")
    for name, data in files.items():
        put(tmp_path / name, data)
    with pytest.raises(DataError, match=message) as error:
        find_source(tmp_path)
    assert "\n" not in str(error.value)


def test_empty_folder_beside_wnids_is_no_class(tmp_path: Path) -> None:
    folders(tmp_path, "n01440764", "n01443537")
    for split in ("train", "val"):
        (tmp_path / split / "new folder").mkdir()
    source = find_source(tmp_path)
    assert len(source.classes) == 2 and faults(source) == {"new folder": "a folder without images"}
    (tmp_path / "train/n01484850").mkdir()
    with pytest.raises(DataError, match=r"no images of the class n01484850.*remove .*train/n01484850"):
        find_source(tmp_path)


def test_roots_one_level_off(tmp_path: Path) -> None:
    root = folders(tmp_path / "a", "cat", "dog")
    with pytest.raises(DataError, match=f"but {root} looks like one: give --imagenet-root {root}"):
        find_source(tmp_path)
    shutil.move(root / "train", tmp_path / "b/train/images")
    shutil.move(root / "val", tmp_path / "b/val")
    with pytest.raises(DataError, match="train has one folder, images, in which 2 folders hold images"):
        find_source(tmp_path / "b")


def test_names_are_one_line_each(tmp_path: Path) -> None:
    odd = {"a\nb.jpg": "a\\nb.jpg", "a\rb.jpg": "a\\rb.jpg", "\x1b[31m.jpg": "\\x1b[31m.jpg"}
    odd |= {
        os.fsdecode(b"caf\xe9.jpg"): "caf\\xe9.jpg",
        "a\u2028b.jpg": "a\\u2028b.jpg",
        "Bild 図.jpg": "Bild 図.jpg",
    }
    broken = os.fsdecode(b"br\xf6ken.jpg")
    root = folders(tmp_path / "root", "cat", os.fsdecode(b"cl\xe4ss"))
    for name in odd:
        put(root / "val/cat" / name)
    put(root / "val/cat" / broken, b"no image")
    dataset = prepare(find_source(root), tmp_path / "out", workers=1)
    text = (tmp_path / "out/val/names.txt").read_bytes().decode("utf-8")
    assert set(text.splitlines()) == {
        *odd.values(),
        *(f"val_{c}_{i}.JPEG" for c in ("cat", "cl\\xe4ss") for i in range(3)),
    }
    assert read_names(dataset, "val") == text.splitlines()
    assert [category.wnid for category in open_dataset(tmp_path / "out").classes] == ["cat", "cl\\xe4ss"]
    (line,) = (json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines())
    assert (line["name"], line["file"]) == ("br\\xf6ken.jpg", str(root / "val/cat" / broken))


def test_out_inside_the_root(tmp_path: Path) -> None:
    """An output of ours, whole or half made, is no class and no file of the root."""
    root = folders(tmp_path, "cat", "dog", each=4, splits=("root",)) / "root"
    before = find_source(root, 0.25)
    (root / "data/imagenet/.work").mkdir(parents=True)
    assert find_source(root, 0.25) == before
    (root / "cat/.work").mkdir()  # beside images, no mark of ours
    assert (find_source(root, 0.25).splits, find_source(root, 0.25).passed) == (before.splits, 1)
    (root / "cat/.work").rmdir()
    shutil.rmtree(root / "data")
    prepare(before, root / "data/imagenet", workers=1)
    for name in ("run.json", "metrics.jsonl", "filters.png"):
        put(root / "runs/original" / name)
    assert find_source(root, 0.25) == before
