"""Define alexnet-dali bench: measure the parts of training, and name the slowest."""

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
from cli.bench.meter import ROUNDS, Meter, images_per_second, measure, ratios, summary
from cli.display import Line, console, progress, write_json
from pipeline.dataset import open_dataset

if TYPE_CHECKING:
    from cli.bench.workloads import Workloads as Parts

# Takes the parts; yields meters of other programs to time beside them, and why some are missing.
Beside = Callable[["Parts"], AbstractContextManager[tuple[dict[str, Meter], dict[str, str]]]]
IMAGENET = 1_281_167  # training images of ILSVRC-2012


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
    timed in three rounds, and the printed images/s are medians. Nothing but --json is written.
    """
    from cli.bench.workloads import Workloads

    dataset = open_dataset(data)
    recipe = chosen.make(len(dataset.classes), width=width, batch_size=batch_size)
    parts = Workloads(dataset, recipe, machine, cuda_graph)
    meters: dict[str, Meter] = {name: partial(images_per_second, work) for name, work in parts.works.items()}
    with ExitStack() as stack:
        if beside:
            peers, missing = stack.enter_context(beside(parts))
            meters |= {"normalisations": partial(images_per_second, parts.normalisations()), **peers}
        with progress("starting", ROUNDS * len(meters), unit="measurements") as line:
            rounds = measure(meters, seconds, partial(tell_part, line))
    result = {**parts.about(), "parts": {name: summary(rates) for name, rates in rounds.items()}}
    if beside:
        result |= {"missing": missing, **ratios(rounds, peers)}
    result["waiting"] = parts.waited / parts.trained
    result["memory"] = parts.memory() | {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if json_path:
        write_json(json_path, result)
    show(result)


def tell_part(line: Line, name: str, done: int) -> None:
    """Show which part is measured next, after `done` measurements."""
    line.what = f"measuring {name}"
    line(done - line.done, f"round {done * ROUNDS // line.total + 1} of {ROUNDS}")


def limit(result: dict[str, Any]) -> str:
    """Return the sentence that names what a faster machine would have to do faster."""
    rate = {name: part["img_s"] for name, part in result["parts"].items()}
    loader, step, both = rate["loader"], rate["step"], rate["train"]
    slower, faster = ("loader", "step") if loader < step else ("step", "loader")
    text = (
        f"The {slower} is the limit: {rate[slower]:,.0f} images/s against the {faster}'s {rate[faster]:,.0f}"
    )
    if slower == "loader":
        inside = "storage" if rate["storage"] < rate["decode"] else "decode"
        text += f" (in it {inside}, {rate[inside]:,.0f})"
    share, waiting = both / rate[slower], result["waiting"]
    return f"{text}; together they reach {share:.0%} of it and wait for data {waiting:.0%} of the time."


def show(result: dict[str, Any]) -> None:
    """Print a table, and what it says."""
    screen = console(soft_wrap=True)
    table = Table(box=SIMPLE)
    table.add_column("part", no_wrap=True)
    ours = result.get("ours", {})
    for heading in ("images/s", "rounds", "of the floor", *(["ours is"] if ours else [])):
        table.add_column(heading, justify="right")
    floor = result["parts"]["decode floor"]["img_s"]
    for name, part in result["parts"].items():
        rounds, share = f"{part['least']:,.0f} - {part['most']:,.0f}", f"{part['img_s'] / floor:.0%}"
        ratio = [f"{ours[name]:.2f} x"] if name in ours else []
        table.add_row(name, f"{part['img_s']:,.0f}", rounds, share, *ratio)
    screen.print(table)
    for name, reason in result.get("missing", {}).items():
        screen.print(f"not measured: {name}: {reason}")
    if "normalisations" in result:
        screen.print(f"The normalisations take {result['normalisations']:.0%} of the step.")
    screen.print(limit(result))
    hours = IMAGENET / result["parts"]["train"]["img_s"] / 3600
    memory = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in result["memory"].items())
    screen.print(f"At this rate an epoch of ImageNet takes {hours:,.2f} hours, 90 take {90 * hours:,.1f}.")
    screen.print(f"At most {memory} of memory, which all these parts have at once.")
