"""Every block of docs/export.md runs as it stands, and computes what our network does."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from cli import main
from model import checkpoint
from model.exchange import weights
from model.network import AlexNet
from model.recipe import Recipe
from model.recipes import get_recipe
from pipeline.files import square
from pipeline.source import miniature

TEXT = (Path(__file__).parent.parent / "docs" / "export.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
CLASSES, WIDTH = 7, 1 / 16
# Names and shapes as Caffe's bvlc_alexnet and torchvision's alexnet have them
CAFFE = {
    "conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3), "fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (1000, 4096),
}  # fmt: skip
TORCHVISION = {
    "features.0": (64, 3, 11, 11), "features.3": (192, 64, 5, 5), "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3), "features.10": (256, 256, 3, 3), "classifier.1": (4096, 9216),
    "classifier.4": (4096, 4096), "classifier.6": (1000, 4096),
}  # fmt: skip


def blocks(text: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def execute(section: str) -> dict[str, Any]:
    """What the names stand for after the first block and those of a section, run in the working folder."""
    found: dict[str, Any] = {}
    exec(blocks(TEXT.partition("## ")[0]) + blocks(SECTIONS[section]), found)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = miniature.jpeg(miniature.draw(0, np.random.default_rng(0)))
    (tmp_path / "photo.jpg").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(found: dict[str, Any], network: AlexNet, mean: torch.Tensor) -> None:
    """Against our own network on the same pixels; mean: (256, 256, 3)."""
    pixels = torch.from_numpy(found["pixels"])
    stored = square(Path("photo.jpg"), True, 256)[16:240, 16:240].transpose(2, 0, 1)
    assert pixels.shape == (1, 3, 224, 224) and np.abs(pixels[0].numpy() - stored).max() <= 2
    with torch.no_grad():
        ours = network(pixels - mean[16:240, 16:240].permute(2, 0, 1)).softmax(1)
    assert torch.allclose(torch.as_tensor(found["probabilities"])[:1], ours, atol=1e-5)
    assert ours.std() > 1e-6  # a network that says the same of all would prove little


def network_of(trained: Path) -> tuple[AlexNet, torch.Tensor]:
    saved = checkpoint.read(trained / "last.pt")
    network = AlexNet(Recipe.from_dict(saved["identity"]["recipe"]), ["cpu"], seed=0)
    network.load(saved["weights"])
    return network, torch.from_numpy(np.load(trained / "statistics.npz")["mean"])


def export(trained: Path, *words: str) -> None:
    result = CliRunner().invoke(main, ["export", "--run", str(trained), *words])
    assert result.exit_code == 0, result.output


def paper(kind: str) -> tuple[AlexNet, torch.Tensor]:
    """A network of the recipe and its mean image, written under the names of others."""
    network = AlexNet(get_recipe("paper", width=WIDTH, classes=CLASSES), ["cpu"], seed=1)
    state = {name: 4 * x if name.endswith("weight") else x for name, x in network.state().items()}
    network.load(state)  # so large that the classes differ
    mean = torch.from_numpy(np.random.default_rng(1).random((256, 256, 3), np.float32) * 255)
    about = {"classes": [], "step": 3, "dataset": 16 * "0"}
    content = weights.Weights(network.recipe, state, mean, about)
    weights.save(Path(f"paper.{kind}.safetensors"), content, kind)
    return network, mean


def test_every_section_is_tried() -> None:
    tried = {"onnxruntime", "torch and safetensors", "Caffe's names", "torchvision's names"}
    assert set(SECTIONS) == tried and all(map(blocks, SECTIONS.values()))


def test_torch(folder: Path, trained: Path) -> None:
    export(trained, "--out", "original.safetensors")
    found = execute("torch and safetensors")
    check(found, *network_of(trained))
    assert found["recipe"]["name"] == "original" and len(found["classes"]) == 3


@pytest.mark.filterwarnings("default")  # the exporter's dependencies have their own
def test_onnxruntime(folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the packages of the extra `export`")
    export(trained, "--format", "onnx", "--out", "original.onnx")
    check(execute("onnxruntime"), *network_of(trained))
    assert len(re.findall(r"^\d+\.\d\d%  n\d{8}  \w", capsys.readouterr().out, re.MULTILINE)) == 3


def narrow(shape: tuple[int, ...], *kept: int) -> tuple[int, ...]:
    """The shape at the width of this test, but for the places that are not maps."""
    return tuple(n if place in kept else int(n * WIDTH) for place, n in enumerate(shape))


class CaffeNet:
    """bvlc_alexnet with `alpha: 0.0005` and `k: 2`, as Caffe computes it, 10 images at a time."""

    def __init__(self, prototxt: str, phase: int) -> None:
        shapes = {
            name: narrow(shape, *((1,) if name == "conv1" else ()), 2, 3) for name, shape in CAFFE.items()
        }
        shapes["fc8"] = (CLASSES, shapes["fc8"][1])
        self.params = {
            name: [SimpleNamespace(data=np.zeros(size, np.float32)) for size in (shape, shape[:1])]
            for name, shape in shapes.items()
        }
        self.blobs = {"data": SimpleNamespace(data=np.zeros((10, 3, 227, 227), np.float32))}

    def forward(self) -> dict[str, np.ndarray]:
        def layer(name: str, x: torch.Tensor, **how: int) -> torch.Tensor:
            weight, bias = (torch.from_numpy(blob.data) for blob in self.params[name])
            return (
                F.conv2d(x, weight, bias, **how) if weight.ndim == 4 else F.linear(x.flatten(1), weight, bias)
            )

        def norm_and_pool(x: torch.Tensor) -> torch.Tensor:
            return F.max_pool2d(F.local_response_norm(x, 5, 5e-4, 0.75, 2), 3, 2)

        x = norm_and_pool(layer("conv1", torch.from_numpy(self.blobs["data"].data), stride=4).relu())
        x = norm_and_pool(layer("conv2", x, padding=2, groups=2).relu())
        x = layer("conv4", layer("conv3", x, padding=1).relu(), padding=1, groups=2).relu()
        x = F.max_pool2d(layer("conv5", x, padding=1, groups=2).relu(), 3, 2)
        return {"prob": layer("fc8", layer("fc7", layer("fc6", x).relu()).relu()).softmax(1).numpy()}


def test_caffe_s_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, mean = paper("caffe")
    module: Any = ModuleType("caffe")
    module.Net, module.TEST = CaffeNet, 1
    monkeypatch.setitem(sys.modules, "caffe", module)
    check(execute("Caffe's names"), network, mean)


class TorchvisionNet(nn.Module):
    """torchvision's AlexNet, of a sixteenth of its width."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        relu, pool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)
        maps = [int(TORCHVISION[f"features.{n}"][0] * WIDTH) for n in (0, 3, 6, 8, 10)]
        self.features = nn.Sequential(
            nn.Conv2d(3, maps[0], 11, 4, 2), relu, pool, nn.Conv2d(maps[0], maps[1], 5, 1, 2), relu, pool,
            nn.Conv2d(maps[1], maps[2], 3, 1, 1), relu, nn.Conv2d(maps[2], maps[3], 3, 1, 1), relu,
            nn.Conv2d(maps[3], maps[4], 3, 1, 1), relu, pool,
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(maps[4] * 36, 256), relu, nn.Dropout(), nn.Linear(256, 256), relu,
            nn.Linear(256, num_classes),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


def test_torchvision_s_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, mean = paper("torchvision")
    module: Any = ModuleType("torchvision.models")
    module.alexnet = lambda num_classes: TorchvisionNet(num_classes)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", module)
    check(execute("torchvision's names"), network, mean)


def shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Of the weights at full width."""
    recipe = get_recipe("paper", classes=1000)
    state = {f"{shape.layer.name}.{name}": torch.empty(size, device="meta")
             for shape in recipe.shapes() for name, size in shape.tensors.items()}  # fmt: skip
    named = weights.NAMINGS[kind][0](state, recipe)
    return {
        name.removesuffix(".weight"): tuple(x.shape) for name, x in named.items() if name.endswith(".weight")
    }


def test_what_fits_and_what_does_not() -> None:
    assert shapes("caffe") == CAFFE
    ours = shapes("torchvision")
    assert ours.keys() == TORCHVISION.keys()
    same = {name for name in ours if ours[name] == TORCHVISION[name]}
    assert same == {"classifier.1", "classifier.4", "classifier.6"}
