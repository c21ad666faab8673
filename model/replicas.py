"""Ninth stop: average the gradients of the processes of a run, each with a replica of the network.

The loader shares each batch among them; the rows are counted here once more, for the dropout masks.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.errors import RunError

PATIENCE = timedelta(minutes=5)  # timeout for a silent process: it may be writing a checkpoint
SILENCE = timedelta(seconds=10)  # before a process says whom it waits for
ONE_BYTE = 2**-20  # in MB
ROWS = 1 << 14  # rows sent at a time
HOW = (
    "torchrun sets WORLD_SIZE, RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; "
    "for one process unset WORLD_SIZE"
)


@dataclass(frozen=True)
class Replicas:
    """Represent process `rank` of `world`. control: a CPU group for decisions, which waits for no GPU."""

    rank: int = 0
    world: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Return whether this is the process that reads and writes the run's files."""
        return self.rank == 0

    def rows(self, total: int) -> range:
        """Return this process's rows of `total`: contiguous, as many as any other's to within one."""
        return range(total * self.rank // self.world, total * (self.rank + 1) // self.world)

    def wrap(self, network: nn.Module, images: torch.Tensor) -> nn.Module:
        """Return the network with gradients averaged over processes (DDP). images: any valid input.

        DDP regroups gradients into buckets after its first pass, and the order in which three processes'
        numbers are added depends on their place in a bucket: a resumed run would not be bit-identical. So the
        first pass is a dummy, and then each parameter is a bucket of its own.
        """
        if self.world == 1:
            return network
        model = DistributedDataParallel(network, bucket_cap_mb=ONE_BYTE)
        model.broadcast_buffers = False  # the mean image never changes
        model(images).sum().backward()
        network.zero_grad()
        return model

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value in all processes."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def gather_sums(self, sums: torch.Tensor) -> torch.Tensor:
        """Return each process's (n,) as (world, n) on the CPU, so that all add them in the same order."""
        if self.world == 1:
            return sums.cpu()[None]
        parts = [torch.empty_like(sums, device="cpu") for _ in range(self.world)]
        dist.all_gather(parts, sums.cpu(), group=self.control)
        return torch.stack(parts)

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (n, width) float32 on the CPU: in the first process all rows in order, else its own."""
        if self.world == 1:
            return rows
        counts = self.gather_sums(torch.tensor([len(rows)])).flatten().tolist()
        (width,) = self.max_over_processes([rows.shape[1]])  # 0 where there are no rows
        if not self.first:
            for part in _parts(rows):
                dist.send(part, 0, group=self.control)
            return rows
        result, start = torch.empty(sum(counts), width), len(rows)
        result[:start] = rows.reshape(start, width)
        for rank, count in enumerate(counts[1:], 1):
            for part in _parts(result[start : start + count]):
                dist.recv(part, rank, group=self.control)
            start += count
        return result

    def restore_sums(self, gathered: torch.Tensor) -> torch.Tensor:
        """Undo `gather_sums`. If the number of processes changed, the first gets the total, others zeros."""
        if len(gathered) == self.world:
            return gathered[self.rank]
        return gathered.sum(0) if self.first else torch.zeros_like(gathered[0])

    def max_over_processes(self, numbers: Sequence[int]) -> list[int]:
        """Return the maximum of each number over the processes."""
        if self.world == 1:
            return list(numbers)
        merged = torch.tensor(numbers)
        dist.all_reduce(merged, dist.ReduceOp.MAX, group=self.control)
        return merged.tolist()


def _parts(rows: torch.Tensor) -> list[torch.Tensor]:
    return [rows[first : first + ROWS] for first in range(0, len(rows), ROWS)]


@dataclass(frozen=True)
class Place:
    """Hold this process's place in its run, from the environment of torchrun or a batch system."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # among the processes on this machine
    local_world: int = 1
    address: str = ""  # of the first process
    port: int = 0


def find_place() -> Place:
    """Read the environment; without WORLD_SIZE there is one process. RunError names a wrong variable."""
    world = _number("WORLD_SIZE", 1, 2**31 - 1, 1)
    rank = _number("RANK", 0, world - 1, 0 if world == 1 else None)
    if world == 1:
        return Place()
    local_world, local_rank = 1, 0
    if "LOCAL_RANK" in os.environ or "LOCAL_WORLD_SIZE" in os.environ:  # else one process per machine
        local_world = _number("LOCAL_WORLD_SIZE", 1, world)
        local_rank = _number("LOCAL_RANK", 0, local_world - 1)
    address, port = _variable("MASTER_ADDR"), _number("MASTER_PORT", 1, 2**16 - 1)
    return Place(rank, world, local_rank, local_world, address, port)


def _number(name: str, least: int, most: int, default: int | None = None) -> int:
    text = _variable(name, default)
    with suppress(ValueError):
        if least <= int(text) <= most:
            return int(text)
    raise RunError(
        f"the environment says {name}={text}, which must be a number from {least} to {most}: {HOW}"
    )


def _variable(name: str, default: object = None) -> str:
    text = os.environ.get(name) or default
    if text is None:
        raise RunError(f"the environment says WORLD_SIZE={os.environ['WORLD_SIZE']}, but not {name}: {HOW}")
    return str(text)


@contextmanager
def joined(device: torch.device, warn: Callable[[str], None]) -> Iterator[Replicas]:
    """Yield the Replicas that torchrun (or a batch system with its variables) started, or this one alone."""
    place = find_place()
    if place.world == 1:
        yield Replicas()
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_meet(place, warn),
        rank=place.rank,
        world_size=place.world,
        timeout=PATIENCE,
    )
    yield Replicas(place.rank, place.world, dist.new_group(backend="gloo", timeout=PATIENCE))
    dist.destroy_process_group()


def _meet(place: Place, warn: Callable[[str], None]) -> dist.PrefixStore:  # type: ignore[name-defined]
    """Return the store of this start when all processes have reached it.

    torchrun (2.13) restarts processes on the same store, where addresses of the killed ones remain. So the
    first process counts "beats" until all others have seen one, and each start has a prefix of its own.
    """
    store, others = _open_store(place, warn), f"of {place.world} processes"

    def absent() -> str:
        if place.rank == 0:
            store.add("beats", 1)
        missing = place.world - 1 - store.add(f"{start}/present", 0)
        return f"{missing} {others}" if missing else ""

    if place.rank == 0:
        start = uuid4().hex
        store.set("start", start)
        _wait(absent, place, warn)
    else:
        before = store.add("beats", 0)
        _wait(lambda: "" if store.add("beats", 0) > before else f"the first {others}", place, warn)
        start = store.get("start").decode()
        store.add(f"{start}/present", 1)
        _wait(absent, place, lambda text: None)  # the first process says it for all
    return dist.PrefixStore(start, store)  # type: ignore[attr-defined]


def _open_store(place: Place, warn: Callable[[str], None]) -> Any:
    """Open the first process's store, or that of torchrun."""
    if place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        try:
            return dist.TCPStore(  # type: ignore[attr-defined]
                "127.0.0.1",
                place.port,
                is_master=True,
                wait_for_workers=False,
                timeout=PATIENCE,
                multi_tenant=True,
            )
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise RunError(f"cannot listen on MASTER_PORT={place.port} ({reason}): try another") from None

    def unreached() -> str:
        try:  # torch would print pages at each attempt
            socket.create_connection((place.address, place.port), timeout=5).close()
        except OSError as error:
            return f"the first of {place.world} processes ({error.strerror or error})"
        return ""

    _wait(unreached, place, warn)
    answers: list[Any] = []

    def connect() -> None:
        try:
            answers.append(dist.TCPStore(place.address, place.port, timeout=PATIENCE))  # type: ignore[attr-defined]
        except RuntimeError as error:
            answers.append(error)

    # in a thread: something else may listen there and never answer
    threading.Thread(target=connect, daemon=True).start()
    _wait(lambda: "" if answers else f"an answer of the first of {place.world} processes", place, warn)
    if isinstance(answers[0], RuntimeError):
        raise answers[0]
    return answers[0]


def _wait(missing: Callable[[], str], place: Place, warn: Callable[[str], None]) -> None:
    """Wait until nothing is `missing`; warn after SILENCE, raise RunError after PATIENCE."""
    started, told = time.monotonic(), False
    while who := missing():
        waited = timedelta(seconds=time.monotonic() - started)
        what = f"waiting for {who} at {place.address}:{place.port}"
        if waited > PATIENCE:
            raise RunError(f"gave up {what} after {PATIENCE}: start all processes; {HOW}")
        if waited > SILENCE and not told:
            warn(f"{what}, for up to {PATIENCE}")
            told = True
        time.sleep(0.05)
