"""Seventh stop: run one step (network, loss, update), kernel by kernel or as a recorded CUDA graph."""

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
    """Train on one batch a call, in `train` and `bench`; the first epoch's learning rates are set at first.

    sums: (4,) float64 on the first device, the `tally` of all steps since they were last set to zero.
    record: records the steps on full batches, to be replayed (see model/captured.py); None: no recording.
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
        self.set_rates(schedule.learning_rates(self.recipe, 1), schedule.divisor(self.recipe, 1))

    def set_rates(self, rates: schedule.LearningRates, divisor: float) -> None:
        """Set the learning rates of the next steps, and what their images are divided by."""
        self.rates, self.divisor = rates, divisor
        self.optimiser.set_rates(rates)

    def __call__(self, images: Images, labels: Tensor, number: int, total: int) -> None:
        """Run step `number` on this process's rows of a global batch of `total`, without waiting."""
        keys = self.network.keys(number)
        if self.captured and total == self.recipe.batch_size:
            assert isinstance(images, Tensor)  # on one device
            self.captured(images, labels, keys, constants=(self.rates, self.divisor))
        else:
            self._work(images, labels, keys, total)

    def _work(self, images: Images, labels: Tensor, keys: Keys, total: int) -> None:
        """Compute the gradient averaged over the global batch, and update the parameters by it."""
        masks = self.network.masks_of(keys, self.replicas.rows(total).start, len(labels))
        with autocast(labels.device, self.precision):
            logits: Tensor = self._averaging(images, masks, self.divisor).float()
        # DDP averages over processes, whose numbers of rows may differ: weight each by its rows
        loss = F.cross_entropy(logits, labels, reduction="sum") * (self.replicas.world / total)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.sums += tally(logits.detach().softmax(1), labels)

    @cached_property
    def _averaging(self) -> nn.Module:
        """Return the network whose backward pass averages over processes; all make it at their first step."""
        side = self.recipe.crop
        return self.replicas.wrap(self.network, torch.zeros(1, 3, side, side, device=self.network.devices[0]))
