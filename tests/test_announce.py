"""What train says before its first step, while it is at work, and instead of any (--dry-run)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from runs import TRAIN
from triggers import Trigger, die

from cli import main
from cli.compose import forecast
from cli.compose.forecast import count_bytes, count_seconds
from cli.compose.training import make_step
from cli.compose.watching import watching
from cli.signals import StopRequest
from model.recipe import Recipe
from model.recipes import get_recipe
from model.step import Step
from model.train import RunState
from pipeline.dataset import Dataset
from tools.commands import Command

ROOT = Path(__file__).parent.parent


def words(dataset: Dataset, run: Path) -> list[str]:
    return [str(word) for word in ("train", "--data", dataset.root, "--run", run, *TRAIN)]


@pytest.fixture
def step(dataset: Dataset) -> Step:
    """Of epochs of ten steps, of which a training has ninety."""
    recipe = get_recipe("original", width=0.02, classes=3, batch_size=3)
    return make_step(recipe, dataset, ["cpu"], "float32", None, 0)  # type: ignore[list-item]


def test_a_log_begins_with_what_will_be_done(dataset: Dataset, tmp_path: Path, step: Step) -> None:
    """A process without a terminal that dies at its first step; another one that dies after an epoch."""
    run = tmp_path / "run"
    count = sum(parameter.numel() for parameter in step.network.parameters())
    header = [
        f"  data      28 training and 9 validation images of 3 classes in {dataset.root}",
        f"  network   recipe original, width 0.02, {count:,} parameters",
        "  training  2 epochs of 10 steps, batches of 3",
        f"  run       {run}, new",
        "  device    CPU x 1, float32",
    ]
    first = Command(*words(dataset, run), folder=tmp_path, before=Trigger("model.step:Step.__call__", 1, die))
    assert first.wait() == -9 and first.text.splitlines() == header
    second = Command(
        *words(dataset, run), folder=tmp_path, before=Trigger("model.step:Step.__call__", 11, die)
    )
    assert second.wait() == -9
    said = second.text.splitlines()
    assert said[:5] == header
    assert re.fullmatch(r"step 1  loss \d\.\d{4}  .+ left at the speed of this first step", said[5])
    third = Command(*words(dataset, run), folder=tmp_path)
    assert third.wait() == 0
    said = third.text.splitlines()
    assert said[3] == f"  run       {run}, resumed"
    assert said[5] == "  start     after step 10"


def test_the_header_does_not_wait_for_torch(dataset: Dataset, tmp_path: Path) -> None:
    code = f"import sys; sys.modules['torch'] = None; from cli import main; main({words(dataset, tmp_path)})"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode and "torch" in ended.stderr
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["data", "network", "training", "run"]


@pytest.mark.parametrize(("seconds", "rows"), [(7, 50), (0.05, 10)])
def test_lines_go_by_time(
    seconds: float,
    rows: int,
    dataset: Dataset,
    step: Step,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slow steps: the sums are read for a line. Quick ones: the rows of metrics are recent enough."""
    now, read = 0.0, []
    monkeypatch.setattr("cli.display.time.monotonic", lambda: now)
    row = {"loss": 1.0, "top1_err": 50.0, "top5_err": 0.0, "img_s": 3 / seconds, "data_time": 0.0, "lr": 0.01}
    printed: list[float] = []
    with watching(StopRequest(None), step, dataset, first=0) as watch:
        for number in range(1, 901):
            now += seconds
            watch.step(number, lambda: read.append(number) or row)  # noqa: B023
            if number % rows == 0:
                watch.row({"kind": "train", **row})
            if out := capsys.readouterr().out:
                printed.append(now)
                where = rf"epoch \d+/90  {number} of 900 steps"
                assert number == 1 or re.match(where + r"  loss 1\.0000  .* lr 0\.01", out)
                assert "left" in out or number < 18 or number == 900
    gaps = [after - before for before, after in zip([0, *printed], printed, strict=False)]
    assert max(gaps) <= 60 + seconds and len(printed) > 5
    if seconds > 1:
        assert gaps[:4] == [7, 7, 7, 7] and 1 < len(read) < len(printed)
    else:
        assert read == [1]


def test_a_long_validation_says_how_far_it_is(
    dataset: Dataset, step: Step, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("cli.display.time.monotonic", lambda: now)
    with watching(StopRequest(None), step, dataset, first=10) as watch:
        for _ in range(3):  # of 3 of the 9 images each
            now += 61
            watch.validating(3)
    assert capsys.readouterr().out.splitlines() == ["validating 33 %", "validating 67 %", "validating 100 %"]


def test_a_dry_run_measures_and_leaves_nothing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "SECONDS", 0.05)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*words(dataset, Path("runs/new")), "--dry-run"])
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line for line in result.output.splitlines()}
    assert list(rows) == ["data", "network", "training", "run", "device", "speed", "time", "disk"]
    assert re.search(r"training [\d.e+,]+ images/s, validation [\d.e+,]+ images/s$", rows["speed"])
    assert re.search(r"about .* (s|min), not counting start-up and checkpoints", rows["time"])
    assert re.search(r"at most [\d.]+ MB, of [\d,.]+ [MG]B free: four checkpoints", rows["disk"])
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_a_run_changes_nothing_there(
    dataset: Dataset, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "SECONDS", 0.05)
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    given = ["--width", "0.05", "--batch-size", "16", "--epochs", "2", "--device", "cpu", "--dry-run"]
    result = CliRunner().invoke(main, ["train", "--data", str(dataset.root), "--run", str(trained), *given])
    assert "\n  start     after step 4; validation after epoch 2:" in result.output
    assert "\n  time      about 0 s," in result.output
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_what_a_run_takes(dataset: Dataset, trained: Path) -> None:
    recipe: Recipe = get_recipe("original", width=0.05, classes=3, batch_size=16, epochs=2)
    # 28 images by 7 a second and 9 by 3, twice; after the first epoch's two steps half of that
    assert count_seconds(recipe, dataset, RunState(), 7, 3) == 14
    assert count_seconds(recipe, dataset, RunState(step=2, history=[{}]), 7, 3) == 7
    files = sum(path.stat().st_size for path in trained.iterdir())
    states = sum(path.stat().st_size for path in trained.glob("*.pt"))
    state = states / len(list(trained.glob("*.pt")))
    assert files < count_bytes(recipe, dataset) + 3 * 10_000  # a state's file has 10 kB of names, too
    assert count_bytes(recipe, dataset) < 4 * state + files - states + 10_000
