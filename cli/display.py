"""What a training shows: a live line on a terminal, plain lines elsewhere; and its recipe as tables."""

from types import TracebackType
from typing import Any

from rich.box import SIMPLE
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.text import console
from model import schedule
from model.recipe import Recipe, Shape

Row = dict[str, Any]


class Display:
    """A context manager; `step` and `row` are told what happens. Quiet in all processes but the first."""

    def __init__(self, epochs: int, steps_per_epoch: int, step: int, quiet: bool) -> None:
        self.console = console(quiet=quiet, soft_wrap=True)
        self.epochs, self.per_epoch = epochs, steps_per_epoch
        self.live = self.console.is_terminal and not quiet
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=24),
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}  {task.fields[now]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.progress.add_task(
            "train", total=epochs * steps_per_epoch, completed=step, epoch=1, epochs=epochs, now="starting"
        )

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def step(self, step: int) -> None:
        self.progress.update(self.task, completed=step, epoch=(step - 1) // self.per_epoch + 1)

    def row(self, row: Row) -> None:
        text = f"loss {row['loss']:.4f}  top-1 {row['top1_err']:5.2f} %  top-5 {row['top5_err']:5.2f} %"
        if row["kind"] == "val":
            self.console.print(f"epoch {row['epoch']:>3}/{self.epochs}  validation  {text}")
            return
        text += f"  {row['img_s']:,.0f} img/s  waiting {row['data_time']:.0%}"
        self.progress.update(self.task, now=text)
        if not self.live:
            self.console.print(
                f"epoch {row['epoch']:6.2f}/{self.epochs}  step {row['step']:,}  {text}  lr {row['lr']:g}"
            )


def print_recipe(recipe: Recipe) -> None:
    """The recipe and its whole schedule."""
    screen = console()
    screen.print(f"recipe {recipe.name}")
    layers = Table("layer", "out", "weights", "parameters", "std", "bias", "then", box=SIMPLE)
    for shape in recipe.shapes():
        layer, size = shape.layer, written(shape)
        out = "x".join(str(n) for n in shape.out if n > 1)
        then, count = " ".join(layer.then), f"{shape.parameters:,}"
        layers.add_row(layer.name, out, size, count, f"{shape.std:.3g}", f"{layer.bias:g}", then)
    layers.add_section()
    layers.add_row("all", "", "", f"{sum(shape.parameters for shape in recipe.shapes()):,}")
    screen.print(layers)
    numbers = Table("setting", "value", box=SIMPLE)
    for name, value in recipe.to_dict().items():
        if name not in ("name", "layers"):
            numbers.add_row(name, str(value))
    screen.print(numbers)
    heads, *rows = schedule.table(recipe)
    stages = Table(*heads, title="rates of weights/biases", box=SIMPLE)
    for row in rows:
        stages.add_row(*row)
    screen.print(stages)


def written(shape: Shape) -> str:
    """The sizes of a layer's weights, those of a colour branch after a plus."""
    return " + ".join("x".join(map(str, size)) for kind, size in shape.tensors.items() if kind != "bias")
