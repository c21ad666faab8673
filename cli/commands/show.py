"""Define alexnet-dali show: draw a run, its network and its images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from cli import options
from cli.compose.classes import choose_class
from cli.compose.fitting import need_fitting
from cli.compose.runs import find_run
from cli.display import draw, plural, say, write_json
from cli.pictures import confusion as matrices
from cli.pictures import curves as graphs
from cli.pictures import filters as kernels
from cli.pictures import panels
from cli.pictures.canvas import percent
from model.errors import RunError
from model.recipe import Recipe
from model.run import read_about, read_metrics
from pipeline.dataset import open_dataset


@click.group("show")
def command() -> None:
    """Draw a run, its network and its images."""


@command.command("filters")
@options.run
@options.checkpoint
@click.option("--layer", default="conv1", help="Convolution to draw; conv1 is the paper's figure 3.")
@options.out("filters.png")
def filters(run_name: str | None, checkpoint: str, layer: str, out: Path) -> None:
    """Draw the kernels of a convolution.

    The towers are drawn apart. conv1 reads colours and is drawn in colours, as is a colour branch
    (conv2.colour). Other layers read maps: each row is a kernel, each column a map; orange is positive, blue
    negative. For each tower, the 24 kernels with the largest weights are drawn.
    """
    from cli.compose import trained

    path, saved = trained.open_checkpoint(run_name, checkpoint)
    weights = {name.removesuffix(".weight"): w for name, w in saved["weights"].items() if w.ndim == 4}
    if layer not in weights:
        raise RunError(f"{path} has no convolution {layer}; it has {', '.join(weights)}")
    weight = weights[layer].numpy()
    towers = saved["identity"]["recipe"]["towers"]
    draw(
        out,
        kernels.filters,
        weight,
        title=f"{layer} of {trained.title(path)}: {kernels.kernels_shown(weight, towers)}",
        towers=towers,
    )


@command.command("curves")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--run", "more", multiple=True, help="Name or folder of a run, as RUN; may be given several times."
)
@options.out("curves.png")
def curves(runs: Sequence[str], more: Sequence[str], out: Path) -> None:
    """Draw loss and errors over the epochs.

    Vertical lines mark changes of the learning rate. Several runs are drawn into the same axes. RUN is a name
    in runs/ or a folder; the default is the newest.
    """
    metrics, classes = {}, set()
    for folder in [find_run(name) for name in (*runs, *more)] or [find_run(None)]:
        path = folder / "metrics.jsonl"
        if not path.exists():
            raise RunError(f"{folder} is not a run, as it has no {path.name}; alexnet-dali train makes runs")
        metrics[str(folder) if folder.name in metrics else folder.name] = read_metrics(path)
        about = read_about(folder / "run.json") if (folder / "run.json").exists() else {}
        classes.add((about.get("recipe") or {}).get("classes"))
    same = classes.pop() if len(classes) == 1 else None
    if len(metrics) == 1:
        ((name, rows),) = metrics.items()
        draw(out, graphs.curves, rows, title=f"Training of {name}", classes=same)
    else:
        draw(out, graphs.compare, metrics, title=f"Training of {', '.join(metrics)}", classes=same)


@command.command("confusion")
@options.using_network
@options.run_data
@click.option(
    "--split", type=click.Choice(["val", "train"]), default="val", help="Split whose images are classified."
)
@click.option(
    "--predictions",
    type=click.Path(exists=True, path_type=Path),
    help="File of eval --predictions to count instead of running the network.",
)
@click.option(
    "--pairs",
    type=click.IntRange(1),
    default=16,
    help="Number of confusions to print and draw, and of classes to print.",
)
@click.option(
    "--json",
    "json_path",
    type=options.output,
    help="Write all confusions to this JSON file, and for up to 1,000 classes the whole matrix.",
)
@click.option(
    "--csv",
    "csv_path",
    type=options.output_or_dash,
    help="Write each class's error as CSV; - for standard output.",
)
@options.out("confusion.png")
def confusion(
    predictions: Path | None,
    pairs: int,
    json_path: Path | None,
    csv_path: str | None,
    out: Path,
    run_name: str | None,
    checkpoint: str,
    machine: options.Machine,
    data: Path | None,
    split: str,
) -> None:
    """Draw and print which classes are confused.

    A confusion is an image whose predicted class is not the true one. The most frequent confusions and the
    classes with the highest top-1 error are printed.
    """
    from cli.compose.trained import open_run, title
    from cli.study.confusion import confused, count_file, count_run, error_rows, write_errors

    if predictions:
        (names, counts), who = count_file(predictions), predictions.stem
    else:
        run = open_run(run_name, checkpoint, machine)
        (names, counts), who = count_run(run, run.data(data), split), f"{title(run.path)}, {split}"
    mistakes = confused(names, counts)
    if csv_path != "-":
        say(f"most frequent confusions (true -> predicted), {who}")
        for pair in mistakes[:pairs]:
            say(f"{pair.images:>7,} of {pair.of:<7,}  {pair.true}  ->  {pair.taken}")
        say("highest top-1 error of a class")
        for name, of, wrong, rate in error_rows(names, counts)[:pairs]:
            say(f"{wrong:>7,} of {of:<7,}  {rate:6.2f} %  {name}")
    if csv_path:
        write_errors(csv_path, names, counts)
    if json_path:
        content = {"classes": names, "pairs": [vars(pair) for pair in mistakes]}
        if len(names) <= matrices.CELLS:
            content["counts"] = matrices.matrix(counts, len(names)).tolist()
        write_json(json_path, content, indent=None)
    images = counts.images.sum()
    error = 100 * (1 - counts.images[counts.true == counts.taken].sum() / max(1, images))
    heading = f"Confusion matrix of {who}: top-1 error {error:.1f} % on {plural(int(images), 'image')}"
    draw(out, matrices.confusion, counts, names, mistakes[:pairs], title=heading)


@command.command("activations")
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options.using_network
@options.exif
@click.option(
    "--layer", help="Convolution whose maps are all drawn.  [default: the strongest maps of every layer]"
)
@options.out("activations.png")
def activations(
    image: Path,
    run_name: str | None,
    checkpoint: str,
    layer: str | None,
    exif: str,
    out: Path,
    machine: options.Machine,
) -> None:
    """Draw every layer's activations for IMAGE.

    Values are taken after ReLU, pooling and normalisation, as the next layer reads them.
    """
    from cli.compose import trained
    from model.study.layers import layer_names, outputs
    from pipeline.files import square
    from pipeline.image import centre

    run = trained.open_run(run_name, checkpoint, machine)
    ((_, images),) = trained.read_images(run, [image], exif == "honour")
    *hidden, last = layer_names(run.network)
    wanted = hidden if layer is None else [layer]
    values = outputs(run.network, images, [*wanted, last], run.precision)
    probabilities = values[last][0].softmax(0)
    output = int(probabilities.argmax())
    prediction = f"{run.name(output)}, {percent(float(probabilities[output]))}"
    arrays = {name: values[name][0].cpu().numpy() for name in wanted}
    who, towers = trained.title(run.path), run.recipe.towers
    if layer is None:
        crop = centre(square(image, exif == "honour", run.facts.side), run.recipe.crop)
        title = f"Activations of {who} for {image.name}"
        draw(out, panels.layers, crop, prediction, arrays, title=title, towers=towers)
    elif arrays[layer].ndim == 1:
        raise RunError(f"{layer} has units, not maps; without --layer they are drawn below the maps")
    else:
        title = f"{layer} of {who} for {image.name}, predicted: {prediction}"
        draw(out, panels.maps, arrays[layer], title=title, towers=towers)


@command.command("gradient")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@options.using_network
@click.option(
    "--class", "chosen", help="Class by its name, its wnid or its number from 0.  [default: the likeliest]"
)
@options.exif
@options.out("gradient.png")
def gradient(
    images: Sequence[str],
    run_name: str | None,
    checkpoint: str,
    chosen: str | None,
    exif: str,
    out: Path,
    machine: options.Machine,
) -> None:
    """Draw which pixels a class depends on.

    The picture shows d log p / d pixel for a class's probability p. Each of the first eight images is a
    column, and grey is zero. The last row shows the largest magnitude of the three colour channels. Below it
    are p and the class.
    """
    import torch

    from cli.compose.trained import open_run, read_images, title
    from model.study.layers import gradient as slope
    from pipeline.files import find_images, square
    from pipeline.image import centre

    run = open_run(run_name, checkpoint, machine)
    wanted = None if chosen is None else choose_class(run.facts.classes, chosen).index
    rows: dict[str, list[Any]] = {"image": [], "gradient": [], "magnitude": []}
    captions = []
    for path, values in read_images(run, find_images(images)[:8], exif == "honour"):
        with torch.no_grad():
            probabilities = run.network(values)[0].softmax(0)
        output = int(probabilities.argmax()) if wanted is None else wanted
        slopes = slope(run.network, values, torch.tensor([output]))[0].permute(1, 2, 0).cpu().numpy()
        level = slopes / (np.percentile(np.abs(slopes), 99.5) or 1)
        rows["image"].append(centre(square(path, exif == "honour", run.facts.side), run.recipe.crop))
        rows["gradient"].append(np.rint(127.5 + 127.5 * level.clip(-1, 1)).astype(np.uint8))
        size = np.abs(level).max(2, keepdims=True).clip(0, 1)
        rows["magnitude"].append(np.rint(255 * size).astype(np.uint8).repeat(3, axis=2))
        captions.append(f"{percent(float(probabilities[output]))} {run.name(output)}")
    of = "predicted class" if wanted is None else run.name(wanted)
    what = f"Gradient of log p({of}), {title(run.path)}"
    draw(out, panels.grid, rows, title=what, captions=captions)


@command.command("batch")
@options.data
@click.option("--run", "run_name", help="Run whose recipe, seed and dataset are taken.  [default: none]")
@options.recipe
@click.option(
    "--seed", type=options.SEED, default=0, help="Random seed of the training, if no --run is given."
)
@click.option("--step", type=click.IntRange(0, 2**62), default=0, help="Number of the training step, from 0.")
@click.option("--count", type=click.IntRange(1, 16), default=6, help="Number of images to draw.")
@options.out("batch.png")
def batch(
    data: Path,
    run_name: str | None,
    chosen: options.Chosen,
    seed: int,
    step: int,
    count: int,
    out: Path,
) -> None:
    """Draw the images of a training step.

    Crops, flips and colour noise are those of the training at that step.
    """
    from cli.compose import trained
    from cli.study.batch import training_images

    recipe = chosen.make(None)
    if run_name:
        if chosen.given:
            raise click.UsageError("--run has its own recipe: leave out --recipe and --set")
        path, saved = trained.open_checkpoint(run_name, "last")
        recipe, seed = Recipe.from_dict(saved["identity"]["recipe"]), saved["identity"].get("seed", seed)
        source = click.get_current_context().get_parameter_source("data")
        if source is click.core.ParameterSource.DEFAULT:
            data = trained.recorded_data(path.parent if path.suffix == ".pt" else path)
    dataset = open_dataset(data)
    need_fitting(recipe, dataset)
    rows, captions = training_images(dataset, recipe, seed, step, count)
    title = f"Images of training step {step:,}, from stored image to network input"
    draw(out, panels.grid, rows, title=title, captions=captions)
