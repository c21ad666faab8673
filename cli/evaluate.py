"""alexnet-dali eval."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options, trained
from cli.text import console
from model.recipe import Recipe, RunError

if TYPE_CHECKING:
    from pipeline.dataset import Dataset

# The paper's table 2 (ILSVRC-2012 validation images, percent), and what net 145's own log says of "1 CNN"
PAPER = {"1 CNN": (40.7, 18.2), "1 CNN, 2012 log": (40.664, 18.21), "5 CNNs": (38.1, 16.4)}
# Its table 1 (ILSVRC-2010 test images, whose labels were released), and the log of net 145 on them
PAPER_2010 = {
    "sparse coding": (47.1, 28.2),
    "SIFT + FVs": (45.7, 25.7),
    "CNN": (37.5, 17.0),
    "CNN, 2012 log": (37.4727, 16.9987),
}


@click.command("eval")
@options.data
@options.machine
@trained.run
@trained.checkpoint
@click.option("--split", type=click.Choice(["val", "train", "test"]), default="val", help="Which images.")
@click.option(
    "--ten-crop", is_flag=True, help="Average the paper's ten views: corners, centre, and mirrored."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result there.")
@click.option(
    "--predictions", type=click.Path(path_type=Path), help="Write probabilities, labels, names (.npz)."
)
def command(data: Path, run_name: str | None, json_path: Path | None, **settings: Any) -> None:
    """Top-1 and top-5 error of a trained network, every image counted once.

    Of test images only those of ILSVRC-2010 have labels; of others there are only --predictions.
    """
    from pipeline.dataset import has_labels, open_dataset

    dataset = open_dataset(data)
    labelled = has_labels(dataset, settings["split"])
    if not labelled and not settings["predictions"]:
        raise click.UsageError(
            f"{settings['split']} images of {data} have no labels to count errors by; give --predictions FILE"
        )
    for output in filter(None, (json_path, settings["predictions"])):
        options.make_ready(output)
    path, saved = trained.open_checkpoint(run_name, settings["checkpoint"])
    recipe = Recipe.from_dict(saved["identity"]["recipe"])
    if recipe.classes < len(dataset.classes):
        raise RunError(f"{path} tells {recipe.classes} classes apart, {data} has {len(dataset.classes)}")
    result = evaluate_run(recipe, saved["weights"], dataset, settings)
    result = {"run": str(path.parent), "checkpoint": path.name, "step": saved["step"], **result}
    if json_path:
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    if labelled:
        print_errors(result)


def evaluate_run(
    recipe: Recipe, weights: Any, dataset: "Dataset", settings: dict[str, Any]
) -> dict[str, Any]:
    """The errors of a network on a split of a dataset, in percent."""
    from rich.progress import Progress

    from cli import compose
    from cli.predictions import Predictions, write
    from model.evaluate import evaluate, rates
    from model.network import AlexNet
    from pipeline.batches import EvaluationBatches
    from pipeline.dataset import has_labels, read_names
    from pipeline.graph import CENTRE_VIEW, TEN_VIEWS

    split, views = settings["split"], TEN_VIEWS if settings["ten_crop"] else CENTRE_VIEW
    devices = compose.choose_devices(settings["gpus"], settings["device"])
    precision = compose.use_device(devices[0], settings["precision"])
    mean = compose.read_mean(dataset.root, recipe)
    network = AlexNet(recipe, devices, seed=0, mean=mean)
    network.load(weights)
    batches = EvaluationBatches(
        dataset,
        split,
        views=views,
        batch_size=max(1, recipe.batch_size // len(views)),  # so many crops at a time as in training
        **compose.stream_options(recipe, devices[0], settings["workers"]),
    )
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{split}, {len(views)} views", total=dataset.samples(split))
        found = evaluate(
            network,
            batches,
            precision=precision,
            keep=bool(settings["predictions"]),
            each=lambda images: progress.advance(task, images),
        )
    images = int(found.sums[0])
    if images != dataset.samples(split):
        raise RunError(
            f"{images} images were counted, {dataset.root} has {dataset.samples(split)} in {split}"
        )
    if settings["predictions"]:
        labels, wnids = batches.samples.index["label"], [category.wnid for category in dataset.classes]
        content = Predictions(found.probabilities.numpy(), labels, read_names(dataset, split), wnids)
        write(settings["predictions"], content)
    errors = rates(found.sums) if has_labels(dataset, split) else {}
    return {"split": split, "images": images, "views": len(views), **errors, "precision": precision}


def print_errors(result: dict[str, Any]) -> None:
    """Ours above the paper's."""
    from rich.table import Table

    views = "ten views" if result["views"] > 1 else "centre crop"
    table = Table(
        title=f"{result['run']}, {result['images']:,} {result['split']} images", title_justify="left"
    )
    for heading in ("", "top-1 error", "top-5 error"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row(f"this run, {views}", f"{result['top1_err']:.2f} %", f"{result['top5_err']:.2f} %")
    table.add_section()
    paper, images = (PAPER_2010, "2010 test") if result["split"] == "test" else (PAPER, "2012 val")
    for name, (top1, top5) in paper.items():
        table.add_row(f"{name} (ILSVRC-{images}, ten views)", f"{top1} %", f"{top5} %")
    console().print(table)
