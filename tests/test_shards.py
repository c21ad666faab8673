"""WebDataset shards, and a prepared dataset, give the dataset that class folders give."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from shards import content, labelled, photo

from pipeline.dataset import Dataset
from pipeline.errors import DataError
from pipeline.prep.prepare import prepare
from pipeline.source.find import find_source
from pipeline.source.miniature import WNIDS, tar, write
from pipeline.source.miniature_shards import write_webdataset
from pipeline.source.names import ilsvrc_names

LABELS = [f"{number}" for number in range(3)]
ILSVRC = sorted(ilsvrc_names())


@pytest.fixture(scope="module")
def webdataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("webdataset")
    write_webdataset(root, **SMALL)
    return root


def shard(root: Path, *samples: tuple[str, str, dict[str, Any] | None], split: str = "train") -> Path:
    """Write a shard of (key, label, JSON); an empty label or None stands for no such member."""
    members = []
    for number, (key, label, about) in enumerate(samples):
        members += [(f"{key}.cls", f"{label}\n".encode())] * bool(label)
        members += [(f"{key}.jpg", photo(number))]
        members += [(f"{key}.json", json.dumps(about).encode())] * (about is not None)
    count = len(list(root.glob(f"a-{split}-*")))
    write(root / f"a-{split}-{count:03d}.tar", tar(members))
    return root


def test_webdataset_gives_the_bytes_of_class_folders(
    webdataset: Path, dataset: Dataset, tmp_path: Path
) -> None:
    source = find_source(webdataset)
    assert source.kind == (
        f"WebDataset shards in {webdataset}: imagenet1k-train-*.tar (2 files, whose numbers are those of the "
        "sorted wnids), imagenet1k-validation-00.tar (1 file) labelled by wnid"
    )
    made = prepare(source, tmp_path / "out", workers=2, max_rejected=0.5)
    assert content(made) == content(dataset)
    assert made.made["rejected"] == 3
    rows = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert {row["file"] for row in rows} <= {str(path) for path in webdataset.glob("*train*")}


@pytest.mark.parametrize("move", [lambda root, split, path: root / split / path.name, None])
def test_shards_in_folders_of_splits(
    webdataset: Path, tmp_path: Path, move: Callable[[Path, str, Path], Path] | None
) -> None:
    for path in webdataset.glob("*.tar"):
        split = "train" if "train" in path.name else "validation"
        place = move(tmp_path, split, path) if move else tmp_path / "data" / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    (place.parent / "notes.txt").write_text("text")
    source = find_source(tmp_path)
    assert {split: len(each) for split, each in source.splits.items()} == {"train": 31, "val": 9}
    assert [left.name for left in source.left] == ["notes.txt"]


def test_a_shard_may_be_called_as_another_begins(tmp_path: Path) -> None:
    shard(tmp_path, ("0", "0", None), ("1", "1", None))
    shard(tmp_path, ("2", "0", None), ("3", "1", None), split="val")
    only = tmp_path / "a-train-000.tar"
    shutil.copy(only, only.with_name(f"{only.name}.tar"))
    assert "a-train-000.tar*.tar (2 files, " in find_source(tmp_path).kind


def test_numbers_alone_stay_what_they_are(tmp_path: Path) -> None:
    write_webdataset(tmp_path, numbers_only=True, **SMALL | {"classes": 12, "train": 1, "val": 1})
    source = find_source(tmp_path)
    assert [each.wnid for each in source.classes] == [str(number) for number in range(12)]
    assert [each.words for each in source.classes] == [str(number) for number in range(12)]
    assert "numbers, 0 to 11, are kept, as no wnid is known" in source.kind
    assert source.named == "12 from their labels (--names FILE gives others)"
    assert {each.label for each in source.splits["val"]} == set(range(12))
    (tmp_path / "names.csv").write_text("3,three\n11,eleven\n")
    classes = find_source(tmp_path, names=tmp_path / "names.csv").classes
    assert [classes[number].words for number in (3, 4, 11)] == ["three", "4", "eleven"]


def test_numbers_in_another_order_than_the_wnids_are_remapped(tmp_path: Path) -> None:
    for split in ("train", "val"):
        shard(
            tmp_path,
            *(
                (f"{wnid}_1", str(number), {"filename": f"{wnid}/{wnid}_1.JPEG"})
                for number, wnid in enumerate(reversed(WNIDS[:4]))
            ),
            split=split,
        )
    source = find_source(tmp_path)
    assert "whose numbers are not those of the sorted wnids, which they get" in source.kind
    assert labelled(source) == {f"{wnid}_1.JPEG": wnid for wnid in WNIDS[:4]}
    assert [each.wnid for each in source.classes] == WNIDS[:4]


def test_the_wnid_of_a_training_image_explains_the_number_of_another(tmp_path: Path) -> None:
    """As in sets of which training images have ImageNet's names, and others only numbers."""
    shard(tmp_path, (f"{ILSVRC[7]}_1", "7", None), (f"{ILSVRC[1]}_1", "1", None))
    shard(tmp_path, ("a", "1", None), ("b", "7", None), split="val")
    source = find_source(tmp_path)
    assert labelled(source, "val") == {"a.jpg": ILSVRC[1], "b.jpg": ILSVRC[7]}
    assert "those of the sorted wnids" in source.kind  # among all of ILSVRC's
    shard(tmp_path, ("c", "2", None), split="val")
    with pytest.raises(DataError, match=r"a-val-001.tar: c.jpg has the label 2, which no training image"):
        find_source(tmp_path)


def test_labels_of_several_wnids_are_classes_of_their_own(tmp_path: Path) -> None:
    for split in ("train", "val"):
        shard(
            tmp_path,
            *((f"{wnid}_1", str(place // 2), None) for place, wnid in enumerate(WNIDS[:4])),
            split=split,
        )
    source = find_source(tmp_path)
    assert [each.wnid for each in source.classes] == ["0", "1"]
    assert [each.label for each in source.splits["train"]] == [0, 0, 1, 1]


def test_labels_may_be_names_and_json_alone(tmp_path: Path) -> None:
    shard(tmp_path / "text", ("a", "owl", None), ("b", "cat", None))
    shard(tmp_path / "text", ("c", "cat", None), split="val")
    assert labelled(find_source(tmp_path / "text")) == {"a.jpg": "owl", "b.jpg": "cat"}
    for split in ("train", "val"):
        about = [{"label": number, "class_name": name} for number, name in enumerate(("owl", "cat"))]
        shard(tmp_path / "json", ("a", "", about[0]), ("b", "", about[1]), split=split)
    source = find_source(tmp_path / "json")
    assert [(each.wnid, each.words) for each in source.classes] == [("owl", "owl"), ("cat", "cat")]
    assert labelled(source) == {"a.jpg": "owl", "b.jpg": "cat"}
    assert source.named == "2 from the metadata of WebDataset shards (--names FILE gives others)"
    assert find_source(tmp_path / "text").named == "2 from their labels (--names FILE gives others)"


STOPS: dict[str, tuple[list[tuple[str, str, dict[str, Any] | None]], str]] = {
    "one number, two wnids": (
        [(f"{WNIDS[0]}_1", "0", None), (f"{WNIDS[1]}_1", "1", None), (f"{WNIDS[1]}_2", "0", None)],
        f"the label 0 and the wnid {WNIDS[0]}, but {WNIDS[1]} elsewhere",
    ),
    "a number without images": ([("a", "0", None), ("b", "3", None)], "0 to 3, but 2 of those .* as 1: add"),
    "an image without a label": ([("a", "0", None), ("b", "", None)], "b.jpg has no label"),
    "a label of bytes": ([("a", "\x00\x01", None)], "label of a.jpg is neither a number nor a name"),
}  # fmt: skip


@pytest.mark.parametrize("stop", STOPS)
def test_shards_that_stop_prep(stop: str, tmp_path: Path) -> None:
    samples, message = STOPS[stop]
    shard(tmp_path, *samples)
    with pytest.raises(DataError, match=message) as error:
        find_source(tmp_path, 0.5)
    assert "\n" not in str(error.value)


def test_a_damaged_shard_is_named(webdataset: Path, tmp_path: Path) -> None:
    shutil.copytree(webdataset, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "imagenet1k-train-0001.tar"
    last.write_bytes(last.read_bytes()[:-5000])
    with pytest.raises(DataError, match=r"imagenet1k-train-0001\.tar is cut off or damaged"):
        find_source(tmp_path)
    last.write_bytes(b"")
    with pytest.raises(DataError, match=r"imagenet1k-train-0001\.tar is damaged .*empty file"):
        find_source(tmp_path)


def test_what_a_shard_holds_beside_images_is_listed(tmp_path: Path) -> None:
    about = json.dumps({"filename": "x/first.JPEG"}).encode()
    members = [("a.txt", b"t"), ("a.cls", b"0"), ("a.jpg", photo(0)), ("a.seg.png", photo(1)), (".x", b"")]
    members += [("a.json", about), ("c.cls", b"1"), ("info.json", b"{}")]
    write(tmp_path / "b-train.tar", tar([*members, ("b.cls", b"1"), ("b.JPEG", photo(2))]))
    members = [("a.cls", b"0"), ("a.jpg", photo(0)), ("b.cls", b"1"), ("b", photo(3))]
    write(tmp_path / "b-val.tar", tar(members))
    source = find_source(tmp_path)
    assert {each.name: each.reason for each in source.left} == {
        "a.txt": "no image by its first bytes",
        "a.seg.png": "a second image of one label",
        "c.cls": "a label without an image",
        "info.json": "a label without an image",
    }
    assert source.passed == 1 and labelled(source, "val") == {"a.jpg": "0", "b": "1"}
    assert labelled(source) == {"first.JPEG": "0", "b.JPEG": "1"}


def test_one_folder_of_shards_is_divided_by_a_fraction(tmp_path: Path) -> None:
    for number in range(8):  # enough for several processes
        shard(tmp_path / str(number), (f"{number:03d}", str(number % 2), None))
        (tmp_path / str(number) / "a-train-000.tar").rename(tmp_path / f"{number:06d}.tar")
        (tmp_path / str(number)).rmdir()
    source = find_source(tmp_path, 0.25)
    assert {split: len(each) for split, each in source.splits.items()} == {"train": 6, "val": 2}
    assert ": *.tar (8 files, whose numbers, 0 to 1, are kept" in source.kind


def test_a_prepared_dataset_of_originals_gives_its_own_bytes(originals: Dataset, tmp_path: Path) -> None:
    source = find_source(originals.root)
    assert source.kind == f"a prepared dataset of originals in {originals.root}: train, val, test"
    made = prepare(source, tmp_path / "out", size="original", workers=1)
    assert made.classes == originals.classes and [each.words for each in made.classes] == WNIDS[:3]
    assert {name: made.samples(name) for name in made.splits} == {"train": 28, "val": 9, "test": 5}
    assert content(made)["val"] == content(originals)["val"]


def test_our_shards_without_their_dataset_json(dataset: Dataset, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(
            dataset.root / split, tmp_path / split, ignore=shutil.ignore_patterns("*.npy", "*.txt")
        )
    source = find_source(tmp_path)
    assert [each.wnid for each in source.classes] == LABELS and len(source.splits["train"]) == 28
    assert {each.reason for each in source.left} == {"beside the splits, not read"}  # DALI's indexes


def test_raw_pixels_are_refused(raw: Dataset) -> None:
    with pytest.raises(DataError, match="holds raw pixels, no images: give the folder"):
        find_source(raw.root)
