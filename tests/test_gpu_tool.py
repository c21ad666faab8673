"""tools/gpu.py on a CPU: every part but the tests, a part that is out of time, and the table."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import graph
from pipeline.dataset import Dataset
from tools import gpu


def run(monkeypatch: pytest.MonkeyPatch, root: Path, out: Path, *parts: str) -> int:
    small = ("--seconds", 0.01, "--batch-size", 8, "--width", 0.05, "--epochs", 1, "--device", "cpu")
    monkeypatch.chdir(out.parent)  # --out is relative to it
    words = ["gpu", "--imagenet-root", root, "--out", out.name, *small, "--part", *parts]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    return gpu.main()


def figures(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "figures.jsonl").read_text().splitlines()]


def test_every_part_keeps_its_figures(
    monkeypatch: pytest.MonkeyPatch,
    folders: Path,
    raw: Dataset,
    originals: Dataset,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for data, name in ((raw, "raw"), (originals, "original")):  # the third is not there yet
        (tmp_path / name).symlink_to(data.root)
    assert run(monkeypatch, folders, tmp_path, "loader", "step", "training", "placements") == 0
    rows = figures(tmp_path)
    shares = [f"256, hw_decoder_load {share}" for share in ("0", "0.25", "0.5", "0.65", "0.8", "1")]
    assert [(row["part"], row["setting"], row["name"]) for row in rows] == [
        *(("loader", kind, name) for kind in gpu.STORES for name in ("decode, bound", "decode", "loader")),
        *(("loader", share, "loader") for share in shares),
        *(("step", f"--precision {precision}", "step") for precision in ("bfloat16", "float32")),
        *(("training", kind, "train") for kind in gpu.STORES),
        ("training", "train --epochs 1", "train"),
        *(("training", eval, "errors") for eval in ("eval", "eval --ten-crop")),
        *(("placements", f"--device {x}", name) for x in ("cpu", "cpu,cpu") for name in ("step", "train")),
    ]
    assert all(row["img_s"] > 0 for row in rows if row["name"] != "errors")
    assert all(0 <= row["top5"] <= row["top1"] <= 100 for row in rows if row["name"] == "errors")
    assert "hw_decoder_load" not in graph.SQUARES
    assert capfd.readouterr().out.splitlines()[-len(rows)].startswith("| loader | 256 | decode, bound |")


def test_a_part_without_time_says_what_it_left_out(
    monkeypatch: pytest.MonkeyPatch, folders: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "LIMIT", -1.0)
    assert run(monkeypatch, folders, tmp_path / "out", "tests", "step") == 1
    said = capfd.readouterr().out
    assert "tests: no time for -m pytest -q -m gpu" in said
    assert "step: no time for --precision bfloat16" in said
    assert "$ python" not in said


def test_a_command_is_stopped_when_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, folders: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "LIMIT", 0.5)
    monkeypatch.setitem(gpu.PARTS, "tests", lambda desk: desk.run("-c", "import time; time.sleep(60)"))
    assert run(monkeypatch, folders, tmp_path / "out", "tests") == 1


def test_what_fails_is_shown_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch,
    raw: Dataset,
    folders: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "raw").symlink_to(raw.root)
    monkeypatch.setitem(gpu.PARTS, "loader", lambda desk: desk.dataset("257"))

    def step(desk: gpu.Desk) -> None:
        for name in ("leap", "step"):
            desk.measure(name, (name,), "raw")

    monkeypatch.setitem(gpu.PARTS, "step", step)
    assert run(monkeypatch, folders, tmp_path, "loader", "step") == 1
    assert [row["setting"] for row in figures(tmp_path)] == ["step"]
    said = capfd.readouterr().err
    assert "KeyError: '257'" in said and "KeyError: 'leap'" in said


def test_the_table_has_the_newest_of_each_figure(tmp_path: Path) -> None:
    step = {"part": "step", "setting": "--precision tf32", "name": "step"}
    training = {"part": "training", "name": "train"}
    rows = [
        {**step, "img_s": 900, "least": 1, "most": 2},
        {**training, "setting": "256", "img_s": 7, "waiting": 0.014},
        {"part": "training", "setting": "eval", "name": "errors", "top1": 20.5, "top5": 3},
        {**step, "img_s": 9000.4, "least": 8000, "most": 9500},
        {**training, "setting": "train", "img_s": 8, "bytes": 3_210_000_000},
    ]
    path = tmp_path / "figures.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert gpu.table(path).splitlines()[2:] == [
        "| step | --precision tf32 | step | 9,000 images/s; 8,000 to 9,500 |",
        "| training | 256 | train | 7 images/s; waiting for data 1% |",
        "| training | eval | errors | top-1 20.50 %, top-5 3.00 % |",
        "| training | train | train | 8 images/s; 3.2 GB |",
    ]
