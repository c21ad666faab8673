"""Find which classes the labels of shards stand for.

The label of an image is a number or a name. Its class is known by its wnid, wherever that is known: from the
image's name, its JSON file, or names of classes that are ILSVRC's in the order of their wnids. But labels
that join wnids are classes of their own, and numbers without names stay numbers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.errors import DataError
from pipeline.source.edition import WNID
from pipeline.source.names import ilsvrc_names
from pipeline.source.sample import Sample, one_line

ALIKE = 0.95  # the part of ILSVRC's names that must agree: lists differ in a few synonyms


class Known(NamedTuple):
    """Represent an image of a shard and what is known of its class."""

    sample: Sample
    label: str = ""  # a number or a name; "" where there is none
    wnid: str = ""


@dataclass(frozen=True)
class Numbering:
    """Hold what class each label stands for."""

    classes: Mapping[str, str]  # by label
    by_wnid: bool = False  # an image's own wnid is its class
    order: tuple[str, ...] = ()  # the classes in the order of their numbers; empty: sorted
    words: Mapping[str, str] = field(default_factory=dict)  # names of classes, where metadata has them
    said: str = ""  # for the user

    def of(self, image: Known) -> str | None:
        """Return the class of an image, or None."""
        return (self.by_wnid and image.wnid) or self.classes.get(image.label)


def find_numbering(train: Sequence[Known], others: Sequence[Known], names: Mapping[str, str]) -> Numbering:
    """Find what the labels of images stand for; `names`: of labels, where they are known."""
    wnids: dict[str, dict[str, Known]] = {}  # by label, by wnid
    for image in (*train, *others):
        if image.label and image.wnid:
            wnids.setdefault(image.label, {}).setdefault(image.wnid, image)
    if all(image.wnid or image.label in wnids for image in train) and not _are_coarser(wnids):
        return _by_wnid({image.wnid for image in train}, wnids, names)
    labels = {image.label for image in train if image.label}
    if not all(map(_is_number, labels)):
        return Numbering({label: label for label in labels})
    return _by_number(sorted(labels, key=int), names)


def _is_number(label: str) -> bool:
    return label.isdecimal() and label.isascii()


def _are_coarser(wnids: Mapping[str, Mapping[str, Known]]) -> bool:
    """Tell whether labels join wnids, each wnid in one label: then they are classes of their own."""
    each = [wnid for several in wnids.values() for wnid in several]
    return len(each) == len(set(each)) and len(each) > len(wnids)


def _by_wnid(
    found: Collection[str], wnids: Mapping[str, Mapping[str, Known]], names: Mapping[str, str]
) -> Numbering:
    labels: dict[str, str] = {}  # by wnid
    for label, several in wnids.items():
        for wnid, image in several.items():
            if len(several) > 1 or labels.setdefault(wnid, label) != label:
                raise DataError(_contradiction(label, image, several, labels))
    classes = {label: wnid for wnid, label in labels.items()}
    every = sorted({*found, *labels} - {""})
    named = {wnid: names.get(label, label) for wnid, label in labels.items()}
    words = {
        wnid: name for wnid, name in named.items() if not _is_number(name) and wnid not in ilsvrc_names()
    }
    numbers = {int(label): wnid for label, wnid in classes.items() if _is_number(label)}
    said = ""
    if numbers:
        in_order = _are_places(numbers, every) or _are_places(numbers, sorted(ilsvrc_names()))
        said = "whose numbers are "
        said += "those of the sorted wnids" if in_order else "not those of the sorted wnids, which they get"
    return Numbering(classes, True, words=words, said=said)


def _are_places(numbers: Mapping[int, str], wnids: Sequence[str]) -> bool:
    return all(number < len(wnids) and wnids[number] == wnid for number, wnid in numbers.items())


def _contradiction(label: str, image: Known, several: Mapping[str, Known], labels: Mapping[str, str]) -> str:
    other = next((wnid for wnid in several if wnid != image.wnid), None)
    against = f"{other} elsewhere" if other else f"the label {labels[image.wnid]} elsewhere"
    sample = image.sample
    return f"{sample.file}: {sample.name} has the label {label} and the wnid {image.wnid}, but {against}"


def _by_number(numbers: list[str], names: Mapping[str, str]) -> Numbering:
    every = [str(number) for number in range(max(len(numbers), len(names)))]
    given, used = [names.get(number, "") for number in every], set(numbers)
    if used <= set(every) and all(map(WNID.fullmatch, given)):
        return Numbering(dict(zip(every, given, strict=True)), said="whose classes are named by their wnids")
    if used <= set(every) and _are_ilsvrc(given):
        said = "whose names are ILSVRC's in the order of the wnids"
        return Numbering(dict(zip(every, sorted(ilsvrc_names()), strict=True)), said=said)
    if missing := [number for number in every if number not in used]:
        last = max(int(numbers[-1]), len(names) - 1)
        raise DataError(
            f"the labels are numbers, 0 to {last}, but {last + 1 - len(numbers):,} of those label no image, "
            f"as {missing[0]}: add the files that are missing"
        )
    if all(given) and len(set(given)) == len(given):
        named = [one_line(name) for name in given]
        words = {name: name for name in named}
        classes = dict(zip(every, named, strict=True))
        return Numbering(classes, order=tuple(named), words=words, said="named and numbered")
    words = {number: one_line(name) for number, name in zip(every, given, strict=True) if name}
    said = f"whose numbers, 0 to {every[-1]}, are kept, as no wnid is known"
    return Numbering({number: number for number in every}, order=tuple(every), words=words, said=said)


def _are_ilsvrc(names: list[str]) -> bool:
    """Tell whether names are ILSVRC's in the order of the wnids."""
    known = [_synonyms(ilsvrc_names()[wnid]) for wnid in sorted(ilsvrc_names())]
    if len(names) != len(known):
        return False
    alike = sum(bool(_synonyms(name) & words) for name, words in zip(names, known, strict=True))
    return alike >= ALIKE * len(known)


def _synonyms(words: str) -> set[str]:
    return {word.strip().casefold() for word in words.replace("_", " ").split(",") if word.strip()}
