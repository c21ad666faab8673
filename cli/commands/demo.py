"""Define alexnet-dali demo: run the three commands on a small ImageNet that is drawn on the spot."""

import shutil
from pathlib import Path

import click

from cli import options
from cli.compose.runs import recommend
from cli.display import draw, say, say_row
from cli.pictures.curves import curves
from cli.pictures.filters import filters, kernels_shown
from model.run import read_metrics

CLASSES, TRAIN, VAL = 10, 100, 30  # images of each class
PREPARING = ["--max-rejected", "0.01"]  # three are broken on purpose
# A quarter of the width, batches of 32: enough to see it learn in two minutes on two cores.
TRAINING = ["--width", "0.25", "--batch-size", "32", "--epochs", "20"]


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="demo",
    help="Folder for everything that the demo makes.",
)
@click.option("--device", default="cpu", help="Device to train on.")
def command(out: Path, device: str) -> None:
    """Prepare, train and evaluate drawn images.

    The demo needs neither data nor a GPU and takes a few minutes on a CPU.
    """
    from model import checkpoint
    from pipeline.source import miniature

    root, data, run = out / "archives", out / "imagenet", out / "runs" / "demo"
    if not root.exists():
        say(f"Drawing {CLASSES} classes of images as ImageNet's archives in {root} ...")
        shutil.rmtree(half := out / "archives.tmp", ignore_errors=True)
        miniature.write_archives(half, classes=CLASSES, train=TRAIN, val=VAL)
        half.rename(root)
    call("prep", "--imagenet-root", root, "--out", data, *PREPARING)
    call("train", "--data", data, "--run", run, "--device", device, *TRAINING)
    call("eval", "--ten-crop", "--data", data, "--run", run, "--device", device)
    weight = checkpoint.read(run / "last.pt")["weights"]["conv1.weight"].numpy()
    say("")
    draw(out / "filters.png", filters, weight, title=f"conv1 of demo: {kernels_shown(weight)}")
    metrics = read_metrics(run / "metrics.jsonl")
    draw(out / "curves.png", curves, metrics, title="Training of demo", classes=CLASSES)
    machine, mistaken = options.Machine(device=device), ("--split", "val", "--only-errors")
    wrong, conv2 = ((option, str(out / name), "--force")
                    for option, name in (("--picture", "mistaken.png"), ("--out", "conv2.png")))  # fmt: skip
    say_row("next", recommend("report", run=run, machine=machine))
    say_row("", recommend("predict", *mistaken, *wrong, run=run, machine=machine))
    say_row("", recommend("show", "filters", "--layer", "conv2", *conv2, run=run))


def call(*arguments: object) -> None:
    """Show and run a command as if it had been typed."""
    words = [str(argument) for argument in arguments]
    say("")
    say(f"$ {recommend(*words)}")
    click.get_current_context().find_root().command.main(words, standalone_mode=False)
