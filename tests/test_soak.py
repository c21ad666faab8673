"""A short soak: tools/soak.py is for the long ones."""

import random
from pathlib import Path

from tools.soak import Soak


def test_random_faults(tmp_path: Path) -> None:
    soak = Soak(tmp_path, 15, random.Random(0))
    soak.run()
    assert soak.rounds and soak.struck.total() >= 15
