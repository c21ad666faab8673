"""Find the classes of an ImageNet root in any of its layouts, and the images of each split, for prep.

    ILSVRC2012_img_{train,val,test*}.tar and ILSVRC2012_devkit_t12, as on ImageNet's site; or 2010's
    train/ in class folders or class tars, val/ and test/ in class folders or flat beside the devkit
    ILSVRC/Data/CLS-LOC with those three, and LOC_val_solution.csv above it, as on Kaggle
    class folders or class tars without a split, or Fall 2011's tar, of which a fraction becomes val
    shards: WebDataset's tars, or the Hugging Face hub's archives or parquet files (shards.py)
    a dataset that prep has made (prepared.py)

Each split may come in its own layout. A label is the place of the class among the sorted wnids,
or the number that shards without wnids give it. layout.py finds the splits; splits.py reads them, by
archive.py or walk.py, or shards.py; here their images get labels.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.dataset import SPLITS, Category
from pipeline.errors import DataError
from pipeline.source.devkit import SOLUTION, Labels, find_labels
from pipeline.source.edition import WNID, Edition
from pipeline.source.layout import find_base, find_known, find_splits, look_beside, nothing_at
from pipeline.source.names import name_classes, read_names
from pipeline.source.prepared import is_prepared, read_prepared
from pipeline.source.sample import Found, LeftOut, Sample, one_line
from pipeline.source.shards import Unpack, read_shards
from pipeline.source.splits import (
    Split,
    check_classes,
    choose,
    drop_empty,
    read_archive,
    read_folder,
    read_patches,
)


@dataclass(frozen=True)
class Source:
    """Hold what prep is to read: the classes, and the images of each split."""

    kind: str  # what was found, for the user
    classes: tuple[Category, ...]
    splits: dict[str, list[Sample]]  # train sorted by class and name, val and test by name
    left: tuple[LeftOut, ...] = ()  # what else is there and is not used
    passed: int = 0  # how many hidden files and the like
    official: bool = False  # ILSVRC's own files
    named: str = ""  # where the classes' names are from, for the user

    @property
    def exif(self) -> str:
        """Return what to do by default about EXIF orientation: ILSVRC's own was ignored in 2012."""
        return "ignore" if self.official else "honour"

    @property
    def count(self) -> int:
        """Return the number of images."""
        return sum(map(len, self.splits.values()))


def find_source(
    root: Path | str,
    val_fraction: float | None = None,
    seed: int = 0,
    names: Path | None = None,
    unpack: Unpack | None = None,
) -> Source:
    """Find classes and images at `root`; the seed chooses the images of a `val_fraction`.

    `names`: a file that names the classes (pipeline/source/names.py). `unpack`: what unpacks shards that have
    no random access (pipeline/prep/unpack.py); without it they raise a DataError.
    """
    root = Path(root)
    if is_prepared(root):
        return _read_prepared(root, val_fraction, names)
    base, edition = find_base(root)
    base, places, shards = find_splits(root, base, edition, val_fraction is not None)
    if shards:
        _check_val(base, shards.get("val") or places.get("val", []), val_fraction)
    read = read_shards(shards, unpack) if shards else {}
    read |= {split: _read(split, paths, root, edition) for split, paths in places.items() if paths}
    train = read.get("train")
    if train is None or not train.images:
        raise DataError(nothing_at(root))
    check_classes(train)
    wnids = [name for name in train.order if name in train.classes] or sorted(train.classes)
    above = base.absolute().parents[:3] if base.name == "CLS-LOC" else [root] if base != root else []
    labels = find_labels([base, *above], edition)
    splits, descriptions = _label(read, wnids, labels, edition)
    if "val" not in splits:
        if val_fraction is None:
            tar = edition.tars["val"]
            raise DataError(f"{base} has train but no {tar} and no val/: add it, or give --val-fraction 0.1")
        splits |= _hold_out(splits["train"], val_fraction, seed)
        splits = {name: splits[name] for name in SPLITS if name in splits}
        descriptions.insert(1, f"{val_fraction:g} of each class for val")
    elif val_fraction is not None:
        raise DataError(f"{read['val'].place} is the val split: leave --val-fraction out")
    patches = _find_patches(base, edition)
    if patched := _patch(splits, patches):
        descriptions.append(f"{patched} images from {edition.patches}")
    kind = f"{_describe(base, edition, train)} in {base}: {', '.join(descriptions)}"
    places_of_lists = list(dict.fromkeys([base, *above, train.place]))
    named = name_classes(wnids, names, labels.words, places_of_lists, train.words, train.form)
    classes = tuple(
        Category(index, one_line(wnid), named.words[wnid], labels.ids.get(wnid))
        for index, wnid in enumerate(wnids)
    )
    others = [patches, *(each for split in read.values() for each in (split.loose, *split.classes.values()))]
    if root not in places.get("train", ()):
        used = [path for paths in (*places.values(), *shards.values()) for path in paths]
        folders = dict.fromkeys(path.parent for paths in shards.values() for path in paths)
        others += [look_beside(folder, folder, edition, used) for folder in folders if folder != base]
        others.append(look_beside(root, base, edition, used))
    left = sorted(
        left for each in others for left in each.left if os.path.abspath(left.path) not in named.lists
    )
    archive = train.place.is_file() and not train.form
    official = base.name == "CLS-LOC" or archive or bool(labels.ids) or _are_ilsvrc(wnids)
    passed = sum(each.passed for each in others)
    return Source(kind, classes, splits, tuple(left), passed, official, named.said)


def _check_val(base: Path, val: list[Path], val_fraction: float | None) -> None:
    """Raise DataError where val is missing, or comes from two places, before anything is unpacked."""
    if not val and val_fraction is None:
        raise DataError(f"{base} has train but no val: add it, or give --val-fraction 0.1")
    if val and val_fraction is not None:
        raise DataError(f"{val[0]} is of the val split: leave --val-fraction out")


def _read_prepared(root: Path, val_fraction: float | None, names: Path | None) -> Source:
    if val_fraction is not None:
        raise DataError(f"{root} is a prepared dataset with its own val: leave --val-fraction out")
    dataset, splits = read_prepared(root)
    wnids = [category.wnid for category in dataset.classes]
    given = read_names(names, wnids) if names else {}
    classes = tuple(replace(each, words=given.get(each.wnid, each.words)) for each in dataset.classes)
    what = "originals" if dataset.size == "original" else f"{dataset.size}x{dataset.size} pixels"
    kind, named = f"a prepared dataset of {what} in {root}: {', '.join(splits)}", f"{names or root}"
    official = dataset.made.get("exif", "ignore") == "ignore" or _are_ilsvrc(wnids)
    return Source(kind, classes, splits, official=official, named=named)


def _label(
    read: dict[str, Split], wnids: list[str], labels: Labels, edition: Edition
) -> tuple[dict[str, list[Sample]], list[str]]:
    """Return the images of each split with their labels, and for the user, what each split is."""
    splits, descriptions = (
        {"train": _labelled(read["train"], wnids)},
        [read["train"].place.name + read["train"].linked],
    )
    for name in ("val", "test"):
        if split := read.get(name):
            splits[name], by = _of_split(name, split, wnids, labels)
            if name == "val" and not by:
                raise DataError(_no_labels_for(split.place, edition))
            why = f" labelled by {by}" if by else _why_unlabelled(edition)
            descriptions.append(split.place.name + split.linked + why)
    return splits, descriptions


def _are_ilsvrc(wnids: list[str]) -> bool:
    return len(wnids) == 1000 and all(map(WNID.fullmatch, wnids))


def _read(split: str, places: list[Path], root: Path, edition: Edition) -> Split:
    """Read the archive or the folder of a split, or the one of both that holds all."""
    roots = [os.path.realpath(root)]
    known = find_known(root, edition) if places == [root] else ()
    read = [
        read_archive(place, split) if place.is_file() else read_folder(place, split, roots, known)
        for place in places
    ]
    return choose(*read) if len(read) == 2 else read[0]


def _no_labels_for(val: Path, edition: Edition) -> str:
    return (
        f"{val} is not in class folders and its labels are missing: "
        f"put {edition.devkits[0]}.tar.gz or {SOLUTION} beside it"
    )


def _why_unlabelled(edition: Edition) -> str:
    """Return the message for a test split without labels; "" where the edition has none."""
    truth = edition.truth.get("test")
    return f" without labels, which need {truth} and {edition.devkits[0]}.tar.gz" if truth else ""


def _describe(base: Path, edition: Edition, train: Split) -> str:
    if train.form:
        return train.form
    if train.place.is_file():
        return edition.archives
    if base.name == "CLS-LOC":
        return "Kaggle's CLS-LOC"
    return "class tars" if train.in_tars else "class folders"


def _labelled(split: Split, wnids: list[str]) -> list[Sample]:
    return [
        image._replace(label=label)
        for label, wnid in enumerate(wnids)
        for image in _sorted(split.classes[wnid].images if wnid in split.classes else [])
    ]


def _sorted(images: list[Sample]) -> list[Sample]:
    return sorted(images, key=lambda image: (image.name, image.path, image.offset))


def _of_split(name: str, split: Split, wnids: list[str], labels: Labels) -> tuple[list[Sample], str | None]:
    """Return the images of val or test in order of their names, and where their labels are from, or None."""
    if len(split.classes) == 1 and not split.loose.images and not set(split.classes) & set(wnids):
        split.loose.join(split.classes.popitem()[1])  # images/, as in Tiny ImageNet
    full = {name for name, found in split.classes.items() if found.images or WNID.fullmatch(name)}
    if unknown := sorted(full - set(wnids)):
        raise DataError(f"{split.place} has the class {unknown[0]}, which train lacks")
    drop_empty(split)
    if split.classes and not split.loose.images:
        return _sorted(_labelled(split, wnids)), split.by
    samples = _sorted(split.images)
    if not samples:
        raise DataError(f"{split.place} holds no images: add some, or remove it")
    if (truth := labels.truth.get(name)) is None:
        if split.classes:
            raise DataError(_half_sorted(split))
        return samples, None
    index = {wnid: label for label, wnid in enumerate(wnids)}
    truths = truth.of(name, [image.name for image in samples])
    if unknown := sorted(set(truths) - set(wnids)):
        raise DataError(f"{truth.origin} labels {name} images as {unknown[0]}, a class that train lacks")
    lies_in = {image: wnid for wnid, each in split.classes.items() for image in each.images}
    for image, wnid in zip(samples, truths, strict=True):
        if lies_in.get(image, wnid) != wnid:
            raise DataError(
                f"{image.path} lies in another class folder than {wnid}, its label in {truth.origin}: move it"
            )
    samples = [image._replace(label=index[wnid]) for image, wnid in zip(samples, truths, strict=True)]
    return samples, Path(truth.origin).name


def _half_sorted(split: Split) -> str:
    loose = _sorted(split.loose.images)
    return (
        f"{split.place} is only partly sorted: {len(loose):,} images, as {loose[0].name}, lie beside the "
        f"class folders. Move them into those, or put the labels ({SOLUTION} or the devkit) beside "
        f"{split.place}"
    )


def _hold_out(train: list[Sample], fraction: float, seed: int) -> dict[str, list[Sample]]:
    """Move a fraction of each class, at least one image and never all, from train to val."""
    rng = np.random.default_rng(seed)
    labels = np.array([image.label for image in train])
    held = np.zeros(len(train), bool)
    for places in np.split(np.arange(len(train)), np.flatnonzero(np.diff(labels)) + 1):
        count = min(max(1, round(fraction * len(places))), len(places) - 1)
        held[rng.permutation(places)[:count]] = True
    if not held.any():
        raise DataError(f"{train[0].path}: no class has a second image to put into val: add images")
    val = [image for image, out in zip(train, held, strict=True) if out]
    return {
        "train": [image for image, out in zip(train, held, strict=True) if not out],
        "val": sorted(val, key=lambda image: image.name),
    }


def _find_patches(base: Path, edition: Edition) -> Found:
    """Find images that replace others of the same name: ILSVRC-2010's archives have blank ones."""
    places = (base / f"{edition.patches}.tar", base / edition.patches)
    place = next((place for place in places if edition.patches and place.exists()), None)
    return read_patches(place) if place else Found()


def _patch(splits: dict[str, list[Sample]], patches: Found) -> int:
    """Replace images but not their labels; return how many."""
    by_name = {image.name: image for image in patches.images}
    used: list[Sample] = []
    for samples in splits.values():
        for place, image in enumerate(samples):
            if patch := by_name.get(image.name):
                samples[place] = patch._replace(label=image.label)
                patches.left.append(
                    LeftOut(image.path, image.name, f"replaced by {patch.path}", image.offset)
                )
                used.append(patch)
    for patch in set(patches.images) - set(used):
        patches.left.append(LeftOut(patch.path, patch.name, "replaces no image", patch.offset))
    return len(used)
