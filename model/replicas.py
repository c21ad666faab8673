"""The processes that share a run: each holds a replica of the network and takes its share of every batch."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from model.recipe import RunError

PATIENCE = timedelta(minutes=5)  # with a process that says nothing: it may be writing a checkpoint
ONE_BYTE = 2**-20  # in MB


@dataclass(frozen=True)
class Replicas:
    """Process `rank` of `world`; `control` carries decisions over the CPU, so that no GPU is waited for."""

    rank: int = 0
    world: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process reads and writes the run's files."""
        return self.rank == 0

    def rows(self, total: int) -> range:
        """This process's rows of a global batch, as pipeline.order.share deals them."""
        return range(total * self.rank // self.world, total * (self.rank + 1) // self.world)

    def wrap(self, network: nn.Module, images: torch.Tensor) -> nn.Module:
        """The network whose backward pass averages gradients over the processes. images: any that it takes.

        DDP regroups gradients after its first pass, and the order in which three processes' numbers are added
        depends on their place in a group: a run that was taken up again would differ in the last bits. So
        the first pass is an idle one, and then each parameter is a group by itself.
        """
        if self.world == 1:
            return network
        model = DistributedDataParallel(network, bucket_cap_mb=ONE_BYTE)
        model.broadcast_buffers = False  # the mean image never changes
        model(images).sum().backward()
        network.zero_grad()
        return model

    def share(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

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

    def most(self, numbers: Sequence[int]) -> list[int]:
        """Each number's largest value among the processes."""
        if self.world == 1:
            return list(numbers)
        merged = torch.tensor(numbers)
        dist.all_reduce(merged, dist.ReduceOp.MAX, group=self.control)
        return merged.tolist()


@contextmanager
def joined(device: torch.device) -> Iterator[Replicas]:
    """The processes that torchrun (or a batch system with its variables) started, or this one alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Replicas()
        return
    store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(_meet(store, rank, world), store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=world,
        timeout=PATIENCE,
    )
    yield Replicas(rank, world, dist.new_group(backend="gloo", timeout=PATIENCE))
    dist.destroy_process_group()


def _meet(store: Any, rank: int, world: int) -> str:
    """A name for this start, the same in all processes.

    torchrun (2.13) restarts processes on the store of those before them, where the addresses of the dead
    would be taken for those of the living. So the first process shows signs of life until all have seen one.
    """
    start: str = uuid4().hex
    if rank == 0:
        store.set("start", start)
        _wait(lambda: store.add("beats", 1) > 0 and store.add(f"{start}/present", 0) == world - 1)
        return start
    before = store.add("beats", 0)
    _wait(lambda: store.add("beats", 0) > before)
    start = store.get("start").decode()
    store.add(f"{start}/present", 1)
    return start


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while not done():
        if time.monotonic() > deadline:
            raise RunError(f"the processes of this run did not find one another in {PATIENCE}")
        time.sleep(0.05)
