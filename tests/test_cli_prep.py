"""`alexnet-dali prep` as a user runs it: killed, stopped, run twice, run on a finished or damaged dataset."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli import main
from pipeline.dataset import open_dataset

REPEATS = 25  # of each good image of the miniature, so that there are several shards


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["prep", *map(str, arguments)])


def start(*arguments: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cli", "prep", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[1], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_until(happened: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.002)


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture(scope="module")
def bigger(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of some 600 training images, under a name with spaces and other letters."""
    root = tmp_path_factory.mktemp("bigger") / "Bilder für später 图像"
    for path in folders.glob("train/*/*.JPEG"):
        if int(path.stem.split("_")[1]) < 8:
            for repeat in range(REPEATS):
                copy = root / "train" / path.parent.name / f"{path.stem} {repeat}.JPEG"
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.hardlink_to(path)
    shutil.copytree(folders / "val", root / "val")
    return root


@pytest.fixture(scope="module")
def undisturbed(bigger: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of an undisturbed run. Read it only."""
    out = tmp_path_factory.mktemp("undisturbed") / "ruhig 静"
    result = run("--imagenet-root", bigger, "--out", out)
    assert result.exit_code == 0, result.output
    for line in ("classes   3", "train     600 images in 10 shards", "val       9 images in 1 shard"):
        assert line in result.output
    assert re.search(r"Found class folders in .*später 图像: train, val labelled by folder", result.output)
    assert re.search(r"speed +[\d,]+ images/s", result.output)
    assert f"alexnet-dali train --data '{out}'" in result.output
    return out


def test_killed(bigger: Path, undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL, three times, at different stages: finished shards stay, the end is the same to the byte."""
    out = tmp_path / "out"
    for shards in (1, 4, 8):
        process = start("--imagenet-root", bigger, "--out", out, "--workers", 2)
        wait_until(lambda: len(list((out / ".work").glob("*.npz"))) >= shards, process)  # noqa: B023
        workers = workers_of(process.pid)
        process.kill()
        process.communicate()
        wait_until(lambda: all(gone(pid) for pid in workers))  # noqa: B023
        assert not (out / "dataset.json").exists()
        assert run("--out", out).exit_code == 2
    result = run("--imagenet-root", bigger, "--out", out)
    assert result.exit_code == 0, result.output
    assert re.search(r"\d\d\d images are done already", result.output)
    assert files(out) == files(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped(number: signal.Signals, bigger: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("--imagenet-root", bigger, "--out", out, "--workers", 2)
    wait_until(lambda: len(list((out / ".work").glob("*.npz"))) >= 2, process)
    workers = workers_of(process.pid)
    started = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}; the same command resumes here" in output
    assert "Traceback" not in output
    wait_until(lambda: all(gone(pid) for pid in workers))
    left = {path.suffix for path in (out / ".work").iterdir()}
    assert left <= {".npz", ".json", ""}  # no half shard
    result = run("--imagenet-root", bigger, "--out", out)
    assert result.exit_code == 0, result.output
    assert files(out) == files(undisturbed)


def test_second_prep(bigger: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("--imagenet-root", bigger, "--out", out, "--workers", 1)
    wait_until((out / ".work/plan.json").exists, process)
    process.send_signal(signal.SIGSTOP)
    result = run("--imagenet-root", bigger, "--out", out)
    assert result.exit_code == 1
    assert f"another prep is running in {out}" in result.output
    process.send_signal(signal.SIGCONT)
    process.communicate()
    assert process.returncode == 0


def test_finished(undisturbed: Path) -> None:
    before = files(undisturbed)
    started = time.monotonic()
    for arguments, said in ((), "every file is there"), (("--verify",), "every file has the right checksum"):
        result = run("--out", undisturbed, *arguments)
        assert result.exit_code == 0, result.output
        assert said in result.output
        assert "train     600 images in 10 shards" in result.output
    assert time.monotonic() - started < 2
    assert files(undisturbed) == before
    assert "prepared with --size 256, not original" in run("--out", undisturbed, "--size", "original").output


def test_damage(bigger: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Missing, truncated, altered: each is named, and only they are made again."""
    out = shutil.copytree(undisturbed, tmp_path / "out")
    (out / "train/000001.tar").unlink()
    os.truncate(out / "train/000002.tar", 4096)
    with open(out / "train/000003.tar", "r+b") as file:
        file.seek(10_000)
        file.write(b"!")
    untouched = (out / "train/000004.tar").stat().st_mtime_ns
    result = run("--out", out)
    assert result.exit_code == 1
    assert f"{out}/train/000001.tar is missing" in result.output
    assert f"{out}/train/000002.tar ends at byte 4096 instead of" in result.output
    assert "000003" not in result.output
    assert "2 missing or damaged files: give --imagenet-root" in result.output
    result = run("--out", out, "--imagenet-root", bigger, "--verify")
    assert result.exit_code == 0, result.output
    assert f"{out}/train/000003.tar was altered: its checksum differs" in result.output
    assert files(out) == files(undisturbed)
    assert (out / "train/000004.tar").stat().st_mtime_ns == untouched


def test_usage(tmp_path: Path, bigger: Path) -> None:
    for arguments, status, message in (
        (["--out", tmp_path / "out"], 2, "give --imagenet-root"),
        (["--out", tmp_path / "out", "--imagenet-root", tmp_path / "none"], 2, "does not exist"),
        (["--out", tmp_path / "out", "--imagenet-root", tmp_path], 1, "is no ImageNet root. Looked for"),
        (
            ["--out", tmp_path / "out", "--imagenet-root", bigger, "--val-fraction", "2"],
            2,
            "not in the range",
        ),
        (["--out", bigger, "--imagenet-root", bigger], 1, "holds other files"),
        (["--out", "/proc/out", "--imagenet-root", bigger], 1, "cannot write"),
        (["--sise", "256"], 2, "--size"),
    ):
        result = run(*arguments)
        assert result.exit_code == status, result.output
        assert message in result.output
        assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_split_without_labels(archives: Path, tmp_path: Path) -> None:
    result = run("--imagenet-root", archives, "--out", tmp_path, "--max-rejected", 0.5)
    assert result.exit_code == 0, result.output
    assert "val       9 images in 1 shard\n" in result.output
    assert "test      5 images in 1 shard, without labels\n" in result.output


def test_environment_and_fraction(bigger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("ALEXNET_DALI_DATA", str(out))
    result = run("--imagenet-root", bigger / "train", "--val-fraction", "0.1")
    assert result.exit_code == 0, result.output
    dataset = open_dataset(out)
    assert (dataset.samples("train"), dataset.samples("val")) == (540, 60)
    assert re.search("next +alexnet-dali train( --device cpu)?\n", result.output)


def test_what_is_done_about_orientation_and_flaws_is_said(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in "ab":
        for number in range(2):
            path = root / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 50).save(path)
    flawed = root / "a/0.jpg"
    flawed.write_bytes(flawed.read_bytes()[:-2] + b"to be skipped, as it lies before the end\xff\xd9")
    result = run("--imagenet-root", root, "--val-fraction", 0.5, "--out", tmp_path / "out", "--workers", 1)
    assert "images are turned upright (--exif ignore" in result.output
    assert re.search(r"flawed +1 with extraneous bytes before a marker: they are harmless", result.output)
    options = ("--imagenet-root", root, "--val-fraction", 0.5, "--out", tmp_path / "out", "--exif", "ignore")
    assert "was prepared with --exif honour, not ignore: choose another --out" in run(*options).output
