"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path

import click

data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default="data/imagenet",
    envvar="ALEXNET_DALI_DATA",
    show_envvar=True,
    help="The prepared dataset.",
)
gpus = click.option(
    "--gpus", metavar="N[,N]", help="One GPU for the whole network, or two: a tower on each.  [default: 0]"
)
device = click.option(
    "--device", metavar="NAME[,NAME]", help="Torch devices instead of --gpus: cpu, or cpu,cpu."
)
precision = click.option(
    "--precision",
    type=click.Choice(["bfloat16", "tf32", "float32"]),
    help="Of convolutions and matrix products.  [default: bfloat16 on GPUs since Ampere, else float32]",
)
cuda_graph = click.option(
    "--cuda-graph",
    is_flag=True,
    help="Record the step and launch it as one. Off: nobody has measured it yet.",
)
workers = click.option("--workers", type=click.IntRange(1), help="Cores for decoding.  [default: all]")
RUNS = Path("runs")


def machine(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where and how to compute."""
    for option in (workers, precision, device, gpus):
        command = option(command)
    return command


def run_path(name: str) -> Path:
    """A run's folder: a plain name lies in runs/, anything else is a path."""
    return RUNS / name if name == Path(name).name else Path(name)


def make_ready(output: Path) -> None:
    """Fail now, and not after the work, where a file cannot be written."""
    output.parent.mkdir(parents=True, exist_ok=True)
    there = output.exists()
    with open(output, "ab"):
        pass
    if not there:
        output.resolve().unlink()
