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
    if not fits(recipe, dataset.side):
        which = " or ".join(fitting_recipes(dataset.side)[:2])
        raise RunError(
            f"{dataset.root} holds images of {dataset.side} pixels; recipe {recipe.name} needs "
            f"{recipe.needed}: prepare with --size {recipe.needed} into another --out, or choose "
            + (f"--recipe {which}" if which else "a recipe of smaller crops")
        )
