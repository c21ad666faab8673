"""Define alexnet-dali features: save a layer's activations for each image."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from cli import options
from cli.compose.runs import recommend
from cli.display import progress, say_row
from model.errors import RunError
from pipeline.atomic import writing
from pipeline.dataset import read_names

if TYPE_CHECKING:
    from cli.compose.trained import Trained
    from pipeline.dataset import Dataset


@click.command("features")
@options.using_network
@options.run_data
@click.option("--layer", default="fc7", help="Layer whose activations are saved.")
@options.split
@click.option(
    "--type",
    "dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    help="Data type of the saved activations.",
)
@click.option("--out", type=options.Output(".npy"), help="File to write, .npy.  [default: SPLIT-LAYER.npy]")
@options.force
def command(
    layer: str,
    split: str,
    dtype: str,
    out: Path | None,
    run_name: str | None,
    checkpoint: str,
    machine: options.Machine,
    data: Path | None,
) -> None:
    """Save a layer's activations for each image.

    The array has one row per image, for `similar` and other programs; for fc7 these are the paper's 4096
    numbers. Values are taken after ReLU, pooling, normalisation and dropout scaling, as the next layer reads
    them. FILE.txt, with one image name per line, and FILE.json, which says how FILE.npy was made, are written
    beside it.
    """
    from cli.compose.trained import open_run

    run = open_run(run_name, checkpoint, machine)
    sizes = {shape.layer.name: int(np.prod(shape.out)) for shape in run.network.shapes}
    if layer not in sizes:
        raise RunError(f"the network has no layer {layer}; it has {', '.join(sizes)}")
    out = out or Path(f"{split}-{layer}.npy")
    outs = [out.with_suffix(suffix) for suffix in (".json", ".txt", ".npy")]
    for each in outs:
        options.make_ready(each)
    dataset, started = run.data(data), time.monotonic()
    names, shape = read_names(dataset, split), (dataset.samples(split), sizes[layer])
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    facts = {
        "run": str(run.source.resolve()),
        "checkpoint": run.path.stem,
        "step": run.step,
        "layer": layer,
        "data": str(dataset.root.resolve()),
        "fingerprint": dataset.fingerprint,
        "split": split,
        "precision": run.precision,
    }
    with ExitStack() as stack:  # all three files are written, or none
        about, text, table = files = [stack.enter_context(writing(each)) for each in outs]
        about.write(json.dumps(facts, indent=1).encode() + b"\n")
        text.write("".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape"))
        np.lib.format.write_array_header_1_0(table, header)
        for rows in compute(run, dataset, split, layer):
            with np.errstate(over="ignore"):
                numbers = rows.astype(dtype)
            if not np.isfinite(numbers).all():
                raise RunError(f"{layer} has activations too large for float16: give --type float32")
            table.write(numbers.tobytes())
        for file in files:
            file.flush()
    rate = shape[0] / (time.monotonic() - started)
    say_row("written", f"{out}, {shape[0]:,} x {shape[1]:,} {dtype}, {rate:,.0f} images/s")
    say_row("next", recommend("similar", "IMAGE", "--features", str(out), machine=machine))


def compute(run: "Trained", dataset: "Dataset", split: str, layer: str) -> Iterator[np.ndarray]:
    """Yield (rows, n) float32, batch by batch."""
    from model.study.layers import outputs

    batches = run.batches(dataset, split)
    with progress(f"{layer} of {split}", len(batches.samples)) as done:
        for images, labels in batches:
            features = outputs(run.network, images, [layer], run.precision)[layer]
            yield features.flatten(1).cpu().numpy()
            done(len(labels))
