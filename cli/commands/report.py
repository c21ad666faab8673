"""Define alexnet-dali report: write one HTML page about a run."""

import time
from pathlib import Path

import click

from cli import options
from cli.display import disk_size, say_row
from cli.study import page
from model.errors import RunError
from model.recipes import title
from model.run import read_about, read_metrics
from model.schedule import epochs
from pipeline.atomic import make_ready, replacing, writing
from pipeline.dataset import need_labels


@click.command("report")
@click.argument("argument", required=False, metavar="[RUN]")
@options.run
@options.checkpoint
@options.machine
@options.run_data
@click.option(
    "--ten-crop", is_flag=True, help="Evaluate the paper's ten views, too, which takes ten times as long."
)
@click.option(
    "--out", type=options.output, help="HTML file to write.  [default: report.html in the run's folder]"
)
@options.force
def command(
    argument: str | None,
    run_name: str | None,
    checkpoint: str,
    machine: options.Machine,
    data: Path | None,
    ten_crop: bool,
    out: Path | None,
) -> None:
    """Write an HTML report of a run.

    The page is self-contained: it needs no other file and no internet. RUN is a name in runs/ or a folder;
    the default is the newest.
    """
    from cli.compose.trained import open_run
    from cli.study import report

    if argument and run_name:
        raise click.UsageError("the run is named twice: give RUN or --run, not both")
    run = open_run(argument or run_name, checkpoint, machine)
    folder, dataset = run.source, run.data(data)
    need_labels(dataset, "val")
    try:
        about, metrics = read_about(folder / "run.json"), read_metrics(folder / "metrics.jsonl")
    except OSError as error:
        what = f"{error.filename}: {error.strerror}"
        raise RunError(f"{folder} is not a run of alexnet-dali train ({what}); give another") from None
    ours, out = out is None, out or folder / "report.html"
    if not (ours and out.is_symlink()):
        make_ready(out)
    seen = report.look(run, dataset)
    errors = {"this run, centre crop": seen.errors(run.path)}
    if ten_crop:
        errors["this run, ten views"] = report.ten_views(run, dataset)
    sections = [
        ("Errors", report.error_table(errors, dataset)),
        ("Training", report.draw_training(metrics, folder.name, len(dataset.classes))),
        ("Kernels", report.draw_filters(run)),
        ("Predictions", report.draw_predictions(run, dataset, seen)),
        ("Confusion matrix", report.draw_confusion(run, seen)),
        ("Similar images", report.draw_similar(run, dataset, seen)),
        ("Recipe", report.recipe_tables(run)),
        ("Environment", report.environment(about)),
        ("Commands", report.commands(about, run, data, machine)),
    ]
    subtitle = (
        f"AlexNet, recipe {title(run.recipe, 'classes', 'epochs')}: "
        f"{report.progress_of(metrics, epochs(run.recipe))}. Evaluated: "
        f"{run.path.name}, after step {run.step:,}. Written: {time.strftime('%Y-%m-%d %H:%M')}."
    )
    content = page.page(f"{folder.name} on {dataset.root.resolve().name}", subtitle, sections).encode()
    with replacing(out) if ours else writing(out) as file:  # in the run's folder no link is followed
        file.write(content)
    say_row("written", f"{out}, {disk_size(len(content))}")
    say_row("next", "open it in any browser")
