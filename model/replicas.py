"""The processes that share a run: each holds a replica of the network and takes its share of every batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Replicas:
    """Process `rank` of `world`; `control` carries decisions over the CPU, so that no GPU is waited for."""

    rank: int = 0
    world: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def rows(self, total: int) -> range:
        """This process's rows of a global batch, as pipeline.order.share deals them."""
        return range(total * self.rank // self.world, total * (self.rank + 1) // self.world)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network whose backward pass averages gradients over the processes."""
        return DistributedDataParallel(network) if self.world > 1 else network

    def gather(self, sums: torch.Tensor) -> torch.Tensor:
        """(world, n) on the CPU of each process's (n,): kept apart, so that their sum has one order."""
        if self.world == 1:
            return sums.cpu()[None]
        parts = [torch.empty_like(sums, device="cpu") for _ in range(self.world)]
        dist.all_gather(parts, sums.cpu(), group=self.control)
        return torch.stack(parts)

    def own(self, gathered: torch.Tensor) -> torch.Tensor:
        """The inverse of `gather`. Another number of processes leaves all of it to the first."""
        if len(gathered) == self.world:
            return gathered[self.rank]
        return gathered.sum(0) if self.first else torch.zeros_like(gathered[0])

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Each flag, true in all processes once it is in one."""
        if self.world == 1:
            return list(flags)
        merged = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(merged, dist.ReduceOp.MAX, group=self.control)
        return [bool(flag) for flag in merged]
