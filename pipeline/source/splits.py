"""Read one split's folder or archive: its images, by class if there are any, and all else in it."""

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.errors import DataError
from pipeline.source.archive import THREADS, Member, scan_tar, scan_tar_of_tars
from pipeline.source.edition import EDITIONS, WNID
from pipeline.source.sample import OUTSIDE, PACKED, Found, LeftOut, Sample, is_litter, one_line
from pipeline.source.walk import Walk

REPLACED = "replaced by a later member of the same name"


@dataclass
class Split:
    """Hold what lies in a split's folder or archive."""

    place: Path
    classes: dict[str, Found] = field(default_factory=dict)
    loose: Found = field(default_factory=Found)  # what lies beside the classes
    linked: str = ""  # more for the user: of how many shards, or that all images are links out of the root
    by: str = "folder"  # what the labels are by, for the user
    form: str = ""  # of shards: what they are, for the user
    order: tuple[str, ...] = ()  # of shards: the classes in the order of their numbers; empty: sorted
    words: dict[str, str] = field(default_factory=dict)  # of shards: what they call the classes

    @property
    def images(self) -> list[Sample]:
        return [image for found in (*self.classes.values(), self.loose) for image in found.images]

    @property
    def in_tars(self) -> bool:
        return any(image.size >= 0 for found in self.classes.values() for image in found.images[:1])

    def drop(self, name: str, reason: str) -> None:
        """Drop a folder that is no class: what lies in it is left out."""
        found = self.classes.pop(name)
        self.loose.leave(found)
        if not found.left:
            self.loose.left.append(LeftOut(str(self.place / name), one_line(name), reason))


def read_archive(path: Path, split: str) -> Split:
    """Read an official archive: train's is a tar of class tars."""
    if split != "train":
        return Split(path, loose=_read_members(path, scan_tar(path)))
    classes, others = scan_tar_of_tars(path)
    read = Split(path, loose=_read_members(path, others))
    for name, members in classes.items():
        read.classes[name] = _read_members(path, members)
    _refuse_packed(read)
    return read


def read_folder(place: Path, split: str, roots: Sequence[str], known: Collection[str] = ()) -> Split:
    """Read class folders, class tars and images; `known` names are skipped.

    `roots`: real paths of folders into which links may lead. A class folder may be a link to anywhere.
    """
    roots = (*roots, os.path.realpath(place))
    walk = Walk(str(place), roots)
    folders = walk.look(known)
    read = Split(place, loose=walk.found)
    with ThreadPoolExecutor(THREADS) as pool:
        contents = pool.map(lambda folder: _read_class(folder, roots), folders.values())
        read.classes = {name: each for name, each in zip(folders, contents, strict=True) if each}
    for path in map(Path, walk.found.archives):
        if (of := _official(path.name)) is None:
            name = path.name[:-4]
            read.classes[name] = _join(path, place / name, read.classes.get(name, Found()))
        elif of == split:
            read = choose(read_archive(path, split), read)
        else:
            read.loose.left.append(LeftOut(str(path), path.name, f"the archive of {of}, not of {split}"))
    _refuse_packed(read)
    if (images := read.images) and all(image.fault == OUTSIDE for image in images):
        _follow(read)
    return read


def read_patches(place: Path) -> Found:
    """Read all images of a tar or a folder."""
    if place.is_file():
        return _read_members(place, scan_tar(place))
    walk = Walk(str(place), [])
    walk.run()
    return walk.found


def choose(archive: Split, folder: Split) -> Split:
    """Choose the one of both that holds all their images; the other is left out."""
    match _compare(archive.place, archive.images, folder.place, folder.images):
        case "folder":
            folder.loose.left.append(_unpacked(archive.place, archive.images))
            return folder
        case "archive":
            archive.loose.left.append(_packed(folder.place, archive.place))
            return archive
    raise DataError(f"{archive.place} and {folder.place} hold different images: move one of them away")


def check_classes(train: Split) -> None:
    """Raise DataError unless every image has a class, and every class an image."""
    drop_empty(train)
    if stray := sorted(train.loose.images, key=lambda image: image.name):
        raise DataError(
            f"{train.place} holds the image {stray[0].name} beside its classes, so it has none: "
            "move it to its class, or away from there"
        )
    if len(set(map(one_line, train.classes))) < len(train.classes):
        raise DataError(f"{train.place} has classes that differ only in what cannot be printed: rename them")
    (name, only), *others = train.classes.items()
    folders = {
        Path(image.path).relative_to(train.place / name).parts[0] for image in only.images if image.size < 0
    }
    if (
        not others
        and len(folders) > 1
        and not any((train.place / name / folder).is_file() for folder in folders)
    ):
        raise DataError(
            f"{train.place} has one folder, {name}, in which {len(folders):,} folders hold images: "
            f"if those are the classes, move them up into {train.place}"
        )


def drop_empty(split: Split) -> None:
    """Drop folders without images; DataError if one is named as the classes are."""
    full = [name for name, found in split.classes.items() if found.images]
    for name in sorted(set(split.classes).difference(full)):
        if full and (WNID.fullmatch(name) or not all(map(WNID.fullmatch, full))):
            raise DataError(
                f"{split.place} has no images of the class {name}: add some, or remove {split.place / name}"
            )
        split.drop(name, "a folder without images")


def _join(archive: Path, folder: Path, unpacked: Found) -> Found:
    """Join what a class's tar and its folder hold, each image once."""
    packed = _read_members(archive, scan_tar(archive))
    match _compare(archive, packed.images, folder, unpacked.images):
        case "folder" if unpacked.images or not packed.images:
            unpacked.left.append(_unpacked(archive, packed.images))
            return unpacked
        case "both":
            packed.join(unpacked)
        case _ if unpacked.images:
            packed.left.append(_packed(folder, archive))
        case _:
            packed.leave(unpacked)
    return packed


def _compare(archive: Path, packed: Sequence[Sample], folder: Path, unpacked: Sequence[Sample]) -> str:
    """Tell where all images of both are: in the folder, in the archive, or only in both."""
    inside, beside = _sizes(packed), _sizes(unpacked)
    if inside <= beside:
        return "folder"
    if beside <= inside:
        return "archive"
    if common := {name for name, _ in inside} & {name for name, _ in beside}:
        raise DataError(
            f"{archive} and {folder} both hold {min(common)}, but neither holds all that the other does: "
            "move one of them away"
        )
    return "both"


def _sizes(images: Sequence[Sample]) -> set[tuple[str, int]]:
    """Return the images' names and sizes in bytes; -1 where a file is gone."""
    sizes = set()
    for image in images:
        size = image.size
        if size < 0 and os.path.isfile(image.path):
            size = os.path.getsize(image.path)
        sizes.add((image.name, size))
    return sizes


def _unpacked(archive: Path, images: Sequence[Sample]) -> LeftOut:
    count = len(images)
    reason = (
        f"an archive whose {count:,} images lie beside it, unpacked" if count else "an archive without images"
    )
    return LeftOut(str(archive), one_line(archive.name), reason)


def _packed(folder: Path, archive: Path) -> LeftOut:
    return LeftOut(str(folder), one_line(folder.name), f"a folder whose images are read from {archive}")


def _read_class(path: str, roots: Sequence[str]) -> Found | None:
    """Read a class folder; return None if it holds nothing but an output of ours."""
    walk = Walk(path, roots)
    walk.run()
    found = walk.found
    for archive in found.archives:
        found = _join(Path(archive), Path(path), found)
    return None if walk.ours and not (found.images or found.left) else found


def _read_members(path: Path, members: Sequence[Member]) -> Found:
    found = Found()
    for member in members:
        if any(is_litter(part) for part in member.path.split("/") if part not in (".", "..", "")):
            found.passed += 1
        elif member.replaced:
            found.left.append(LeftOut(str(path), one_line(member.path), REPLACED, member.offset))
        else:
            found.add(Sample(str(path), member.offset, member.size, -1, one_line(member.name), member.fault))
    return found


def _official(name: str) -> str | None:
    """Return the split of which this is the name of an official archive, or None."""
    patterns = ((split, tar) for edition in EDITIONS for split, tar in edition.tars.items())
    return next((split for split, tar in patterns if fnmatchcase(name, tar)), None)


def _refuse_packed(read: Split) -> None:
    """Raise DataError if a class would be lost in an archive that cannot be read in place."""
    for left in read.loose.left:
        suffix = next((suffix for suffix in PACKED if left.name.lower().endswith(suffix)), None)
        if suffix and left.name[: -len(suffix)] not in read.classes:
            raise DataError(
                f"{left.path} is an archive that cannot be read in place: "
                f"unpack it, or move it out of {read.place}"
            )


def _follow(read: Split) -> None:
    """Read links that lead out of the root: a split of nothing else is how some keep a choice of images."""
    read.linked = " (links that lead out of the root)"
    for found in (*read.classes.values(), read.loose):
        found.images = [image._replace(fault="") for image in found.images]
