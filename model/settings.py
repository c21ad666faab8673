"""Make a recipe with the user's own settings: those of a TOML file, of --set KEY=VALUE, or of both.

Keys are the fields of a recipe (model/recipe.py). In a file, `base` names the recipe that it starts from, and
what it leaves out is as there. `layers` is the list of all layers, or a table that changes some by name:

    base = "original"
    keep = 0.8
    [layers.conv1]
    kernel = 7
"""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from msgspec import Struct

from model.errors import RunError
from model.layers import Colour, Conv, Full, ResponseNorm
from model.recipe import Phase, Recipe
from model.recipes import RECIPES, adapted, get_recipe
from pipeline.schema import Unfit, convert, need_file

Key = tuple[str | int, ...]  # ("layers", 0, "kernel")
PARTS: dict[str | int, type[Struct]] = {
    "lrn": ResponseNorm, "spatial": ResponseNorm, "colour": Colour, "schedule": Phase
}  # fmt: skip

TYPES = {
    "float": "a number", "int": "a whole number", "str": "a text", "bool": "true or false",
    "array": "a list", "object": "a table", "date": "a date", "null": "left out",
}  # fmt: skip

# What a setting is called elsewhere: here its name, which is not always the most similar one
ELSEWHERE = {
    "recipe": "base", "lr": "rate", "learning_rate": "rate", "weight_decay": "decay", "dropout": "keep",
    "filters": "maps", "channels": "maps",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Hold settings from one place: a file, or one --set."""

    name: str
    text: str  # as TOML
    values: dict[str, Any]
    lines: bool  # whether it is a file

    def place(self, key: Key) -> str:
        """Return where the key, or the innermost table around it, is set."""
        while key and not _has(self.values, key):
            key = key[:-1]
        return f"{self.name}, line {self._line(key)}" if self.lines and key else self.name

    def _line(self, key: Key) -> int:
        """Return the line where the statement that sets the key begins."""
        lines, begin = self.text.split("\n"), 1
        for end in range(1, len(lines) + 1):
            try:
                known = tomllib.loads("\n".join(lines[:end]))
            except (ValueError, RecursionError):  # within a statement of several lines
                continue
            if _has(known, key):
                break
            begin = end + 1
        return begin


def read_file(path: Path) -> Source:
    """Read a file of settings. RunError if it cannot be read or is no TOML."""
    try:
        need_file(path)
        text = path.read_text("utf-8-sig")
        return Source(str(path), text, tomllib.loads(text), lines=True)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except (Unfit, UnicodeDecodeError):
        raise RunError(f"{path} is not a TOML file: save it as text in UTF-8") from None
    except (ValueError, RecursionError) as error:
        said, _, where = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", where)
        line = found[1] if found else text.count("\n") + 1
        raise RunError(f"{path}, line {line}: not valid TOML: {said}") from None


def read_set(text: str) -> Source:
    """Read KEY=VALUE, with a value of TOML's; other values are strings. ValueError if it is no such pair."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if key in ("base", "recipe"):
        raise ValueError("give the recipe by --recipe, not by --set")
    texts = [value, json.dumps(value)]
    for written in texts[key == "schedule" and value.isdecimal() :]:  # names of schedules may be numbers
        try:
            return Source(f"--set {text}", text, tomllib.loads(f"{key} {equals} {written}"), lines=False)
        except (ValueError, RecursionError):
            continue
    raise ValueError(f"{text!r} is not of the form KEY=VALUE, as keep=0.8 or layers.conv1.kernel=7")


def make_recipe(
    start: str | Source, sets: Sequence[Source], outputs: int | None, **overrides: object
) -> Recipe:
    """Return the recipe of this name or file, changed by `sets` and by overrides that are not None.

    outputs: the number of classes if none of these sets it. RunError names the place of an error.
    """
    if isinstance(start, Source):
        values = dict(start.values)
        base = str(values.pop("base", "original"))
        if base not in RECIPES:
            raise RunError(f"{start.place(('base',))}: {unknown_name('recipe', base, list(RECIPES))}")
        recipe = _change(get_recipe(base, classes=outputs), values, [start])
    else:
        recipe = get_recipe(start, classes=outputs)
    merged: dict[str, Any] = {}
    for source in sets:
        _merge(merged, source.values)
    return adapted(_change(recipe, merged, sets), **overrides)


def _change(recipe: Recipe, values: dict[str, Any], sources: Sequence[Source]) -> Recipe:
    """Return the recipe with these values in the place of its own; RunError if they do not fit."""
    plain, given = recipe.to_dict(), dict(values)
    layers = {layer["name"]: layer for layer in plain["layers"]}
    if by_name := isinstance(values.get("layers"), dict):
        for name in values["layers"]:
            if name not in layers:
                what = unknown_name("layer", name, list(layers))
                raise RunError(f"{_place(sources, ('layers', name))}: {what}")
        _merge(layers, values["layers"])
        given["layers"] = list(layers.values())
    _merge(plain, given)
    try:
        return convert(plain, Recipe)
    except Unfit as error:
        key, text = _explain(str(error), plain, values)
        if by_name and key[:1] == ("layers",) and len(key) > 1 and isinstance(key[1], int):
            name = list(layers)[key[1]]
            key, text = ("layers", name, *key[2:]), text.replace(f"layers[{key[1]}]", f"layers.{name}")
        raise RunError(f"{_place(sources, key)}: {text}") from None


def _merge(plain: dict[str, Any], values: dict[str, Any]) -> None:
    """Put values into plain data, table by table."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(plain.get(key), dict):
            plain[key] = dict(plain[key])
            _merge(plain[key], value)
        else:
            plain[key] = value


def _place(sources: Sequence[Source], key: Key) -> str:
    """Return where a key was set last."""
    return next((s for s in reversed(sources) if _has(s.values, key)), sources[-1]).place(key)


def _explain(said: str, plain: dict[str, Any], values: dict[str, Any]) -> tuple[Key, str]:
    """Return the key that an error of `convert` is about, and the error with what is allowed there."""
    found = re.search(r" at `([\w.\[\]]+)`$", said)
    where = found[1] if found else ""
    key: Key = tuple(int(part) if part.isdigit() else part for part in re.findall(r"\w+", where))
    if extra := re.match(r"object contains unknown field `(.*?)`", said):
        key = (*key, extra[1])
        kind = _kind(key, plain)
        allowed = [*(["base"] if kind is Recipe else []), *kind.__struct_fields__]
        return key, unknown_name("setting", extra[1], allowed, f" in {where}" if where else "")
    if said.startswith("invalid") and key:
        field = next(part for part in reversed(key) if isinstance(part, str))
        hint = get_type_hints(_kind(key, plain), include_extras=True).get(field, Literal["Conv", "Full"])
        return key, f"{said}; allowed are {', '.join(map(str, _literals(hint)))}"
    if not key:  # of several fields: the first that the error names
        words = re.findall(r"[\w-]+", said)
        named = [(words.index(word), place) for place, word in _names(values) if word in words]
        key = min(named, key=itemgetter(0), default=(0, ()))[1]
    return key, _in_words(said)


def _in_words(said: str) -> str:
    """Write an error of a type for those who do not know the types' names."""
    found = re.fullmatch(r"expected `([\w |]+)`(.*?)(?:, got `(\w+)`)? at `(.+)`", said)
    if not found:
        return said
    types, limit, got, where = found.groups()
    allowed = " or ".join(TYPES.get(each, each) for each in types.split(" | "))
    return f"{where} must be {allowed}{limit}" + (f", not {TYPES.get(got, got)}" if got else "")


def unknown_name(what: str, name: str, allowed: list[str], inside: str = "") -> str:
    """Return the message about a name that does not exist."""
    close = [ELSEWHERE[name]] if ELSEWHERE.get(name) in allowed else get_close_matches(name, allowed, 1)
    guess = f"did you mean {close[0]}? Allowed" if close else "allowed"
    return f"there is no {what} {name!r}{inside}; {guess} are {', '.join(allowed)}"


def _kind(key: Key, plain: dict[str, Any]) -> type[Struct]:
    """Return the part of a recipe in which a key is a field."""
    kind: type[Struct] = Recipe
    for position, part in enumerate(key[:-1]):
        if part == "layers":
            layer = plain["layers"][key[position + 1]]
            kind = Full if layer.get("kind") == "Full" else Conv
        kind = PARTS.get(part, kind)
    return kind


def _literals(hint: Any) -> Iterator[str | int]:
    """Yield the values that a type lists."""
    for part in get_args(hint):
        if get_origin(hint) is Literal:
            yield part
        else:
            yield from _literals(part)


def _names(values: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """Yield the keys of all values with the words by which errors call them."""
    listed = dict(enumerate(values)) if isinstance(values, list) else values
    for part, value in listed.items() if isinstance(listed, dict) else ():
        yield (*key, part), str(value.get("name", part) if isinstance(value, dict) else part)
        yield from _names(value, (*key, part))


def _has(values: Any, key: Key) -> bool:
    """Return whether plain data have something at a key."""
    for part in key:
        try:
            values = values[part]
        except (LookupError, TypeError):
            return False
    return True
