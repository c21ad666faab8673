"""alexnet-dali show: pictures of a run, of its network and of what it reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.compose import trained
from cli.display import draw, say, write_json
from cli.options import out
from cli.study.confusion import confused, count_file, count_run
from model.errors import RunError


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
