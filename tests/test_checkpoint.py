"""Checkpoints and the run directory: what was written is read, what was not is never taken for it."""

import json
import random
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model import checkpoint
from model.checkpoint import Damaged
from model.recipe import RunError
from model.run import RunDirectory, read_metrics

CONTENT = {"step": 3, "history": [{"loss": 1.5}], "weights": {"a": torch.arange(6.0).view(2, 3)}}


def saved(folder: Path, step: int) -> None:
    checkpoint.save_last(folder, {**CONTENT, "step": step})


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    content = checkpoint.read(tmp_path / "last.pt")
    assert content["history"] == CONTENT["history"] and content["step"] == 3
    assert torch.equal(content["weights"]["a"], torch.arange(6.0).view(2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_any_bit_and_any_length(tmp_path: Path) -> None:
    """What is damaged is refused, or is read as it was where a bit has no meaning; nothing else is raised."""
    saved(tmp_path, 3)
    path, draw = tmp_path / "last.pt", random.Random(0)
    whole = path.read_bytes()
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        if draw.random() < 0.3:
            del damaged[draw.randrange(len(whole)) :]
        else:
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            content = checkpoint.read(path)
        except RunError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert content["step"] == 3 and torch.equal(content["weights"]["a"], CONTENT["weights"]["a"])
    assert refused > 200


@pytest.mark.parametrize("text", [b"", b"no checkpoint", b"PK\x05\x06" + bytes(18)])
def test_other_files(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(text)
    with pytest.raises(Damaged, match=r"last.pt is damaged"):
        checkpoint.read(tmp_path / "last.pt")


def test_another_format_and_no_file(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(RunError, match=r"format 99, this version reads 1"):
        checkpoint.latest(tmp_path, print)
    with pytest.raises(RunError, match=r"no checkpoint .*none.pt; train first"):
        checkpoint.read(tmp_path / "none.pt")


def test_the_newest_that_is_whole(tmp_path: Path) -> None:
    said: list[str] = []

    def latest() -> int | None:
        found = checkpoint.latest(tmp_path, said.append)
        return found["step"] if found else None

    assert latest() is None
    for step in (1, 2):
        saved(tmp_path, step)
    assert latest() == 2 and not said
    checkpoint.save(tmp_path / "new.pt", {**CONTENT, "step": 3})  # a process died before the renames
    assert latest() == 3
    (tmp_path / "last.pt").unlink()  # or between them
    assert latest() == 3 and not said
    saved(tmp_path, 4)
    (tmp_path / "last.pt").write_bytes(b"")
    (tmp_path / "previous.pt").write_bytes(b"")
    with pytest.raises(RunError, match=r"last.pt is damaged .*; .*previous.pt is damaged .*--run"):
        latest()
    saved(tmp_path, 5)
    assert latest() == 5


def test_differences_are_named() -> None:
    a = {"recipe": {"name": "original", "batch_size": 1, "rate": 2.0}, "seed": 0}
    b = {"recipe": {"name": "paper", "batch_size": 2, "rate": 2.0}, "seed": 0, "processes": 1}
    assert list(checkpoint.differences(a, a)) == []
    assert [text for _, text in checkpoint.differences(a, b)] == [
        "processes None, not 1",
        "recipe original, not paper",
        "batch size 1, not 2",
    ]


def row(kind: str, step: int, epoch: float) -> dict[str, object]:
    return {"kind": kind, "step": step, "epoch": epoch, "loss": step / 10}


def test_rows_of_a_lost_stretch_are_taken_back(tmp_path: Path) -> None:
    description = {"starts": {"command": "alexnet-dali train"}}
    rows = [row("train", 5, 0.5), row("train", 10, 1.0), row("val", 10, 1), row("train", 15, 1.5)]
    with RunDirectory(tmp_path) as run:
        run.open(0, 0, description)
        for each in rows:
            run.add(each)
        run.sync()
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"kind": "tra')  # cut short by a kill
    with RunDirectory(tmp_path) as run:
        run.open(10, 0, description)  # saved before the validation
        assert read_metrics(metrics) == rows[:2]
        for each in rows[2:]:
            run.add(each)
    assert read_metrics(metrics) == rows
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 2
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (5, 0.5), (10, 1.0), (15, 1.5)
    ]  # fmt: skip


def test_a_damaged_run_directory(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\nnonsense\n')
    with RunDirectory(tmp_path) as run, pytest.raises(RunError, match=r"metrics.jsonl, line 2 is damaged"):
        run.open(5, 0, {"starts": {}})
    (tmp_path / "run.json").write_text("[]")
    with RunDirectory(tmp_path) as run, pytest.raises(RunError, match=r"run.json is damaged"):
        run.open(5, 0, {"starts": {}})


def test_one_training_at_a_time(tmp_path: Path) -> None:
    with RunDirectory(tmp_path), pytest.raises(RunError, match=r"another training is using"):
        RunDirectory(tmp_path)
    with RunDirectory(tmp_path):
        pass
