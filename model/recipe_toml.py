"""Write a recipe as a TOML file, which model/settings.py reads, with an explanation of each setting."""

import json
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from msgspec import Meta, Struct

from model.changes import composed
from model.layers import Colour, ResponseNorm
from model.recipe import Phase, Recipe
from model.recipes import RECIPES

WIDTH = 40  # characters of a setting before its explanation
HEAD = """\
# A recipe: alexnet-dali train --recipe FILE. What is left out is as in `base`.
# --set KEY=VALUE changes one setting more, of a layer as in --set layers.NAME.KEY=VALUE.
"""


def explanations(kind: type[Struct]) -> dict[str, str]:
    """Return the explanation of each field of a part of a recipe."""
    hints = get_type_hints(kind, include_extras=True)
    found = {
        field: [meta.description for meta in get_args(hints[field]) if isinstance(meta, Meta)]
        for field in kind.__struct_fields__
    }
    return {field: texts[-1] or "" for field, texts in found.items() if texts}


def to_toml(recipe: Recipe) -> str:
    """Return a file that gives the recipe back: read with nothing else set, it is equal."""
    base = recipe.name if recipe.name in RECIPES else "original"
    plain, texts = recipe.to_dict(), explanations(Recipe)
    lines = [HEAD, _line("base", base, "recipe that this one starts from")]
    for field, text in texts.items():
        if composed(plain[field]):
            continue
        if field == "classes" and plain[field] == RECIPES[base].classes:
            lines.append(_line(f"# {field}", plain[field], f"{text}; without it, the classes of the dataset"))
        elif plain[field] is None:
            lines.append(f"# {field} =".ljust(WIDTH) + f"# {text}")
        else:
            lines.append(_line(field, plain[field], text))
    for norm in ("lrn", "spatial"):
        lines += ["", f"# {texts[norm]}", *_table(f"[{norm}]", ResponseNorm, plain[norm], norm == "lrn")]
    for number, phase in enumerate(plain["schedule"] if composed(plain["schedule"]) else ()):
        lines += ["", *_table("[[schedule]]", Phase, phase, number == 0)]
    told = set[type]()
    for layer, values in zip(recipe.layers, plain["layers"], strict=True):
        lines += ["", *_table("[[layers]]", type(layer), values, type(layer) not in told)]
        if layer.colour:
            lines += _table("[layers.colour]", Colour, values["colour"], Colour not in told)
        told |= {type(layer), type(layer.colour)}
    return "\n".join([*lines, ""])


def _table(head: str, kind: type[Struct], values: dict[str, Any], explained: bool) -> Iterator[str]:
    """Yield the lines of a table, with explanations if they were not given before."""
    yield head
    if "kind" in values:
        yield _line("kind", values["kind"], "Conv: a convolution; Full: fully connected" if explained else "")
    for field, text in explanations(kind).items():
        if values[field] is not None and not composed(values[field]):
            yield _line(field, values[field], text if explained else "")


def as_toml(value: Any) -> str:
    """Return a value as TOML has it, of which JSON's strings, numbers and lists are a part; None: nothing."""
    return "" if value is None else json.dumps(value)


def _line(field: str, value: Any, text: str) -> str:
    """Return a setting and its explanation."""
    setting = f"{field} = {as_toml(value)}"
    return f"{setting:<{WIDTH}}# {text}" if text else setting
