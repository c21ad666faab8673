"""A network in one file: the same network under every name, read back by every command, and as ONNX."""

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cli import main
from model import checkpoint
from model.errors import RunError
from model.exchange import weights
from model.exchange.onnx import Portable, run_onnx, to_onnx
from model.network import AlexNet
from model.recipe import Recipe
from model.recipes import RECIPES, get_recipe
from pipeline.dataset import Dataset

ONNX = "needs the packages of the extra `export`"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def fine(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


ABOUT = {"classes": [], "step": 3, "dataset": 16 * "0"}


def paper(width: float = 1 / 16) -> AlexNet:
    return AlexNet(get_recipe("paper", width=width, classes=7), ["cpu"], seed=1)


def content(network: AlexNet) -> weights.Weights:
    return weights.Weights(network.recipe, network.state(), torch.zeros(256, 256, 3), ABOUT)


def pixels(count: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((count, 3, 224, 224), np.float32) * 255)


@pytest.mark.parametrize("naming", list(weights.NAMINGS))
@pytest.mark.parametrize("name", ["original", "paper"])
def test_there_and_back(naming: str, name: str, tmp_path: Path) -> None:
    network = AlexNet(get_recipe(name, width=1 / 16, classes=7), ["cpu"], seed=1)
    weights.save(tmp_path / "w.safetensors", content(network), naming)
    found = weights.read(tmp_path / "w.safetensors")
    assert found.recipe == network.recipe and found.about == ABOUT
    state = network.state()
    assert found.state.keys() == state.keys()
    assert all(torch.equal(found.state[key], state[key]) for key in state)  # a half is exact in binary


def test_the_same_network_is_the_same_file(tmp_path: Path) -> None:
    made = replace(content(paper()), about={f"fact {n}": n for n in range(8)})
    for name in ("a", "b", "c"):
        weights.save(tmp_path / name, made, "safetensors")
    assert len({(tmp_path / name).read_bytes() for name in ("a", "b", "c")}) == 1


def one_column(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The paper's network as others write it: plain convolutions, torch's own LRN, no factor for dropout."""

    def layer(place: str, x: torch.Tensor, **geometry: int) -> torch.Tensor:
        return F.conv2d(x, tensors[f"features.{place}.weight"], tensors[f"features.{place}.bias"], **geometry)

    def normalised(x: torch.Tensor) -> torch.Tensor:  # torch divides alpha by the window's size
        return F.max_pool2d(
            F.local_response_norm(x.relu(), 5, alpha=5e-4, beta=0.75, k=2), 3, 2, ceil_mode=True
        )

    x = normalised(layer("0", F.pad(x, (0, 3, 0, 3)), stride=4))
    x = normalised(layer("3", x, padding=2))
    for place in ("6", "8", "10"):
        x = layer(place, x, padding=1).relu()
    x = F.max_pool2d(x, 3, 2).flatten(1)
    for place in ("1", "4", "6"):
        x = F.linear(x, tensors[f"classifier.{place}.weight"], tensors[f"classifier.{place}.bias"])
        x = x.relu() if place != "6" else x
    return x


def test_torchvision_s_names_are_the_same_network(tmp_path: Path) -> None:
    network, x = paper(), pixels() - 120
    weights.save(tmp_path / "w.safetensors", content(network), "torchvision")
    tensors = load_file(tmp_path / "w.safetensors")
    with torch.no_grad():
        ours, theirs = network(x), one_column(tensors, x)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_caffe_s_reads_bgr_and_halves_what_follows_dropout(tmp_path: Path) -> None:
    network = paper()
    weights.save(tmp_path / "w.safetensors", content(network), "caffe")
    tensors, state = load_file(tmp_path / "w.safetensors"), network.state()
    assert torch.equal(tensors["conv1.weight"], state["conv1.weight"][:, [2, 1, 0]])
    for name in ("fc7", "fc8"):
        assert torch.equal(tensors[f"{name}.weight"], state[f"{name}.weight"] / 2)
        assert torch.equal(tensors[f"{name}.bias"], state[f"{name}.bias"])
    assert torch.equal(tensors["fc6.weight"], state["fc6.weight"])


def test_caffe_s_colour_branch_reads_bgr_too(tmp_path: Path) -> None:
    network = AlexNet(get_recipe("net137", width=1 / 16, classes=7), ["cpu"], seed=1)
    weights.save(tmp_path / "w.safetensors", content(network), "caffe")
    tensors, state = load_file(tmp_path / "w.safetensors"), network.state()
    assert torch.equal(tensors["conv2.colour"], state["conv2.colour"][:, [2, 1, 0]])
    back = weights.read(tmp_path / "w.safetensors")
    assert back.recipe == network.recipe
    assert all(torch.equal(back.state[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["net131", "net141", "net146", "tanh4"])
def test_what_does_not_fit_torchvision_s_names_is_refused(name: str, tmp_path: Path) -> None:
    network = AlexNet(get_recipe(name, width=1 / 16, classes=7), ["cpu"], seed=1)
    with pytest.raises(RunError, match=rf"recipe {name} has others; export it as safetensors or onnx"):
        weights.save(tmp_path / "w.safetensors", content(network), "torchvision")


def test_a_column_that_mixes_the_towers_is_refused(tmp_path: Path) -> None:
    network = paper()
    path = tmp_path / "w.safetensors"
    weights.save(path, content(network), "torchvision")
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    tensors = load_file(path)
    tensors["features.3.weight"][0, -1, 0, 0] = 1
    save_file(tensors, path, metadata)
    with pytest.raises(RunError, match=r"features\.3 mixes the towers"):
        weights.read(path)


@pytest.mark.parametrize("kept", [100, -4, 2, 0])
def test_a_damaged_file_is_named(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(path, content(paper()), "safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RunError, match=r"w.safetensors was not written by .*, or is damaged"):
        weights.read(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_programs_may_have_changed_the_type_of_the_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    path, network = tmp_path / "w.safetensors", paper()
    weights.save(path, content(network), "safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, metadata)
    assert all(tensor.dtype == torch.float32 for tensor in weights.read(path).state.values())


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"fc8.bias": torch.zeros(7, dtype=torch.int64)}, {}, "fc8.bias holds torch.int64"),
        ({"fc8.bias": torch.full((7,), np.nan)}, {}, "fc8.bias holds torch.float32, or NaN"),
        ({"fc8.bias": torch.zeros(8)}, {}, r"fc8.bias is \(8,\), the recipe's is \(7,\)"),
        ({"fc9.bias": torch.zeros(8)}, {}, "the saved state has fc9.bias"),
        ({"mean_image": torch.zeros(3)}, {}, "mean_image"),
        ({}, {"naming": "torchvision"}, "has no features.0.weight"),
        ({}, {"naming": "keras"}, "names of keras"),
        ({}, {"format": "alexnet-dali 9"}, "format 'alexnet-dali 9'"),
        ({}, {"step": "many"}, "not valid JSON"),
        ({}, {"step": "-1"}, "at `step`"),
        ({}, {"recipe": "{}"}, "its recipe is not one of this version"),
        ({}, {"dataset": '"elsewhere"'}, "at `dataset`"),
    ],
)
def test_what_is_in_a_file_is_checked(
    tensors: dict[str, torch.Tensor], metadata: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(path, content(paper()), "safetensors")
    with safe_open(path, framework="pt") as file:
        whole = file.metadata()
    save_file(load_file(path) | tensors, path, whole | metadata)
    with pytest.raises(RunError, match=rf"w.safetensors was not written by .*, or is damaged: .*{message}"):
        weights.read(path)


def test_a_stranger_s_file_is_named(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(RunError, match="was not written by alexnet-dali export"):
        weights.read(tmp_path / "w.safetensors")
    with pytest.raises(RunError, match="there is no file"):
        weights.read(tmp_path / "none.safetensors")


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "tiny.safetensors"
    assert "MB" in fine("export", "--run", trained, "--out", out).output
    return out


def test_every_command_takes_the_file_for_the_run(
    exported: Path, trained: Path, dataset: Dataset, folders: Path, tmp_path: Path
) -> None:
    for number, source in enumerate((trained, exported)):
        given = ("--run", source, "--device", "cpu")
        fine("eval", "--data", dataset.root, *given, "--json", tmp_path / f"{number}.json")
        fine("predict", folders / "val", *given, "--csv", tmp_path / f"{number}.csv")
        fine("features", "--data", dataset.root, *given, "--out", tmp_path / f"f{number}.npy")
        fine("show", "filters", "--run", source, "--out", tmp_path / f"{number}.png")
    first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (0, 1))
    assert {k: v for k, v in first.items() if k not in ("run", "checkpoint")} == {
        k: v for k, v in second.items() if k not in ("run", "checkpoint")
    }
    assert (tmp_path / "0.csv").read_text() == (tmp_path / "1.csv").read_text()
    assert np.array_equal(np.load(tmp_path / "f0.npy"), np.load(tmp_path / "f1.npy"))
    image = next((folders / "val").glob("*/*.JPEG"))
    assert fine("similar", image, "--features", tmp_path / "f1.npy").exit_code == 0
    result = run("features", "--run", exported, "--device", "cpu")
    assert result.exit_code == 1 and "name one with --data" in result.output


def test_train_begins_with_the_weights_of_a_file(exported: Path, dataset: Dataset, tmp_path: Path) -> None:
    """A rate so small that no bit changes would not say much: the first step's loss does."""
    given = ("--data", dataset.root, "--device", "cpu", "--batch-size", 16, "--epochs", 1, "--width", 0.05)
    fine("train", *given, "--run", tmp_path / "old", "--init-from", exported)
    fine("train", *given, "--run", tmp_path / "more", "--init-from", exported, "--classes", 5)
    begun, own = weights.read(exported).state, checkpoint.read(tmp_path / "old" / "last.pt")["weights"]
    for name in ("conv1.weight", "conv3.weight", "fc6.weight"):
        assert (own[name] - begun[name]).norm() < 0.2 * begun[name].norm()  # a fresh one is at sqrt(2)
    more = checkpoint.read(tmp_path / "more" / "last.pt")["weights"]
    assert (more["fc6.weight"] - begun["fc6.weight"]).norm() < 0.2 * begun["fc6.weight"].norm()
    assert more["fc8.weight"].shape[0] == 5
    result = run("train", *given[:-1], 0.1, "--run", tmp_path / "wide", "--init-from", exported)
    assert result.exit_code == 1 and "no layer fits recipe original at --width 0.1" in result.output


def test_each_format_has_a_name_of_its_own(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"safetensors": "tiny.safetensors", "caffe": "tiny.caffe.safetensors"}
    for kind, name in names.items():
        assert fine("export", "--run", trained, "--format", kind).output.startswith(f"  written   {name}, ")
    assert sorted(os.listdir()) == sorted(names.values())
    before = (tmp_path / names["caffe"]).read_bytes()
    result = run("export", "--run", trained, "--checkpoint", "best", "--format", "caffe")
    assert result.exit_code == 1 and f"{names['caffe']}: file exists" in result.output
    assert (tmp_path / names["caffe"]).read_bytes() == before
    fine("export", "--run", trained, "--format", "caffe", "--force")


def test_export_errors(trained: Path, tmp_path: Path) -> None:
    result = run("export", "--run", trained, "--out", tmp_path / "w.pt")
    assert result.exit_code == 1 and "must end in .safetensors" in result.output
    assert run("export", "--run", trained, "--format", "keras").exit_code == 2


AVERAGED = ("relu4", {"crop": 224, "offsets": 33, "reduce": 7})  # as the first of that name


@pytest.mark.parametrize(("name", "more"), [*((name, {}) for name in RECIPES), AVERAGED])
def test_the_portable_network_is_the_network(name: str, more: dict[str, int]) -> None:
    recipe = get_recipe(name, width=1 / 16, classes=7, **more)
    crop = recipe.crop
    network = AlexNet(recipe, ["cpu"], 1, torch.full((3, crop, crop), 120.0))
    images = pixels()[:, :, :crop, :crop]
    with torch.no_grad():
        assert torch.allclose(Portable(network)(images), network(images).softmax(1), atol=1e-6)


@pytest.mark.filterwarnings("default")  # the exporter's dependencies have their own
@pytest.mark.parametrize("name", ["net131", "tanh4"])
def test_onnx_of_what_other_nets_have(name: str) -> None:
    pytest.importorskip("onnxscript", reason=ONNX)
    pytest.importorskip("onnxruntime", reason=ONNX)
    recipe = get_recipe(name, width=1 / 16, classes=7)
    network = AlexNet(recipe, ["cpu"], 1, torch.full((3, recipe.crop, recipe.crop), 120.0))
    images = pixels(3)[:, :, : recipe.crop, : recipe.crop]
    with torch.no_grad():
        ours = network(images).softmax(1)
    assert torch.allclose(run_onnx(to_onnx(network, {}), images), ours, atol=1e-5)


@pytest.mark.filterwarnings("default")  # the exporter's dependencies have their own
def test_onnx(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason=ONNX)
    runtime, onnx = pytest.importorskip("onnxruntime", reason=ONNX), pytest.importorskip("onnx", reason=ONNX)
    path = tmp_path / "tiny.onnx"
    result = fine("export", "--run", trained, "--format", "onnx", "--out", path)
    assert "on 8 images: its probabilities differ by" in result.output
    saved = checkpoint.read(trained / "last.pt")
    network = AlexNet(Recipe.from_dict(saved["identity"]["recipe"]), ["cpu"], seed=0)
    network.load(saved["weights"])
    mean = np.load(dataset.root / "statistics.npz")["mean"][16:240, 16:240].transpose(2, 0, 1)
    session = runtime.InferenceSession(path)
    for count in (1, 5):
        (found,) = session.run(None, {"images": pixels(count).numpy()})
        with torch.no_grad():
            ours = network(pixels(count) - torch.from_numpy(mean.copy())).softmax(1)
        assert np.abs(found - ours.numpy()).max() < 1e-5
    about = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert json.loads(about["classes"])[0]["wnid"] == dataset.classes[0].wnid
    assert list(tmp_path.iterdir()) == [path]
