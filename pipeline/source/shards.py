"""Read shards: files that hold images of any class in any order, each with its label.

    KEY.jpg, KEY.cls and perhaps KEY.json in tars   WebDataset, as the hub's timm/imagenet-1k-wds
    n01440764_10026_n01440764.JPEG in .tar.gz       data/train_images_0.tar.gz of the hub's ILSVRC/imagenet-1k
    image and label, columns of .parquet            its data/train-00000-of-00294.parquet

A tar is read in place. What has no random access is first unpacked into one, by prep/unpack.py.
"""

import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from sys import intern
from typing import IO, Any, NamedTuple

from pipeline.errors import DataError
from pipeline.source.archive import Member, scan_tar
from pipeline.source.edition import WNID
from pipeline.source.layout import FORMS, HUB, HUB_ARCHIVES, HUB_NAME, LABELS, MAX_ABOUT, form_of
from pipeline.source.numbering import Known, Numbering, find_numbering
from pipeline.source.parquet import read_class_names
from pipeline.source.sample import Found, LeftOut, Sample, is_litter, one_line
from pipeline.source.splits import REPLACED, Split
from pipeline.workers import count_cores, run_tasks

TRAIN_NAME = re.compile(r"(n\d{8})_\d+")
FEW = 8  # shards: to start processes takes longer than to scan them
CLASS_NAMES = ("class_name", "classname", "label_name", "label_text", "class")
FILE_NAMES = ("filename", "file_name", "image_path", "path")

Unpack = Callable[[Sequence[Path]], list[Path]]  # archives without random access into as many tars


class Shard(NamedTuple):
    path: Path  # as the user gave it
    tar: Path  # that is read


@dataclass
class Contents:
    """Hold what lies in a shard."""

    images: list[Known] = field(default_factory=list)
    found: Found = field(default_factory=Found)  # all else
    names: dict[str, str] = field(default_factory=dict)  # of classes, by label


def read_shards(shards: dict[str, list[Path]], unpack: Unpack | None) -> dict[str, Split]:
    """Read the shards of each split; train's Split has the classes that all of them define."""
    tars = _find_tars([path for paths in shards.values() for path in paths], unpack)
    every = [Shard(path, tar) for path, tar in tars.items()]
    if len(every) < FEW:
        read = {shard: scan_shard(shard) for shard in every}
    else:
        read = dict(run_tasks(scan_shard, every, min(count_cores(), len(every))))
    contents = {
        split: _join([read[Shard(path, tars[path])] for path in paths]) for split, paths in shards.items()
    }
    names = _class_names(list(tars), contents.values())
    others = [image for split, each in contents.items() if split != "train" for image in each.images]
    train = contents["train"].images if "train" in contents else []
    numbering = find_numbering(train or others, others, names)
    return {split: _sort(shards[split], split, each, numbering) for split, each in contents.items()}


def _find_tars(paths: Sequence[Path], unpack: Unpack | None) -> dict[Path, Path]:
    """Return the tar in which each shard is read: itself, or what it is unpacked into."""
    packed = [path for path in paths if form_of(path.name) != ".tar"]
    if packed and unpack is None:
        raise DataError(f"{packed[0]} has no random access: find_source needs `unpack`")
    tars = dict(zip(packed, unpack(packed), strict=True)) if packed and unpack else {}
    return {path: tars.get(path, path) for path in paths}


def _class_names(paths: Sequence[Path], contents: Iterable[Contents]) -> dict[str, str]:
    """Return the names of the classes, by label: those of JSON files or of parquet schemas."""
    names = {label: name for each in contents for label, name in each.names.items()}
    for path in paths:
        if form_of(path.name) == ".parquet":
            for label, name in read_class_names(path).items():
                if names.setdefault(label, name) != name:
                    raise DataError(
                        f"{path} names the class {label} {name}, but another file {names[label]}: "
                        "move the files of another dataset away"
                    )
    return names


def _join(several: Sequence[Contents]) -> Contents:
    joined = Contents()
    for each in several:
        joined.images += each.images
        joined.found.leave(each.found)
        joined.names |= each.names
    return joined


def _place_of(paths: Sequence[Path]) -> Path:
    """Return the shards' path; of several, with a star for what differs."""
    first, last = paths[0].name, paths[-1].name
    if first == last:
        return paths[0]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    common = "".join(letter for letter, _ in same).rstrip("0123456789")
    return paths[0].with_name(f"{common}*{form_of(first)}")


def _count(paths: Sequence[Path]) -> str:
    """Return the number of files, and where their names say it, of how many."""
    whole = re.search(r"-of-(\d+)", paths[0].name)
    of = f" of {int(whole[1]):,}" if whole and int(whole[1]) > len(paths) else ""
    return f"{len(paths):,}{of} file{'s' * (len(paths) > 1 or bool(of))}"


def _by(numbering: Numbering) -> str:
    return "wnid" if numbering.by_wnid else "number" if numbering.order else "name"


def _sort(paths: Sequence[Path], split: str, contents: Contents, numbering: Numbering) -> Split:
    """Put each image to its class."""
    place, first = _place_of(paths), paths[0].name
    form = HUB if HUB_ARCHIVES.fullmatch(first) else FORMS[str(form_of(first))]
    read = Split(place, loose=contents.found, by=_by(numbering), form=form)
    read.order, read.words = numbering.order, dict(numbering.words)
    parts = [_count(paths)] + ([numbering.said] if split == "train" and numbering.said else [])
    read.linked = f" ({', '.join(parts)})"
    for image in contents.images:
        name = numbering.of(image)
        if name is None and (split == "train" or image.label or image.wnid):
            what = f"the label {image.label}, which no training image has" if image.label else "no label"
            raise DataError(f"{image.sample.file}: {image.sample.name} has {what}")
        (read.loose if name is None else read.classes.setdefault(name, Found())).images.append(image.sample)
    if read.classes and read.loose.images:
        raise DataError(
            f"{place}: {read.loose.images[0].name} has no label, but others have: "
            "add it, or remove the labels"
        )
    return read


def scan_shard(shard: Shard) -> Contents:
    """List the images of a tar with their labels."""
    contents, others, about = Contents(), [], dict[str, dict[str, Member]]()
    for member in scan_tar(shard.tar, shard.path):
        key, suffix = _split_name(member.path)
        if any(is_litter(part) for part in member.path.split("/") if part not in (".", "..", "")):
            contents.found.passed += 1
        elif member.replaced:
            contents.found.left.append(_left(shard, member, REPLACED))
        elif suffix in ("cls", "json") and not member.fault and member.size <= MAX_ABOUT:
            about.setdefault(key, {})[suffix] = member
        else:
            others.append((key, member))
    keys = set[str]()
    with open(shard.tar, "rb", buffering=0) as file:
        for key, member in others:
            here = Found()
            here.add(_sample(shard, member))
            if here.images and key in keys and key in about:
                here = Found(left=[_left(shard, member, "a second image of one label")])
            contents.found.leave(here)
            for sample in here.images:
                texts = {suffix: _read_text(file, each) for suffix, each in about.get(key, {}).items()}
                known, name = _know(shard, sample, member.path, texts)
                keys.add(key)
                contents.images.append(known)
                if name and known.label:
                    contents.names[known.label] = name
    for key in about.keys() - keys:
        contents.found.left += [
            _left(shard, each, "a label without an image") for each in about[key].values()
        ]
    return contents


def _sample(shard: Shard, member: Member) -> Sample:
    origin = "" if shard.tar == shard.path else intern(str(shard.path))  # one text for all its images
    name = one_line(member.name)
    return Sample(intern(str(shard.tar)), member.offset, member.size, -1, name, member.fault, origin)


def _split_name(path: str) -> tuple[str, str]:
    """Return the key, up to the first dot of the file's name, and what follows."""
    folder, name = posixpath.split(path)
    stem, _, suffix = name.partition(".")
    return posixpath.join(folder, stem), suffix.lower()


def _left(shard: Shard, member: Member, reason: str) -> LeftOut:
    return LeftOut(str(shard.path), one_line(member.path), reason, member.offset)


def _read_text(file: IO[bytes], member: Member) -> str:
    return os.pread(file.fileno(), member.size, member.offset).decode("utf-8", "replace").strip()


def _know(shard: Shard, sample: Sample, path: str, texts: dict[str, str]) -> tuple[Known, str]:
    """Return an image with what is known of it, and the name of its class, or ""."""
    fields: Any = {}
    label = texts.get("cls", "")
    if not label.isprintable():
        raise DataError(f"{shard.path}: the label of {one_line(path)} is neither a number nor a name")
    try:
        fields = json.loads(texts.get("json", "{}"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shard.path}: the JSON of {one_line(path)} is damaged: {error}") from None
    fields = fields if isinstance(fields, dict) else {}
    name, wnid = _split_wnid(_first(fields, FILE_NAMES) or path)
    label = label or _first(fields, LABELS)
    label = str(int(label)) if re.fullmatch(r"-?\d{1,9}", label, re.ASCII) else one_line(label)
    wnids = [value for value in (label, *fields.values()) if isinstance(value, str) and WNID.fullmatch(value)]
    known = Known(
        sample._replace(name=one_line(name)),
        "" if label == "-1" else intern(label),
        intern([*wnids, wnid][0]),
    )
    return known, _first(fields, CLASS_NAMES)


def _first(fields: dict[str, Any], names: Iterable[str]) -> str:
    values = (fields.get(name) for name in names)
    return next((str(value) for value in values if isinstance(value, str | int)), "")


def _split_wnid(path: str) -> tuple[str, str]:
    """Return ImageNet's own name of an image, and its wnid if the path has one."""
    folder, name = posixpath.split(path)
    stem, suffix = posixpath.splitext(name)
    if match := HUB_NAME.fullmatch(stem):
        return match[1] + suffix, match[2]
    if WNID.fullmatch(posixpath.basename(folder)):
        return name, posixpath.basename(folder)
    match = TRAIN_NAME.fullmatch(stem)
    return name, match[1] if match else ""
