"""Read what lies beside the images: the classes' numbers, the labels of a flat val/ or test/.

ImageNet's is the devkit, Kaggle's is a CSV file. The devkit numbers classes from 1 in its own order;
here a class is known by its wnid (n01440764), whose place in sorted order is its label.
"""

import csv
import gzip
import io
import resource
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.errors import DataError
from pipeline.source.archive import scan_bytes
from pipeline.source.edition import Edition
from pipeline.workers import run_tasks

META = "data/meta.mat"
SOLUTION = "LOC_val_solution.csv"
MAX_BYTES = 2**28
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Truth:
    """Hold the labels of a split whose images are not in class folders."""

    origin: str  # what was read, for the user
    wnids: tuple[str, ...] = ()  # in the order of the images' names
    by_name: dict[str, str] = field(default_factory=dict)  # or: by the name without suffix

    def of(self, split: str, names: Sequence[str]) -> list[str]:
        """Return the wnids of the images of these sorted names."""
        expected = len(self.wnids) or len(self.by_name)
        if len(names) != expected:
            raise DataError(
                f"{self.origin} labels {expected:,} {split} images, but there are {len(names):,}: "
                "copy or download them again"
            )
        if self.wnids:
            return list(self.wnids)
        try:
            return [self.by_name[Path(name).stem] for name in names]
        except KeyError as error:
            raise DataError(
                f"{self.origin} has no label for the {split} image {error}: remove that image"
            ) from None


@dataclass(frozen=True)
class Labels:
    """Hold the names and numbers of the classes, and the labels of splits without class folders."""

    words: dict[str, str] = field(default_factory=dict)  # by wnid
    ids: dict[str, int] = field(default_factory=dict)  # by wnid
    truth: dict[str, Truth] = field(default_factory=dict)  # by split


def find_labels(places: Sequence[Path], edition: Edition) -> Labels:
    """Read the devkit, or else Kaggle's CSV file, in the first place that has one."""
    for place in places:
        for name in (f"{kit}{suffix}" for kit in edition.devkits for suffix in (".tar.gz", ".tar")):
            if (place / name).is_file():
                return _read_devkit(place, place / name, edition)
        for folder in (*(place / kit for kit in edition.devkits), place / "devkit", place):
            if (folder / META).is_file():
                return _read_devkit(place, folder, edition)
        if (place / SOLUTION).is_file():
            return _read_kaggle(place / SOLUTION)
    return Labels()


def read_file(path: Path) -> bytes:
    """Read a file's content, unpacked if it is gzipped, whatever its name."""
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == GZIP
        with gzip.open(path) if packed else open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error}): download it again") from None
    if len(data) > MAX_BYTES:
        raise DataError(
            f"{path} is larger than {MAX_BYTES:,} bytes: it is not what its name says; download it again"
        )
    return data


def _read_devkit(place: Path, kit: Path, edition: Edition) -> Labels:
    """Read a devkit, archive or folder. The labels of test, released later, are beside it or in it."""
    val, test = edition.truth["val"], edition.truth.get("test")
    if kit.is_file():
        files = _unpack(kit, (META, val))
    else:
        files = {name: read_file(kit / name) for name in (META, val) if (kit / name).is_file()}
    if missing := {META, val} - files.keys():
        raise DataError(
            f"{kit} lacks {' and '.join(sorted(missing))}: it is not {edition.devkits[0]}; download that"
        )
    words, ids = _read_meta(kit, files[META], edition.id_field)
    wnids = {number: wnid for wnid, number in ids.items()}
    truth = {"val": Truth(str(kit), _read_truth(f"{kit}: {val}", files[val], wnids))}
    for path in (kit / "data" / test, place / test) if test else ():
        if path.is_file():
            truth["test"] = Truth(str(path), _read_truth(str(path), read_file(path), wnids))
    return Labels(words, ids, truth)


def _unpack(path: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """Read the wanted files of an archived devkit, whatever the folder above data/."""
    data, names = read_file(path), {Path(name).name: name for name in wanted}
    files = [member for member in scan_bytes(path, data) if member.name in names and not member.fault]
    return {names[file.name]: data[file.offset : file.offset + file.size] for file in files}


def _read_truth(where: str, data: bytes, wnids: dict[int, str]) -> tuple[str, ...]:
    """Turn lines, each a class's number, into wnids."""
    truth = []
    for number, line in enumerate(data.decode("ascii", "replace").split("\n"), 1):
        if text := line.strip():
            wnid = wnids.get(int(text)) if text.isdecimal() and len(text) < 10 else None
            if wnid is None:
                raise DataError(
                    f"{where}, line {number}: {line[:40]!r} is not a class of meta.mat: download it again"
                )
            truth.append(wnid)
    return tuple(truth)


def _read_meta(path: Path, data: bytes, id_field: str) -> tuple[dict[str, str], dict[str, int]]:
    """Read words and ids by wnid, of the classes of meta.mat; it also lists their ancestors."""
    words: dict[str, str] = {}
    ids: dict[str, int] = {}
    load = partial(_load_synsets, id_field=id_field)
    try:
        ((_, synsets),) = run_tasks(load, [data], 1)  # damaged bytes can crash scipy's process
    except Exception as error:  # or make it raise nearly anything
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{path}: meta.mat cannot be read ({type(error).__name__}: {reason}): download it again"
        ) from None
    for number, wnid, text, children in synsets:
        if children == 0:
            if wnid in ids or number in ids.values():
                raise DataError(
                    f"{path}: meta.mat lists {wnid} or its number {number} twice: download it again"
                )
            words[wnid], ids[wnid] = text, number
    return words, ids


def _load_synsets(data: bytes, id_field: str) -> list[tuple[int, str, str, int]]:
    """Load (id, wnid, words, number of children) of each synset in meta.mat."""
    import numpy as np
    from scipy.io import loadmat

    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
    synsets = np.atleast_1d(loadmat(io.BytesIO(data), squeeze_me=True)["synsets"])
    fields = [synsets[name] for name in (id_field, "WNID", "words", "num_children")]
    return [(int(a), str(b), str(c), int(d)) for a, b, c, d in zip(*fields, strict=True)]


def _read_kaggle(path: Path) -> Labels:
    solution: dict[str, str] = {}
    try:
        rows = list(csv.reader(io.StringIO(read_file(path).decode("utf-8", "replace"), newline="")))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read: {error}; download it again") from None
    for number, row in enumerate(rows[1:], 2):
        # ILSVRC2012_val_00048981,n03995372 85 1 499 272: the class, then boxes
        prediction = row[1].split() if len(row) == 2 else []
        if row and not prediction:
            raise DataError(f"{path}, line {number}: expected ImageId,PredictionString")
        if row and solution.setdefault(row[0], prediction[0]) != prediction[0]:
            raise DataError(f"{path}, line {number}: {row[0]} has two labels; remove one")
    return Labels(truth={"val": Truth(str(path), by_name=solution)} if solution else {})
