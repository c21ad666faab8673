"""Print a recipe and its schedule as tables."""

from rich.box import SIMPLE
from rich.table import Table

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
    layers = Table("layer", "out", "weights", "parameters", "std", "bias", "then", box=SIMPLE)
    for shape in recipe.shapes():
        layer, size = shape.layer, written(shape)
        out = "x".join(str(n) for n in shape.out if n > 1)
        then, count = " ".join(layer.then), f"{shape.parameters:,}"
        layers.add_row(layer.name, out, size, count, f"{shape.std:.3g}", f"{layer.bias:g}", then)
    layers.add_section()
    layers.add_row("all", "", "", f"{sum(shape.parameters for shape in recipe.shapes()):,}")
    screen.print(layers)
    numbers = Table("setting", "value", "", box=SIMPLE)
    for row in setting_rows(recipe):
        numbers.add_row(*row)
    screen.print(numbers)
    heads, *rows = schedule.table(recipe)
    stages = Table(*heads, title="rates of weights/biases", box=SIMPLE)
    for row in rows:
        stages.add_row(*row)
    screen.print(stages)


def print_toml(recipe: Recipe) -> None:
    """Print the recipe as a file that --recipe reads."""
    for line in to_toml(recipe).splitlines():
        say(line)


def setting_rows(recipe: Recipe) -> list[list[str]]:
    """Return name, value and explanation of each setting but the layers."""
    rows = []
    for field, text in explanations(Recipe).items():
        value = getattr(recipe, field)
        if isinstance(value, ResponseNorm):
            inner = explanations(ResponseNorm)
            rows += [[f"{field}.{key}", as_toml(getattr(value, key)), inner[key]] for key in inner]
        elif field not in ("name", "layers"):
            own = isinstance(value, tuple) and field == "schedule"
            rows.append([field, "phases, see below" if own else as_toml(value), text])
    return rows


def written(shape: Shape) -> str:
    """Return the sizes of a layer's weights, those of a colour branch after a plus."""
    return " + ".join("x".join(map(str, size)) for kind, size in shape.tensors.items() if kind != "bias")
