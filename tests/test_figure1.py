"""tools.figure1: trainings run, stop at the error that was asked for and go on; their errors are counted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import figure1


def images(root: Path) -> Path:
    """Eight images of noise for each of two classes, and four to test."""
    for number, name in enumerate("ab"):
        for split, count in (("train", 8), ("test", 4)):
            (root / split / name).mkdir(parents=True)
            for image in range(count):
                pixels = np.random.default_rng([number, image]).integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{image}.png")
    return root


def test_trainings_stop_and_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of 100,000 epochs they make a few: the goal is an error that is there from the first one on."""
    words = [images(tmp_path / "images"), "--out", tmp_path / "out", "--epochs", 100_000, "--jobs", 2]
    rates = ["--relu4", 1e-9, "--tanh4", 1e-9]
    monkeypatch.setattr(sys, "argv", ["figure1", *map(str, [*words, *rates])])
    monkeypatch.setattr(figure1, "GOAL", 90)
    assert figure1.main() == 0
    assert figure1.main() == 0  # nothing is done twice
    said = capfd.readouterr().out
    assert said.count("$ alexnet-dali train") == 2
    assert "times as many epochs; the paper's figure: 6" in said.splitlines()[-1]
    with Image.open(tmp_path / "out/figure1.png") as picture:
        assert picture.size == (750, 600)


def test_an_epoch_s_error_is_that_of_its_batches(tmp_path: Path) -> None:
    """Of 150 steps an epoch by hand: (100 x 60 + 50 x 30) / 150 = 50, and (100 x 20 + 50 x 5) / 150 = 15."""
    rows = [(100, 2 / 3, 60), (150, 1, 30), (250, 5 / 3, 20), (300, 2, 5), (400, 8 / 3, 1)]
    train = [{"kind": "train", "step": s, "epoch": e, "top1_err": float(x)} for s, e, x in rows]
    more = {"loss": 1.0, "top5_err": 0.0, "lr": 0.01, "img_s": 1.0, "data_time": 0.0}
    lines = [row | more for row in train]
    for step, epoch, place in ((150, 1, 2), (300, 2, 5)):
        lines.insert(
            place,
            {"kind": "val", "step": step, "epoch": epoch, "loss": 1.0, "top1_err": 9.0, "top5_err": 0.0},
        )
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = figure1.errors(tmp_path)
    assert found == pytest.approx([50, 15])
    assert figure1.reached(found) == pytest.approx(1 + 25 / 35)
    assert figure1.reached([50, 40]) is None


def test_the_ratio_is_of_the_quickest_rates() -> None:
    curves = {
        ("relu4", 0.1): [50.0, 25.0],
        ("relu4", 0.2): [50.0, 40.0, 25.0],
        ("tanh4", 0.1): [60.0] * 11 + [25.0],
        ("tanh4", 0.2): [60.0] * 40,
    }
    said = figure1.table(curves)
    assert "| `relu4` | 0.1 | 2.0 | 25.0 % after 2 |" in said
    assert "| `tanh4` | 0.2 | not in 40 | 60.0 % after 40 |" in said
    assert "tanh takes 6.0 times as many epochs; the paper's figure: 6" in said
