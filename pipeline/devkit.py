"""What is written beside the images: the classes' names and numbers, and the labels of a flat val/.

ImageNet's is the devkit, Kaggle's are two CSV files. The devkit numbers classes from 1 in its own order;
here a class is known by its wnid (n01440764), whose place in sorted order is its label.
"""

import csv
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.dataset import DataError

DEVKIT = "ILSVRC2012_devkit_t12"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
MAPPING, SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
MAX_BYTES = 2**26


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
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES} bytes: it is not what its name says")
    return data


def _unpack(path: Path) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = "/".join(Path(member.name).parts[-2:])
                if name in (META, TRUTH) and member.isreg() and member.size <= MAX_BYTES:
                    file = tar.extractfile(member)
                    files[name] = file.read() if file else b""
                if len(files) == 2:
                    break
    except Exception as error:  # tarfile, gzip and zlib each have their own for damage
        reason = str(error).partition("\n")[0].rstrip(":")
        raise DataError(f"cannot read {path} ({reason}): download it again") from None
    return files


def _read_devkit(path: Path, files: dict[str, bytes]) -> Labels:
    if missing := {META, TRUTH} - files.keys():
        raise DataError(f"{path} lacks {' and '.join(sorted(missing))}: it is not the ILSVRC2012 devkit")
    words, ids = _read_meta(path, files[META])
    wnids = {number: wnid for wnid, number in ids.items()}
    truth = []
    for number, line in enumerate(files[TRUTH].decode("ascii", "replace").split("\n"), 1):
        if line.strip():
            wnid = wnids.get(int(line)) if line.strip().isdecimal() and len(line) < 10 else None
            if wnid is None:
                raise DataError(f"{path}: {TRUTH}, line {number}: {line[:40]!r} is no class of meta.mat")
            truth.append(wnid)
    return Labels(str(path), words, ids, tuple(truth))


def _read_meta(path: Path, data: bytes) -> tuple[dict[str, str], dict[str, int]]:
    """meta.mat's `synsets` -> words and ids by wnid, of the classes; it also lists their ancestors."""
    import numpy as np
    from scipy.io import loadmat

    words: dict[str, str] = {}
    ids: dict[str, int] = {}
    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(data), squeeze_me=True)["synsets"])
        for synset in synsets[synsets["num_children"] == 0]:
            wnid, number = str(synset["WNID"]), int(synset["ILSVRC2012_ID"])
            if wnid in ids or number in ids.values():
                raise DataError(f"{path}: meta.mat lists {wnid} or its number {number} twice")
            words[wnid], ids[wnid] = str(synset["words"]), number
    except DataError:
        raise
    except Exception as error:  # scipy raises nearly anything on damaged bytes
        raise DataError(f"{path}: meta.mat cannot be read ({type(error).__name__}: {error})") from None
    return words, ids


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
