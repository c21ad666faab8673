"""tools.imagenette: both trainings run, stop and go on, and errors are counted as they should be."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tools import imagenette


def photographs(root: Path) -> Path:
    """Smooth random images of three classes, eight to train with and four of validation."""
    for number, name in enumerate("abc"):
        for split, count in (("train", 8), ("val", 4)):
            (root / split / name).mkdir(parents=True)
            for image in range(count):
                seed = np.random.default_rng([number, image, split == "val"])
                small = Image.fromarray(seed.integers(0, 256, (4, 5, 3), dtype=np.uint8))
                small.resize((300, 260)).save(root / split / name / f"{split}{name}{image}.jpg")
    return root


def test_the_table_has_both_nets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchvision")
    words = [photographs(tmp_path / "photos"), "--out", tmp_path / "out", "--epochs", 1, "--batch-size", 8]
    more = ["--width", 0.05, "--nets", "original", "torchvision"]
    monkeypatch.setattr(sys, "argv", ["imagenette", *map(str, [*words, *more])])
    assert imagenette.main() == 0
    assert imagenette.main() == 0  # nothing is done twice
    said = capfd.readouterr().out
    assert said.count("$ alexnet-dali train") == 1
    rows = said.splitlines()[-2:]
    assert [row.split()[1:4:2] for row in rows] == [["original", "1"], ["torchvision", "1"]]


def test_errors_of_ten_views_are_those_of_the_mean_probability() -> None:
    """Ten views of one number each, which a network of no weights makes logits of: counted by hand."""

    class Views(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x, -x, 0 * x - 9, 0 * x - 9, 0 * x - 9, 0 * x - 99], 1)

    # image 0: the centre says class 0, the other nine say class 1; image 1: all views say class 0
    views = torch.tensor([[-5.0] * 4 + [5.0] + [-5.0] * 5, [5.0] * 10])
    loader = DataLoader(TensorDataset(views, torch.tensor([0, 5])), 2)
    found = imagenette.count_errors(Views(), loader, torch.device("cpu"))
    assert found == {"centre": [50, 50], "ten": [100, 50]}
