"""Match recipes with datasets by the size of their images."""

from model.errors import RunError
from model.recipe import Recipe
from model.recipes import RECIPES
from pipeline.dataset import Dataset


def fits(recipe: Recipe, side: int) -> bool:
    """Tell whether all crops fit into images of `side` pixels, and cover more than half of that side."""
    return recipe.needed <= side < 2 * recipe.needed


def fitting_recipes(side: int) -> list[str]:
    """Return the recipes for images of `side` pixels."""
    return [name for name, recipe in RECIPES.items() if fits(recipe, side)]


def need_fitting(recipe: Recipe, dataset: Dataset) -> None:
    """Raise RunError if a recipe is not for images of the dataset's size."""
    side, needed = dataset.side, recipe.needed
    if fits(recipe, side):
        return
    which = " or ".join(fitting_recipes(side)[:2])
    choice = f"--recipe {which}" if which else "a recipe of smaller crops"
    if recipe.name not in RECIPES or RECIPES[recipe.name].needed != needed:  # settings of one's own
        choice = "a smaller crop or fewer offsets" if needed > side else "a larger crop or more offsets"
    raise RunError(
        f"{dataset.root} holds images of {side} pixels; recipe {recipe.name} needs {needed}: "
        f"choose {choice}, or prepare with --size {needed} into another --out"
    )
