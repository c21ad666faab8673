"""Runs side by side: the training that tests disturb, and what must be the same however it was disturbed."""

import json
from pathlib import Path
from typing import Any

from model import checkpoint
from tools.soak import differing, rows

# 28 images: an epoch is ten steps, the last with one image; validation is of three batches
TRAIN = ("--device", "cpu", "--width", 0.02, "--batch-size", 3, "--epochs", 2)


def train(data: Path, run: Path, *more: object) -> tuple[object, ...]:
    """The words of the command."""
    return ("train", "--data", data, "--run", run, *TRAIN, *more)


def after_header(text: str) -> list[str]:
    """The lines that train says after those of what it will do."""
    return [line for line in text.splitlines() if not line.startswith("  ")]


def assert_same(run: Path, undisturbed: Path) -> None:
    """To the last bit: both checkpoints whole, with velocities and all; every row of metrics, none twice."""
    for name in ("last.pt", "best.pt"):
        assert differing(checkpoint.read(run / name), checkpoint.read(undisturbed / name)) == []
    assert rows(run) == rows(undisturbed)


def assert_close(run: Path, undisturbed: Path, tolerance: float) -> None:
    """Each tensor of weights and velocities up to a relative error, losses too; counted errors exactly."""
    a, b = checkpoint.read(run / "last.pt"), checkpoint.read(undisturbed / "last.pt")
    for kind in ("weights", "velocities"):
        for name, tensor in b[kind].items():
            error = (a[kind][name] - tensor).norm() / tensor.norm()
            assert error < tolerance, f"{kind} {name}: {error}"
    for row, expected in zip(rows(run), rows(undisturbed), strict=True):
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            close = row[key] == value if key != "loss" else abs(row[key] - value) < tolerance
            assert close, f"{key}: {row[key]}, {value}"


def flip(path: Path, at: float) -> None:
    """One bit of a file, this part of the way through it."""
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 16
    path.write_bytes(data)


def description(run: Path) -> dict[str, Any]:
    """run.json"""
    return dict(json.loads((run / "run.json").read_text()))
