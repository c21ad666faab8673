"""tools.imagenette: both trainings run, stop and go on, and errors are counted as they should be."""

import json
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
    more = ["--width", 0.05, "--nets", "original,keep=1", "torchvision", "--precision", "bfloat16"]
    monkeypatch.setattr(sys, "argv", ["imagenette", *map(str, [*words, *more])])
    assert imagenette.main() == 0
    assert imagenette.main() == 0  # nothing is done twice
    said = capfd.readouterr().out
    assert said.count("$ alexnet-dali train") == 1
    rows = said.splitlines()[-2:]
    assert [row.split()[1:4:2] for row in rows] == [["original,keep=1", "1"], ["torchvision", "1"]]
    run = json.loads((tmp_path / "out" / "original,keep=1-0" / "run.json").read_text())
    assert (run["recipe"]["keep"], run["starts"][0]["precision"]) == (1, "bfloat16")


def test_the_table_has_means_ranges_and_differences(tmp_path: Path) -> None:
    errors = {
        "original-0": {"centre": [25, 4], "ten": [24, 3]},
        "original-1": {"centre": [26, 3], "ten": [22, 2]},
        "no-lrn-0": {"centre": [27, 5], "ten": [24.5, 2.25]},
    }
    for name, result in errors.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"errors": result, "img_s": 50}))
    assert imagenette.table(tmp_path, ["original", "no-lrn", "paper"], [0, 1], 6000).splitlines()[2:] == [
        "| original | 2 | 25.50 % (25.00 to 26.00) / 3.50 % (3.00 to 4.00) "
        "| 23.00 % (22.00 to 24.00) / 2.50 % (2.00 to 3.00) | +0.00 / +0.00 | 50 | 2 |",
        "| no-lrn | 1 | 27.00 % / 5.00 % | 24.50 % / 2.25 % | +0.50 / -0.75 | 50 | 2 |",
    ]


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
