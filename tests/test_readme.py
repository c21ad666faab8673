"""The README speaks of what is there."""

import ast
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from click.testing import CliRunner

from cli import display, main
from model.optim import Momentum
from pipeline.batches import Stream
from pipeline.dataset import Dataset
from pipeline.source import miniature

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_and_option_has_help() -> None:
    for command in main.commands.values():
        assert command.help
        for parameter in command.params:
            assert parameter.to_info_dict()["param_type_name"] == "argument" or parameter.help, parameter.name


ONE_BATCH = re.findall(r"^\d+\. `([\w/.]+)`", README.partition("## Where things are")[2], re.MULTILINE)
GRAPH = "pipeline/graph.py"


def test_one_batch_lists_the_files_that_a_batch_passes(dataset: Dataset, tmp_path: Path) -> None:
    """Line by line through the second step of a training, to the end of its update."""
    steps: list[dict[str, None]] = []  # by step the files, in the order in which the batch comes to them
    within, started = False, set()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal within
        path = frame.f_code.co_filename.removeprefix(f"{ROOT}/")
        if not path.startswith(("pipeline/", "model/", "cli/")):
            return None
        if event == "call" and frame.f_code is Stream.__next__.__code__:
            within = True
            steps.append({})
        if frame.f_code is Momentum.zero_grad.__code__:
            within = False
        if within:
            steps[-1][path] = None
        if not steps:
            started.add(path)
        return trace

    words = ["--device", "cpu", "--width", "0.02", "--batch-size", "12", "--epochs", "1"]
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        places = ["--data", str(dataset.root), "--run", str(tmp_path / "run")]
        trained = CliRunner().invoke(main, ["train", *places, *words])
    finally:
        sys.settrace(before)
    assert trained.exit_code == 0, trained.output
    assert list(steps[1]) == [path for path in ONE_BATCH if path != GRAPH]
    # DALI runs what this file built, beside Python: between the shards and the devices
    assert GRAPH in started and ONE_BATCH.index(GRAPH) == ONE_BATCH.index("pipeline/samples.py") + 1


def test_the_stops_of_a_batch_are_numbered_as_one_batch_lists_them() -> None:
    numbers = (
        "First",
        "Second",
        "Third",
        "Fourth",
        "Fifth",
        "Sixth",
        "Seventh",
        "Eighth",
        "Ninth",
        "Tenth",
        "Eleventh",
    )
    begins = [str(ast.get_docstring(ast.parse((ROOT / path).read_text()))) for path in ONE_BATCH]
    assert [text.partition(" stop")[0] for text in begins] == list(numbers)


SHOWN = re.findall(
    r"^    (.*)$", README.partition("## Prepare, train, evaluate")[2].partition("\n## ")[0], re.MULTILINE
)


def as_pattern(line: str) -> str:
    """The line, but for numbers with their units, and how many of a thing there are."""
    even = re.sub(r"[\d.,/]*\d|\b(min|s|h|MB|kB)\b", "#", line)
    words = (re.sub(r"s$", "s?", re.escape(word)) for word in even.split())
    return r"\s+".join(words).replace(r"\#", "#").replace("#", r"\S+")


def test_the_three_commands_print_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALEXNET_DALI_DATA", raising=False)
    monkeypatch.setattr(display, "OFTEN", 0.0)
    miniature.write_archives(Path("demo/archives"), classes=6, train=8, val=3)
    data, run = ["--data", "demo/imagenet"], ["--run", "demo/runs/demo", "--device", "cpu"]
    small = ["--width", "0.02", "--batch-size", "12", "--epochs", "2"]
    said = ""
    for words in (
        ["prep", "--imagenet-root", "demo/archives", "--out", "demo/imagenet", "--max-rejected", "0.5"],
        ["train", *data, *run, *small],
        ["eval", "--ten-crop", *run],
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        said += result.output
    assert len(SHOWN) >= 12
    for line in SHOWN:
        assert re.search(as_pattern(line), said), line


def test_it_is_one_page() -> None:
    assert len(README.splitlines()) <= 150 and len(README.split()) <= 1400
