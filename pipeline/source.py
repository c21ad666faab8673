"""First stop: an ImageNet root in any of its shapes -> classes and the images of each split; goes to prep.

    ILSVRC2012_img_{train,val,test*}.tar and ILSVRC2012_devkit_t12, as ImageNet gives them
    train/ in class folders or class tars, val/ in class folders or flat beside the devkit, test/
    ILSVRC/Data/CLS-LOC with those three, and LOC_val_solution.csv above it, as Kaggle gives it
    class folders without a split, of which a fraction becomes val

Each split may come in its own shape. A label is the place of the class among the sorted wnids.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.archive import Member, scan_tar, scan_tar_of_tars
from pipeline.dataset import SPLITS, Category, DataError
from pipeline.devkit import DEVKIT, SOLUTION, Labels, find_labels

TARS = {
    "train": "ILSVRC2012_img_train.tar",
    "val": "ILSVRC2012_img_val.tar",
    "test": "ILSVRC2012_img_test*.tar",
}
SUFFIXES = (".jpeg", ".jpg", ".png", ".gif", ".bmp", ".webp")


class Sample(NamedTuple):
    """An image: a range of bytes of a file; size -1 is the whole file."""

    path: str
    offset: int
    size: int
    label: int  # -1: unknown
    name: str

    def read(self, limit: int) -> bytes | None:
        """Its bytes, or None if they are more than `limit`."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size if self.size < 0 else self.size
                if size > limit:
                    return None
                data = os.pread(file.fileno(), size, self.offset)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from None
        if len(data) != size:
            raise DataError(f"{self.path} ends inside {self.name}: it changed while it was read")
        return data


@dataclass(frozen=True)
class Source:
    kind: str  # what was found, for the user
    classes: tuple[Category, ...]
    splits: dict[str, list[Sample]]  # train sorted by class and name, val and test by name


def find_source(root: Path | str, val_fraction: float | None = None, seed: int = 0) -> Source:
    """What there is at `root`; the seed chooses the images of a `val_fraction`."""
    root = Path(root)
    places = (root / "ILSVRC/Data/CLS-LOC", root / "Data/CLS-LOC", root)
    base = next((place for place in places if _find_split(place, "train")), root)
    train, val, test = (_find_split(base, name) for name in SPLITS)
    if train is None and val is None and val_fraction is not None:
        train, test = root, None
    images = _by_class(train) if train else {}
    if train is None or not any(images.values()):
        raise DataError(_nothing_at(root))
    if empty := [wnid for wnid in images if not images[wnid]]:
        raise DataError(f"{train} has no images of the class {empty[0]}")
    wnids = sorted(images)
    splits = {"train": _labelled(images, wnids)}
    labels = find_labels([base, *base.absolute().parents[:3]] if base.name == "CLS-LOC" else [base])
    if val and val_fraction is not None:
        raise DataError(f"{val} is the val split: leave --val-fraction out")
    if val:
        splits["val"], by = _val(val, wnids, labels)
        parts = [train.name, f"{val.name} labelled by {by}"]
    elif val_fraction is not None:
        splits = _hold_out(splits["train"], val_fraction, seed)
        parts = [train.name, f"{val_fraction:g} of each class for val"]
    else:
        raise DataError(
            f"{base} has train but no {TARS['val']} and no val/: add it, or give --val-fraction 0.1"
        )
    if test:
        splits["test"] = sorted(_images(test), key=lambda image: image.name)
        parts.append(test.name)
    kind = f"{_describe(base, train)} in {base}: {', '.join(parts)}"
    return Source(kind, tuple(_category(index, wnid, labels) for index, wnid in enumerate(wnids)), splits)


def _describe(base: Path, train: Path) -> str:
    if train.is_file():
        return "ImageNet's archives"
    return "Kaggle's CLS-LOC" if base.name == "CLS-LOC" else "class folders"


def _nothing_at(root: Path) -> str:
    return (
        f"{root} is no ImageNet root. Looked for: {TARS['train']} (with {TARS['val']} and {DEVKIT}.tar.gz); "
        f"train/ with a folder or tar for each class (with val/); ILSVRC/Data/CLS-LOC (with {SOLUTION}); "
        "or, given --val-fraction, a folder for each class"
    )


def _find_split(base: Path, split: str) -> Path | None:
    """The archive if it is there (the newest if there are several), or else the folder."""
    tars = sorted(path for path in base.glob(TARS[split]) if path.is_file())
    return tars[-1] if tars else (base / split if (base / split).is_dir() else None)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from None


def _samples(path: Path, members: Iterable[Member]) -> list[Sample]:
    return [
        Sample(str(path), member.offset, member.size, -1, member.name)
        for member in members
        if member.name.lower().endswith(SUFFIXES)
    ]


def _images(place: Path) -> list[Sample]:
    """The images in a tar, or right in a folder."""
    if place.is_file():
        return _samples(place, scan_tar(place))
    return [
        Sample(entry.path, 0, -1, -1, entry.name.replace("\n", " "))
        for entry in _entries(place)
        # a link that leads nowhere stays, to be missed when it is read
        if entry.name.lower().endswith(SUFFIXES) and (entry.is_file() or entry.is_symlink())
    ]


def _by_class(place: Path) -> dict[str, list[Sample]]:
    """Class name -> images: of a tar of class tars, or of a folder of class folders or class tars."""
    if place.is_file():
        return {wnid: _samples(place, members) for wnid, members in scan_tar_of_tars(place).items()}
    classes: dict[str, list[Sample]] = {}
    for entry in _entries(place):
        if entry.is_dir():
            classes[entry.name] = _images(Path(entry.path))
        elif entry.name.endswith(".tar"):
            classes[entry.name[:-4]] = _images(Path(entry.path))
    return classes


def _labelled(images: dict[str, list[Sample]], wnids: list[str]) -> list[Sample]:
    return [
        image._replace(label=label)
        for label, wnid in enumerate(wnids)
        for image in sorted(images.get(wnid, ()), key=lambda image: image.name)
    ]


def _val(val: Path, wnids: list[str], labels: Labels | None) -> tuple[list[Sample], str]:
    """The labelled images of val in the order of their names, and where the labels are from."""
    if images := {} if val.is_file() else _by_class(val):
        if unknown := sorted(set(images) - set(wnids)):
            raise DataError(f"{val} has the class {unknown[0]}, which train has not")
        samples = _labelled(images, wnids)
        return sorted(samples, key=lambda image: image.name), "folder"
    samples = sorted(_images(val), key=lambda image: image.name)
    if not samples:
        raise DataError(f"{val} holds no images")
    if not labels or not (labels.truth or labels.solution):
        raise DataError(
            f"{val} is not in class folders and its labels are missing: "
            f"put {DEVKIT}.tar.gz or {SOLUTION} beside it"
        )
    index = {wnid: label for label, wnid in enumerate(wnids)}
    truth = labels.of_val([image.name for image in samples])
    if unknown := sorted(set(truth) - set(wnids)):
        raise DataError(f"{labels.found} labels val images as {unknown[0]}, a class that train has not")
    samples = [image._replace(label=index[wnid]) for image, wnid in zip(samples, truth, strict=True)]
    return samples, Path(labels.found).name


def _hold_out(train: list[Sample], fraction: float, seed: int) -> dict[str, list[Sample]]:
    """Moves a fraction of each class, at least one image and never all, from train to val."""
    rng = np.random.default_rng(seed)
    labels = np.array([image.label for image in train])
    held = np.zeros(len(train), bool)
    for label in range(labels[-1] + 1):
        places = np.flatnonzero(labels == label)
        if len(places) < 2:
            raise DataError(f"{train[places[0]].path}: its class has no second image to put into val")
        count = min(max(1, round(fraction * len(places))), len(places) - 1)
        held[rng.permutation(places)[:count]] = True
    val = [image for image, out in zip(train, held, strict=True) if out]
    return {
        "train": [image for image, out in zip(train, held, strict=True) if not out],
        "val": sorted(val, key=lambda image: image.name),
    }


def _category(index: int, wnid: str, labels: Labels | None) -> Category:
    words, ids = (labels.words, labels.ids) if labels else ({}, {})
    return Category(index, wnid, words.get(wnid, wnid), ids.get(wnid))
