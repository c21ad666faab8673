"""alexnet-dali train as a command: its options, what it writes, what it refuses."""

import json
import platform
from pathlib import Path

import pytest
from click.testing import CliRunner
from runs import description
from traps import Trap, die

from cli import main, options
from model.recipe import RECIPES, get_recipe
from pipeline.dataset import Dataset
from tools.commands import Command


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_shown_whole(name: str) -> None:
    shown = CliRunner().invoke(main, ["train", "--show-recipe", "--recipe", name, "--classes", "1000"])
    assert shown.exit_code == 0
    shapes = get_recipe(name, classes=1000).shapes()
    count = f"{sum(shape.parameters for shape in shapes):,}"
    for text in (f"recipe {name}", shapes[-1].layer.name, count, "momentum", "0.9", "noise"):
        assert text in shown.output


@pytest.mark.parametrize("name", RECIPES)
def test_a_narrow_copy_of_every_recipe_trains(name: str, dataset: Dataset, tmp_path: Path) -> None:
    devices = ",".join(["cpu"] * RECIPES[name].towers)
    words = ["--data", str(dataset.root), "--run", str(tmp_path / "run"), "--device", devices]
    short = ["--width", "0.02", "--batch-size", "16", "--epochs", "1"]
    trained = CliRunner().invoke(main, ["train", "--recipe", name, *words, *short])
    assert trained.exit_code == 0, trained.output
    found = description(tmp_path / "run")
    assert found["recipe"]["name"] == name and found["recipe"]["classes"] == 3


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--batch-size", "0"], 2, "0 is not in the range x>=1"),
        (["--recipe", "modern"], 2, "'modern' is not one of"),
        (["--epoch", "3"], 2, "No such option '--epoch'. Did you mean '--epochs'?"),
        (["--classes", "2"], 1, "--classes 2: {data} has 3 classes"),
        (["--gpus", "0", "--device", "cpu"], 1, "--gpus and --device say the same thing"),
        (["--cuda-graph", "--device", "cpu"], 1, "--cuda-graph is for one process on one GPU"),
        (["--device", "abacus"], 1, "--device abacus: no such device"),
        (["--device", "cpu,cpu,cpu"], 1, "2 towers go on one device or on 2, not on 3"),
    ],
)
def test_what_is_refused(dataset: Dataset, tmp_path: Path, words: list[str], status: int, text: str) -> None:
    given = ["train", "--data", str(dataset.root), "--run", str(tmp_path / "run"), "--device", "cpu", *words]
    if "--gpus" in words or words[0] == "--device":
        del given[5:7]
    command = Command(*given, folder=tmp_path)
    assert command.wait() == status
    assert text.format(data=dataset.root) in command.text and "Traceback" not in command.text


def test_no_data_and_no_gpu(tmp_path: Path) -> None:
    command = Command("train", folder=tmp_path)
    assert command.wait() == 1
    assert command.text.startswith("Error: no prepared dataset in data/imagenet; make it: alexnet-dali prep")


def test_the_run_describes_itself(dataset: Dataset, tmp_path: Path) -> None:
    words = ["train", "--data", dataset.root, "--device", "cpu,cpu", "--width", 0.02, "--epochs", 1]
    first = Command(*words, folder=tmp_path, before=Trap("model.train:Trainer._validate", 1, die))
    assert first.wait() == -9
    second = Command(*words, folder=tmp_path)
    assert second.wait() == 0, second.text
    run = tmp_path / "runs" / "original"
    found = description(run)
    assert found["recipe"]["width"] == 0.02 and found["recipe"]["classes"] == 3
    assert found["data"] == {"path": str(dataset.root), "fingerprint": dataset.fingerprint}
    assert len(found["starts"]) == 2
    start = found["starts"][1]
    assert start["command"] == " ".join(["alexnet-dali", *map(str, words)])
    assert start["devices"] == "CPU x 1 + CPU x 1" and start["python"] == platform.python_version()
    for name in ("dataset.json", "statistics.npz"):
        assert (run / name).read_bytes() == (dataset.root / name).read_bytes()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["train", "val"]
    assert {"step", "epoch", "loss", "top1_err", "top5_err", "lr", "img_s", "data_time"} < rows[0].keys()


def test_a_name_is_in_runs_and_a_path_is_a_path(tmp_path: Path) -> None:
    assert options.run_path("mine") == Path("runs/mine")
    assert options.run_path("./mine") == Path("mine") and options.run_path("a/b") == Path("a/b")
    assert options.run_path(str(tmp_path)) == tmp_path
