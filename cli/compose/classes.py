"""Find the class that a user means: by its wnid, a name of it or its number."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from model.errors import RunError
from pipeline.dataset import Category

SHOWN = 3  # classes in a message


def choose_class(classes: Sequence[Category], text: str) -> Category:
    """Return the one class that a text means; RunError if there is none, or several."""
    found = find_classes(classes, text)
    if not found and text.isascii() and text.isdecimal():
        if len(text) < 10 and int(text) < len(classes):
            return classes[int(text)]
        raise RunError(f"the network has no class {text}: numbers are 0 to {len(classes) - 1}")
    if len(found) == 1:
        return found[0]
    if found:
        raise RunError(f"{text} is the name of {_listed(found)}: give a wnid or a number")
    known = {name: category for category in reversed(classes) for name in _names(category)}
    near = get_close_matches(_even(text), known, SHOWN) or [name for name in known if _even(text) in name]
    if near:
        raise RunError(
            f"the network has no class {text}; did you mean {_listed(known[name] for name in near)}?"
        )
    raise RunError(f"the network has no class {text}; it has {_listed(classes)} and so on")


def find_classes(classes: Sequence[Category], text: str) -> Sequence[Category]:
    """Return the class of this wnid, or else those that have this name, in upper or lower case."""
    exact = [category for category in classes if category.wnid == text]
    return exact or [category for category in classes if _even(text) in _names(category)]


def _names(category: Category) -> set[str]:
    """Return a class's wnid, all its words, and each of them."""
    return {_even(name) for name in (category.wnid, category.words, *category.words.split(", "))}


def _even(name: str) -> str:
    """Return a name as it is compared: golden_retriever is Golden Retriever."""
    return " ".join(name.replace("_", " ").casefold().split())


def _listed(classes: Iterable[Category]) -> str:
    """Say the first few of them: tench (n01440764, 0)."""
    shown = list(dict.fromkeys(classes))[:SHOWN]
    return ", ".join(f"{each.words.partition(',')[0]} ({each.wnid}, {each.index})" for each in shown)
