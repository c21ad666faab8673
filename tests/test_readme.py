"""The README speaks of what is there."""

import ast
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from click.testing import CliRunner

from cli import main
from model.optim import Momentum
from pipeline.batches import Stream
from pipeline.dataset import Dataset

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
    # DALI runs what this file built, beside Python: between the draws and the devices
    assert GRAPH in started and ONE_BATCH.index(GRAPH) == ONE_BATCH.index("pipeline/order.py") + 1


def test_the_stops_of_a_batch_are_numbered_as_one_batch_lists_them() -> None:
    numbers = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth", "Tenth")
    begins = [str(ast.get_docstring(ast.parse((ROOT / path).read_text()))) for path in ONE_BATCH]
    assert [text.partition(" stop")[0] for text in begins] == list(numbers)
