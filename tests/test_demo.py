"""alexnet-dali demo, shortened: the three commands as a user would type them, on the official archives."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from cli import main
from cli.commands import demo


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "TRAIN", 8)
    monkeypatch.setattr(demo, "VAL", 2)
    monkeypatch.setattr(demo, "TRAINING", ["--width", "0.05", "--batch-size", "32", "--epochs", "1"])
    monkeypatch.setattr(demo, "PREPARING", ["--max-rejected", "0.1"])
    for _ in range(2):  # the second time nothing is done twice
        result = CliRunner().invoke(main, ["demo", "--out", "my demo"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        commands = [line.split()[2] for line in result.output.splitlines() if line.startswith("$ ")]
        assert commands == ["prep", "train", "eval"]
    assert not re.search("^epoch ", result.output, re.MULTILINE)
    assert "guessing among 10 classes" in result.output
    lines = [shlex.split(line[12:]) for line in result.output.splitlines()[-3:]]  # to paste
    assert [line[:2] for line in lines] == [["alexnet-dali", word] for word in ("report", "predict", "show")]
    for line in lines * 2:
        pasted = CliRunner().invoke(main, line[1:])
        assert pasted.exit_code == 0, pasted.output
    for name in ("filters.png", "curves.png", "mistaken.png", "conv2.png"):
        assert f"demo/{name}" in result.output
        with Image.open(Path("my demo", name)) as picture:
            assert min(picture.size) > 100
