"""Define alexnet-dali predict: name the likeliest classes of images."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from cli import options
from cli.display import progress, tell_written


@click.command("predict")
@click.argument("images", nargs=-1, metavar="[IMAGE|FOLDER|PATTERN]...")
@options.using_network
@click.option(
    "--ten-crop",
    is_flag=True,
    help="Average the paper's ten views: four corners and the centre, each also mirrored.",
)
@click.option(
    "--split",
    type=click.Choice(["val", "train", "test"]),
    help="Classify this split of the prepared dataset instead of files.",
)
@options.run_data
@options.exif
@click.option(
    "--json",
    "json_path",
    type=options.output_or_dash,
    help="Write a JSON list with one object per image; - for standard output.",
)
@click.option(
    "--csv",
    "csv_path",
    type=options.output_or_dash,
    help="Write one CSV line per image; - for standard output.",
)
@click.option(
    "--picture",
    type=options.picture,
    help="Draw images and their predicted classes to this .png, .pdf or .svg file.",
)
@options.force
@click.option("--count", type=click.IntRange(1), default=8, help="Largest number of images in the picture.")
@click.option(
    "--only-errors",
    is_flag=True,
    help="Show only misclassified images. Their true class must be known.",
)
def command(
    images: Sequence[str],
    run_name: str | None,
    checkpoint: str,
    machine: options.Machine,
    ten_crop: bool,
    split: str | None,
    data: Path | None,
    exif: str,
    json_path: str | None,
    csv_path: str | None,
    picture: Path | None,
    count: int,
    only_errors: bool,
) -> None:
    """Print the five likeliest classes per image.

    Images are decoded, resized and cropped as in evaluation. The true class of an image is known if its
    folder has the class's wnid or name (n01440764, tench), or if its file name begins with the wnid. The row
    of an image that cannot be decoded says why. A damaged JPEG is decoded as far as possible, and its row
    says so.
    """
    if bool(images) == bool(split):
        raise click.UsageError("give images, folders or patterns, or give --split")
    from cli.compose.trained import open_run
    from cli.study.guesses import Outputs, Totals, from_files, from_split, open_sinks

    run = open_run(run_name, checkpoint, machine)
    if split:
        source = from_split(run, run.data(data), split, ten_crop)
    else:
        source = from_files(run, images, ten_crop, upright=exif == "honour")
    asked = Outputs(json_path, csv_path, picture, count, only_errors)
    totals, started = Totals(), time.monotonic()
    with ExitStack() as stack:
        sinks = list(open_sinks(run, source, asked, stack))
        done = stack.enter_context(progress("images", len(source.names)))
        for number, row in enumerate(source.rows()):
            totals.add(row)
            done(1)
            if row.wrong or not only_errors or row.fault:
                for sink in sinks:
                    sink(number, row)
    totals.tell(time.monotonic() - started, len(run.facts.classes))
    tell_written(json_path, csv_path, err=True)
