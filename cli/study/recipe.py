"""Print a recipe and its schedule as tables."""

from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE
from rich.table import Column, Table

from cli.display import console, say
from model import schedule
from model.layers import ResponseNorm
from model.recipe import Recipe, Shape
from model.recipe_toml import as_toml, explanations, to_toml
from model.recipes import title


def print_recipe(recipe: Recipe) -> None:
    """Print the recipe and its whole schedule."""
    screen = console()
    screen.print(f"recipe {title(recipe, 'classes')}")
    heads, *rows = layer_rows(recipe)
    layers = Table(*heads, box=SIMPLE)
    for row in rows:
        layers.add_row(*row)
    screen.print(layers)
    numbers = Table("setting", "value", "explanation", box=SIMPLE)
    for row in setting_rows(recipe, as_toml):
        numbers.add_row(*row)
    screen.print(numbers)
    heads, *rows = schedule.table(recipe)
    columns = (Column(head, min_width=max(map(len, head.split()))) for head in heads)
    stages = Table(*columns, title="learning rates", box=SIMPLE)
    for row in rows:
        stages.add_row(*row)
    screen.print(stages)


def print_toml(recipe: Recipe) -> None:
    """Print the recipe as a file that --recipe reads."""
    for line in to_toml(recipe).splitlines():
        say(line)


def layer_rows(recipe: Recipe) -> list[list[str]]:
    """Return heads, a row for each layer, and the number of all parameters."""
    rows = [["layer", "weights", "std", "bias", "followed by", "output", "parameters"]]
    shapes = recipe.shapes()
    for shape in shapes:
        layer, out = shape.layer, "x".join(str(n) for n in shape.out if n > 1)
        start = f"{shape.std:.3g}", f"{layer.bias:g}"
        rows.append([layer.name, written(shape), *start, " ".join(layer.then), out, f"{shape.parameters:,}"])
    return [*rows, ["all", *[""] * 5, f"{sum(shape.parameters for shape in shapes):,}"]]


def setting_rows(recipe: Recipe, spell: Callable[[Any], str]) -> list[list[str]]:
    """Return name, value and explanation of each setting but the layers. spell: writes a value."""
    rows = []
    for field, text in explanations(Recipe).items():
        value = getattr(recipe, field)
        if isinstance(value, ResponseNorm):
            inner = explanations(ResponseNorm)
            rows += [[f"{field}.{key}", spell(getattr(value, key)), inner[key]] for key in inner]
        elif field not in ("name", "layers"):
            own = isinstance(value, tuple) and field == "schedule"
            rows.append([field, "phases, see below" if own else spell(value), text])
    return rows


def written(shape: Shape) -> str:
    """Return the sizes of a layer's weights, those of a colour branch after a plus."""
    return " + ".join("x".join(map(str, size)) for kind, size in shape.tensors.items() if kind != "bias")
