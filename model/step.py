"""Seventh stop: one step, a batch through network, loss and update, kernel by kernel or recorded."""

from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import schedule
from model.captured import Captured, Record
from model.evaluate import tally
from model.network import AlexNet, Keys
from model.optim import Momentum
from model.placement import Images, autocast
from model.replicas import Replicas


class Step:
    """What training does with a batch, here and in `bench`; it begins with the rates of the first epoch.

    sums: (4,) float64 on the first device, the `tally` of all steps since they were last set to zero.
    record: where full batches are to be steps that are recorded and replayed, what records them.
    """

    def __init__(
        self,
        network: AlexNet,
        optimiser: Momentum,
        precision: str,
        replicas: Replicas | None = None,
        record: Record | None = None,
    ) -> None:
        self.network, self.optimiser, self.precision = network, optimiser, precision
        self.recipe, self.replicas = network.recipe, replicas or Replicas()
        self.sums = torch.zeros(4, dtype=torch.float64, device=network.devices[0])
        full = partial(self._work, total=self.recipe.batch_size)
        self.captured = Captured(full, record) if record else None
        self.set_rates(schedule.rates(self.recipe, 1), schedule.divisor(self.recipe, 1))

    def set_rates(self, rates: schedule.Rates, divisor: float) -> None:
        """Of the next steps: the learning rates, and what images are divided by at last."""
        self.rates, self.divisor = rates, divisor
        self.optimiser.set_rates(rates)

    def __call__(self, images: Images, labels: Tensor, number: int, total: int) -> None:
        """Step `number` of a run, on this process's rows of a global batch of `total`; waits for nothing."""
        keys = self.network.keys(number)
        if self.captured and total == self.recipe.batch_size:
            assert isinstance(images, Tensor)  # on one device
            self.captured(images, labels, keys, constants=(self.rates, self.divisor))
        else:
            self._work(images, labels, keys, total)

    def _work(self, images: Images, labels: Tensor, keys: Keys, total: int) -> None:
        """What a step does on the devices: an update by the gradient averaged over the global batch."""
        masks = self.network.masks_of(keys, self.replicas.rows(total).start, len(labels))
        with autocast(labels.device, self.precision):
            logits: Tensor = self._averaging(images, masks, self.divisor).float()
        # the gradient is averaged over processes, whose shares may differ: each weighs its size
        loss = F.cross_entropy(logits, labels, reduction="sum") * (self.replicas.world / total)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.sums += tally(logits.detach().softmax(1), labels)

    @cached_property
    def _averaging(self) -> nn.Module:
        """The network whose backward pass averages over the processes: all come here at their first step."""
        side = self.recipe.crop
        return self.replicas.wrap(self.network, torch.zeros(1, 3, side, side, device=self.network.devices[0]))
