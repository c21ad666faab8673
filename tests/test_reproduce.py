"""alexnet-dali reproduce: every table of the paper on drawn images, with trainings of a few steps."""

import fcntl
import json
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from triggers import Trigger, terminate

from cli import main
from cli.paper import baseline_stages, cost
from cli.paper.reproduction import Commands
from pipeline.dataset import Dataset
from tools.commands import Command

Made = tuple[Path, Result, dict[str, Any]]  # the folder of runs, what was said, the rows
SMALL = ("--device", "cpu", "--width", 0.02, "--batch-size", 16, "--epochs", 1)
BASELINES = ("--workers", 1, "--sample", 500, "--step", 64, "--components", 2, "--words", 8)


def at_once(commands: Commands, words: Sequence[str]) -> int:
    """A command without a process of its own."""
    click.echo(f"$ alexnet-dali {' '.join(words)}")
    main(list(words), standalone_mode=False)
    return 0


def words(data: Path, runs: Path, table: str, *more: object) -> list[str]:
    return [
        str(word) for word in ("reproduce", table, "--data", data, "--runs", runs, *SMALL, *BASELINES, *more)
    ]


def run(*given: Any) -> Result:
    return CliRunner().invoke(main, words(*given))


def commands(output: str) -> list[str]:
    return [line.removeprefix("$ ") for line in output.splitlines() if line.startswith("$ ")]


def use_one_process(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Commands, "run", at_once)
    patch.setattr(
        baseline_stages, "run_tasks", lambda do, tasks, workers: ((task, do(task)) for task in tasks)
    )


@pytest.fixture(scope="module")
def made(dataset: Dataset, small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """All tables."""
    folder = tmp_path_factory.mktemp("reproduced")
    with pytest.MonkeyPatch.context() as patch:
        use_one_process(patch)
        given = ("--pretrain", dataset.root, "--cifar", small.root, "--json", folder / "all.json")
        result = run(dataset.root, folder / "runs", "all", *given)
    assert result.exit_code == 0, result.output
    return folder / "runs", result, json.loads((folder / "all.json").read_text())


def errors_of(*files: Path) -> float:
    """Top-1 error of the mean of predictions, in percent."""
    found = [dict(np.load(file)) for file in files]
    best = np.mean([each["probabilities"] for each in found], axis=0).argmax(1)
    return 100 * float(np.mean(best != found[0]["labels"]))


def test_every_row(made: Made) -> None:
    runs, result, tables = made
    rows = {(table, row["name"]): row for table, rows in tables.items() for row in rows}
    five = [runs / name / "val-ten-views.npz" for name in ("131", "137", "145", "135", "145f")]
    three = [runs / f"{name}-2012" / "val-ten-views.npz" for name in ("141-2009", "146-2009", "146-2011")]
    for name, files in {
        "SIFT + FVs": [runs / "sift-fv" / "predictions.npz"],
        "1 CNN": five[2:3],
        "5 CNNs": five,
        "1 CNN*": three[2:],
        "7 CNNs*": [*five[:3], five[4], *three],
    }.items():
        assert rows["ilsvrc-2012", name]["ours"] == pytest.approx([errors_of(*files), 0]), name
        assert f" {errors_of(*files):.2f}  " in result.output
    half, whole, centre = (
        errors_of(runs / name)
        for name in ("half-2010/val-ten-views.npz", "145-2010/val-ten-views.npz", "145-2010/val-centre.npz")
    )
    assert rows["ablations", "one GPU's half net"]["ours"][0] == pytest.approx(half - whole)
    assert rows["ablations", "one view, not ten"]["ours"][0] == pytest.approx(centre - whole)
    assert rows["ilsvrc-2010", "CNN"]["ours"][0] == pytest.approx(whole)
    assert "guessing among 3 classes: 66.67 %" in result.output and "6 times" in result.output
    assert "38.1" not in result.output and "top-5" not in result.output  # the paper's are not of such images
    assert all(row["ours"] or "training error" in row["why"] for row in rows.values())


def test_what_is_trained(made: Made, dataset: Dataset) -> None:
    """Each run once; pretrained ones one after the other, with their own schedules."""
    runs, result, _ = made
    typed = commands(result.output)
    assert len(typed) == len(set(typed)) == 36
    trained = {Path(line.split()[5]).name: line for line in typed if " train " in line}
    assert len(trained) == 19
    assert list(trained).index("145") < list(trained).index("146-2009") < list(trained).index("146-2011-2012")
    assert f"--recipe net146 --init-from {runs}/146-2011 --seed 0" in trained["146-2011-2012"]
    assert f"--schedule 146-2012-2009 --init-from {runs}/146-2009" in trained["146-2009-2012"]
    assert "--recipe original --schedule 145-2010" in trained["145-2010"]
    assert "--seed 1" in trained["145f"]
    begun = json.loads((runs / "146-2011-2012" / "run.json").read_text())
    assert begun["starts"][0]["init_from"] == f"{runs}/146-2011"


def test_what_is_there_is_not_made_again(made: Made, dataset: Dataset, tmp_path: Path) -> None:
    runs, _, tables = made
    again = run(dataset.root, runs, "ilsvrc-2012", "--json", tmp_path / "again.json")
    assert again.exit_code == 0 and commands(again.output) == []
    found = json.loads((tmp_path / "again.json").read_text())["ilsvrc-2012"]
    assert found[:3] == tables["ilsvrc-2012"][:3]
    for row in found[3:]:
        assert row["ours"] is None
        assert f"{row['name']}: needs --pretrain DIR" in again.output


def test_table_1_is_of_test_images(
    dataset_2010: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row; a baseline that was evaluated on others is evaluated again."""
    use_one_process(monkeypatch)
    runs, path = tmp_path / "runs", tmp_path / "rows.json"
    result = run(dataset_2010.root, runs, "ilsvrc-2010", "--json", path)
    assert result.exit_code == 0, result.output
    found = {row["name"]: row for row in json.loads(path.read_text())["ilsvrc-2010"]}
    for name, file in {
        "Sparse coding": runs / "sparse-coding-2010" / "predictions.npz",
        "SIFT + FVs": runs / "sift-fv-2010" / "predictions.npz",
        "CNN": runs / "145-2010" / "test-ten-views.npz",
    }.items():
        assert (found[name]["split"], found[name]["images"]) == ("test", 5)
        assert found[name]["ours"] == pytest.approx([errors_of(file), 0]), name
    said = runs / "sift-fv-2010" / "result.json"
    said.write_text(said.read_text().replace('"test"', '"val"'))
    again = commands(run(dataset_2010.root, runs, "ilsvrc-2010").output)
    assert len(again) == 1 and "baseline sift-fv" in again[0] and "--split test" in again[0]
    assert commands(run(dataset_2010.root, runs, "ilsvrc-2010").output) == []


@pytest.mark.parametrize(
    ("table", "more", "status", "text"),
    [
        ("ilsvrc-2013", (), 2, "'ilsvrc-2013' is not one of 'ilsvrc-2010', 'ilsvrc-2012'"),
        ("5-cnns", ("--width", 0.03), 1, "131 was made with width 0.02, not 0.03; use another --runs"),
        ("5-cnns", ("--seed", 1), 1, "131 was made with seed 0, not 1; use another --runs"),
        ("ilsvrc-2010", ("--words", 9), 1, "sparse-coding-2010 was made with words 8, not 9"),
        ("ilsvrc-2010", ("--data-2010", "nowhere"), 1, "no prepared dataset in nowhere"),
        ("5-cnns", ("--dry-run", "--epochs", 2, "--bench", "nowhere"), 1, "nowhere has no images/s"),
    ],
)
def test_what_is_refused(
    made: Made,
    dataset: Dataset,
    table: str,
    more: tuple[object, ...],
    status: int,
    text: str,
) -> None:
    result = run(dataset.root, made[0], table, *more)
    assert result.exit_code == status
    assert text in result.output.splitlines()[-1]


def test_a_failure_costs_its_rows(
    made: Made,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = shutil.copytree(made[0], tmp_path / "runs")
    shutil.rmtree(runs / "146-2009-2012")
    shutil.rmtree(runs / "146-2009")
    monkeypatch.setattr(Commands, "run", lambda commands, words: int("net146-2009" in words))
    result = run(
        dataset.root, runs, "ilsvrc-2012", "--pretrain", dataset.root, "--json", tmp_path / "rows.json"
    )
    assert result.exit_code == 1
    found = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())["ilsvrc-2012"]}
    assert [name for name, row in found.items() if row["ours"] is None] == ["1 CNN*", "7 CNNs*"]
    assert "7 CNNs*: 146-2009 failed" in result.output


def test_killed_and_stopped(made: Made, dataset: Dataset, tmp_path: Path) -> None:
    """Real processes: what a stopped or killed command started ends with it; the same one goes on."""
    runs = shutil.copytree(made[0], tmp_path / "runs")
    shutil.rmtree(runs / "137")
    given = words(dataset.root, runs, "5-cnns", "--json", tmp_path / "rows.json")
    command = Command(
        *given, folder=tmp_path, before=Trigger("cli.paper.reproduction:subprocess.Popen.wait", 1, terminate)
    )
    assert command.wait(300) == 143
    assert "stopped; the same command resumes" in command.text
    command, lock = Command(*given, folder=tmp_path), runs / "137" / "lock"
    wait_for(lock.exists)
    assert not can_lock(lock)
    command.send(signal.SIGKILL)
    assert command.wait(300) == -9
    wait_for(lambda: can_lock(lock))
    command = Command(*given, folder=tmp_path)
    assert command.wait(300) == 0, command.text
    assert len(commands(command.text)) == 2
    assert json.loads((tmp_path / "rows.json").read_text())["5-cnns"] == made[2]["5-cnns"]


def wait_for(condition: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 120
        time.sleep(0.01)


def can_lock(path: Path) -> bool:
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_dry_run(dataset: Dataset, tmp_path: Path) -> None:
    """28 images an epoch and 9 of validation, at speeds that are written in a file."""
    parts = {"train": 7, "eval, centre": 3, "eval, ten views": 0.5}
    bench = {"width": 0.02, "batch_size": 16, "parts": {name: {"img_s": n} for name, n in parts.items()}}
    (tmp_path / "bench.json").write_text(json.dumps(bench))
    more = ("--bench", tmp_path / "bench.json", "--dry-run", "--pretrain", dataset.root, "--epochs", 2)
    result = run(dataset.root, tmp_path / "runs", "7-cnns", *more)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "runs").exists()
    lines = result.output.splitlines()
    typed = [line.split() for line in lines if line.startswith("alexnet-dali")]
    assert [(line[1], Path(line[line.index("--run") + 1]).name) for line in typed][:4] == [
        ("train", "141"),
        ("train", "141-2009"),
        ("train", "141-2009-2012"),
        ("eval", "141-2009-2012"),
    ]
    assert lines[1] == "    56 / 7 + 18 / 3 images/s = 14 s"
    assert lines[7] == "    9 / 0.5 images/s = 18 s"
    assert "  total     18 commands, about 5 min" in lines  # 11 x 14 + 7 x 18 seconds


def test_dry_run_measures(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SECONDS", 0.01)
    result = run(dataset.root, tmp_path / "runs", "ilsvrc-2010", "--dry-run")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "runs").exists()
    total, _, excluded = result.output.splitlines()[-3:]
    assert total.startswith("  total     4 commands, about ")
    assert excluded == "  excluded  start-up and 2 baselines"
    assert "1 CNN*: needs --pretrain DIR" in run(dataset.root, tmp_path, "ilsvrc-2012", "--dry-run").output
