"""Define alexnet-dali bench: measure the parts of training, and name the slowest."""

import os
import resource
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE
from rich.table import Table

from cli import options
from cli.bench.meter import (
    ROUNDS,
    SPREAD,
    Meter,
    images_per_second,
    measure,
    ratios,
    steady,
    summary,
    too_busy,
)
from cli.bench.others import watch
from cli.compose.fitting import need_fitting
from cli.display import Line, console, progress, say_row, short_time, tell_written, write_json
from pipeline.dataset import open_dataset

if TYPE_CHECKING:
    from cli.bench.workloads import Workloads as Parts

# Takes the parts; yields meters of other programs to time beside them, and why some are missing.
Beside = Callable[["Parts"], AbstractContextManager[tuple[dict[str, Meter], dict[str, str]]]]
IMAGENET = 1_281_167  # training images of ILSVRC-2012
BOUND = "decode, bound"
BOUNDED = ("decode", "loader", "train", "eval, centre")  # parts that decode each image once


@click.command("bench")
@options.data
@options.machine
@options.cuda_graph
@options.recipe
@click.option(
    "--width", type=options.WIDTH, help="Scale of the number of maps and units in every layer.  [default: 1]"
)
@click.option("--batch-size", type=options.SEVERAL, help="Images per step.  [default: the recipe's]")
@click.option(
    "--seconds", type=options.Number(0, 1e6, min_open=True), default=5.0, help="Seconds per part and round."
)
@click.option("--json", "json_path", type=options.output, help="Write the result to this JSON file.")
@options.force
def command(
    data: Path,
    machine: options.Machine,
    cuda_graph: bool,
    chosen: options.Chosen,
    width: float | None,
    batch_size: int | None,
    seconds: float,
    json_path: Path | None,
    beside: Beside | None = None,
) -> None:
    """Measure each part and name the bottleneck.

    The parts are storage, decoding, loading, the training step, all of training, evaluation and prep. Each is
    timed in three rounds, and the printed images/s are medians. Ratios are shown only where rounds agree and
    other programs leave the cores alone. Nothing but --json is written.
    """
    from cli.bench.workloads import Workloads

    dataset = open_dataset(data)
    recipe = chosen.make(len(dataset.classes), width=width, batch_size=batch_size)
    need_fitting(recipe, dataset)
    parts = Workloads(dataset, recipe, machine, cuda_graph)
    meters: dict[str, Meter] = {name: partial(images_per_second, work) for name, work in parts.works.items()}
    with ExitStack() as stack:
        if beside:
            peers, missing = stack.enter_context(beside(parts))
            meters |= {"normalisations": partial(images_per_second, parts.normalisations()), **peers}
        with progress("starting", ROUNDS * len(meters), unit="measurements") as line:
            watched = watch()
            rounds = measure(meters, seconds, partial(tell_part, line))
            others, cores = watched(), len(os.sched_getaffinity(0))
    sure = {} if too_busy(others, cores) else steady(rounds)
    result = {**parts.about(), "parts": {name: summary(rates) for name, rates in rounds.items()}}
    result |= {"others": {"use": others, "of": cores}, "sure": list(sure)}
    if beside:
        result |= {"missing": missing, **ratios(sure, peers)}
    result["waiting"] = parts.waited / parts.trained
    result["memory"] = parts.memory() | {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if json_path:
        write_json(json_path, result)
    show(result)
    tell_written(json_path)


def tell_part(line: Line, name: str, done: int) -> None:
    """Show which part is measured next, after `done` measurements."""
    line.what = f"measuring {name}"
    line(done - line.done, f"round {done * ROUNDS // line.total + 1} of {ROUNDS}")


def limit(result: dict[str, Any]) -> dict[str, str]:
    """Return rows that name what a faster machine would have to do faster, and what training reaches."""
    rate = {name: part["img_s"] for name, part in result["parts"].items()}
    slower, faster = ("loader", "step") if rate["loader"] < rate["step"] else ("step", "loader")
    text = f"the {slower}, {rate[slower]:,.0f} images/s; the {faster} alone reaches {rate[faster]:,.0f}"
    if slower == "loader":
        inside = "storage" if rate["storage"] < rate["decode"] else "decode"
        text += f"; the slowest part of the loader is {inside}, {rate[inside]:,.0f}"
    epoch = IMAGENET / rate["train"]
    return {
        "limit": text,
        "training": f"{rate['train']:,.0f} images/s, waiting for data {result['waiting']:.0%} of the time",
        "ImageNet": f"{short_time(epoch)} per epoch, {short_time(90 * epoch)} for 90 epochs",
    }


def doubt(result: dict[str, Any]) -> str:
    """Return which ratios are not shown and why, or nothing."""
    use, cores = result["others"]["use"], result["others"]["of"]
    if too_busy(use, cores):
        return f"not shown, and images/s are too low: other programs used {use:.1f} of {cores} cores"
    if unsure := [name for name in result["parts"] if name not in result["sure"]]:
        return f"not shown where rounds differ by more than a factor of {SPREAD}: {'; '.join(unsure)}"
    return ""


def show(result: dict[str, Any]) -> None:
    """Print a table, and rows of what it says."""
    screen = console(soft_wrap=True)
    table = Table(box=SIMPLE)
    table.add_column("part", no_wrap=True)
    ours = result.get("ours", {})
    for heading in ("images/s", "range", "of upper bound", *(["ours is"] if ours else [])):
        table.add_column(heading, justify="right")
    bound, sure = result["parts"][BOUND]["img_s"], set(result["sure"])
    for name, part in result["parts"].items():
        rounds = f"{part['least']:,.0f} - {part['most']:,.0f}"
        share = f"{part['img_s'] / bound:.0%}" if name in BOUNDED and {name, BOUND} <= sure else ""
        ratio = [f"{ours[name]:.2f} x"] if name in ours else []
        table.add_row(name, f"{part['img_s']:,.0f}", rounds, share, *ratio)
    screen.print(table)
    for name, reason in result.get("missing", {}).items():
        screen.print(f"not measured: {name}: {reason}")
    if reason := doubt(result):
        say_row("ratios", reason)
    for name, text in limit(result).items():
        say_row(name, text)
    if "normalisations" in result:
        say_row("LRN", f"{result['normalisations']:.0%} of the step's time")
    memory = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in result["memory"].items())
    say_row("memory", f"{memory} at most, with all parts loaded at once")
