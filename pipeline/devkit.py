"""What is written beside the images: the classes' names and numbers, and the labels of a flat val/.

ImageNet's is the devkit, Kaggle's are two CSV files. The devkit numbers classes from 1 in its own order;
here a class is known by its wnid (n01440764), whose place in sorted order is its label.
"""

import csv
import gzip
import io
import resource
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.archive import scan_bytes
from pipeline.dataset import DataError
from pipeline.workers import run_tasks

DEVKIT = "ILSVRC2012_devkit_t12"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
MAPPING, SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
MAX_BYTES = 2**26
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Labels:
    found: str  # what was read, for the user
    words: dict[str, str] = field(default_factory=dict)  # by wnid
    ids: dict[str, int] = field(default_factory=dict)  # by wnid
    truth: tuple[str, ...] = ()  # wnids of the val images in the order of their names
    solution: dict[str, str] = field(default_factory=dict)  # or: wnids by the name without suffix

    def of_val(self, names: Sequence[str]) -> list[str]:
        """The wnids of the val images of these sorted names."""
        expected = len(self.truth) or len(self.solution)
        if len(names) != expected:
            raise DataError(f"{self.found} labels {expected:,} val images, but there are {len(names):,}")
        if self.truth:
            return list(self.truth)
        try:
            return [self.solution[Path(name).stem] for name in names]
        except KeyError as error:
            raise DataError(f"{self.found} has no label for the val image {error}") from None


def find_labels(places: Sequence[Path]) -> Labels | None:
    """The devkit, or else Kaggle's CSV files, in the first place that has one."""
    for place in places:
        for name in (f"{DEVKIT}.tar.gz", f"{DEVKIT}.tar"):
            if (place / name).is_file():
                return _read_devkit(place / name, _unpack(place / name))
        for folder in (place / DEVKIT, place / "devkit", place):
            if (folder / META).is_file():
                files = {name: _read(folder / name) for name in (META, TRUTH) if (folder / name).is_file()}
                return _read_devkit(folder, files)
        if (place / SOLUTION).is_file() or (place / MAPPING).is_file():
            return _read_kaggle(place)
    return None


def _read(path: Path) -> bytes:
    """A file's content, unpacked if it is gzipped, whatever its name."""
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == GZIP
        with gzip.open(path) if packed else open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error}): download it again") from None
    if len(data) > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES:,} bytes: it is not what its name says")
    return data


def _unpack(path: Path) -> dict[str, bytes]:
    data = _read(path)
    files = {member.name: data[member.offset :][: member.size] for member in scan_bytes(path, data)}
    return {name: files[Path(name).name] for name in (META, TRUTH) if Path(name).name in files}


def _read_devkit(path: Path, files: dict[str, bytes]) -> Labels:
    if missing := {META, TRUTH} - files.keys():
        raise DataError(f"{path} lacks {' and '.join(sorted(missing))}: it is not the ILSVRC2012 devkit")
    words, ids = _read_meta(path, files[META])
    wnids = {number: wnid for wnid, number in ids.items()}
    truth = []
    for number, line in enumerate(files[TRUTH].decode("ascii", "replace").split("\n"), 1):
        if text := line.strip():
            wnid = wnids.get(int(text)) if text.isdecimal() and len(text) < 10 else None
            if wnid is None:
                raise DataError(f"{path}: {TRUTH}, line {number}: {line[:40]!r} is no class of meta.mat")
            truth.append(wnid)
    return Labels(str(path), words, ids, tuple(truth))


def _read_meta(path: Path, data: bytes) -> tuple[dict[str, str], dict[str, int]]:
    """Words and ids by wnid, of the classes of meta.mat; it also lists their ancestors."""
    words: dict[str, str] = {}
    ids: dict[str, int] = {}
    try:
        ((_, synsets),) = run_tasks(_load_synsets, [data], 1)  # damaged bytes can crash scipy's process
    except Exception as error:  # or make it raise nearly anything
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: meta.mat cannot be read ({type(error).__name__}: {reason})") from None
    for number, wnid, text, children in synsets:
        if children == 0:
            if wnid in ids or number in ids.values():
                raise DataError(f"{path}: meta.mat lists {wnid} or its number {number} twice")
            words[wnid], ids[wnid] = text, number
    return words, ids


def _load_synsets(data: bytes) -> list[tuple[int, str, str, int]]:
    """meta.mat -> (id, wnid, words, number of children) of each synset."""
    import numpy as np
    from scipy.io import loadmat

    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
    synsets = np.atleast_1d(loadmat(io.BytesIO(data), squeeze_me=True)["synsets"])
    fields = [synsets[name] for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    return [(int(a), str(b), str(c), int(d)) for a, b, c, d in zip(*fields, strict=True)]


def _read_kaggle(place: Path) -> Labels:
    words: dict[str, str] = {}
    solution: dict[str, str] = {}
    if (place / MAPPING).is_file():
        for line in _read(place / MAPPING).decode("utf-8", "replace").split("\n"):
            wnid, _, text = line.strip().partition(" ")
            if wnid in words:
                raise DataError(f"{place / MAPPING} lists {wnid} twice")
            if wnid:
                words[wnid] = text
    path = place / SOLUTION
    if path.is_file():
        try:
            rows = list(csv.reader(io.StringIO(_read(path).decode("utf-8", "replace"), newline="")))
        except csv.Error as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        for number, row in enumerate(rows[1:], 2):
            # ILSVRC2012_val_00048981,n03995372 85 1 499 272: the class, then boxes
            prediction = row[1].split() if len(row) == 2 else []
            if row and not prediction:
                raise DataError(f"{path}, line {number}: expected ImageId,PredictionString")
            if row and solution.setdefault(row[0], prediction[0]) != prediction[0]:
                raise DataError(f"{path}, line {number}: {row[0]} has two labels")
    return Labels(str(path if solution else place / MAPPING), words, {}, (), solution)
