"""Name the classes: by a list that the user gives, the devkit, a list beside the folders, or ilsvrc.tsv.

A list is a text file with a folder's name, a tab or a comma, and the class's name in each line. ilsvrc.tsv
has WordNet's words for the 1,000 synsets of ILSVRC; its first lines say where they are from.
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pipeline.dataset import Category, Dataset
from pipeline.errors import DataError
from pipeline.source.devkit import read_file
from pipeline.source.edition import WNID
from pipeline.source.sample import one_line

BESIDE = ("LOC_synset_mapping.txt", "words.txt", "classes.txt")  # lists that are taken where they lie
ILSVRC = Path(__file__).with_name("ilsvrc.tsv")
DELIMITERS = "\t,; "  # a space only after a wnid, as in Kaggle's list
MAX_LINE = 2**16


class Names(NamedTuple):
    """Hold the names of the classes, and where they are from."""

    words: Mapping[str, str]  # by folder
    said: str  # where they are from, for the user
    lists: frozenset[str]  # the files that name a class


def name_classes(
    folders: Sequence[str],
    given: Path | None,
    devkit: Mapping[str, str],
    places: Sequence[Path],
    metadata: Mapping[str, str],
    form: str,
) -> Names:
    """Name each class by the first that knows it: `given`, the devkit, a list beside the folders, ILSVRC's.

    `devkit` and `metadata`: the names in the devkit and in shards, by folder; `places`: the folders in which
    a list may lie; `form`: what the shards are called, "" for folders.
    """
    sources: dict[str, Mapping[str, str]] = {}
    if given:
        sources[str(given)] = read_names(given, folders)
        if not sources[str(given)]:
            raise DataError(
                f"{given} names no class: each line must be a folder, as {one_line(folders[0])}, "
                "then a comma or a tab, then the name"
            )
    sources["the devkit"] = devkit
    lists = [place / name for name in BESIDE for place in places if (place / name).is_file()]
    sources |= {str(path): read_names(path, folders) for path in lists if str(path) not in sources}
    sources[f"the metadata of {form} (--names FILE gives others)"] = metadata
    sources["ILSVRC's own list"] = ilsvrc_names()
    rest = "labels" if form else "folders"
    sources[f"their {rest} (--names FILE gives others)"] = {name: one_line(name) for name in folders}
    words, counts = {}, Counter[str]()
    for folder in folders:
        what = next(what for what, names in sources.items() if folder in names)
        words[folder] = sources[what][folder]
        counts[what] += 1
    said = ", ".join(f"{counts[what]:,} from {what}" for what in sources if counts[what])
    read = [path for path in (given, *lists) if path and sources[str(path)]]
    return Names(words, said, frozenset(str(path.absolute()) for path in read))


def read_names(path: Path, folders: Collection[str]) -> dict[str, str]:
    """Return the names that a list has for some of the folders.

    A first line with the cells "folder" and "name" may say that they are other columns than the first two.
    """
    lines = list(io.StringIO(read_file(path).decode("utf-8-sig", "replace"), newline=None))
    return max((_read_columns(path, lines, delimiter, folders) for delimiter in DELIMITERS), key=len)


def _read_columns(
    path: Path, lines: Sequence[str], delimiter: str, folders: Collection[str]
) -> dict[str, str]:
    found: dict[str, str] = {}
    known = {name for name in folders if WNID.fullmatch(name)} if delimiter == " " else set(folders)
    at, to, width = 0, 1, 2
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in next(csv.reader([line[:MAX_LINE]], delimiter=delimiter), [])]
        head = [cell.casefold() for cell in cells] if number == 1 else []
        if "folder" in head and "name" in head:
            at, to, width = head.index("folder"), head.index("name"), len(head)
        elif len(cells) > max(at, to) and cells[at] in known:
            folder, rest = cells[at], cells[to : None if to == width - 1 and delimiter != "\t" else to + 1]
            name = one_line((delimiter.strip() + " ").join(rest))  # "great white shark, white shark" is one
            if not name or known.intersection(rest):  # a line of folders names none of them
                continue
            if "\ufffd" in name:
                raise DataError(f"{path}, line {number} is not UTF-8: save the file as UTF-8")
            if found.setdefault(folder, name) != name:
                raise DataError(f"{path}, line {number}: {folder} has a second name; remove one")
    return found


@cache
def ilsvrc_names() -> dict[str, str]:
    """Return the words of ILSVRC's 1,000 synsets, by wnid."""
    lines = ILSVRC.read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))


def name_older(classes: Sequence[Category]) -> tuple[Category, ...]:
    """Return the classes, with ILSVRC's names for those that an older prep left without."""
    known = ilsvrc_names()
    return tuple(
        replace(each, words=known.get(each.wnid, each.wnid)) if each.words == each.wnid else each
        for each in classes
    )


def refuse_other_names(dataset: Dataset, path: Path) -> None:
    """Raise DataError if a list has another name for a class than a finished dataset has."""
    found = read_names(path, [category.wnid for category in dataset.classes])
    for category in dataset.classes:
        if (name := found.get(category.wnid, category.words)) != category.words:
            raise DataError(
                f"{dataset.root} was prepared with the name {category.words} for {category.wnid}, "
                f"not {name}: choose another --out"
            )
