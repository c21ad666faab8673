"""Every block of docs/python.md runs as it stands, on a CPU by another word for the device."""

import importlib
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.dataset import Dataset
from pipeline.source import miniature

TEXT = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
LOADER, OWN, TRAINED, FEATURES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def place(
    dataset: Dataset, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """The working folder of the page: a dataset, a run and photographs."""
    for name, target in (("data/imagenette", dataset.root), ("runs/original", trained)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(target)
    (tmp_path / "photos/a").mkdir(parents=True)
    for number, name in enumerate(("cat.jpg", "dog.jpg", "photos/1.jpg", "photos/a/2.jpg", "photos/a/3.jpg")):
        data = miniature.jpeg(miniature.draw(number, np.random.default_rng(number)))
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as context:
        yield context


def execute(block: str, device: str, **names: Any) -> dict[str, Any]:
    """What the names of a block stand for at its end."""
    assert '"cuda"' in block
    found = dict(names)
    exec(block.replace('"cuda"', f'"{device}"'), found)
    return found


def test_the_loader_has_few_lines() -> None:
    assert len(LOADER.splitlines()) == 9 and len(OWN.splitlines()) <= 28


@pytest.mark.parametrize("device", DEVICES)
def test_the_batches(place: pytest.MonkeyPatch, dataset: Dataset, device: str) -> None:
    seen: list[tuple[str, int, torch.Tensor, torch.Tensor]] = []
    block = LOADER.replace("range(30)", "range(2)")
    for what in ("train", "val"):
        block = block.replace("...\n", f"seen.append(({what!r}, epoch, images, labels))\n", 1)
    execute(block, device, seen=seen)
    assert [(what, epoch, len(labels)) for what, epoch, _, labels in seen] == [
        ("train", 0, 28), ("val", 0, 9), ("train", 1, 28), ("val", 1, 9),
    ]  # fmt: skip
    for what, _, images, labels in seen:
        assert images.shape == (len(labels), 3, 224, 224) and images.dtype == torch.float32
        assert images.device.type == labels.device.type == device and labels.dtype == torch.int64
        assert -40 < images.min() < 30 and 200 < images.max() < 295, what
    (_, _, first, _), (_, _, shown, _), (_, _, second, _), (_, _, again, _) = seen
    assert torch.equal(shown, again) and not torch.equal(first, second)


def test_the_lines_of_the_readme(place: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (block,) = re.findall(r"((?:^    .*\n)*^    from pipeline .*\n(?:^    .*\n)*)", text, re.MULTILINE)
    found = execute(textwrap.dedent(block) + "    pass", "cpu")
    assert found["images"].shape == (28, 3, 224, 224) and len(found["labels"]) == 28


@pytest.mark.parametrize("device", DEVICES)
def test_a_network_of_ones_own(
    place: pytest.MonkeyPatch, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError):  # not there, or made for another torch
        models: Any = ModuleType("torchvision.models")
        models.resnet18 = lambda num_classes: nn.Sequential(
            nn.Conv2d(3, 8, 7, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(128, num_classes),
        )  # fmt: skip
        place.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
        place.setitem(sys.modules, "torchvision.models", models)
    torch.manual_seed(0)
    execute(OWN.replace("epochs, device, deviation = 30", "epochs, device, deviation = 12"), device)
    lines = re.findall(r"epoch (\d+): top-1 error (\d+\.\d\d)%\n", capsys.readouterr().out)
    assert [int(number) for number, _ in lines] == list(range(1, 13))
    assert float(lines[-1][1]) < 40  # of three classes; guessing makes 67


@pytest.mark.parametrize("device", DEVICES)
def test_a_trained_network(
    place: pytest.MonkeyPatch, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = execute(TRAINED, device)
    lines = [re.fullmatch(r"(\w[\w ]*)  (\d+\.\d)%", line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2 and all(line and line[1] in found["network"].classes for line in lines)
    assert found["probabilities"].device.type == device


@pytest.mark.parametrize("device", DEVICES)
def test_features_of_a_folder(place: pytest.MonkeyPatch, device: str) -> None:
    found = execute(FEATURES, device)
    assert [path.name for path in found["paths"]] == ["1.jpg", "2.jpg", "3.jpg"]
    rows = np.load("features.npy")
    units = next(shape.weight[0] for shape in found["network"].shapes if shape.layer.name == "fc7")
    assert rows.shape == (3, units) and rows.dtype == np.float32 and len(np.unique(rows, axis=0)) == 3
