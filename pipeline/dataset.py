"""Describe the prepared dataset on disk, which prep writes and all other commands read.

dataset.json          what is here: the classes and every shard, with its size and checksum; written last
statistics.npz        the mean image and the colour statistics: pipeline/statistics.py
rejected.jsonl        the images that were left out, and why
SPLIT/000000.tar      a WebDataset shard, of .jpg or, raw, of .npy; DALI's index of it is .idx
SPLIT/samples.npy     where each sample's JPEG or pixels lie in the shards, and its label
SPLIT/names.txt       each sample's file name in the source, a line each, in the same order
"""

import hashlib
import json
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct

from pipeline.atomic import replacing
from pipeline.errors import DataError
from pipeline.formats import SUFFIXES
from pipeline.schema import Array, Count, Positive, Sha256, Unfit, map_npy, need_file, read_json
from pipeline.schema import convert as fitting

FORMAT = 2
SIZE = "^(original|[89]|[1-9][0-9]{1,2}|10[01][0-9]|102[0-4])$"  # "original", or a side from 8 to 1024
Size = Annotated[str, Meta(pattern=SIZE)]
SPLITS = ("train", "val", "test")
SHARDS = (".tar", ".tar.gz", ".tgz", ".parquet")
LOOKED_AT = 100  # folders that are searched for images
WORK = ".work"  # prep's own folder, inside a dataset that is not finished yet
# One row per sample: its image is bytes [offset, offset + size) of a shard; label -1 where there is none.
INDEX = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<i4")])


@dataclass(frozen=True)
class Category:
    """Describe a class: its label, its folder's name (in ImageNet its wnid), and its name for people."""

    index: Count
    wnid: str
    words: str
    ilsvrc_id: Count | None  # 1-based, in the devkit's order; None where no devkit said


@dataclass(frozen=True)
class Shard:
    """Describe a shard: its place in the dataset, number of images, size and checksum."""

    name: str  # "train/000000.tar"
    samples: Count
    bytes: Positive
    sha256: Sha256


class Made(Struct):
    """Hold what decides the bytes of a dataset; prep writes it to plan.json, at the end to dataset.json."""

    size: Size
    store: Literal["jpeg", "raw"]
    seed: Annotated[int, Meta(ge=0)]
    images: Sha256  # of all labels and names
    pillow: str
    simplejpeg: str
    exif: Literal["honour", "ignore"] = "ignore"  # the default before the option existed
    rejected: Count = 0  # in dataset.json, as the next three
    left_out: Count = 0
    passed_over: Count = 0
    flawed: dict[str, Count] = {}  # how many images have each harmless flaw


class Description(Struct):
    """Hold what dataset.json must contain beside its format."""

    size: Size
    store: Literal["jpeg", "raw"]
    made: dict[str, Any]
    files: dict[str, Sha256]
    splits: dict[Annotated[str, Meta(pattern="^(train|val|test)$")], tuple[Shard, ...]]
    classes: tuple[Category, ...]


@dataclass(frozen=True)
class Dataset:
    """Hold dataset.json and the folder that it is in: the classes in the order of labels, and the shards."""

    root: Path
    size: str
    store: str
    classes: tuple[Category, ...]
    splits: dict[str, tuple[Shard, ...]]
    files: dict[str, str]  # SHA-256 of the files beside the shards; older datasets list no .idx
    made: dict[str, Any]  # how it was made: source, settings, versions

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the content: the same wherever and whenever it was made."""
        content = _content(self)
        text = json.dumps([content[key] for key in ("size", "store", "classes", "splits")])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def kind(self) -> str:
        """Return the kind of images: "original" or a number, JPEGs of that size; or "raw", their pixels."""
        return "raw" if self.store == "raw" else self.size

    @property
    def side(self) -> int:
        """Return the side, in pixels, of the squares that crops are cut from."""
        return side_of(self.size)

    def command(self, *words: str) -> str:
        """Return the command of prep with these words and the settings that it was made with, for a shell."""
        size = [] if self.size == "256" else ["--size", self.size]
        store = [] if self.store == "jpeg" else ["--store", self.store]
        seed = ["--seed", str(self.made["seed"])] if self.made.get("seed") else []
        return shlex.join(["alexnet-dali", "prep", *words, "--out", str(self.root), *size, *store, *seed])

    def samples(self, split: str) -> int:
        """Return the number of images of a split."""
        return sum(shard.samples for shard in self.splits[split])


def side_of(size: str) -> int:
    """Return the side, in pixels, of the squares of a dataset of this size."""
    return 256 if size == "original" else int(size)  # originals are resized to what the paper has


def open_dataset(root: Path | str) -> Dataset:
    """Open the dataset at `root`; DataError unless shards have their sizes, other files their checksums."""
    dataset = read_description(Path(root))
    for name, fault in find_faults(dataset).items():
        raise DataError(f"{dataset.root / name} {fault}: {_repair(dataset)}")
    return dataset


def read_description(root: Path) -> Dataset:
    """Read dataset.json, whether or not the shards are there."""
    path, prep = root / "dataset.json", _prep(root)
    try:
        content = read_json(path, dict[str, Any])
        if content.get("format") != FORMAT:
            raise DataError(
                f"{path} has format {content.get('format')!r}, this version reads format {FORMAT}; "
                f"prepare into a new folder: {prep}"
            )
        said = fitting(content, Description)
        _check(said)
    except FileNotFoundError:
        if (root / WORK).is_dir():
            raise DataError(f"{root} is partly prepared; finish it with the same command: {prep}") from None
        raise DataError(_missing(root)) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except Unfit as error:
        raise DataError(f"{path} is damaged: {error}; move it away and prepare again: {prep}") from None
    return Dataset(root, said.size, said.store, said.classes, said.splits, said.files, said.made)


def write_description(dataset: Dataset) -> None:
    """Write dataset.json, with which the dataset is complete."""
    with replacing(dataset.root / "dataset.json") as file:
        file.write(json.dumps(_content(dataset), indent=1).encode() + b"\n")


def find_faults(dataset: Dataset, checksums: bool = False, threads: int = 8) -> dict[str, str]:
    """Return file name -> fault. With `checksums` the shards are read, too, not only the small files."""
    shards = {shard.name: shard for shards in dataset.splits.values() for shard in shards}

    def look(name: str) -> str | None:
        path, shard = dataset.root / name, shards.get(name)
        fault = _find_cut(path, shard.bytes) if shard else None
        if fault or (shard and not checksums):
            return fault
        return _find_change(path, shard.sha256 if shard else dataset.files[name])

    names = [*shards, *dataset.files]
    with ThreadPoolExecutor(threads) as pool:
        return {name: fault for name, fault in zip(names, pool.map(look, names), strict=True) if fault}


def check_file(dataset: Dataset, name: str) -> None:
    """Raise DataError unless a file beside the shards has the checksum of dataset.json."""
    if fault := _find_change(dataset.root / name, dataset.files[name]):
        raise DataError(f"{dataset.root / name} {fault}: {_repair(dataset)}")


def _find_cut(path: Path, size: int) -> str | None:
    """Return what a file's size shows to be wrong with it."""
    try:
        actual = path.stat().st_size
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if actual == size else f"ends at byte {actual} instead of {size}"


def index_name(shard: Shard) -> str:
    """Return the name of DALI's index of a shard."""
    return shard.name.removesuffix(".tar") + ".idx"


def _find_change(path: Path, sha256: str) -> str | None:
    try:
        need_file(path)
        with open(path, "rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except Unfit as error:
        return f"cannot be read ({error})"
    return None if same else "was altered: its checksum differs"


def read_index(dataset: Dataset, split: str) -> np.ndarray:
    """Read the samples of a split as rows of INDEX, in dataset order, memory-mapped and within bounds."""
    if not dataset.splits.get(split):
        raise DataError(f"{dataset.root} has no {split} images: prepare an --imagenet-root that has them")
    path = dataset.root / split / "samples.npy"
    shards = dataset.splits[split]
    ends = np.array([shard.bytes for shard in shards], np.uint64)
    try:
        index = map_npy(path, Array((INDEX,), (dataset.samples(split),)))
        if (
            np.any(index["shard"] >= len(shards))
            or np.any(index["offset"] > ends[index["shard"]])
            or np.any(index["offset"] + index["size"] > ends[index["shard"]])
            or np.any((index["label"] < -1) | (index["label"] >= len(dataset.classes)))
            or (dataset.kind == "raw" and np.any(index["size"] != 3 * dataset.side**2))
        ):
            raise Unfit("some rows point outside the shards or the classes")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {_repair(dataset)}") from None
    except Unfit as error:
        raise DataError(f"{path} does not fit dataset.json: {error}; {_repair(dataset)}") from None
    return index


def has_labels(dataset: Dataset, split: str) -> bool:
    """Tell whether every sample of a split has a label."""
    return bool((read_index(dataset, split)["label"] >= 0).all())


def need_labels(dataset: Dataset, *splits: str) -> None:
    """Raise DataError if a split has no images, or one of them has no label."""
    for split in splits:
        if not has_labels(dataset, split):
            raise DataError(
                f"not all {split} images of {dataset.root} have labels: "
                "prepare an --imagenet-root that has them"
            )


def read_names(dataset: Dataset, split: str) -> list[str]:
    """Read each sample's file name in the source, in dataset order."""
    path = dataset.root / split / "names.txt"
    try:
        names = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {_repair(dataset)}") from None
    if len(names) != dataset.samples(split):
        raise DataError(f"{path} does not fit dataset.json: {_repair(dataset)}")
    return names


def _missing(root: Path) -> str:
    """Say how to prepare a dataset that is missing; in another folder, if `root` holds images."""
    if not _holds_images(root):
        others = sorted({path.parts[-3] for path in root.parent.glob("*/*/names.txt")})
        known = f"{root.parent} has {', '.join(others)}: choose one, or " if others else ""
        return f"no prepared dataset in {root}; {known}make it: {_prep(root)}"
    images = root.resolve()
    out = Path("data", images.name)
    if out.exists() or out.resolve().is_relative_to(images):
        out = images.with_name(f"{images.name}-prepared")
    inside = [*images.iterdir(), *(images / "data").glob("*")]
    held = any(path.name == "ILSVRC" or "val" in path.name.lower() for path in inside)
    fraction = "" if held else " --val-fraction 0.1"
    return f"{root} holds images, not a prepared dataset; prepare it first: {_prep(out, root)}{fraction}"


def _holds_images(root: Path) -> bool:
    """Tell by names whether images, or archives of them, lie in a folder that prep has not made."""
    folders = islice(os.walk(root, followlinks=True), LOOKED_AT)
    names = (name.lower() for _, _, files in folders for name in files)
    return not (root / "statistics.npz").exists() and any(n.endswith((*SUFFIXES, *SHARDS)) for n in names)


def _prep(root: Path, images: Path | str = "DIR") -> str:
    words = ("alexnet-dali", "prep", "--imagenet-root", str(images), "--out", str(root))
    return shlex.join(words)


def _repair(dataset: Dataset) -> str:
    return f"repair it with {dataset.command('--imagenet-root', 'DIR')}"


def _content(dataset: Dataset) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "size": dataset.size,
        "store": dataset.store,
        "made": dataset.made,
        "files": dataset.files,
        "splits": {name: [asdict(shard) for shard in shards] for name, shards in dataset.splits.items()},
        "classes": [asdict(category) for category in dataset.classes],
    }


def _check(said: Description) -> None:
    """Raise Unfit if the parts of dataset.json do not agree."""
    fitting(said.made, Made)
    if not said.classes or [category.index for category in said.classes] != list(range(len(said.classes))):
        raise Unfit("classes: expected index 0, 1, 2 and so on")
    for split, shards in said.splits.items():
        for number, shard in enumerate(shards):
            # The name becomes a path: only the one it must have is let through.
            if shard.name != f"{split}/{number:06d}.tar":
                raise Unfit(f"splits.{split}[{number}].name: expected {split}/{number:06d}.tar")
    needed = {f"{split}/{name}" for split in said.splits for name in ("samples.npy", "names.txt")}
    needed.add("statistics.npz")
    indexes = {index_name(shard) for shards in said.splits.values() for shard in shards}
    if wrong := (needed - said.files.keys()) | (said.files.keys() - needed - indexes):
        raise Unfit(f"files: expected those beside the shards; {min(wrong)} is missing or unknown")
