"""Define alexnet-dali baseline: the systems that the paper's tables compare the network with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli import options

COMMON = (
    options.data,
    click.option(
        "--split", type=click.Choice(["val", "test"]), default="val", help="Images to count errors of."
    ),
    click.option(
        "--out", type=click.Path(path_type=Path), help="The run's folder.  [default: runs/baseline-NAME]"
    ),
    click.option("--sample", type=click.IntRange(100), default=250_000, help="Descriptors to learn from."),
    click.option("--epochs", type=options.EPOCHS, default=20, help="Of the classifiers' training."),
    click.option("--seed", type=options.SEED, default=0, help="Of all that is drawn."),
    click.option("--workers", type=options.THREADS, help="Processes.  [default: one a core]"),
)


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every baseline."""
    for option in reversed(COMMON):
        command = option(command)
    return command


@click.group("baseline")
def command() -> None:
    """What the paper's tables compare the network with: SIFT + FVs, sparse coding.

    Each leaves its features, classifiers, metrics.jsonl, result.json and predictions.npz in its run's folder;
    stopped at any time, the same command goes on and ends with the same. Evaluation is that of the network.
    Of a finished run another --split takes only its own features; only ILSVRC-2010's test images have labels.
    """


@command.command("sift-fv")
@common
@click.option("--step", type=click.IntRange(1), default=4, help="Pixels between descriptors.")
@click.option("--dimensions", type=click.IntRange(1, 128), default=64, help="Principal components kept.")
@click.option("--components", type=click.IntRange(1), default=256, help="Gaussians of the mixture.")
@click.option("--pyramid", is_flag=True, help="Also of quarters and of three stripes: eight times as much.")
def sift_fv(step: int, dimensions: int, components: int, pyramid: bool, **shared: Any) -> None:
    """Dense SIFT, improved Fisher vectors, linear classifiers.

    After Sanchez and Perronnin (CVPR 2011; with Mensink and Verbeek, IJCV 2013): plain SIFT of 24x24 pixels
    at five scales, principal components, a mixture of Gaussians, gradients by means and deviations, square
    roots, length 1. The paper's row averages this and the same of colour statistics, which are not here.

    ImageNet with the defaults, computed: 32,768 numbers an image, 87 GB of features (with --pyramid 262,144
    and 698 GB), 22 hours of one core for them at 0.06 s an image, 131 MB of classifiers.
    """
    from cli.paper.baseline import BaselineSettings, run_baseline

    sizes = {"dimensions": dimensions, "components": components}
    levels = ((1, 1), (2, 2), (1, 3)) if pyramid else ((1, 1),)
    run_baseline("sift-fv", (24, step, 5), levels, sizes, BaselineSettings(**shared))


@command.command("sparse-coding")
@common
@click.option("--step", type=click.IntRange(1), default=8, help="Pixels between descriptors.")
@click.option("--words", type=click.IntRange(1), default=1024, help="Of the dictionary.")
def sparse_coding(step: int, words: int, **shared: Any) -> None:
    """Dense SIFT, sparse codes, maxima over a spatial pyramid, linear classifiers.

    After ScSPM (Yang, Yu, Gong, Huang, CVPR 2009): plain SIFT of 16x16 pixels, a learned dictionary, codes
    by LARS with a penalty of 0.15 on their sizes, cells of 1x1, 2x2 and 4x4. The paper's row, the best of
    the 2010 challenge (Berg, Deng, Fei-Fei 2010), averages six such models of different features.

    ImageNet with the defaults, computed: 21,504 numbers an image, 57 GB of features, 222 hours of one core
    for them at 0.6 s an image, 86 MB of classifiers.
    """
    from cli.paper.baseline import BaselineSettings, run_baseline

    levels = ((1, 1), (2, 2), (4, 4))
    run_baseline("sparse-coding", (16, step, 1), levels, {"words": words}, BaselineSettings(**shared))
