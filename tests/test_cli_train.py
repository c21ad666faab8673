"""alexnet-dali train as a command: its options, what it writes, what it refuses."""

import hashlib
import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from runs import description
from triggers import Trigger, die

from cli import main, options
from cli.study.batch import training_images
from model.recipes import RECIPES, get_recipe
from pipeline.dataset import Dataset, write_description
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
def test_a_narrow_copy_of_every_recipe_trains(
    name: str, dataset: Dataset, small: Dataset, tmp_path: Path
) -> None:
    devices = ",".join(["cpu"] * RECIPES[name].towers)
    data = small if name in ("relu4", "tanh4") else dataset
    words = ["--data", str(data.root), "--run", str(tmp_path / "run"), "--device", devices]
    short = ["--width", "0.02", "--batch-size", "16", "--epochs", "1"]
    trained = CliRunner().invoke(main, ["train", "--recipe", name, *words, *short])
    assert trained.exit_code == 0, trained.output
    found = description(tmp_path / "run")
    assert found["recipe"]["name"] == name and found["recipe"]["classes"] == 3


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--batch-size", "0"], 2, "0 is not in the range 1<=x<="),
        (["--recipe", "modern"], 2, "there is no recipe 'modern'; allowed are original, paper,"),
        (["--epoch", "3"], 2, "No such option '--epoch'. Did you mean '--epochs'?"),
        (["--classes", "2"], 1, "--classes 2 is too few: {data} has 3 classes"),
        (["--gpus", "0", "--device", "cpu"], 1, "--gpus and --device exclude each other"),
        (["--cuda-graph", "--device", "cpu"], 1, "--cuda-graph works with one process on one GPU only"),
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


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--seed", "-1"],
        ["train", "--seed", f"{2**64}"],
        ["train", "--width", "1e307"],
        ["train", "--width", "nan"],
        ["train", "--batch-size", f"{2**31}"],
        ["train", "--workers", "5000"],
        ["train", "--epochs", f"{10**9}"],
        ["train", "--classes", f"{2**31}"],
        ["train", "--save-minutes", "nan"],
        ["train", "--save-minutes", "-1"],
        ["train", "--stop-after", "-1"],
        ["train", "--stop-after", "inf"],
        ["eval", "--workers", f"{2**40}"],
        ["show", "batch", "--seed", "-1"],
        ["show", "batch", "--step", f"{2**70}"],
        ["prep", "--max-rejected", "nan"],
        ["reproduce", "all", "--seed", "-1"],
        ["baseline", "sift-fv", "--seed", f"{2**64}"],
        ["bench", "--seconds", "nan"],
    ],
)
def test_numbers_that_cannot_be(words: list[str]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert f"Invalid value for '{words[-2]}'" in result.output


@pytest.mark.parametrize("text", ["has no val images", "not all val images"])
def test_validation_is_asked_for_before_the_first_step(dataset: Dataset, tmp_path: Path, text: str) -> None:
    """No validation images at all, or one that has no label."""
    data = tmp_path / "data"
    for entry in dataset.root.rglob("*"):
        if entry.is_file() and entry.name != "dataset.json":
            (data / entry.relative_to(dataset.root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(entry, data / entry.relative_to(dataset.root))
    changed = replace(dataset, root=data)
    if "all" in text:
        index = np.load(data / "val/samples.npy")
        index["label"][4] = -1
        np.save(data / "val/samples.npy", index)
        sha256 = hashlib.sha256((data / "val/samples.npy").read_bytes()).hexdigest()
        changed = replace(changed, files={**dataset.files, "val/samples.npy": sha256})
    else:
        files = {name: sum_ for name, sum_ in dataset.files.items() if not name.startswith("val/")}
        splits = {name: shards for name, shards in dataset.splits.items() if name != "val"}
        changed = replace(changed, splits=splits, files=files)
    write_description(changed)
    words = ["train", "--data", str(data), "--run", str(tmp_path / "run"), "--device", "cpu"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1
    assert text in result.output and str(data) in result.output
    assert not (tmp_path / "run").exists()


def test_a_batch_of_fewer_images_than_are_shown(dataset: Dataset) -> None:
    """The last of an epoch of 28 images by three."""
    rows, captions = training_images(dataset, get_recipe("original", batch_size=3), 0, 9, 6)
    assert {len(row) for row in rows.values()} == {len(captions)} == {1}


def test_no_data_and_no_gpu(tmp_path: Path) -> None:
    command = Command("train", folder=tmp_path)
    assert command.wait() == 1
    assert command.text.startswith("Error: no prepared dataset in data/imagenet; make it: alexnet-dali prep")


def test_the_run_describes_itself(dataset: Dataset, tmp_path: Path) -> None:
    words = ["train", "--data", dataset.root, "--device", "cpu,cpu", "--width", 0.02, "--epochs", 1]
    first = Command(*words, folder=tmp_path, before=Trigger("model.train:Trainer._validate", 1, die))
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
    for path in (Path("runs/mine"), Path("mine"), Path("a/b"), tmp_path):
        assert options.run_path(options.run_name(path)) == path
