"""alexnet-dali features."""

import json
import time
from pathlib import Path
from typing import Any

import click

from cli import options, trained
from model.recipe import RunError


@click.command("features")
@trained.using_network
@trained.data
@click.option("--layer", default="fc7", help="Whose output.")
@click.option("--split", type=click.Choice(["val", "train", "test"]), default="val", help="Which images.")
@click.option(
    "--type", "dtype", type=click.Choice(["float32", "float16"]), default="float32", help="Of numbers."
)
@click.option("--out", type=click.Path(path_type=Path), help="The .npy file.  [default: SPLIT-LAYER.npy]")
def command(run_name: str | None, checkpoint: str, out: Path | None, **settings: Any) -> None:
    """What a layer makes of every image of a split, a row an image, for `similar` and other programs.

    Of fc7 these are the paper's 4096 numbers. They are what the next layer reads: after ReLU, pooling and
    norms, and dropout's factor. Beside FILE.npy come FILE.txt, a name a line, and FILE.json: how it was made.
    """
    import numpy as np
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from model.study import outputs
    from pipeline.batches import EvaluationBatches
    from pipeline.dataset import read_names
    from pipeline.graph import CENTRE_VIEW

    split, layer = settings["split"], settings["layer"]
    out = out or Path(f"{split}-{layer}.npy")
    if out.suffix != ".npy":
        raise RunError(f"{out}: features are .npy files")
    run = trained.open_run(run_name, checkpoint, settings)
    sizes = {shape.layer.name: int(np.prod(shape.out)) for shape in run.network.shapes}
    if layer not in sizes:
        raise RunError(f"the network has no layer {layer}; it has {', '.join(sizes)}")
    dataset = run.data(settings["data"])
    batches = EvaluationBatches(
        dataset, split, views=CENTRE_VIEW, batch_size=run.batch_size(1), **run.image_options()
    )
    options.make_ready(out)
    new = out.with_name(out.name + ".tmp")
    shape = (dataset.samples(split), sizes[layer])
    table = np.lib.format.open_memmap(new, mode="w+", dtype=settings["dtype"], shape=shape)
    at, started = 0, time.monotonic()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{layer} of {split}", total=len(table))
        for images, labels in batches:
            found = outputs(run.network, images[:, 0], [layer], run.precision)[layer]
            table[at : at + len(labels)] = found.flatten(1).cpu().numpy()
            at += len(labels)
            progress.advance(task, len(labels))
    if at != len(table):
        raise RunError(f"{at} images came, {dataset.root} has {len(table)} in {split}")
    table.flush()
    del table
    names = "".join(f"{name}\n" for name in read_names(dataset, split))
    out.with_suffix(".txt").write_text(names, "utf-8", "surrogateescape")
    facts = {
        "run": str(run.path.parent.resolve()),
        "checkpoint": run.path.stem,
        "step": run.step,
        "layer": layer,
        "data": str(dataset.root.resolve()),
        "fingerprint": dataset.fingerprint,
        "split": split,
    }
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    new.replace(out)
    rate = at / (time.monotonic() - started)
    click.echo(f"{out}: {shape[0]:,} x {shape[1]:,} {settings['dtype']}, {rate:,.0f} images/s")
