"""Estimate how long `reproduce` would take at the speed of this machine."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from cli.bench.meter import images_per_second as measure_rate
from cli.display import plural, say, say_row, short_time
from cli.paper.tables import BASELINES
from model.errors import RunError
from model.recipe import Recipe
from pipeline.schema import Unfit, read_json

if TYPE_CHECKING:
    from cli.paper.plan import Plan, Step

Rate = Annotated[float, Meta(gt=0, le=1e300)]
SECONDS = 1.0  # for each part of each net


class Part(Struct):
    img_s: Rate


class Bench(Struct):
    """Describe what is read of a file of bench --json."""

    width: Rate
    batch_size: int
    parts: dict[str, Part]


def tell_cost(steps: "Sequence[Step]", shelf: "Plan", bench_path: Path | None) -> None:
    """Print each command, and the arithmetic of its time: images / (images per second)."""
    rates: dict[str, dict[str, float]] = {}  # by recipe
    total, unknown = 0.0, 0
    for step in steps:
        say(f"alexnet-dali {shlex.join(step.words)}")
        if step.run in BASELINES:
            say("    cannot be estimated; it shows its progress when it runs")
            unknown += 1
            continue
        recipe = shelf.recipe(step.run)
        if recipe.name not in rates:
            own = read_speeds(bench_path, recipe) if bench_path else measure_speeds(step.run, shelf)
            rates[recipe.name] = own
        rate = rates[recipe.name]
        seconds = sum(images / rate[part] for part, images in step.images.items())
        sum_of = " + ".join(f"{images:,} / {rate[part]:,.3g}" for part, images in step.images.items())
        say(f"    {sum_of} images/s = {short_time(seconds)}")
        total += seconds
    say_row("total", f"{plural(len(steps), 'command')}, about {short_time(total)}")
    say_row(
        "speeds",
        f"from {bench_path}, for every network" if bench_path else "each network's, measured just now",
    )
    say_row("excluded", "start-up" + (f" and {plural(unknown, 'baseline')}" if unknown else ""))


def read_speeds(path: Path, recipe: Recipe) -> dict[str, float]:
    """Return images per second by part, from a file of bench --json of this width and batch size."""
    out = f"--json {shlex.quote(str(path))}"
    try:
        bench = read_json(path, Bench)
        rates = {name: bench.parts[name].img_s for name in ("train", "eval, centre", "eval, ten views")}
    except (OSError, Unfit, KeyError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise RunError(
            f"{path} has no images/s of training ({what}); make it with alexnet-dali bench {out}"
        ) from None
    if (bench.width, bench.batch_size) != (recipe.width, recipe.batch_size):
        wanted = f"--width {recipe.width:g} --batch-size {recipe.batch_size} --force {out}"
        raise RunError(
            f"{path} was measured with another width or batch size; make it with alexnet-dali bench {wanted}"
        )
    return rates


def measure_speeds(name: str, shelf: "Plan") -> dict[str, float]:
    """Measure the same for a run's net, now, on its own images."""
    from cli.bench.workloads import Workloads

    works = Workloads(shelf.images(name), shelf.recipe(name), shelf.machine_of(name)).works
    return {part: measure_rate(works[part], SECONDS) for part in ("train", "eval, centre", "eval, ten views")}
