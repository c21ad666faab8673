"""The prepared dataset on disk, as prep writes it and batches reads it.

dataset.json          what is here: the classes and every shard, with its size and checksum; written last
statistics.npz        pipeline/statistics.py
rejected.jsonl        the images that were left out, and why
SPLIT/000000.tar      a WebDataset shard, of .jpg or, raw, of .npy; DALI's index of it is .idx
SPLIT/samples.npy     where each sample's JPEG or pixels lie in the shards, and its label
SPLIT/names.txt       each sample's file name in the source, a line each, in the same order
"""

import hashlib
import json
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.atomic import replacing

FORMAT = 2
SIZES = ("256", "original")
STORES = ("jpeg", "raw")
PIXELS = (256, 256, 3)  # uint8, of each image of a raw dataset
SPLITS = ("train", "val", "test")
WORK = ".work"  # prep's own folder, inside a dataset that is not finished yet
# One row a sample: its image is bytes [offset, offset + size) of a shard; label -1 where there is none.
INDEX = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<i4")])


class DataError(Exception):
    """Something wrong with the data that its user can mend: one line that says what, where and how."""


@dataclass(frozen=True)
class Category:
    index: int
    wnid: str
    words: str
    ilsvrc_id: int | None  # 1-based, in the devkit's order; None where no devkit said


@dataclass(frozen=True)
class Shard:
    name: str  # "train/000000.tar"
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    root: Path
    size: str
    store: str
    classes: tuple[Category, ...]
    splits: dict[str, tuple[Shard, ...]]
    files: dict[str, str]  # SHA-256 of the files beside the shards
    made: dict[str, Any]  # how it was made: source, settings, versions

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content: the same wherever and whenever it was made."""
        content = _content(self)
        text = json.dumps([content[key] for key in ("size", "store", "classes", "splits")])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def kind(self) -> str:
        """Of the images: "256" or "original", JPEGs of that size, or "raw", 256x256x3 pixels."""
        return "raw" if self.store == "raw" else self.size

    def samples(self, split: str) -> int:
        return sum(shard.samples for shard in self.splits[split])


def open_dataset(root: Path | str) -> Dataset:
    """The dataset at `root`, every shard of which is there and has its size."""
    dataset = read_description(Path(root))
    for shard in (shard for shards in dataset.splits.values() for shard in shards):
        if fault := find_fault(dataset, shard):
            raise DataError(f"{dataset.root / shard.name} {fault}: {_repair(dataset)}")
    return dataset


def read_description(root: Path) -> Dataset:
    """What dataset.json says, whether or not the shards are there."""
    path = root / "dataset.json"
    prep = _prep(root)
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if (root / WORK).is_dir():
            raise DataError(f"{root} is half prepared; finish it with the same command: {prep}") from None
        raise DataError(f"no prepared dataset in {root}; make it: {prep}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is no valid JSON ({error}); move it away and prepare again: {prep}"
        ) from None
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise DataError(
            f"{path} has format {content.get('format')!r}, this version reads format {FORMAT}; "
            f"prepare into a new folder: {prep}"
        )
    try:
        return _parse(root, content)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); move it away and prepare again: {prep}") from None


def write_description(dataset: Dataset) -> None:
    with replacing(dataset.root / "dataset.json") as file:
        file.write(json.dumps(_content(dataset), indent=1).encode() + b"\n")


def find_fault(dataset: Dataset, shard: Shard) -> str | None:
    """What a glance at the file's size shows to be wrong with a shard."""
    try:
        size = (dataset.root / shard.name).stat().st_size
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if size == shard.bytes else f"ends at byte {size} instead of {shard.bytes}"


def find_faults(dataset: Dataset, checksums: bool = False, threads: int = 1) -> dict[str, str]:
    """File name -> fault. With `checksums` the shards are read again, and not only the small files."""
    shards = [shard for shards in dataset.splits.values() for shard in shards]

    def look(shard: Shard) -> str | None:
        fault = find_fault(dataset, shard)
        return fault or (_find_change(dataset.root / shard.name, shard.sha256) if checksums else None)

    with ThreadPoolExecutor(threads) as pool:
        faults = dict(zip((shard.name for shard in shards), pool.map(look, shards), strict=True))
    for name, sha256 in dataset.files.items():
        faults[name] = _find_change(dataset.root / name, sha256)
    return {name: fault for name, fault in faults.items() if fault}


def _find_change(path: Path, sha256: str) -> str | None:
    try:
        with open(path, "rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if same else "was altered: its checksum differs"


def read_index(dataset: Dataset, split: str) -> np.ndarray:
    """The samples of a split as rows of INDEX, in dataset order, memory-mapped and within bounds."""
    if not dataset.splits.get(split):
        raise DataError(f"{dataset.root} has no {split} images; prepare a root that has them")
    path = dataset.root / split / "samples.npy"
    try:
        index: np.memmap = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header makes NumPy raise nearly anything
        raise DataError(f"cannot read {path} ({type(error).__name__}): {_repair(dataset)}") from None
    shards = dataset.splits[split]
    ends = np.array([shard.bytes for shard in shards], np.uint64)
    if (
        index.dtype != INDEX
        or index.shape != (dataset.samples(split),)
        or np.any(index["shard"] >= len(shards))
        or np.any(index["offset"] > ends[index["shard"]])
        or np.any(index["offset"] + index["size"] > ends[index["shard"]])
        or np.any((index["label"] < -1) | (index["label"] >= len(dataset.classes)))
    ):
        raise DataError(f"{path} does not fit dataset.json: {_repair(dataset)}")
    return index


def has_labels(dataset: Dataset, split: str) -> bool:
    """Whether every sample of a split has one."""
    return bool((read_index(dataset, split)["label"] >= 0).all())


def read_names(dataset: Dataset, split: str) -> list[str]:
    """Each sample's file name in the source, in dataset order."""
    path = dataset.root / split / "names.txt"
    try:
        names = path.read_text("utf-8", "surrogateescape").split("\n")[:-1]
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {_repair(dataset)}") from None
    if len(names) != dataset.samples(split):
        raise DataError(f"{path} does not fit dataset.json: {_repair(dataset)}")
    return names


def _prep(root: Path) -> str:
    return f"alexnet-dali prep --imagenet-root DIR --out {shlex.quote(str(root))}"


def _repair(dataset: Dataset) -> str:
    return f"repair it with {_prep(dataset.root)}"


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


def _parse(root: Path, content: Any) -> Dataset:
    """dataset.json -> Dataset; a KeyError, TypeError or ValueError names what is wrong."""
    _need(isinstance(content, dict), "no JSON object")
    _need(content["size"] in SIZES, f"size {content['size']!r}")
    _need(content["store"] in STORES, f"store {content['store']!r}")
    _need(isinstance(content["made"], dict), "made")
    _need(isinstance(content["classes"], list) and content["classes"], "no classes")
    _need(isinstance(content["splits"], dict) and set(content["splits"]) <= set(SPLITS), "splits")
    classes = tuple(Category(**fields) for fields in content["classes"])
    for index, category in enumerate(classes):
        _need(category.index == index and type(category.index) is int, f"class {index} has another index")
        _need(isinstance(category.wnid, str) and isinstance(category.words, str), f"class {index}")
        _need(category.ilsvrc_id is None or type(category.ilsvrc_id) is int, f"class {index}")
    splits = {}
    for name, shards in content["splits"].items():
        splits[name] = tuple(Shard(**fields) for fields in shards)
        for number, shard in enumerate(splits[name]):
            # The name becomes a path: only the one it must have is let through.
            _need(shard.name == f"{name}/{number:06d}.tar", f"shard {number} of {name} has another name")
            sizes = (shard.samples, shard.bytes)
            _need(all(type(size) is int and 0 <= size < 2**63 for size in sizes), f"shard {shard.name}")
            _need(_is_sha256(shard.sha256), f"shard {shard.name}")
    files = content["files"]
    beside = {f"{split}/{name}" for split in splits for name in ("samples.npy", "names.txt")}
    _need(isinstance(files, dict) and set(files) == beside | {"statistics.npz"}, "files")
    _need(all(map(_is_sha256, files.values())), "files")
    return Dataset(root, content["size"], content["store"], classes, splits, files, content["made"])


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _need(condition: Any, what: str) -> None:
    if not condition:
        raise ValueError(what)
