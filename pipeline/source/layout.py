"""Find which folders and archives of a root hold which split, and what lies beside them."""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pipeline.errors import DataError
from pipeline.source.devkit import META, SOLUTION
from pipeline.source.edition import FALL2011, ILSVRC2010, ILSVRC2012, Edition, find_edition
from pipeline.source.sample import PACKED, Found, LeftOut, is_litter, one_line
from pipeline.source.walk import holds_only_ours, is_ours, scan

NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def find_base(root: Path) -> tuple[Path, Edition]:
    """Find the folder, at `root` or below, that the splits lie in, and their edition."""
    if is_ours({entry.name for entry in scan(str(root))}):
        raise DataError(f"{root} is what prep or train has made: give the folder that the images came in")
    bases = (root / "ILSVRC/Data/CLS-LOC", root / "Data/CLS-LOC", root)
    base = next((base for base in bases if find_places(base, find_edition(base), "train")), root)
    return base, find_edition(base)


def find_places(base: Path, edition: Edition, split: str) -> list[Path]:
    """Find a split's archive (the newest if there are several) and its folder, if they are there."""
    tar = edition.tars[split]
    tars = sorted(path for path in base.glob(tar) if path.is_file())
    unpacked = sorted(base.glob(tar.removesuffix(".tar")))  # 2010's tars of val and test hold a folder
    entries = scan(str(base)) if base.is_dir() else []
    named = [base / entry.name for entry in entries if entry.name.lower() in NAMES[split]]
    folders = [path for path in named if path.is_dir()]
    if len({os.path.realpath(folder) for folder in folders}) > 1:
        raise DataError(f"{folders[0]} and {folders[1]} may both be {split}: move one of them away")
    folders += [path for path in (*(path / split for path in unpacked), *unpacked) if path.is_dir()]
    return tars[-1:] + folders[:1]


def find_known(folder: Path, edition: Edition) -> set[str]:
    """Return the names of what lies there and is read for the labels or as patches."""
    patterns = (*edition.extras(), META, f"devkit/{META}", SOLUTION)
    return {path.relative_to(folder).parts[0] for pattern in patterns for path in folder.glob(pattern)}


def look_beside(root: Path, base: Path, edition: Edition, used: list[Path]) -> Found:
    """Find what lies in the root beside the splits, the labels and our own outputs."""
    found = Found()
    above = [base, *base.parents]
    for folder in above[: above.index(root) + 1]:
        known = find_known(folder, edition)
        for entry in scan(str(folder)):
            path = folder / entry.name
            if is_litter(entry.name):
                found.passed += 1
            elif not (
                entry.name in known
                or any(path in (place, *place.parents) for place in (base, *used))
                or (os.path.isdir(entry.path) and holds_only_ours(entry.path))
            ):
                reason = "beside the splits, not read"
                found.left.append(LeftOut(str(path), one_line(entry.name), reason))
    return found


def nothing_at(root: Path) -> str:
    """Return what to say of a root in which nothing is found."""
    for folder in _folders_below(root):
        if find_places(folder, find_edition(folder), "train"):
            return f"{root} is no ImageNet root, but {folder} looks like one: give --imagenet-root {folder}"
    archives = "; ".join(
        f"{edition.tars['train']} (with {edition.tars['val']} and {edition.devkits[0]}.tar.gz)"
        for edition in (ILSVRC2012, ILSVRC2010)
    )
    packed = [entry.name for entry in scan(str(root)) if entry.name.lower().endswith(PACKED)]
    return (
        f"{root} is no ImageNet root. Looked for: {archives}; "
        f"train/ with a folder or tar for each class (with val/); ILSVRC/Data/CLS-LOC (with {SOLUTION}); "
        f"or, given --val-fraction, {FALL2011.tars['train']} or a folder or tar for each class"
        + (f". Found {packed[0]}: unpack it" if packed else "")
    )


def _folders_below(root: Path) -> Iterator[Path]:
    """Yield the folders on two levels below `root`."""
    first = [
        Path(entry.path)
        for entry in scan(str(root))
        if os.path.isdir(entry.path) and not is_litter(entry.name)
    ]
    second = chain.from_iterable(scan(str(folder)) for folder in first)
    yield from first
    yield from (Path(entry.path) for entry in second if os.path.isdir(entry.path))
