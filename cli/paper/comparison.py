"""Say what an error is compared with: the paper's of the same images, and elsewhere that of guessing."""

from collections.abc import Sequence

from cli.display import top_errors
from cli.paper.tables import PAPER, PAPER_2010
from pipeline.dataset import Category
from pipeline.source.names import ilsvrc_names

CLASSES = 1000  # of ILSVRC


def find_year(classes: Sequence[Category]) -> int | None:
    """Find the year of ILSVRC that has these classes; None if neither has.

    2012's are known by their wnids, 2010's as the other 1,000 that a development kit has numbered.
    """
    if {category.wnid for category in classes} == ilsvrc_names().keys():
        return 2012
    numbered = {category.ilsvrc_id for category in classes} == set(range(1, CLASSES + 1))
    return 2010 if numbered and len(classes) == CLASSES else None


def guessing(classes: int) -> tuple[str, dict[str, str]]:
    """Return what guessing is called, and its errors as `top_errors` gives them."""
    errors = {f"top{k}_err": 100 * (1 - k / classes) for k in (1, 5)}
    return f"guessing among {classes:,} classes", top_errors(errors, classes)


def comparison(classes: Sequence[Category], split: str) -> list[tuple[str, ...]]:
    """Return rows for a table of errors: the paper's where the classes are ILSVRC's, or else guessing."""
    year = find_year(classes)
    if year is None or split == "train":
        name, guess = guessing(len(classes))
        return [(name, *guess.values())]
    paper, images = (PAPER, "2012 val") if year == 2012 else (PAPER_2010, "2010 test")
    return [
        (f"{name} (ILSVRC-{images}, ten views)", *(f"{round(error, 2)} %" for error in errors if error))
        for name, errors in paper.items()
    ]
