"""Define alexnet-dali predict: name the likeliest classes of images."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from cli import options
from cli.display import progress


@click.command("predict")
@click.argument("images", nargs=-1, metavar="[IMAGE|FOLDER|PATTERN]...")
@options.using_network
@click.option("--ten-crop", is_flag=True, help="Average ten views: corners, centre, and mirrored.")
@click.option(
    "--split", type=click.Choice(["val", "train", "test"]), help="Of a prepared dataset, not files."
)
@options.run_data
@options.exif
@click.option(
    "--json", "json_path", type=options.output_or_dash, help="Write a list of objects; - is the terminal."
)
@click.option(
    "--csv", "csv_path", type=options.output_or_dash, help="Write a line an image; - is the terminal."
)
@click.option("--picture", type=options.picture, help="Draw images and guesses: .png, .pdf or .svg.")
@options.force
@click.option("--count", type=click.IntRange(1), default=8, help="Images in the picture, at most.")
@click.option("--only-errors", is_flag=True, help="Leave out what was recognised; needs known classes.")
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
    """The five likeliest classes of each image.

    Images are decoded, resized and cropped as in evaluation. The class of an image is known where its
    folder is called by the class's wnid or name (n01440764, tench), or its own name begins with the wnid.
    An image that cannot be decoded is a row that says why; a damaged JPEG is decoded as far as it goes,
    with a note.
    """
    if bool(images) == bool(split):
        raise click.UsageError("give images, folders or patterns, or else --split")
    from cli.compose.images import choose_views
    from cli.compose.trained import open_run
    from cli.study.guesses import Outputs, Totals, from_files, from_split, open_sinks

    run, views = open_run(run_name, checkpoint, machine), choose_views(ten_crop)
    if split:
        source = from_split(run, run.data(data), split, views)
    else:
        source = from_files(run, images, views, upright=exif == "honour")
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
