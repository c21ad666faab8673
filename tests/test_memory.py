"""What is done again and again is done in the same memory: no faults of fresh pages, as the system counts."""

import subprocess
import sys
from pathlib import Path

from pipeline.dataset import Dataset

ROOT = Path(__file__).parent.parent
COUNT = """
import resource, sys
import numpy as np, torch
{begin}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    again()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*[faults() for _ in range(12)])
"""
TENSORS = """
from cli.compose.devices import use_device
use_device(torch.device("cpu"), None)
def again():
    sum(torch.ones(20_000_000) for _ in range(3))  # 80 MB each, which malloc by itself gives back
"""
LOADER = """
from pipeline.batches import TrainBatches
from pipeline.dataset import open_dataset
batches = TrainBatches(open_dataset(sys.argv[1]), batch_size=28, device="cpu", threads=2).endless()
def again():
    next(batches)
"""


def fresh(begin: str, *words: object) -> int:
    """How many of eight repeats, once four have found their memory, took some megabytes of fresh pages."""
    command = [sys.executable, "-c", COUNT.format(begin=begin), *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return sum(int(faults) > 1000 for faults in done.stdout.split()[4:])


def test_tensors() -> None:
    """All eight would each time, with malloc as it comes; a system short of memory takes pages away, too."""
    assert any(fresh(TENSORS) <= 2 for _ in range(3))


def test_batches(dataset: Dataset) -> None:
    """Five of eight would, of 28 images each, with DALI as it comes."""
    assert fresh(LOADER, dataset.root) <= 2
