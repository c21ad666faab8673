"""alexnet-dali eval."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options, trained
from cli.text import console, progress, say, warn, write_json
from model.errors import RunError

if TYPE_CHECKING:
    from cli.trained import Trained
    from model.evaluate import Evaluation
    from model.replicas import Replicas
    from pipeline.batches import EvaluationBatches
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
@trained.using_network
@trained.data
@click.option("--split", type=click.Choice(["val", "train", "test"]), default="val", help="Which images.")
@click.option(
    "--ten-crop", is_flag=True, help="Average the paper's ten views: corners, centre, and mirrored."
)
@click.option("--json", "json_path", type=options.output, help="Write the result there.")
@click.option("--predictions", type=options.output, help="Write probabilities, labels, names (.npz).")
def command(
    run_name: str | None, checkpoint: str, data: Path | None, json_path: Path | None, **settings: Any
) -> None:
    """Top-1 and top-5 error of a trained network, every image counted once.

    --data may be another dataset of the same classes; the mean that is subtracted is that of the training.
    Of test images only those of ILSVRC-2010 have labels; of others there are only --predictions. Several
    processes (torchrun) share the images.
    """
    from model.replicas import joined
    from pipeline.dataset import has_labels

    run = trained.open_run(run_name, checkpoint, settings)
    dataset, split = run.data(data), settings["split"]
    labelled = has_labels(dataset, split)
    if not labelled and not settings["predictions"]:
        raise click.UsageError(
            f"{split} images of {dataset.root} have no labels to count errors by; give --predictions FILE"
        )
    with joined(run.devices[0], warn) as replicas:
        result = evaluate_run(run, dataset, replicas, settings)
        if not replicas.first:
            return
    result = {"run": str(run.path.parent), "checkpoint": run.path.name, "step": run.step, **result}
    if json_path:
        write_json(json_path, result)
    say(
        f"{run.path} at step {run.step:,}, {result['images']:,} {split} images of {dataset.root}, "
        f"{result['precision']} on {run.devices[0].type}"
    )
    if labelled:
        print_errors(result)


def evaluate_run(
    run: "Trained", dataset: "Dataset", replicas: "Replicas", settings: dict[str, Any]
) -> dict[str, Any]:
    """The errors of a network on a split of a dataset, in percent; of the first process, those of all."""
    from cli.predictions import Predictions, write
    from model.evaluate import sound_rates
    from pipeline.batches import EvaluationBatches
    from pipeline.dataset import has_labels, read_names
    from pipeline.graph import CENTRE_VIEW, TEN_VIEWS

    split, views = settings["split"], TEN_VIEWS if settings["ten_crop"] else CENTRE_VIEW
    mine = (run.step, dataset.fingerprint, run.precision)
    if replicas.share(mine) != mine:
        raise RunError(f"process {replicas.rank} has another checkpoint, dataset or precision than the first")
    batches = EvaluationBatches(
        dataset,
        split,
        views=views,
        batch_size=run.batch_size(len(views)),
        rank=replicas.rank,
        world=replicas.world,
        **run.image_options(),
    )
    found = compute(
        run, batches, replicas, f"{split}, {len(views)} views", keep=bool(settings["predictions"])
    )
    sums, samples = replicas.gather(found.sums).sum(0), dataset.samples(split)
    images = int(sums[0])
    if images != samples:
        raise RunError(f"{images} images were counted, {dataset.root} has {samples} in {split}")
    errors = sound_rates(sums, run.path)
    if settings["predictions"]:
        probabilities = replicas.collect(found.probabilities)
        if replicas.first:
            labels, wnids = batches.samples.index["label"], [category.wnid for category in dataset.classes]
            content = Predictions(probabilities.numpy(), labels, read_names(dataset, split), wnids)
            write(settings["predictions"], content)
    counted = errors if has_labels(dataset, split) else {}
    return {"split": split, "images": images, "views": len(views), **counted, "precision": run.precision}


def compute(
    run: "Trained", batches: "EvaluationBatches", replicas: "Replicas", what: str, keep: bool
) -> "Evaluation":
    """Of this process's share; after each batch in step with the others, so that none waits for long."""
    from model.evaluate import evaluate

    total = batches.rows.stop - batches.rows.start
    with progress(what, total, quiet=not replicas.first) as done:

        def each(images: int) -> None:
            done(images)
            replicas.most([1])

        found = evaluate(run.network, batches, precision=run.precision, keep=keep, each=each)
        while replicas.most([0])[0]:  # others may have a batch more
            pass
    return found


def print_errors(result: dict[str, Any]) -> None:
    """Ours above the paper's."""
    from rich.table import Table

    views = "ten views" if result["views"] > 1 else "centre crop"
    table = Table()
    for heading in ("", "top-1 error", "top-5 error"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row(f"this run, {views}", f"{result['top1_err']:.2f} %", f"{result['top5_err']:.2f} %")
    table.add_section()
    paper, images = (PAPER_2010, "2010 test") if result["split"] == "test" else (PAPER, "2012 val")
    for name, (top1, top5) in paper.items():
        table.add_row(f"{name} (ILSVRC-{images}, ten views)", f"{top1} %", f"{top5} %")
    console().print(table)
