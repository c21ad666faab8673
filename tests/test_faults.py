"""Faults of disk, data and machine in training: one clear line, the right exit status, and nothing lost."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import assert_same, description, train
from triggers import Hold, Shrink, Trigger, backwards, exhaust, exhaust_gpu, powerless

from model import checkpoint
from pipeline.dataset import Dataset, read_index
from tools.commands import Command

STEP = "model.step:Step.__call__"


@pytest.fixture
def copy(dataset: Dataset, tmp_path: Path) -> Path:
    """A dataset to be maltreated."""
    return Path(shutil.copytree(dataset.root, tmp_path / "copy"))


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    command = Command(*train(dataset.root, folder / "undisturbed", "--epochs", 1), folder=folder)
    assert command.wait() == 0, command.text
    return folder / "undisturbed"


def fails(folder: Path, *words: object, before: Callable[[], object] | None = None, status: int = 1) -> str:
    """The one line with which a command fails; what train tells may stand before it."""
    command = Command(*words, folder=folder, before=before)
    assert command.wait() == status, command.text
    *others, last = command.text.splitlines()
    assert last.startswith("Error: ") and "Traceback" not in command.text, command.text
    known = ("  ", "step ", "epoch ", "Corrupt JPEG", "warning: ")
    assert all(line.startswith(known) for line in others), command.text
    return last


@pytest.mark.parametrize("damage", ["cut short", "missing", "of another format"])
def test_a_dataset_that_was_damaged_since_prep(copy: Path, tmp_path: Path, damage: str) -> None:
    shard = copy / "train" / "000000.tar"
    if damage == "cut short":
        os.truncate(shard, 5000)
        expected = f"{shard} ends at byte 5000 instead of "
    elif damage == "missing":
        shard.unlink()
        expected = f"{shard} is missing"
    else:
        described = copy / "dataset.json"
        described.write_text(json.dumps({**json.loads(described.read_text()), "format": 0}))
        expected = f"{described} has format 0, this version reads format"
    line = fails(tmp_path, *train(copy, tmp_path / "run"))
    assert expected in line and "alexnet-dali prep" in line
    assert not (tmp_path / "run").exists()


def test_an_image_that_was_altered_since_prep(
    dataset: Dataset, copy: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Named in the epoch, with its offset; what was done before is saved by the time the shard is mended."""
    row = read_index(dataset, "train")[13]
    shard, offset = copy / "train" / "000000.tar", int(row["offset"])
    whole = shard.read_bytes()
    shard.write_bytes(whole[:offset] + bytes(int(row["size"])) + whole[offset + int(row["size"]) :])
    run = tmp_path / "run"
    words = train(copy, run, "--epochs", 1, "--save-minutes", 0)
    line = fails(tmp_path, *words)
    assert f"{shard}, byte {offset}: " in line and "cannot be decoded" in line and "prep" in line
    shard.write_bytes(whole)
    command = Command(*words, folder=tmp_path)
    assert command.wait() == 0, command.text
    assert_same(run, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "small disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk(dataset: Dataset, undisturbed: Path, small_disk: Path, tmp_path: Path) -> None:
    """At every size of what is left, down to nothing: a line, and the state saved before is whole."""
    run = small_disk / "run"
    words = train(dataset.root, run, "--epochs", 1, "--save-minutes", 0)
    ballast = small_disk / "ballast"
    assert Command(*words, "--stop-after", 0, folder=tmp_path).wait() == 75
    steps = [checkpoint.read(run / "last.pt")["step"]]
    for left in (400_000, 300_000, 30_000, 0):
        fill(ballast, left)
        line = fails(tmp_path, *words)
        assert str(run) in line and "No space left on device" in line and "run the same command again" in line
        steps.append(checkpoint.read(run / "last.pt")["step"])
        ballast.unlink()
    assert steps == sorted(steps) and not list(run.glob("*.tmp"))
    command = Command(*words, folder=tmp_path)
    assert command.wait() == 0, command.text
    assert_same(run, undisturbed)


def fill(file: Path, left: int) -> None:
    """A file so large that `left` bytes, in whole pages, stay free on its disk."""
    about = os.statvfs(file.parent)
    file.write_bytes(bytes(max(0, about.f_bavail * about.f_bsize - left)))


def test_a_folder_that_cannot_be_written(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for path in [*run.iterdir(), run]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    line = fails(tmp_path, *train(dataset.root, run, "--epochs", 1), before=powerless)
    assert f"cannot write {run}/lock: Permission denied" in line and "--run" in line
    run.chmod(0o755)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert "Not a directory" in fails(tmp_path, *train(dataset.root, run / "lock" / "run"))


def test_a_file_that_may_not_be_read(copy: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    words = train(copy, run, "--epochs", 1)
    for path in (run / "last.pt", copy / "train" / "000000.tar", copy / "dataset.json"):
        path.chmod(0)
        line = fails(tmp_path, *words, before=powerless)
        assert str(path) in line and "ermission" in line, line
        path.chmod(0o644)


def test_two_trainings_on_one_run(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    run, go = tmp_path / "run", tmp_path / "go"
    words = train(dataset.root, run, "--epochs", 1)
    first = Command(*words, folder=tmp_path, before=Trigger(STEP, 3, Hold(go)))
    while not (run / "metrics.jsonl").exists():
        assert first.process.is_alive()
    assert f"another training is using {run}" in fails(tmp_path, *words)
    go.touch()
    assert first.wait() == 0, first.text
    assert_same(run, undisturbed)


@pytest.mark.parametrize("act", [exhaust, exhaust_gpu])
def test_out_of_memory(dataset: Dataset, tmp_path: Path, act: Callable[[], object]) -> None:
    """Of the machine, really; of a GPU, the error that torch raises there."""
    line = fails(tmp_path, *train(dataset.root, tmp_path / "run"), before=Trigger(STEP, 2, act))
    assert "out of memory with batches of 3 on cpu: try a smaller --batch-size" in line


def test_a_shard_that_shrinks_under_training(copy: Path, tmp_path: Path) -> None:
    """The kernel ends a process that reads mapped bytes which are gone; the next start says what is wrong."""
    run, shard = tmp_path / "run", copy / "train" / "000000.tar"
    words = train(copy, run, "--save-minutes", 0)
    command = Command(*words, folder=tmp_path, before=Trigger(STEP, 4, Shrink(shard)))
    assert command.wait() == -signal.SIGBUS
    assert checkpoint.read(run / "last.pt")["step"] >= 3
    assert f"{shard} ends at byte 100 instead of" in fails(tmp_path, *words)


def test_a_clock_set_back_and_data_and_run_moved(copy: Path, undisturbed: Path, tmp_path: Path) -> None:
    """To names with spaces and of other scripts."""
    run = tmp_path / "run"
    words = train(copy, run, "--epochs", 1, "--save-minutes", 0, "--stop-after", 0)
    for _ in range(2):
        assert Command(*words, folder=tmp_path, before=backwards).wait() == 75
    data, moved = tmp_path / "Bilder für später/图像 $(x) 1", tmp_path / "ein 'Lauf' 跑"
    data.parent.mkdir()
    copy.rename(data)
    run.rename(moved)
    command = Command(*train(data, moved, "--epochs", 1), folder=tmp_path, before=backwards)
    assert command.wait() == 0, command.text
    assert_same(moved, undisturbed)
    assert description(moved)["data"]["path"] == str(data)
