"""Commands that are recommended work as printed: a shell takes them apart, and they run."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import main
from cli.compose.runs import quote, recommend
from cli.options import Machine
from pipeline.dataset import Dataset, read_description

SMALL = ("--width", "0.02", "--batch-size", "16", "--epochs", "1")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def read_by_bash(line: str) -> list[str]:
    """The arguments of alexnet-dali in a line that is pasted into bash."""
    script = f"alexnet-dali() {{ printf '%s\\0' \"$@\"; }}; {line}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    return [os.fsdecode(word) for word in found.split(b"\0")[:-1]]


def paste(line: str, *more: str) -> Result:
    result = run(*read_by_bash(line), *more)
    assert result.exit_code == 0, f"{line}\n{result.output}"
    return result


def recommended(output: str) -> str:
    (line,) = re.findall(r"^ *next:? +(alexnet-dali .*)$", output, re.MULTILINE)
    return str(line)


@pytest.mark.parametrize(
    "word", ["plain", "two words", "it's", "$HOME", "a\\b", "line\nbreak\x1b'\\", "\udce9t\u202e"]
)
def test_words_come_back_from_a_shell(word: str) -> None:
    assert "\n" not in quote(word)
    assert read_by_bash(f"alexnet-dali {quote(word)}") == [word]


def test_each_command_recommends_the_next(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALEXNET_DALI_DATA", raising=False)
    prep = run("prep", "--imagenet-root", folders, "--out", "it's prepared", "--max-rejected", 0.5)
    assert prep.exit_code == 0, prep.output
    train = paste(recommended(prep.output), *SMALL)
    assert recommended(train.output) == "alexnet-dali eval --ten-crop"
    evaluated = paste(recommended(train.output))
    assert "val images of" in evaluated.output and "it's prepared" in evaluated.output
    assert recommended(evaluated.output) == "alexnet-dali report"
    page = paste(recommended(evaluated.output))
    assert "open it in any browser" in page.output
    shown = Path("runs/original/report.html").read_text()
    lines = re.findall(r"alexnet-dali (?:eval|report) [^<\n]*", shown)
    assert len(lines) == 3 and all("--run original" in line for line in lines)
    for line in lines:
        paste(line)


def test_what_a_command_would_choose_is_left_out(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALEXNET_DALI_DATA", "elsewhere")
    for name, age in (("new", 0), ("old", 100)):
        shutil.copytree(trained, folder := Path("runs", name))
        os.utime(folder / "last.pt", (1e9 - age, 1e9 - age))
    assert recommend("eval", run=Path("runs/new"), machine=Machine(gpus="0")) == "alexnet-dali eval"
    assert recommend("eval", run=Path("runs/old")) == "alexnet-dali eval --run old"
    assert recommend("eval", run=Path("apart")) == "alexnet-dali eval --run ./apart"
    assert recommend("eval", machine=Machine(gpus="0,1")) == "alexnet-dali eval --gpus 0,1"
    assert recommend("eval", machine=Machine(device="cpu,cpu")) == "alexnet-dali eval --device cpu,cpu"
    assert recommend("train", data=Path("elsewhere")) == "alexnet-dali train"
    assert recommend("train", data=Path("data/imagenet")) == "alexnet-dali train --data data/imagenet"


def test_a_folder_of_images_is_prepared_elsewhere(
    folders: Path, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(folders)
    for root in ("photos", str(archives)):
        result = run("train", "--data", root, "--device", "cpu")
        assert result.exit_code == 1 and f"{root} holds images, not a prepared dataset" in result.output
        line = result.output[result.output.index("alexnet-dali prep") :].strip()
        before = sorted(Path(root).rglob("*"))
        paste(line, "--max-rejected", "0.5")
        out = Path(read_by_bash(line)[-1])
        assert len(read_description(out).classes) == 3
        assert not out.resolve().is_relative_to(Path(root).resolve())
        assert sorted(Path(root).rglob("*")) == before
    plain = str(folders / "train")  # class folders alone
    line = run("train", "--data", plain, "--device", "cpu").output
    paste(line[line.index("alexnet-dali prep") :].strip(), "--max-rejected", "0.5")
    monkeypatch.chdir(folders)
    line = run("train", "--data", ".", "--device", "cpu").output.strip()
    assert line.endswith(f"--imagenet-root . --out {folders}-prepared")


def test_a_run_is_named_in_either_way(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    for words in ((trained,), ("--run", trained)):
        result = run("show", "curves", *words, "--out", tmp_path / "curves.png")
        assert result.exit_code == 0 and (tmp_path / "curves.png").stat().st_size > 1000
        (tmp_path / "curves.png").unlink()
    assert run("show", "curves", trained, "--run", trained, "--out", tmp_path / "two.png").exit_code == 0
    where = ("--device", "cpu", "--data", dataset.root, "--out", tmp_path / "report.html", "--force")
    assert run("report", "--run", trained, *where).exit_code == 0
    twice = run("report", trained, "--run", trained, *where)
    assert twice.exit_code == 2 and "the run is named twice" in twice.output


def test_curves_of_a_baseline(tmp_path: Path) -> None:
    row = {"loss": 2.0, "top1_err": 50.0, "top5_err": 10.0, "img_s": 9.0}  # and no learning rate
    rows = [row | {"kind": kind, "step": step, "epoch": step} for step in (1, 2) for kind in ("train", "val")]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("show", "curves", tmp_path, "--out", tmp_path / "curves.png")
    assert result.exit_code == 0, result.output


def test_fine_tuning_without_a_beginning_is_warned_of(dataset: Dataset, tmp_path: Path) -> None:
    words = ("train", "--data", dataset.root, "--device", "cpu", *SMALL)
    result = run(*words, "--recipe", "net146", "--run", tmp_path / "run", "--stop-after", 0)
    (line,) = [line for line in result.output.splitlines() if "net146" in line and "warning" in line]
    assert "without --init-from RUN all layers start at random" in line
    result = run(*words, "--init-from", "nope", "--run", tmp_path / "other")
    assert result.exit_code == 1 and "there is no run runs/nope" in result.output
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    script = run("completion", shell).output
    assert "_ALEXNET_DALI_COMPLETE" in script and "alexnet-dali" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_program_that_is_not_on_path_is_named_as_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "my venv" / "alexnet-dali"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\necho called $1\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(script), "demo"])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = subprocess.run(["bash", "-c", recommend("doctor")], capture_output=True, text=True, check=True)
    assert found.stdout == "called doctor\n"
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    assert recommend("doctor") == "alexnet-dali doctor"
