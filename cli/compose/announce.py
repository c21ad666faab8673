"""Say at once what a training will do: what is known before torch is imported, and then the rest."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.display import in_words, plural, say_row, top_errors
from model import schedule
from model.recipe import Recipe
from model.recipes import title
from model.run import MetricsRow
from pipeline.dataset import Dataset

if TYPE_CHECKING:
    from model.train import RunState


def tell_plan(recipe: Recipe, dataset: Dataset, path: Path) -> None:
    """Print, in the first process, the dataset, network, length and folder of a training."""
    if os.environ.get("RANK") not in (None, "", "0"):
        return
    train, val = dataset.samples("train"), dataset.samples("val")
    parameters = sum(shape.parameters for shape in recipe.shapes())
    most = "at most " if recipe.schedule == "plateau" else ""
    length = f"{plural(schedule.epochs(recipe), 'epoch')} of {plural(-(-train // recipe.batch_size), 'step')}"
    saved = any(path.glob("*.pt"))
    tell_rows(
        data=f"{train:,} training and {val:,} validation images of {len(dataset.classes):,} classes "
        f"in {dataset.root}",
        network=f"recipe {title(recipe, 'classes', 'epochs', 'batch_size')}, {parameters:,} parameters",
        training=f"{most}{length}, batches of {recipe.batch_size:,}",
        run=f"{path}, {'resumed' if saved else 'new'}",
    )


def tell_start(identity: dict[str, Any], state: "RunState") -> None:
    """Print the devices, and of a run that is resumed where it stands."""
    processes = f"{identity['processes']} processes, each on " if identity["processes"] > 1 else ""
    rows = {"device": f"{processes}{identity['devices']}, {identity['precision']}"}
    if state.step:
        rows["start"] = f"after step {state.step:,}"
    if state.history:
        last = state.history[-1]
        rows["start"] += f"; validation after epoch {last['epoch']}: top-1 error {last['top1_err']:.2f} %"
    tell_rows(**rows)


def tell_end(path: Path, history: Sequence[MetricsRow], classes: int) -> None:
    """Print what a training came to, and where it is."""
    last, best = history[-1], min(history, key=lambda row: row["top1_err"])
    errors = in_words(top_errors(last, classes))
    tell_rows(
        trained=f"{plural(len(history), 'epoch')}: validation {errors} "
        f"(best: {best['top1_err']:.2f} % after epoch {best['epoch']})",
        run=str(path),
    )


def tell_rows(**rows: str) -> None:
    """Print a row for each: its name and what it is."""
    for name, text in rows.items():
        say_row(name, text)
