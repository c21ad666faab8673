"""Sixth stop: the step, the epoch, the loop. Takes any iterable of (images, labels), updates the weights."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from model import checkpoint, schedule
from model.captured import Captured, Record
from model.errors import RunError
from model.evaluate import Evaluation, autocast, rates, tally
from model.network import AlexNet, Keys, Masks
from model.optim import Momentum
from model.placement import Images
from model.recipe import Recipe
from model.replicas import Replicas
from model.run import Row, RunDirectory


class Stopped(Exception):
    """The run was asked to stop; what it had done is saved."""

    def __init__(self, status: int) -> None:
        self.status = status


@dataclass
class State:
    """Where a run is. With weights and velocities, all that it takes to go on."""

    step: int = 0
    history: list[Row] = field(default_factory=list)  # the validation after each epoch
    sums: torch.Tensor = field(
        default_factory=lambda: torch.zeros(4, dtype=torch.float64)
    )  # since the last row


def take_up(
    folder: Path,
    network: AlexNet,
    optimiser: Momentum,
    identity: dict[str, Any],
    replicas: Replicas,
    allow_changes: bool,
    warn: Callable[[str], None],
) -> State:
    """Bring network and velocities to where the run in `folder` was saved; a new run starts at step 0.

    Only the first process reads the folder, which another machine may not have.
    """
    saved = None
    if replicas.first:
        saved = checkpoint.latest(folder, warn)
        if saved is not None:
            checkpoint.refuse_changes(folder, saved["identity"], identity, allow_changes, warn)
    for key, text in checkpoint.differences(replicas.share(identity), identity):
        if key not in checkpoint.MAY_CHANGE:
            raise RunError(f"process {replicas.rank} has another {text}: all must have the first one's")
    saved = replicas.share(saved)
    if saved is None:
        return State()
    network.load(saved["weights"])
    optimiser.load(saved["velocities"])
    return State(saved["step"], saved["history"], replicas.own(saved["sums"]))


@dataclass
class Watch:
    """The world outside a run: asked whether to stop (0: go on, else a status), told what happens."""

    stop: Callable[[], int] = lambda: 0
    step: Callable[[int], None] = lambda step: None
    row: Callable[[Row], None] = lambda row: None


def update(
    model: nn.Module,
    optimiser: Momentum,
    images: Images,
    labels: torch.Tensor,
    masks: Masks,
    divisor: float,
    weight: float,
    precision: str,
) -> torch.Tensor:
    """Forward, backward and one step by the gradient of `weight` times the summed loss. The logits."""
    with autocast(labels.device, precision):
        logits: torch.Tensor = model(images, masks, divisor).float()
    loss = F.cross_entropy(logits, labels, reduction="sum") * weight
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    optimiser.zero_grad()
    return logits.detach()


@dataclass
class Trainer:
    """One run, from wherever it stands to its end.

    batches: this process's rows of each global batch, from state.step on. images: of an epoch.
    validate: evaluates the validation split over all processes, calling its argument after every batch.
    identity: what must be the same when the run is taken up again.
    record: where full batches are to be steps that are recorded and replayed, what records them.
    """

    network: AlexNet
    optimiser: Momentum
    recipe: Recipe
    batches: Iterator[tuple[Images, torch.Tensor]]
    images: int
    validate: Callable[[Callable[[int], None]], Evaluation]
    run: RunDirectory
    identity: dict[str, Any]
    state: State
    precision: str
    replicas: Replicas = field(default_factory=Replicas)
    watch: Watch = field(default_factory=Watch)
    record: Record | None = None
    save_seconds: float = 600
    log_steps: int = 50
    dead_start: int = (
        5000  # steps (half an epoch of ImageNet) by which the loss must have left that of guessing
    )

    def train(self) -> None:
        """To the end of the schedule. Stopped when asked to; RunError when the loss is lost or stays put."""
        home, side = self.network.devices[0], self.recipe.crop
        self.model = self.replicas.wrap(self.network, torch.zeros(1, 3, side, side, device=home))
        self.state.sums = self.state.sums.to(home)
        self.captured = Captured(self._work, self.record) if self.record else None
        self._start_clock()
        self.saved = time.monotonic()
        per_epoch = -(-self.images // self.recipe.batch_size)
        while True:
            epoch, within = divmod(self.state.step, per_epoch)
            if within == 0 and epoch > len(self.state.history):
                self._validate(epoch)
            if schedule.finished(self.recipe, self._errors()):
                self._save()
                return
            self._epoch(epoch + 1, per_epoch)

    def _epoch(self, epoch: int, per_epoch: int) -> None:
        self.rates = schedule.rates(self.recipe, epoch, self._errors())
        self.optimiser.set_rates(self.rates)
        self.divisor = schedule.divisor(self.recipe, epoch)
        for step in range(self.state.step, epoch * per_epoch):
            asked = time.perf_counter()
            images, labels = next(self.batches)
            self.waited += time.perf_counter() - asked
            position = step % per_epoch * self.recipe.batch_size
            self._step(images, labels, total=min(self.recipe.batch_size, self.images - position))
            self.watch.step(self.state.step)
            ends = self.state.step == epoch * per_epoch
            if ends or self.state.step % self.log_steps == 0:
                self._log(self.state.step / per_epoch)
            due = ends or time.monotonic() - self.saved > self.save_seconds
            stop, save = self.replicas.most([self.watch.stop(), due])
            if stop or save:
                self._save()
            if stop:
                raise Stopped(stop)

    def _step(self, images: Images, labels: torch.Tensor, total: int) -> None:
        """One update by the gradient averaged over the global batch of `total` images; waits for nothing."""
        keys, rows = self.network.keys(self.state.step), self.replicas.rows(total)
        if self.captured and total == self.recipe.batch_size:
            assert isinstance(images, torch.Tensor)  # on one device
            self.captured(images, labels, keys, constants=(self.rates, self.divisor))
        else:
            # the wrapped network averages over processes, whose shares may differ: each weighs its size
            self._work(images, labels, keys, rows.start, self.replicas.world / total)
        self.state.step += 1
        self.seen += total

    def _work(
        self,
        images: Images,
        labels: torch.Tensor,
        keys: Keys,
        start: int = 0,
        weight: float | None = None,
    ) -> None:
        """What a step does on the devices. start, weight: of these rows, where they are not all of it."""
        masks, weight = self.network.masks_of(keys, start, len(labels)), weight or 1 / len(labels)
        logits = update(
            self.model, self.optimiser, images, labels, masks, self.divisor, weight, self.precision
        )
        self.state.sums += tally(logits.softmax(1), labels)

    def _log(self, epoch: float) -> None:
        """A metrics row of the steps since the last one. Waits for the device."""
        step, sums = self.state.step, self.replicas.gather(self.state.sums).sum(0)
        found = rates(sums)
        seconds = time.perf_counter() - self.started
        row: Row = {
            "kind": "train",
            "step": step,
            "epoch": epoch,
            **found,
            "lr": self.rates.weight[self.recipe.layers[-1].name],
            "img_s": self.seen / seconds,
            "data_time": self.waited / seconds,
        }
        self._refuse(found["loss"])
        guessing = math.log(self.recipe.classes)
        if step - self.log_steps < self.dead_start <= step and found["loss"] > 0.998 * guessing:
            raise RunError(
                f"dead start: after {step} steps the loss is {found['loss']:.3f}, that of guessing among "
                f"{self.recipe.classes} classes ({guessing:.3f}). Look at the recipe: original starts where "
                "the paper's printed one may not"
            )
        self._tell(row)
        self.state.sums.zero_()
        self._start_clock()

    def _validate(self, epoch: int) -> None:
        """Errors on the validation split; the state before it is on disk."""

        def each(images: int) -> None:
            self._confer(busy=1)

        found = self.validate(each)
        while self._confer(busy=0):  # others may have a batch more
            pass
        sums = self.replicas.gather(found.sums).sum(0)
        row: Row = {"kind": "val", "step": self.state.step, "epoch": epoch, **rates(sums)}
        if not math.isfinite(row["loss"]):
            raise RunError(f"the validation loss of epoch {epoch} is {row['loss']}; try --precision float32")
        self._tell(row)
        if row["top1_err"] < min(self._errors(), default=math.inf) and self.replicas.first:
            checkpoint.save(self.run.path / "best.pt", self._content(torch.empty(0)))
        self.state.history.append(row)
        self._start_clock()

    def _confer(self, busy: int) -> int:
        """Between batches of validation, in step with the other processes: whether any of them has more."""
        stop, busy = self.replicas.most([self.watch.stop(), busy])
        if stop:
            raise Stopped(stop)
        return busy

    def _tell(self, row: Row) -> None:
        if self.replicas.first:
            self.run.add(row)
        self.watch.row(row)

    def _save(self) -> None:
        """The state, after the metrics that led to it. Of one that is not finite the last good one stays."""
        sums = self.replicas.gather(self.state.sums)
        self._refuse(sums.sum().item())
        if self.replicas.first:
            self.run.sync()
            checkpoint.save_last(self.run.path, self._content(sums))
        self.saved = time.monotonic()

    def _refuse(self, loss: float) -> None:
        """RunError where a loss is not finite."""
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
            "weights": self.network.state(),
            "velocities": self.optimiser.state(),
        }

    def _errors(self) -> list[float]:
        return [row["top1_err"] for row in self.state.history]

    def _start_clock(self) -> None:
        self.started, self.waited, self.seen = time.perf_counter(), 0.0, 0
