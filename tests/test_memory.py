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
from cli import compose
compose.use_device(torch.device("cpu"), None)
def again():
    sum(torch.ones(20_000_000) for _ in range(3))  # 80 MB each, which malloc by itself gives back
"""
LOADER = """
from pipeline.batches import TrainBatches
from pipeline.dataset import open_dataset
batches = iter(TrainBatches(
    open_dataset(sys.argv[1]), crop=224, batch_size=28, offsets=33, colour=lambda epoch: np.eye(3), seed=0,
    start=0, device=torch.device("cpu"), threads=2,
))
def again():
    next(batches)
"""


def faults(begin: str, *words: object) -> list[int]:
    """Of each of some repeats, the first few apart, which find their memory."""
    command = [sys.executable, "-c", COUNT.format(begin=begin), *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return [int(count) for count in done.stdout.split()][4:]


def test_tensors() -> None:
    assert max(faults(TENSORS)) < 100  # their pages are 58,594


def test_batches(dataset: Dataset) -> None:
    """28 images are 4,116 pages of float32."""
    assert max(faults(LOADER, dataset.root)) < 1000
