"""First stop: an ImageNet root in any of its shapes -> classes and the images of each split; goes to prep.

    ILSVRC2012_img_{train,val,test*}.tar and ILSVRC2012_devkit_t12, as ImageNet gives them; so 2010's
    train/ in class folders or class tars, val/ and test/ in class folders or flat beside the devkit
    ILSVRC/Data/CLS-LOC with those three, and LOC_val_solution.csv above it, as Kaggle gives it
    class folders or class tars without a split, or Fall 2011's tar, of which a fraction becomes val

Each split may come in its own shape. A label is the place of the class among the sorted wnids.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.archive import THREADS, Member, scan_tar, scan_tar_of_tars
from pipeline.dataset import SPLITS, Category, DataError
from pipeline.devkit import SOLUTION, Labels, find_labels
from pipeline.edition import FALL2011, ILSVRC2010, ILSVRC2012, Edition, find_edition

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
    base = next((place for place in places if _find_split(place, find_edition(place), "train")), root)
    edition = find_edition(base)
    train, val, test = (_find_split(base, edition, name) for name in SPLITS)
    if train is None and val is None and val_fraction is not None:
        train, test = root, None
    images = _by_class(train) if train else {}
    if train is None or not any(images.values()):
        raise DataError(_nothing_at(root))
    if empty := [wnid for wnid in images if not images[wnid]]:
        raise DataError(f"{train} has no images of the class {empty[0]}")
    wnids = sorted(images)
    splits, found = {"train": _labelled(images, wnids)}, [train.name]
    above = base.absolute().parents[:3] if base.name == "CLS-LOC" else ()
    labels = find_labels([base, *above], edition)
    if val and val_fraction is not None:
        raise DataError(f"{val} is the val split: leave --val-fraction out")
    if val:
        splits["val"], by = _of_split("val", val, wnids, labels)
        if not by:
            raise DataError(_no_labels_for(val, edition))
        found.append(f"{val.name} labelled by {by}")
    elif val_fraction is not None:
        splits = _hold_out(splits["train"], val_fraction, seed)
        found.append(f"{val_fraction:g} of each class for val")
    else:
        raise DataError(
            f"{base} has train but no {edition.tars['val']} and no val/: add it, or give --val-fraction 0.1"
        )
    if test:
        splits["test"], by = _of_split("test", test, wnids, labels)
        found.append(test.name + (f" labelled by {by}" if by else _why_unlabelled(edition)))
    if patched := _patch(splits, _find_patches(base, edition)):
        found.append(f"{patched} images from {edition.patches}")
    kind = f"{_describe(base, edition, train)} in {base}: {', '.join(found)}"
    return Source(kind, tuple(_category(index, wnid, labels) for index, wnid in enumerate(wnids)), splits)


def _describe(base: Path, edition: Edition, train: Path) -> str:
    if train.is_file():
        return edition.archives
    if base.name == "CLS-LOC":
        return "Kaggle's CLS-LOC"
    return "class tars" if any(train.glob("*.tar")) else "class folders"


def _nothing_at(root: Path) -> str:
    archives = "; ".join(
        f"{edition.tars['train']} (with {edition.tars['val']} and {edition.devkits[0]}.tar.gz)"
        for edition in (ILSVRC2012, ILSVRC2010)
    )
    return (
        f"{root} is no ImageNet root. Looked for: {archives}; "
        f"train/ with a folder or tar for each class (with val/); ILSVRC/Data/CLS-LOC (with {SOLUTION}); "
        f"or, given --val-fraction, {FALL2011.tars['train']} or a folder or tar for each class"
    )


def _no_labels_for(val: Path, edition: Edition) -> str:
    return (
        f"{val} is not in class folders and its labels are missing: "
        f"put {edition.devkits[0]}.tar.gz or {SOLUTION} beside it"
    )


def _why_unlabelled(edition: Edition) -> str:
    """What to say of a test split: there are labels for some editions only."""
    truth = edition.truth.get("test")
    return f" without labels, which need {truth} and {edition.devkits[0]}.tar.gz" if truth else ""


def _find_split(base: Path, edition: Edition, split: str) -> Path | None:
    """The archive if it is there (the newest if there are several), or else the folder."""
    tar = edition.tars[split]
    if tars := sorted(path for path in base.glob(tar) if path.is_file()):
        return tars[-1]
    unpacked = sorted(base.glob(tar.removesuffix(".tar")))  # 2010's tars of val and test hold a folder
    folders = [base / split, *(path / split for path in unpacked), *unpacked]
    return next((folder for folder in folders if folder.is_dir()), None)


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
    classes: dict[str, Path] = {}
    for entry in _entries(place):
        if entry.is_dir():
            classes[entry.name] = Path(entry.path)
        elif entry.name.endswith(".tar"):
            classes[entry.name[:-4]] = Path(entry.path)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(classes, pool.map(_images, classes.values()), strict=True))


def _labelled(images: dict[str, list[Sample]], wnids: list[str]) -> list[Sample]:
    return [
        image._replace(label=label)
        for label, wnid in enumerate(wnids)
        for image in sorted(images.get(wnid, ()), key=lambda image: image.name)
    ]


def _of_split(split: str, place: Path, wnids: list[str], labels: Labels) -> tuple[list[Sample], str | None]:
    """The images of val or test in the order of their names, and where their labels are from, if anywhere."""
    if images := {} if place.is_file() else _by_class(place):
        if unknown := sorted(set(images) - set(wnids)):
            raise DataError(f"{place} has the class {unknown[0]}, which train has not")
        samples = _labelled(images, wnids)
        return sorted(samples, key=lambda image: image.name), "folder"
    samples = sorted(_images(place), key=lambda image: image.name)
    if not samples:
        raise DataError(f"{place} holds no images")
    if (truth := labels.truth.get(split)) is None:
        return samples, None
    index = {wnid: label for label, wnid in enumerate(wnids)}
    found = truth.of(split, [image.name for image in samples])
    if unknown := sorted(set(found) - set(wnids)):
        raise DataError(f"{truth.found} labels {split} images as {unknown[0]}, a class that train has not")
    samples = [image._replace(label=index[wnid]) for image, wnid in zip(samples, found, strict=True)]
    return samples, Path(truth.found).name


def _hold_out(train: list[Sample], fraction: float, seed: int) -> dict[str, list[Sample]]:
    """Moves a fraction of each class, at least one image and never all, from train to val."""
    rng = np.random.default_rng(seed)
    labels = np.array([image.label for image in train])
    held = np.zeros(len(train), bool)
    for places in np.split(np.arange(len(train)), np.flatnonzero(np.diff(labels)) + 1):
        count = min(max(1, round(fraction * len(places))), len(places) - 1)
        held[rng.permutation(places)[:count]] = True
    if not held.any():
        raise DataError(f"{train[0].path}: no class has a second image to put into val")
    val = [image for image, out in zip(train, held, strict=True) if out]
    return {
        "train": [image for image, out in zip(train, held, strict=True) if not out],
        "val": sorted(val, key=lambda image: image.name),
    }


def _find_patches(base: Path, edition: Edition) -> dict[str, Sample]:
    """By name, the images that replace others: ILSVRC-2010's archives have blank ones."""
    if not edition.patches:
        return {}
    if (tar := base / f"{edition.patches}.tar").is_file():
        return {image.name: image for image in _images(tar)}
    paths = (path for path in sorted((base / edition.patches).rglob("*")) if path.is_file())
    return {path.name: Sample(str(path), 0, -1, -1, path.name) for path in paths}


def _patch(splits: dict[str, list[Sample]], patches: dict[str, Sample]) -> int:
    """Replaces images but not their labels; how many."""
    count = 0
    for samples in splits.values():
        for place, image in enumerate(samples):
            if image.name in patches:
                samples[place] = patches[image.name]._replace(label=image.label)
                count += 1
    return count


def _category(index: int, wnid: str, labels: Labels) -> Category:
    return Category(index, wnid, labels.words.get(wnid, wnid), labels.ids.get(wnid))
