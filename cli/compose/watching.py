"""Show how a training comes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cli.display import progress, say, short_time, top_errors
from cli.signals import StopRequest
from model import schedule
from model.run import MetricsRow
from model.step import Step
from model.train import Watch
from pipeline.dataset import Dataset


@contextmanager
def watching(stop: StopRequest, step: Step, dataset: Dataset, first: int) -> Iterator[Watch]:
    """Yield what asks whether to stop, and shows how the training comes on after step `first`.

    Rows of metrics come by steps, lines by time: a line shows the last row, or, where none has come since
    the line before, reads the sums of the steps. For that the device is waited for, but so rarely that it
    costs nothing, and nothing is changed by it. Sums are this process's own: others are not asked.
    """
    epochs, images = schedule.epochs(step.recipe), dataset.samples("train")
    classes = len(dataset.classes)
    per_epoch = -(-images // step.recipe.batch_size)
    fresh, validated, share = False, 0, len(step.replicas.rows(dataset.samples("val")))

    def tell_step(number: int, figures: Callable[[], MetricsRow]) -> None:
        nonlocal fresh, validated
        line.what, validated = f"epoch {(number - 1) // per_epoch + 1}/{epochs}", 0
        fields: tuple[str, ...] = ()
        if number == first + 1 and not quiet:
            found = figures()
            fields = tell_figures(found, classes)
            left = short_time((epochs * per_epoch - number) * images / per_epoch / found["img_s"])
            line.tell(
                f"step {number:,}  loss {found['loss']:.4f}  {left} left at the speed of this first step"
            )
        elif line.due and not quiet:
            fields = line.fields if fresh else tell_figures(figures(), classes)
            fresh = False
        line(number - line.done, *fields)

    def tell_row(row: MetricsRow) -> None:
        nonlocal fresh
        if row["kind"] == "train":
            fresh, line.fields = True, tell_figures(row, classes)
        elif not quiet:
            say("  ".join((f"epoch {row['epoch']:>3}/{epochs}", "validation", *tell_errors(row, classes))))

    def tell_validating(images: int) -> None:
        nonlocal validated
        validated += images
        line.what = f"validating {100 * validated / share:.0f} %"
        if line.due:
            line.tell(line.what)

    quiet, what = not step.replicas.first, f"epoch {min(first // per_epoch + 1, epochs)}/{epochs}"
    steps = epochs * per_epoch
    with progress(what, steps, first=first, unit="steps", output=True, quiet=quiet) as line:
        line.fields = ("starting",)
        yield Watch(stop, stop.unbroken(tell_step), stop.unbroken(tell_row), stop.unbroken(tell_validating))


def tell_errors(row: MetricsRow, classes: int) -> tuple[str, ...]:
    """Return the loss and the errors."""
    return f"loss {row['loss']:.4f}", *(
        f"{name} error {error:>7}" for name, error in top_errors(row, classes).items()
    )


def tell_figures(row: MetricsRow, classes: int) -> tuple[str, ...]:
    """Return the same, the speed and the learning rate."""
    speed = f"{row['img_s']:,.0f} img/s", f"waiting {row['data_time']:.0%}"
    return *tell_errors(row, classes), *speed, f"lr {row['lr']:g}"
