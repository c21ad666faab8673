"""Define alexnet-dali baseline: the systems that the paper's tables compare the network with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli import options

COMMON = (
    options.data,
    click.option(
        "--split", type=click.Choice(["val", "test"]), default="val", help="Split whose errors are counted."
    ),
    click.option(
        "--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/baseline-NAME]"
    ),
    click.option(
        "--sample", type=click.IntRange(100), default=250_000, help="Number of descriptors to learn from."
    ),
    click.option(
        "--epochs", type=options.EPOCHS, default=20, help="Number of epochs of the classifiers' training."
    ),
    click.option("--seed", type=options.SEED, default=0, help="Random seed of samples, codebook and order."),
    click.option(
        "--workers", type=options.THREADS, help="Number of worker processes.  [default: one per core]"
    ),
)


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every baseline."""
    for option in reversed(COMMON):
        command = option(command)
    return command


@click.group("baseline")
def command() -> None:
    """Run a system that the paper compares with.

    The run's folder gets features, classifiers, metrics.jsonl, result.json and predictions.npz. A stopped or
    killed run resumes with the same command and gives the same result. Errors are counted as for the network.
    For another --split of a finished run, only that split's features are computed. Only ILSVRC-2010's test
    images have labels.
    """


@command.command("sift-fv")
@common
@click.option("--step", type=click.IntRange(1), default=4, help="Number of pixels between descriptors.")
@click.option(
    "--dimensions", type=click.IntRange(1, 128), default=64, help="Number of principal components kept."
)
@click.option("--components", type=click.IntRange(1), default=256, help="Number of Gaussians in the mixture.")
@click.option(
    "--pyramid",
    is_flag=True,
    help="Add Fisher vectors of the four quarters and three stripes. Features are eight times as large.",
)
def sift_fv(step: int, dimensions: int, components: int, pyramid: bool, **shared: Any) -> None:
    """Classify by SIFT and Fisher vectors.

    The method is that of Sanchez and Perronnin (CVPR 2011; with Mensink and Verbeek, IJCV 2013): plain SIFT
    of 24x24 pixels at five scales, principal components, a mixture of Gaussians, gradients by means and
    deviations, square roots, length 1, linear classifiers. The paper's row averages this and the same for
    colour statistics, which are not computed here.

    Estimate for ImageNet with the defaults: 32,768 numbers per image, 87 GB of features (262,144 and 698 GB
    with --pyramid), 22 hours of one core for them at 0.06 s per image, 131 MB of classifiers.
    """
    from cli.paper.baseline import BaselineSettings, run_baseline

    sizes = {"dimensions": dimensions, "components": components}
    levels = ((1, 1), (2, 2), (1, 3)) if pyramid else ((1, 1),)
    run_baseline("sift-fv", (24, step, 5), levels, sizes, BaselineSettings(**shared))


@command.command("sparse-coding")
@common
@click.option("--step", type=click.IntRange(1), default=8, help="Number of pixels between descriptors.")
@click.option("--words", type=click.IntRange(1), default=1024, help="Number of words in the dictionary.")
def sparse_coding(step: int, words: int, **shared: Any) -> None:
    """Classify by sparse codes of SIFT.

    The method is ScSPM (Yang, Yu, Gong, Huang, CVPR 2009): plain SIFT of 16x16 pixels, a learned dictionary,
    codes by LARS with a penalty of 0.15 on their sizes, maxima over cells of 1x1, 2x2 and 4x4, linear
    classifiers. The paper's row, the best of the 2010 challenge (Berg, Deng, Fei-Fei 2010), averages six such
    models of different features.

    Estimate for ImageNet with the defaults: 21,504 numbers per image, 57 GB of features, 222 hours of one
    core for them at 0.6 s per image, 86 MB of classifiers.
    """
    from cli.paper.baseline import BaselineSettings, run_baseline

    levels = ((1, 1), (2, 2), (4, 4))
    run_baseline("sparse-coding", (16, step, 1), levels, {"words": words}, BaselineSettings(**shared))
