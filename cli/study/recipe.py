"""Print a recipe and its schedule as tables."""

from rich.box import SIMPLE
from rich.table import Table

from cli.display import console
from model import schedule
from model.recipe import Recipe, Shape


def print_recipe(recipe: Recipe) -> None:
    """Print the recipe and its whole schedule."""
    screen = console()
    screen.print(f"recipe {recipe.name}")
    layers = Table("layer", "out", "weights", "parameters", "std", "bias", "then", box=SIMPLE)
    for shape in recipe.shapes():
        layer, size = shape.layer, written(shape)
        out = "x".join(str(n) for n in shape.out if n > 1)
        then, count = " ".join(layer.then), f"{shape.parameters:,}"
        layers.add_row(layer.name, out, size, count, f"{shape.std:.3g}", f"{layer.bias:g}", then)
    layers.add_section()
    layers.add_row("all", "", "", f"{sum(shape.parameters for shape in recipe.shapes()):,}")
    screen.print(layers)
    numbers = Table("setting", "value", box=SIMPLE)
    for name, value in recipe.to_dict().items():
        if name not in ("name", "layers"):
            numbers.add_row(name, str(value))
    screen.print(numbers)
    heads, *rows = schedule.table(recipe)
    stages = Table(*heads, title="rates of weights/biases", box=SIMPLE)
    for row in rows:
        stages.add_row(*row)
    screen.print(stages)


def written(shape: Shape) -> str:
    """Return the sizes of a layer's weights, those of a colour branch after a plus."""
    return " + ".join("x".join(map(str, size)) for kind, size in shape.tensors.items() if kind != "bias")
