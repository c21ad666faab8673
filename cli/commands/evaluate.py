"""Define alexnet-dali eval: count the errors of a trained network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.compose.runs import recommend
from cli.display import plural, print_table, say_row, tell_written, top_errors, warn, write_json
from cli.paper.comparison import comparison
from model.recipes import title
from pipeline.dataset import Category, has_labels


@click.command("eval")
@options.using_network
@options.run_data
@options.split
@click.option(
    "--ten-crop",
    is_flag=True,
    help="Average the paper's ten views: four corners and the centre, each also mirrored.",
)
@click.option("--json", "json_path", type=options.output, help="Write the result to this JSON file.")
@click.option(
    "--predictions", type=options.output, help="Write probabilities, labels and names to this .npz file."
)
@options.force
def command(
    run_name: str | None,
    checkpoint: str,
    machine: options.Machine,
    data: Path | None,
    split: str,
    ten_crop: bool,
    json_path: Path | None,
    predictions: Path | None,
) -> None:
    """Measure top-1 and top-5 error of a run.

    Every image is counted once. --data may be another dataset of the same classes; the mean image is that of
    the training data. Test images have labels in ILSVRC-2010 only; for others give --predictions. Several
    processes (torchrun) share the images.
    """
    from cli.compose.trained import evaluate_run, open_run, recorded_data
    from model.replicas import joined

    run = open_run(run_name, checkpoint, machine)
    dataset = run.data(data)
    labelled = has_labels(dataset, split)
    if not labelled and not predictions:
        raise click.UsageError(
            f"the {split} images of {dataset.root} have no labels, so no errors: give --predictions FILE"
        )
    with joined(run.devices[0], warn) as replicas:
        result = evaluate_run(run, dataset, replicas, split, ten_crop, predictions)
        if not replicas.first:
            return
    result = {"run": str(run.path.parent), "checkpoint": run.path.name, "step": run.step, **result}
    if json_path:
        write_json(json_path, result)
    say_row("run", f"{run.path}, step {run.step:,}")
    say_row("network", f"recipe {title(run.recipe, 'classes')}")
    say_row("data", f"{plural(result['images'], f'{split} image')} of {dataset.root}")
    say_row("device", f"{run.devices[0].type}, {result['precision']}")
    if labelled:
        print_errors(result, dataset.classes)
    tell_written(predictions, json_path)
    if split == "val" and (run.source / "run.json").exists():
        if replicas.world > 1:
            machine = options.Machine()
        other = data if data and data.resolve() != recorded_data(run.source) else None
        say_row("next", recommend("report", data=other, run=run.source, machine=machine))


def print_errors(result: dict[str, Any], classes: Sequence[Category]) -> None:
    """Print our errors above what they are compared with."""
    from cli.compose.images import name_views

    ours = top_errors(result, len(classes))
    rows = [
        (f"this run, {result['split']}, {name_views(result['views'])}", *ours.values()),
        *comparison(classes, result["split"]),
    ]
    print_table(("", *(f"{name} error" for name in ours)), rows, line=1)
