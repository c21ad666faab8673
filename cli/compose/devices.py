"""Choose which devices, precision and processes a command uses."""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cli.failures import out_of_memory
from cli.options import Machine
from model.captured import Record, cuda_graph
from model.errors import RunError
from model.replicas import find_place
from pipeline.workers import count_cores

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def choose_devices(machine: Machine) -> list[torch.device]:
    """Return the devices of this process's replica; processes on one machine share --gpus."""
    gpus, device = machine.gpus, machine.device
    if gpus and device:
        raise RunError("--gpus and --device exclude each other: give one of them")
    names = (device or "cuda").split(",")
    if set(names) == {"cpu"}:
        return [torch.device(name) for name in names]
    if not all(re.fullmatch(r"cuda(:\d+)?", name) for name in names):
        raise RunError(f"--device {device}: no such device; give cpu, or cuda:0 and so on")
    if device:
        gpus = ",".join(name[5:] or "0" for name in names)
    place = find_place()
    local, count = place.local_rank, place.local_world
    there = torch.cuda.device_count()
    if there == 0:
        raise RunError("no GPU was found; give --device cpu to use the CPU, or see alexnet-dali doctor")
    try:
        numbers = [int(number) for number in (gpus or ",".join(map(str, range(count)))).split(",")]
    except ValueError:
        raise RunError(f"--gpus {gpus}: give numbers with commas between them, as 0 or 0,1") from None
    if missing := [number for number in numbers if not 0 <= number < there]:
        raise RunError(f"there is no GPU {missing[0]} ({there} found): try --gpus 0, or --device cpu")
    if len(numbers) % count:
        raise RunError(
            f"--gpus {gpus}: {len(numbers)} GPUs cannot be shared equally by {count} processes: give one or "
            f"two for each"
        )
    size = len(numbers) // count
    return [torch.device("cuda", number) for number in numbers[local * size : (local + 1) * size]]


def recorder(wanted: bool, devices: list[torch.device]) -> Record | None:
    """Return what records the training step if --cuda-graph is given."""
    if not wanted:
        return None
    if len(devices) > 1 or devices[0].type != "cuda" or find_place().world > 1:
        raise RunError("--cuda-graph works with one process on one GPU only: leave it out, or give --gpus 0")
    return cuda_graph


def cores(workers: int | None) -> int:
    """Return how many cores this process may use for its images: --workers, or its share of all."""
    return workers or max(1, count_cores() // find_place().local_world)


@contextmanager
def machine_errors(batch_size: int, devices: list[torch.device]) -> Iterator[None]:
    """Turn running out of memory into a line that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            places = ",".join(map(str, devices))
            raise RunError(
                f"out of memory with batches of {batch_size} on {places}: try a smaller --batch-size, "
                "two GPUs (--gpus 0,1) or more processes (torchrun)"
            ) from None
        raise


def use_device(device: torch.device, precision: str | None) -> str:
    """Set up this process for a device; return the precision asked for, or the device's default.

    float32 means it: no TF32 in its place. On a CPU, memory that tensors had is kept for the next ones: fresh
    pages for all of a step's were a quarter of its time.
    """
    if device.type == "cpu":
        torch.set_num_threads(min(torch.get_num_threads(), count_cores()))  # a container may allow fewer
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
    else:
        torch.cuda.set_device(device)  # or DALI would open the first one, too
    half = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    precision = precision or ("bfloat16" if half else "float32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without, cuBLAS may differ between runs
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports a compiler first: 2 s
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return precision
