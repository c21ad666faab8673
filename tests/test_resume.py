"""A training that is killed or stopped, wherever that may be, ends with the same bits as one that was not."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import after_header, assert_same, flip, rows, train
from triggers import (
    DieRenaming,
    DieWriting,
    Trigger,
    break_pipe,
    die,
    fill_log,
    hang_up,
    insist,
    interrupt,
    nohup,
    terminate,
)

from model import checkpoint
from pipeline.dataset import Dataset
from tools.commands import Command

STEP, CONFER = "model.step:Step.__call__", "model.train:Trainer._confer"


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = Command(*train(dataset.root, folder / "undisturbed"), folder=folder)
    assert command.wait() == 0, command.text
    return folder / "undisturbed"


def errors(data: Path, run: Path) -> dict[str, object]:
    """What eval says of it."""
    words = ("eval", "--data", data, "--run", run, "--device", "cpu", "--ten-crop", "--force")
    command = Command(*words, "--json", "errors.json", folder=run)
    assert command.wait() == 0, command.text
    found: dict[str, object] = json.loads((run / "errors.json").read_text())
    return {key: value for key, value in found.items() if key != "run"}


def test_killed_wherever_it_hurts(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kills: dict[str, Callable[[], object]] = {
        "before anything is saved": Trigger(STEP, 1, die),
        "in the first checkpoint": DieWriting("new.pt.tmp"),
        "in the middle of an epoch": Trigger(STEP, 4, die),
        "in a checkpoint": DieWriting("new.pt.tmp"),
        "before a checkpoint is new.pt": DieRenaming("new.pt"),
        "between new.pt and previous.pt": DieRenaming("previous.pt"),
        "without a last.pt": DieRenaming("last.pt"),
        "in its description": DieWriting("run.json.tmp"),
        "in its metrics, at work": Trigger("model.run:RunDirectory.sync", 1, die),
        "at the end of an epoch": Trigger("model.train:Trainer._validate", 1, die),
        "in validation": Trigger(CONFER, 2, die),
        "in the best checkpoint": DieWriting("best.pt.tmp"),
        "when it takes back a row": DieWriting("metrics.jsonl.tmp"),
        "after validation": Trigger(STEP, 1, die),
        "in the second epoch": Trigger(STEP, 6, die),
        "in the last checkpoint": Trigger("model.train:Trainer._save", 6, die),
    }
    words = train(dataset.root, run, "--save-minutes", 0)
    for moment, trigger in kills.items():
        command = Command(*words, folder=tmp_path, before=trigger)
        assert command.wait() == -9, f"{moment}: {command.text}"
        if moment == "in validation":  # and a disk that forgets
            flip(run / "last.pt", 0.5)
    command = Command(*words, folder=tmp_path)
    assert command.wait() == 0, command.text
    assert_same(run, undisturbed)
    assert errors(dataset.root, run) == errors(dataset.root, undisturbed)


def test_stopped_in_training_and_validation(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = train(dataset.root, run)
    stops: list[tuple[int, int, Callable[[], object] | None, tuple[object, ...]]] = [
        (143, 3, Trigger(STEP, 3, terminate), ()),  # SIGTERM: the step is finished and saved
        (130, 5, Trigger(STEP, 2, interrupt), ()),  # Ctrl-C
        (129, 6, Trigger(STEP, 1, hang_up), ()),
        (75, 7, None, ("--stop-after", 0)),
        (143, 7, Trigger(STEP, 3, insist), ()),  # a second signal: at once, nothing is saved
        (143, 10, Trigger(CONFER, 2, terminate), ()),  # in validation, which is done again
        (0, 20, None, ()),
    ]
    for status, step, trigger, more in stops:
        command = Command(*words, *more, folder=tmp_path, before=trigger)
        assert command.wait() == status, command.text
        assert checkpoint.read(run / "last.pt")["step"] == step
        told = f"stopped at step {step}; the same command resumes there\n" in command.text
        assert told == (status != 0 and not (trigger and trigger.act is insist))
    assert_same(run, undisturbed)
    again = Command(*words, folder=tmp_path)  # finished is finished
    assert again.wait() == 0 and "  trained " in again.text
    assert_same(run, undisturbed)


@pytest.mark.parametrize(("act", "status"), [(nohup, 0), (fill_log, 0), (break_pipe, 128 + signal.SIGPIPE)])
def test_nobody_reads(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, act: Callable[[], None], status: int
) -> None:
    """Left alone with nohup or a full log it goes on; at the end of a pipe it saves and stops."""
    words = train(dataset.root, tmp_path / "run", "--save-minutes", 60)
    command = Command(*words, folder=tmp_path, before=act)
    assert command.wait() == status, command.text
    if status:
        assert checkpoint.read(tmp_path / "run" / "last.pt")["step"] == 1  # what it will do was not read
        again = Command(*words, folder=tmp_path)
        assert again.wait() == 0, again.text
    assert_same(tmp_path / "run", undisturbed)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    dataset: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    (run / "last.pt").write_bytes((run / "last.pt").read_bytes()[:5000])
    command = Command(*train(dataset.root, run), folder=tmp_path)
    assert command.wait() == 0, command.text
    assert f"warning: {run}/last.pt is damaged" in command.text
    assert f"resuming from {run}/previous.pt, step 20" in command.text
    assert_same(run, undisturbed)
    for name in ("last.pt", "previous.pt"):
        flip(run / name, 0.3)
    command = Command(*train(dataset.root, run), folder=tmp_path)
    assert command.wait() == 1
    assert (
        len(after_header(command.text)) == 1 and "start again under another name with --run" in command.text
    )


REFUSED = {
    "seed 0, not 1": ("--seed", 1),
    "batch size 3, not 4": ("--batch-size", 4),
    "width 0.02, not 0.03": ("--width", 0.03),
    "recipe original, not paper": ("--recipe", "paper"),
    "epochs 2, not 3": ("--epochs", 3),
    "schedule 145, not 170": ("--schedule", "170"),
    "devices CPU x 1, not CPU x 1 + CPU x 1": ("--device", "cpu,cpu"),
    "precision float32, not bfloat16": ("--precision", "bfloat16"),
}


def test_changes_are_refused_by_name(
    dataset: Dataset, originals: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    found = {}
    for text, words in {**REFUSED, "another dataset": ("--data", originals.root)}.items():
        run = tmp_path / str(len(found))
        shutil.copytree(undisturbed, run)
        found[text] = Command(*train(dataset.root, run, *words), folder=tmp_path)
    for text, command in found.items():
        assert command.wait() == 1 and len(after_header(command.text)) == 1, command.text
        assert text in command.text
        free = text.split()[0] in checkpoint.MAY_CHANGE
        assert ("--allow-changes" in command.text) == free and ("use another --run" in command.text) != free


def test_changes_that_are_allowed(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    words = train(dataset.root, run, "--epochs", 3, "--device", "cpu,cpu")
    command = Command(*words, "--allow-changes", folder=tmp_path)
    assert command.wait() == 0, command.text
    changed = "devices CPU x 1, not CPU x 1 + CPU x 1, epochs 2, not 3"
    assert f"warning: {run} was trained with {changed}; resuming" in command.text
    assert [row["step"] for row in rows(run) if row["kind"] == "val"] == [10, 20, 30]
    assert rows(run)[: len(rows(undisturbed))] == rows(undisturbed)
    again = Command(*words, folder=tmp_path)  # now it is what the run is
    assert again.wait() == 0, again.text
    refused = Command(*words, "--allow-changes", "--seed", 1, folder=tmp_path)
    assert refused.wait() == 1 and "seed 0, not 1" in refused.text
