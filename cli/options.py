"""Define the options that several commands share."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from model.recipe import Recipe
from model.recipes import RECIPES
from model.settings import Source, make_recipe, read_file, read_set, unknown_name
from pipeline import atomic

DATA = "data/imagenet"
data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=DATA,
    envvar="ALEXNET_DALI_DATA",
    show_envvar=True,
    help="Folder of the prepared dataset.",
)
split = click.option(
    "--split", type=click.Choice(["val", "train", "test"]), default="val", help="Split whose images are read."
)
gpus = click.option(
    "--gpus",
    metavar="N[,N]",
    help="GPU number. Two numbers put each of the network's two towers on its own GPU.  [default: 0]",
)
device = click.option(
    "--device",
    metavar="NAME[,NAME]",
    help="Device instead of --gpus: cpu or cuda:N. cpu,cpu computes the two towers apart, as on two GPUs.",
)
precision = click.option(
    "--precision",
    type=click.Choice(["bfloat16", "tf32", "float32"]),
    help="Number format of convolutions and matrix products.  "
    "[default: bfloat16 on GPUs since Ampere, else float32]",
)
cuda_graph = click.option(
    "--cuda-graph",
    is_flag=True,
    help="Experimental: replay the training step as one CUDA graph, in one process on one GPU.",
)


class Number(click.FloatRange):
    """Accept a number of a range, and not NaN, which click lets into any range."""

    name = "number"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", parameter, context)
        return number


DEFAULT = "original"  # recipe


class RecipeName(click.ParamType):  # type: ignore[type-arg]
    """Accept the name of a recipe, or a TOML file of settings, which is read."""

    name = "recipe"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if isinstance(value, Source) or value in RECIPES:
            return value
        if not value.endswith(".toml"):
            other = unknown_name("recipe", value, list(RECIPES))
            self.fail(f"{other}, or a file that ends in .toml", parameter, context)
        return read_file(Path(value))

    def shell_complete(self, context: click.Context, parameter: click.Parameter, begun: str) -> Any:
        return [CompletionItem(name) for name in RECIPES if name.startswith(begun)]


class Setting(click.ParamType):  # type: ignore[type-arg]
    """Accept KEY=VALUE."""

    name = "setting"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        try:
            return value if isinstance(value, Source) else read_set(value)
        except ValueError as error:
            self.fail(str(error), parameter, context)


@dataclass(frozen=True)
class Chosen:
    """Hold the recipe that was asked for, and what was set."""

    recipe: str | Source
    sets: tuple[Source, ...]

    @property
    def given(self) -> bool:
        """Return whether anything but the default was asked for."""
        return self.recipe != DEFAULT or bool(self.sets)

    def make(self, outputs: int | None, **overrides: object) -> Recipe:
        """Return the recipe, with as many outputs unless it is told how many, and with these overrides."""
        for source in self.sets:
            for key in source.values:
                if overrides.get(key) is not None:
                    raise click.UsageError(f"{source.name} and --{key.replace('_', '-')}: give one of them")
        return make_recipe(self.recipe, self.sets, outputs, **overrides)


def recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Add --recipe and --set to a command, which gets them as one argument, `chosen`."""
    by_name = click.option(
        "--recipe",
        type=RecipeName(),
        metavar="NAME|FILE.toml",
        default=DEFAULT,
        help="Network and hyper-parameters: `original` is the released 2012 code, `paper` the printed text; "
        f"others are {', '.join(list(RECIPES)[2:])}; or a file of settings. `train --show-recipe` prints "
        "each of them.",
    )
    by_key = click.option(
        "--set",
        "sets",
        type=Setting(),
        metavar="KEY=VALUE",
        multiple=True,
        help="Change a setting of the recipe, as in keep=0.8 or layers.conv1.kernel=7. Repeatable.",
    )

    @wraps(command)
    def collect(recipe: str | Source, sets: tuple[Source, ...], **others: object) -> None:
        command(chosen=Chosen(recipe, sets), **others)

    return by_name(by_key(collect))


# The limits are those of a recipe, of torch's generators, and of what DALI can start threads for.
SEVERAL, EPOCHS, THREADS = click.IntRange(1, 2**20), click.IntRange(1, 100_000), click.IntRange(1, 1024)
WIDTH, SEED, MINUTES = Number(0, 1000, min_open=True), click.IntRange(0, 2**64 - 1), Number(0, 1e6)
workers = click.option("--workers", type=THREADS, help="CPU threads for decoding.  [default: one per core]")
RUNS = Path("runs")


def _remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta["force"] = value


# Eager: read before the outputs, which ask for it.
force = click.option(
    "--force",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_remember,
    help="Overwrite output files that exist.",
)


def make_ready(path: Path) -> None:
    """Fail now, rather than after the work, where an output cannot be written, or exists without --force."""
    atomic.make_ready(path, overwrite=click.get_current_context().meta["force"])


class Output(click.Path):
    """Accept a file to write, with one of these suffixes; tried before the work. It goes with `force`.

    dash: - is the terminal.
    """

    def __init__(self, *suffixes: str, dash: bool = False) -> None:
        super().__init__(dir_okay=False, readable=False, allow_dash=dash, path_type=str if dash else Path)
        self.suffixes = suffixes

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if self.suffixes and Path(value).suffix not in self.suffixes:
            listed = " or ".join(filter(None, (", ".join(self.suffixes[:-1]), self.suffixes[-1])))
            self.fail(f"{value} does not end in {listed}", parameter, context)
        if not (self.allow_dash and value == "-"):
            make_ready(Path(value))
        return super().convert(value, parameter, context)


output, output_or_dash, picture = Output(), Output(dash=True), Output(".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Machine:
    """Say where and how to compute; None is the default of the option of this name."""

    gpus: str | None = None
    device: str | None = None
    precision: str | None = None
    workers: int | None = None


def machine(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `Machine` to a command, which gets them as one argument, `machine`."""

    @wraps(command)
    def collect(
        gpus: str | None, device: str | None, precision: str | None, workers: int | None, **others: object
    ) -> None:
        command(machine=Machine(gpus, device, precision, workers), **others)

    for option in (workers, precision, device, gpus):
        collect = option(collect)
    return collect


def run_path(name: str) -> Path:
    """Return a run's folder: a plain name lies in runs/, anything else is a path."""
    return RUNS / name if name == Path(name).name else Path(name)


def run_name(path: Path) -> str:
    """Return what --run calls a folder, so that `run_path` finds it again."""
    if path.parent == RUNS:
        return path.name
    return f"./{path}" if path.name == str(path) else str(path)


def out(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    option = click.option("--out", type=picture, default=name, help="Picture to write: .png, .pdf or .svg.")
    return lambda command: option(force(command))


run = click.option(
    "--run",
    "run_name",
    help="Name or folder of a run, its .pt or a .safetensors of `export`.  [default: the newest in runs/]",
)
checkpoint = click.option(
    "--checkpoint",
    type=click.Choice(["last", "best"]),
    default="last",
    help="Checkpoint of the run; best is the epoch of the lowest top-1 validation error.",
)
run_data = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the prepared dataset.  [default: the run's]"
)


exif = click.option(
    "--exif",
    type=click.Choice(["honour", "ignore"]),
    default="honour",
    help="EXIF orientation: `honour` turns images upright, `ignore` takes the pixels as stored.",
)


def using_network(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that computes with a run's network."""
    for option in (machine, checkpoint, run):
        command = option(command)
    return command
