"""Sixth stop: run the training loop over epochs and steps, on any iterator of (images, labels)."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model import checkpoint, schedule
from model.errors import RunError
from model.evaluate import Evaluation, error_percentages
from model.placement import Images
from model.run import MetricsRow, RunDirectory
from model.step import Step


class Stopped(Exception):
    """Report that the run was asked to stop and is saved. status: the exit status."""

    def __init__(self, status: int) -> None:
        self.status = status


@dataclass
class RunState:
    """Hold how far a run is: with the weights, velocities and sums of `Step`, all that resuming needs."""

    step: int = 0
    history: list[MetricsRow] = field(default_factory=list)  # the validation after each epoch


def resume(
    folder: Path,
    step: Step,
    identity: dict[str, Any],
    allow_changes: bool,
    warn: Callable[[str], None],
) -> RunState:
    """Resume the run in `folder`: load weights, velocities and sums. A new run starts at step 0.

    Only the first process reads the folder, which other machines may not have.
    """
    saved, replicas = None, step.replicas
    if replicas.first:
        saved = checkpoint.latest(folder, warn)
        if saved is not None:
            checkpoint.refuse_changes(folder, saved["identity"], identity, allow_changes, warn)
    for key, text in checkpoint.differences(replicas.broadcast(identity), identity):
        if key not in checkpoint.MAY_CHANGE:
            raise RunError(f"process {replicas.rank} has another {text} than process 0: start all alike")
    saved = replicas.broadcast(saved)
    if saved is None:
        return RunState()
    step.network.load(saved["weights"])
    step.optimiser.load(saved["velocities"])
    step.sums.copy_(replicas.restore_sums(saved["sums"]))
    return RunState(saved["step"], saved["history"])


@dataclass
class Watch:
    """Hold callbacks: `stop` returns 0 or an exit status; the others are called with what has happened."""

    stop: Callable[[], int] = lambda: 0
    # the step's number, and a function that returns the figures since the last row, and waits for the device
    step: Callable[[int, Callable[[], MetricsRow]], None] = lambda step, figures: None
    row: Callable[[MetricsRow], None] = lambda row: None
    validating: Callable[[int], None] = lambda images: None  # a batch of this process's images is done


@dataclass
class Clock:
    """Measure time and images since the last metrics row."""

    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0  # seconds for batches
    seen: int = 0  # images

    def throughput(self) -> dict[str, float]:
        """Return images per second, and the fraction of the time spent waiting for batches."""
        seconds = time.perf_counter() - self.started
        return {"img_s": self.seen / seconds, "data_time": self.waited / seconds}


@dataclass
class Trainer:
    """Train a run from its current state to its end.

    batches: this process's rows of each global batch, from state.step on. images: number per epoch.
    validate: evaluates the validation split over all processes, calling its argument after every batch.
    identity: what must be the same when the run is resumed.
    """

    step: Step
    batches: Iterator[tuple[Images, torch.Tensor]]
    images: int
    validate: Callable[[Callable[[int], None]], Evaluation]
    run: RunDirectory
    identity: dict[str, Any]
    state: RunState
    watch: Watch = field(default_factory=Watch)
    save_seconds: float = 600
    log_steps: int = 50
    dead_start: int = 5000  # steps (half an epoch of ImageNet) after which the loss must be below chance
    clock: Clock = field(init=False, default_factory=Clock)
    saved: float = field(init=False, default_factory=time.monotonic)  # time of the last checkpoint

    def train(self) -> None:
        """Train to the end of the schedule; Stopped if asked to, RunError if it diverges or never learns."""
        per_epoch = -(-self.images // self.step.recipe.batch_size)
        while True:
            epoch, within = divmod(self.state.step, per_epoch)
            if within == 0 and epoch > len(self.state.history):
                self._validate(epoch)
            if schedule.finished(self.step.recipe, self._errors()):
                self._save()
                return
            self._epoch(epoch + 1, per_epoch)

    def _epoch(self, epoch: int, per_epoch: int) -> None:
        recipe = self.step.recipe
        self.step.set_rates(
            schedule.learning_rates(recipe, epoch, self._errors()), schedule.divisor(recipe, epoch)
        )
        for number in range(self.state.step, epoch * per_epoch):
            asked = time.perf_counter()
            images, labels = next(self.batches)
            self.clock.waited += time.perf_counter() - asked
            total = min(recipe.batch_size, self.images - number % per_epoch * recipe.batch_size)
            self.step(images, labels, number, total)
            self.state.step += 1
            self.clock.seen += total
            self.watch.step(self.state.step, partial(self._figures, self.step.sums))
            ends = self.state.step == epoch * per_epoch
            if ends or self.state.step % self.log_steps == 0:
                self._log(self.state.step / per_epoch)
            due = ends or time.monotonic() - self.saved > self.save_seconds
            stop, save = self.step.replicas.max_over_processes([self.watch.stop(), due])
            if stop or save:
                self._save()
            if stop:
                raise Stopped(stop)

    def _log(self, epoch: float) -> None:
        """Write a metrics row for the steps since the last one. Waits for the device."""
        step, recipe = self.state.step, self.step.recipe
        measured = self._figures(self.step.replicas.gather_sums(self.step.sums).sum(0))
        row: MetricsRow = {"kind": "train", "step": step, "epoch": epoch, **measured}
        self._need_finite(measured["loss"])
        guessing = math.log(recipe.classes)
        if step - self.log_steps < self.dead_start <= step and measured["loss"] > 0.998 * guessing:
            raise RunError(
                f"the network does not learn: after {step} steps the loss is {measured['loss']:.3f}, that of "
                f"guessing among {recipe.classes} classes ({guessing:.3f}). Check the recipe: "
                "--recipe original starts where --recipe paper may not"
            )
        self._tell(row)
        self.step.sums.zero_()
        self.clock = Clock()

    def _figures(self, sums: torch.Tensor) -> MetricsRow:
        """Return loss, errors, learning rate and throughput since the last row, by its tally `sums`."""
        last = self.step.recipe.layers[-1].name
        return {**error_percentages(sums), "lr": self.step.rates.weight[last], **self.clock.throughput()}

    def _validate(self, epoch: int) -> None:
        """Evaluate the validation split and save the best state. The state before it is already on disk."""

        def each(images: int) -> None:
            self.watch.validating(images)
            self._confer(busy=1)

        evaluation = self.validate(each)
        while self._confer(busy=0):  # other processes may have another batch
            pass
        sums = self.step.replicas.gather_sums(evaluation.sums).sum(0)
        row: MetricsRow = {"kind": "val", "step": self.state.step, "epoch": epoch, **error_percentages(sums)}
        if not math.isfinite(row["loss"]):
            raise RunError(f"the validation loss of epoch {epoch} is {row['loss']}; try --precision float32")
        self._tell(row)
        if row["top1_err"] < min(self._errors(), default=math.inf) and self.step.replicas.first:
            checkpoint.save(self.run.path / "best.pt", self._content(torch.empty(0)))
        self.state.history.append(row)
        self.clock = Clock()

    def _confer(self, busy: int) -> int:
        """Return whether any process has more validation batches. All call it equally often."""
        stop, busy = self.step.replicas.max_over_processes([self.watch.stop(), busy])
        if stop:
            raise Stopped(stop)
        return busy

    def _tell(self, row: MetricsRow) -> None:
        if self.step.replicas.first:
            self.run.add(row)
        self.watch.row(row)

    def _save(self) -> None:
        """Save metrics, then the state; RunError if it is not finite, and the last good checkpoint stays."""
        sums = self.step.replicas.gather_sums(self.step.sums)
        self._need_finite(sums.sum().item())
        if self.step.replicas.first:
            self.run.sync()
            checkpoint.save_last(self.run.path, self._content(sums))
        self.saved = time.monotonic()

    def _need_finite(self, loss: float) -> None:
        """Raise RunError if a loss is not finite."""
        if not math.isfinite(loss):
            raise RunError(
                f"the loss became {loss} before step {self.state.step}; {self.run.path} keeps the state "
                "saved before. Look at metrics.jsonl there, and try --precision float32 under another --run"
            )

    def _content(self, sums: torch.Tensor) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "step": self.state.step,
            "history": self.state.history,
            "sums": sums,
            "weights": self.step.network.state(),
            "velocities": self.step.optimiser.state(),
        }

    def _errors(self) -> list[float]:
        return [row["top1_err"] for row in self.state.history]
