"""Find which folders and archives of a root hold which split, and what lies beside them."""

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path

from pipeline.dataset import SHARDS, SPLITS
from pipeline.errors import DataError
from pipeline.formats import SUFFIXES
from pipeline.source.devkit import META, SOLUTION
from pipeline.source.edition import EDITIONS, FALL2011, ILSVRC2010, ILSVRC2012, Edition, find_edition
from pipeline.source.sample import PACKED, Found, LeftOut, is_litter, one_line
from pipeline.source.walk import holds_only_ours, is_ours, scan

# What each form of shards is called, by suffix; the first is read in place.
FORMS = dict.fromkeys(SHARDS, "WebDataset shards") | {".parquet": "parquet files"}
HUB = "the Hugging Face hub's archives"
HUB_ARCHIVES = re.compile(r"(train|val|test)_images(_\d+)?\.tar\.gz")
HUB_NAME = re.compile(r"(n\d{8}_\d+|ILSVRC2012_(?:val|test)_\d+)_(n\d{8})")  # the hub added the class
LOOKED_AT = 16  # members that are searched for labels
MAX_ABOUT = 2**20  # bytes of a label or of a JSON file
LABELS = ("label", "cls", "class_id", "class_index", "target")  # fields of such a file
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


def find_splits(
    root: Path, base: Path, edition: Edition, alone: bool
) -> tuple[Path, dict[str, list[Path]], dict[str, list[Path]]]:
    """Find the folder of the splits, and where each is: its archive or folder, or its shards.

    `alone`: where there are no splits, all that lies in the root may be train.
    """
    for folder in filter(Path.is_dir, dict.fromkeys([base, root / "data"])):
        places = {split: find_places(folder, edition, split) for split in SPLITS}
        found = {split: find_shards(folder, split, *paths[:1]) for split, paths in places.items()}
        shards = {split: paths for split, paths in found.items() if paths}
        if "train" in shards or (folder == base and places["train"]):
            return folder, {split: [] if split in shards else places[split] for split in SPLITS}, shards
    places = {split: find_places(base, edition, split) for split in SPLITS}
    if alone and not places["val"]:
        found = {"train": find_shards(base, "train", root)}
        return (base, {}, found) if found["train"] else (base, {"train": [root]}, {})
    return base, places, {}


def find_shards(base: Path, split: str, place: Path | None = None) -> list[Path]:
    """Find the shards of a split in its folder `place`, or if there is none, by their names in `base`."""
    if place and not place.is_dir():
        return []
    entries = scan(str(place or base))
    if place and any(map(_is_folder, entries)):
        return []
    paths = [Path(entry.path) for entry in entries if form_of(entry.name) and os.path.isfile(entry.path)]
    if not place:
        paths = [path for path in paths if set(re.split("[^a-z]+", path.name.lower())) & {*NAMES[split]}]
    paths = [path for path in paths if not is_litter(path.name) and not _is_official(path.name)]
    tried = {paths[number] for number in (0, len(paths) // 2, -1) if paths}
    if not any(map(_has_labels, tried)):
        return []
    first = {str(form_of(path.name)): path for path in reversed(paths)}
    if len(first) > 1:
        one, other = sorted(first.values())[:2]
        raise DataError(f"{one} and {other} both hold {split}, in two forms: move those of one form away")
    return paths


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) and not is_litter(entry.name) and not holds_only_ours(entry.path)


def form_of(name: str) -> str | None:
    """Return the suffix of a shard's name, or None."""
    return next((suffix for suffix in FORMS if name.lower().endswith(suffix)), None)


def _is_official(name: str) -> bool:
    return any(fnmatchcase(name, tar) for edition in EDITIONS for tar in edition.tars.values())


def _has_labels(path: Path) -> bool:
    """Tell by its first members whether a file is a shard; a tar of one class is none."""
    if form_of(path.name) == ".parquet" or HUB_ARCHIVES.fullmatch(path.name):
        return True
    try:
        with tarfile.open(path, "r:" if form_of(path.name) == ".tar" else "r|gz") as tar:
            for header in islice(tar, LOOKED_AT):
                stem, suffix = posixpath.splitext(posixpath.basename(header.name))
                if suffix.lower() == ".cls" or HUB_NAME.fullmatch(stem):
                    return True
                if suffix.lower() == ".json" and (file := tar.extractfile(header)):
                    text = file.read(MAX_ABOUT).decode("utf-8", "replace")
                    if any(f'"{name}"' in text for name in LABELS):
                        return True
    except (tarfile.TarError, OSError, EOFError, ValueError):  # reading it will say what is wrong
        pass
    return False


def find_known(folder: Path, edition: Edition) -> set[str]:
    """Return the names of the files there that are read for the labels, or as patches."""
    patterns = (*edition.extras(), META, f"devkit/{META}", SOLUTION)
    return {path.relative_to(folder).parts[0] for pattern in patterns for path in folder.glob(pattern)}


def look_beside(root: Path, base: Path, edition: Edition, used: list[Path]) -> Found:
    """Find what lies in the root beside the splits, the labels and our own outputs."""
    found = Found()
    above = [base, *base.parents]
    on_the_way = {folder for path in (base, *used) for folder in (path, *path.parents)}
    for folder in above[: above.index(root) + 1]:
        known = find_known(folder, edition)
        for entry in scan(str(folder)):
            path = folder / entry.name
            if is_litter(entry.name):
                found.passed += 1
            elif not (
                entry.name in known
                or path in on_the_way
                or (os.path.isdir(entry.path) and holds_only_ours(entry.path))
            ):
                reason = "beside the splits, not read"
                found.left.append(LeftOut(str(path), one_line(entry.name), reason))
    return found


def nothing_at(root: Path) -> str:
    """Return the message for a root in which no split is found."""
    for folder in _folders_below(root):
        if find_places(folder, find_edition(folder), "train") or find_shards(folder, "train"):
            return f"{root} is no ImageNet root, but {folder} looks like one: give --imagenet-root {folder}"
    if sum(map(_holds_images, _folders_in(root))) > 1:
        return (
            f"{root} has class folders but no train/ and val/: to hold out a tenth of each class for "
            "validation, add --val-fraction 0.1"
        )
    if _holds_images(root):
        return (
            f"{root} holds images but no class folders: put the images of each class into a folder of its own"
        )
    archives = "; ".join(
        f"{edition.tars['train']} (with {edition.tars['val']} and {edition.devkits[0]}.tar.gz)"
        for edition in (ILSVRC2012, ILSVRC2010)
    )
    packed = [entry.name for entry in scan(str(root)) if entry.name.lower().endswith(PACKED)]
    return (
        f"{root} is no ImageNet root. Looked for: {archives}; "
        f"train/ with a folder or tar for each class (with val/); "
        f"shards, as imagenet1k-train-0000.tar; ILSVRC/Data/CLS-LOC (with {SOLUTION}); "
        f"or, given --val-fraction, {FALL2011.tars['train']} or a folder or tar for each class"
        + (f". Found {packed[0]}: unpack it" if packed else "")
    )


def _folders_below(root: Path) -> Iterator[Path]:
    """Yield the folders on two levels below `root`."""
    first = _folders_in(root)
    second = chain.from_iterable(scan(str(folder)) for folder in first)
    yield from first
    yield from (Path(entry.path) for entry in second if os.path.isdir(entry.path))


def _folders_in(root: Path) -> list[Path]:
    entries = scan(str(root))
    return [Path(entry.path) for entry in entries if os.path.isdir(entry.path) and not is_litter(entry.name)]


def _holds_images(folder: Path) -> bool:
    """Tell by suffixes whether images lie directly in a folder."""
    return any(entry.name.lower().endswith(SUFFIXES) for entry in scan(str(folder)))
