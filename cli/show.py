"""alexnet-dali show: pictures of a run, of its network and of what it reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from cli import options
from cli.compose import trained
from cli.options import out
from cli.text import progress, say, write_json
from model.errors import RunError

if TYPE_CHECKING:
    from cli.pictures.panels import Counts, Pair


@click.group("show")
def command() -> None:
    """Pictures of a run, of its network, of what it reads."""


@command.command("filters")
@options.run
@options.checkpoint
@click.option("--layer", default="conv1", help="A convolution; conv1 is the paper's figure 3.")
@out("filters.png")
def filters(run_name: str | None, checkpoint: str, layer: str, out: Path) -> None:
    """The kernels of a convolution, tower by tower.

    conv1 reads colours and is shown in them, as is a colour branch (conv2.colour). Other layers read maps: a
    row is a kernel, a column a map, orange above zero and blue below, and of each tower the 24 kernels of
    the largest weights are shown.
    """
    from cli.pictures.filters import filters

    path, saved = trained.open_checkpoint(run_name, checkpoint)
    weights = {name.removesuffix(".weight"): w for name, w in saved["weights"].items() if w.ndim == 4}
    if layer not in weights:
        raise RunError(f"{path} has no convolution {layer}; it has {', '.join(weights)}")
    weight = weights[layer].numpy()
    size = "x".join(map(str, weight.shape[2:]))
    draw(
        out,
        filters,
        weight,
        title=f"{layer} of {trained.title(path)}: {len(weight)} kernels of {size}",
        towers=saved["identity"]["recipe"]["towers"],
    )


@command.command("curves")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@out("curves.png")
def curves(runs: Sequence[str], out: Path) -> None:
    """Loss and errors over the epochs.

    The drops of the learning rate are marked; several runs are drawn over one another. A RUN is a name in
    runs/ or a folder; without one it is the newest.
    """
    from cli.pictures.curves import compare, curves
    from model.run import read_metrics

    found = {}
    for folder in [trained.find_run(name) for name in runs] or [trained.find_run(None)]:
        path = folder / "metrics.jsonl"
        if not path.exists():
            raise RunError(f"{path} is not there: {folder} is no run; runs are made by alexnet-dali train")
        found[str(folder) if folder.name in found else folder.name] = read_metrics(path)
    if len(found) == 1:
        ((name, metrics),) = found.items()
        draw(out, curves, metrics, title=f"Training of {name}")
    else:
        draw(out, compare, found, title=f"Training of {', '.join(found)}")


@command.command("confusion")
@options.using_network
@options.run_data
@click.option("--split", type=click.Choice(["val", "train"]), default="val", help="Which images.")
@click.option(
    "--predictions", type=click.Path(exists=True, path_type=Path), help="Of eval, instead of a run."
)
@click.option("--pairs", type=click.IntRange(1), default=16, help="How many to name.")
@click.option(
    "--json", "json_path", type=options.output, help="Write pairs there, of up to 1,000 classes all counts."
)
@out("confusion.png")
def confusion(
    predictions: Path | None, pairs: int, json_path: Path | None, out: Path, **settings: Any
) -> None:
    """Which classes are taken for one another, at the first guess."""
    from cli.pictures import panels

    names, counts = count_file(predictions) if predictions else count_run(settings)
    found = confused(names, counts)
    for pair in found[:pairs]:
        say(f"{pair.images:>7,} of {pair.of:<7,}  {pair.true}  ->  {pair.taken}")
    if json_path:
        content = {"classes": names, "pairs": [vars(pair) for pair in found]}
        if len(names) <= panels.CELLS:
            content["counts"] = panels.matrix(counts, len(names)).tolist()
        write_json(json_path, content, indent=None)
    images = counts.images.sum()
    error = 1 - counts.images[counts.true == counts.taken].sum() / max(1, images)
    title = f"Confusions among {images:,} images: top-1 error {100 * error:.1f} %"
    draw(out, panels.confusion, counts, names, found[:pairs], title=title)


def count_run(settings: dict[str, Any]) -> "tuple[list[str], Counts]":
    """Names of the classes, and how often each of the true ones was taken for which in a split."""
    from model.evaluate import LOST
    from model.study.layers import predict
    from pipeline.batches import EvaluationBatches
    from pipeline.dataset import need_labels
    from pipeline.graph import CENTRE_VIEW

    run = trained.open_run(settings["run_name"], settings["checkpoint"], settings)
    dataset = run.data(settings["data"])
    need_labels(dataset, settings["split"])
    batches = EvaluationBatches(
        dataset,
        settings["split"],
        views=CENTRE_VIEW,
        batch_size=run.batch_size(1),
        **run.image_options(),
    )
    parts = []
    with progress(settings["split"], len(batches.samples)) as done:
        for own, probabilities in predict(run.network, batches, run.precision):
            if not probabilities.isfinite().all():
                raise RunError(f"{run.path}: {LOST}")
            parts.append((own.numpy(), probabilities.argmax(1).numpy()))
            done(len(own))
    names = [run.name(output) for output in range(run.recipe.classes)]
    labels, guesses = map(np.concatenate, zip(*parts, strict=True))
    return names, count(labels, guesses, len(names))


def count_file(path: Path) -> "tuple[list[str], Counts]":
    """The same of a file that eval --predictions wrote."""
    from cli.compose import predictions

    found = predictions.read(path)
    if (found.labels < 0).any():
        raise RunError(f"{path} is of images without labels, which cannot be confused")
    classes = found.probabilities.shape[1]
    names = [*found.wnids, *(f"output {output}" for output in range(len(found.wnids), classes))]
    return names, count(found.labels, found.probabilities.argmax(1), classes)


def count(labels: "np.ndarray", guesses: "np.ndarray", classes: int) -> "Counts":
    """How often each pair of a true class and a first guess occurs. labels, guesses: (images,)."""
    from cli.pictures.panels import Counts

    pairs, images = np.unique(labels.astype(np.int64) * classes + guesses, return_counts=True)
    return Counts(pairs // classes, pairs % classes, images)


def confused(names: Sequence[str], counts: "Counts") -> "list[Pair]":
    """Pairs of a class and another that it was taken for, the most frequent first."""
    from cli.pictures.panels import Pair

    of = np.bincount(counts.true, counts.images)
    order = np.argsort(-counts.images, kind="stable")
    return [
        Pair(names[true], names[taken], int(images), int(of[true]))
        for true, taken, images in zip(*(part[order] for part in counts), strict=True)
        if true != taken
    ]


def draw(path: Path, picture: Any, *content: Any, title: str, **more: Any) -> None:
    """Draw and say so."""
    picture(*content, path=path, title=title, **more)
    say(f"drawn: {path}")
