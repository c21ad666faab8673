"""Failures of the machine and not of the program, known by what torch, CUDA and DALI say."""

import re

MEMORY = re.compile(r"out of memory|can't allocate|alloc\w*.?fail|bad_alloc", re.IGNORECASE)
CARD = re.compile(
    r"busy or unavailable|invalid device ordinal|driver|no kernel image|no CUDA-capable|uncorrectable",
    re.IGNORECASE,
)


def out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or MEMORY.search(str(error)) is not None


def explain(error: Exception) -> str | None:
    """One line of what its user can do, or None: then it is a bug."""
    said = str(error).strip().partition("\n")[0]
    if out_of_memory(error):
        return f"out of memory ({said}): free some, take another GPU (--gpus 1) or the CPU (--device cpu)"
    if CARD.search(said):
        return f"the GPU cannot be used ({said}): alexnet-dali doctor says more; --device cpu does without"
    return None
