"""Show whether training leaves guessing: python -m tools.start --data DIR

Trains `original`, `paper`, and `paper` on inputs divided by 58 (about ImageNet's standard deviation, by which
most of today's code divides) from one seed and on the same images, each for so many steps, at its first
learning rate. Prints, and draws in start.png, the loss of every step and each layer's signal before the first
step and after the last: the deviation over images of its linear output, beside its bias (AlexNet.signals).

What it shows: whether the loss leaves that of guessing within these steps, on these images, with this seed.
What it does not: where a run that has not started would be later, or what error any of them would reach.
"""

import argparse
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cli.compose.devices import choose_devices, use_device
from cli.compose.images import stream_options, train_batches
from cli.options import Machine
from cli.pictures.canvas import new_figure
from model.evaluate import Batch, error_percentages
from model.network import AlexNet
from model.optim import Momentum
from model.recipes import get_recipe
from model.step import Step
from pipeline.arguments import read_mean
from pipeline.dataset import open_dataset

VARIANTS = {"original": ("original", 1), "paper": ("paper", 1), "paper, inputs / 58": ("paper", 58)}
COLOURS = dict(zip(VARIANTS, ("#1f5fa8", "#c8102e", "#8a8f98"), strict=True))
Signals = dict[str, tuple[float, float]]


def start(
    network: AlexNet, batches: Iterable[Batch], divisor: float, steps: int, precision: str
) -> tuple[list[float], Signals, Signals]:
    """Return each step's loss, and the first batch's signals before the first step and after the last."""
    step = Step(network, Momentum(network, network.recipe), precision)
    step.set_rates(step.rates, step.divisor * divisor)
    losses: list[float] = []
    for number, (images, labels) in zip(range(steps), batches, strict=False):
        if number == 0:
            first = images.clone()
            before = network.signals(first, step.divisor)
        step(images, labels, number, len(labels))
        losses.append(error_percentages(step.sums)["loss"])
        step.sums.zero_()
    return losses, before, network.signals(first, step.divisor)


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return by variant what `start` measures on the dataset's training images."""
    dataset, (device,) = open_dataset(options.data), choose_devices(Machine(device=options.device))
    precision, results = use_device(device, None), {}
    for name, (recipe_name, divisor) in VARIANTS.items():
        recipe = get_recipe(
            recipe_name,
            classes=len(dataset.classes),
            width=options.width,
            batch_size=options.batch_size,
        )
        images = stream_options(recipe, device, None)
        batches = train_batches(dataset, recipe, options.seed, 0, images)
        mean = read_mean(dataset, recipe.crop)
        network, began = AlexNet(recipe, [device], options.seed, mean), time.monotonic()
        losses, before, after = start(network, batches.endless(), divisor, options.steps, precision)
        seconds = time.monotonic() - began
        results[name] = {"losses": losses, "before": before, "after": after, "seconds": seconds}
        report(name, results[name], recipe.classes)
    return results


def report(name: str, result: dict[str, Any], classes: int) -> None:
    """Print one variant as text."""
    losses, end = result["losses"], max(1, len(result["losses"]) // 10)
    last = sum(losses[-end:]) / end
    print(f"\n{name}: loss {losses[0]:.3f} at first, {last:.3f} over the last {end} of {len(losses)} steps "
          f"(guessing: {math.log(classes):.3f}); {result['seconds']:.0f} s")  # fmt: skip
    print(f"{'layer':8}{'signal before':>15}{'after':>11}{'bias before':>15}{'after':>9}")
    for layer, (signal, bias) in result["before"].items():
        later, moved = result["after"][layer]
        print(f"{layer:8}{signal:15.4g}{later:11.4g}{bias:15.3f}{moved:9.3f}")


def draw(results: dict[str, dict[str, Any]], classes: int, path: Path, title: str) -> None:
    """Draw the losses, smoothed over ten steps, and the signals of each layer, on a logarithmic scale."""
    figure = new_figure(1200, 520)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for name, result in results.items():
        losses, colour = torch.tensor(result["losses"]), COLOURS[name]
        smooth = losses.unfold(0, min(10, len(losses)), 1).mean(1)
        left.plot(range(len(losses) - len(smooth), len(losses)), smooth, color=colour, label=name)
        for when, style in (("before", "--"), ("after", "-")):
            values = [max(signal, 1e-12) for signal, _ in result[when].values()]
            right.plot(list(result[when]), values, style, color=colour, label=f"{name}, {when}")
    left.axhline(math.log(classes), color="black", linewidth=0.8, linestyle=":", label="guessing")
    left.set(xlabel="step", ylabel="training loss (mean of 10 steps)", ylim=(0, 1.3 * math.log(classes)))
    right.set(yscale="log", ylabel="deviation of the linear output over images")
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/start"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = measure(options)
    settings = {key: str(value) for key, value in vars(options).items()} | {"torch": torch.__version__}
    (options.out / "start.json").write_text(json.dumps({"settings": settings, "variants": results}, indent=1))
    classes = len(open_dataset(options.data).classes)
    title = (
        f"width {options.width:g}, batches of {options.batch_size}, {classes} classes, seed {options.seed}"
    )
    draw(results, classes, options.out / "start.png", title)
    print(f"\npicture: {options.out / 'start.png'}")


if __name__ == "__main__":
    main()
