"""Fine-tuning: which layers of another training a network begins with, and that a run reads them once."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from cli import main
from model import checkpoint
from model.errors import RunError
from model.exchange.weights import load_matching
from model.network import AlexNet, StateDict
from model.recipes import get_recipe
from model.train import Stopped, Trainer
from pipeline.dataset import Dataset
from tools.soak import differing


def network(name: str, devices: int = 1, seed: int = 0, classes: int = 7) -> AlexNet:
    return AlexNet(get_recipe(name, width=1 / 16, classes=classes), ["cpu"] * devices, seed)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    ("source", "recipe", "classes", "drawn"),
    [
        ("original", "original", 7, []),
        ("original", "original", 9, ["fc8"]),
        ("original", "paper", 7, []),
        ("original", "net146-2009", 9, ["conv6", "fc6", "fc7", "fc8"]),
        ("net146-2009", "net146-2011", 9, ["fc6", "fc7", "bottleneck", "fc8"]),
        ("net146-2011", "net146", 7, ["fc8"]),
        ("net146-2009", "net146", 7, ["fc8"]),  # of as many classes, but others
        ("original", "net137", 7, ["conv1", "conv2"]),
        ("net137", "net141", 7, ["conv6", "fc8"]),
    ],
)
def test_what_fits_is_taken(source: str, recipe: str, classes: int, drawn: list[str], devices: int) -> None:
    theirs, fresh = network(source, seed=1).state(), network(recipe, seed=2, classes=classes).state()
    ours = network(recipe, devices, seed=2, classes=classes)
    assert load_matching(ours, theirs) == drawn
    for key, tensor in ours.state().items():
        layer = key.partition(".")[0]
        assert torch.equal(tensor, fresh[key] if layer in drawn else theirs[key]), key


def test_nothing_fits() -> None:
    with pytest.raises(RunError, match=r"no layer fits recipe tanh4 at --width 0\.0625"):
        load_matching(network("tanh4"), network("original").state())


def train(dataset: Dataset, run: Path, *more: object) -> Result:
    words = ["train", "--data", dataset.root, "--run", run, "--device", "cpu", "--batch-size", 16, *more]
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, StateDict]]:
    """What a training said before its first step, and its weights then."""

    def start(*arguments: Any) -> tuple[str, StateDict]:
        found: list[StateDict] = []

        def stop(trainer: Trainer) -> None:
            found.append(trainer.step.network.state())
            raise Stopped(0)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train", stop)
            result = train(*arguments)
        assert result.exit_code == 0, result.output
        (line,) = (line for line in result.output.splitlines() if line.startswith("  weights"))
        return line, found[0]

    return start


def test_a_run_its_pt_and_an_exported_file_are_the_same_beginning(
    dataset: Dataset, trained: Path, tmp_path: Path, begun: Callable[..., tuple[str, StateDict]]
) -> None:
    file = tmp_path / "tiny.safetensors"
    assert CliRunner().invoke(main, ["export", "--run", str(trained), "--out", str(file)]).exit_code == 0
    theirs = checkpoint.read(trained / "last.pt")["weights"]
    for number, source in enumerate((trained, trained / "last.pt", file)):
        options = ("--recipe", "net146", "--width", 0.05, "--init-from", source)
        line, state = begun(dataset, tmp_path / f"{number}", *options)
        where = trained / "last.pt" if source == trained else source
        assert line == f"  weights   from {where}; these layers start at random: conv6, fc8"
        assert all(torch.equal(state[key], theirs[key]) for key in theirs if not key.startswith("fc8"))
        fresh = AlexNet(get_recipe("net146", width=0.05, classes=3), ["cpu"], seed=0).state()
        assert all(torch.equal(state[key], fresh[key]) for key in fresh if key[:5] in ("conv6", "fc8.w"))
    line, _ = begun(dataset, tmp_path / "same", "--width", 0.05, "--init-from", trained)
    assert line == f"  weights   from {trained / 'last.pt'}"


def test_the_beginning_is_read_once(
    dataset: Dataset, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "pretrained"
    shutil.copytree(trained, source)
    more = ("--recipe", "net146", "--width", 0.05, "--epochs", 2, "--init-from", source)
    assert train(dataset, tmp_path / "undisturbed", *more).exit_code == 0

    def die(trainer: Trainer, epoch: int) -> None:
        raise RunError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", die)
        assert "killed" in train(dataset, tmp_path / "killed", *more).output
    shutil.rmtree(source)
    other = train(dataset, tmp_path / "killed", *more[:-2])
    assert other.exit_code == 1 and f"was started with init from {source}, not None" in other.output
    assert train(dataset, tmp_path / "killed", *more).exit_code == 0
    undisturbed, killed = (checkpoint.read(tmp_path / name / "last.pt") for name in ("undisturbed", "killed"))
    assert differing(killed, undisturbed) == []


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("none", None, "there is no run {path}; "),
        ("none.pt", None, "no checkpoint {path}; train first"),
        ("none.safetensors", None, "there is no file {path}; make it with alexnet-dali export"),
        (
            "net.onnx",
            b"onnx",
            "{path} is not a run, a .pt of one or a .safetensors of alexnet-dali export",
        ),
        ("net.pt", b"pickle", "{path} is damaged"),
        ("net.safetensors", b"tensors", "{path} was not written by alexnet-dali export, or is damaged"),
    ],
)
def test_wrong_kinds(dataset: Dataset, tmp_path: Path, name: str, content: bytes | None, text: str) -> None:
    path = tmp_path / name
    if content:
        path.write_bytes(content)
    result = train(dataset, tmp_path / "run", "--width", 0.02, "--init-from", path)
    assert result.exit_code == 1
    assert text.format(path=path) in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
