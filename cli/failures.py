"""Recognise failures of the machine, not of the program, by what torch, CUDA and DALI say."""

import os
import re

NETWORK = re.compile("gloo|nccl|TCPStore|Connection", re.IGNORECASE)
MEMORY = re.compile(
    r".*(out of memory|(can't|cannot) allocate|alloc\w*.?fail|bad_alloc|failed to map segment"
    r"|could not create a primitive).*",
    re.IGNORECASE,
)
THREADS = re.compile(
    r".*(can't start new thread|resource temporarily unavailable|pthread_create).*", re.IGNORECASE
)
CARD = re.compile(
    r".*(busy or unavailable|invalid device ordinal|driver version|driver on your system|no kernel image"
    r"|no CUDA-capable|uncorrectable).*",
    re.IGNORECASE,
)


def out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or MEMORY.search(str(error)) is not None


def explain(error: Exception) -> str | None:
    """Return one line about what the user can do, or None: then it is a bug."""
    if out_of_memory(error):
        said = MEMORY.search(str(error))
        quoted = f" ({said[0].strip()})" if said else ""
        return f"out of memory{quoted}: end other programs, or choose another device with --gpus or --device"
    if said := THREADS.search(str(error)):
        return (
            f"no more threads can be started ({said[0].strip()}): raise the limits of processes and memory "
            "(ulimit -u and -v), or give fewer --workers"
        )
    if said := CARD.search(str(error)):
        return f"the GPU cannot be used ({said[0].strip()}): see alexnet-dali doctor, or use --device cpu"
    if "WORLD_SIZE" in os.environ and NETWORK.search(str(error)):
        return (
            "lost the other processes of this run: one has ended (its last line says why), or its machine "
            "cannot be reached; start all again"
        )
    return None
