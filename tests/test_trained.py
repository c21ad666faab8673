"""A trained network as others use theirs, against the commands that are tested elsewhere."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_raw import square as by_pillow
from test_same_picture import files

from cli import main
from model import RunError, load
from model.exchange import weights
from model.network import AlexNet
from model.recipes import get_recipe
from pipeline import EvaluationBatches
from pipeline.dataset import Dataset
from pipeline.files import square
from pipeline.samples import Samples

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiny.safetensors"
    result = CliRunner().invoke(main, ["export", "--run", str(trained), "--out", str(path)])
    assert result.exit_code == 0, result.output
    return path


def test_it_says_what_eval_says(trained: Path, exported: Path, dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "predictions.npz"
    words = ["eval", "--run", str(trained), "--device", "cpu", "--predictions", str(out)]
    assert CliRunner().invoke(main, words).exit_code == 0
    expected = np.load(out)["probabilities"]
    for source in (trained, trained / "best.pt", str(exported)):
        network = load(source)
        assert not network.training and network.recipe.name == "original"
        assert network.wnids == [category.wnid for category in dataset.classes]
        assert network.classes == [category.words.split(",")[0] for category in dataset.classes]
        with torch.inference_mode():
            parts = [network(images).softmax(1) for images, _ in EvaluationBatches(dataset, "val", "cpu")]
        if source != trained / "best.pt":
            assert np.allclose(torch.cat(parts), expected, atol=1e-6) and expected.std() > 1e-6


def test_preprocess_makes_the_pixels_of_predict(exported: Path, tmp_path: Path) -> None:
    """Of each kind of file, to the bit; and of images in memory."""
    network = load(exported)
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
        pixels = network.preprocess(tmp_path / name)
        assert pixels.dtype == torch.float32 and pixels.shape == (3, 224, 224)
        expected = square(tmp_path / name, upright=True, side=256)[16:240, 16:240]
        assert np.array_equal(pixels.permute(1, 2, 0), expected), name
    turned = tmp_path / "turned 6.jpg"
    expected = by_pillow(turned)[16:240, 16:240]
    for image in (str(turned), Image.open(turned)):
        assert np.array_equal(network.preprocess(image).permute(1, 2, 0), expected)
    plain = np.asarray(Image.open(io.BytesIO(files()["plain.jpg"])))
    assert torch.equal(network.preprocess(plain), network.preprocess(tmp_path / "plain.jpg"))


def test_images_of_another_size(tmp_path: Path, small: Dataset) -> None:
    """Of a network that was trained on squares of 32 pixels, read whole."""
    first = AlexNet(get_recipe("relu4", classes=3, width=0.1), ["cpu"], seed=3)
    mean = torch.from_numpy(np.load(small.root / "statistics.npz")["mean"])
    about = {"classes": [], "step": 1, "dataset": 16 * "0"}
    path = tmp_path / "small.safetensors"
    weights.save(path, weights.Weights(first.recipe, first.state(), mean, about), "safetensors")
    network = load(path)
    data = files()["plain.jpg"]
    (tmp_path / "plain.jpg").write_bytes(data)
    image = Image.open(tmp_path / "plain.jpg")
    left, top = ((length - min(image.size)) / 2 for length in image.size)
    box = (left, top, image.width - left, image.height - top)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR, box))
    pixels = network.preprocess(tmp_path / "plain.jpg")
    assert np.array_equal(pixels.permute(1, 2, 0), expected)
    assert torch.allclose(network(pixels[None]), first(pixels[None] - mean.permute(2, 0, 1)), atol=1e-5)
    with pytest.raises(ValueError, match="crop=224: give a whole number, 1 to 32"):
        EvaluationBatches(small, "val", "cpu")
    ((images, _),) = EvaluationBatches(small, "val", "cpu", crop=32)
    assert np.array_equal(images.permute(0, 2, 3, 1)[4], Samples(small, "val").square(4))


def test_an_ordinary_module(exported: Path) -> None:
    """It moves, passes gradients to the image, and takes pixels of any type."""
    network = load(exported)
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    logits = network(images)
    assert logits.shape == (2, 3) and torch.equal(network(images.float()), logits)
    pixels = images.float().requires_grad_()
    again = network(pixels)
    again[0, 1].backward()
    assert torch.allclose(again, logits, atol=1e-5)
    assert pixels.grad[0].abs().sum() > 0 and pixels.grad[1].abs().sum() == 0
    step = 1e-2 * pixels.grad.sign()
    slope = (network(images.float() + step)[0, 1] - network(images.float() - step)[0, 1]).item()
    assert slope == pytest.approx(2e-2 * pixels.grad.abs().sum().item(), rel=0.05)
    moved = network.to("meta")
    assert moved is network and {str(device) for device in network.devices} == {"meta"}


@pytest.mark.gpu
def test_a_module_on_the_gpu(exported: Path) -> None:
    network, there = load(exported).cuda(), load(exported, device="cuda")
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    expected = load(exported)(images)
    for each in (network, there):
        assert torch.allclose(each(images.cuda()).cpu(), expected, atol=1e-3)
        assert torch.equal(each(images), each(images.cuda()))


def test_features(exported: Path) -> None:
    """Logits are the last full layer's product with them."""
    network = load(exported)
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    last = dict(network.head.named_parameters())
    expected = network.features(images) @ last["layers.fc8.weight"].T + last["layers.fc8.bias"]
    assert torch.allclose(network(images), expected, atol=1e-6)
    assert network.features(images, "conv5").ndim == 4
    with pytest.raises(RunError, match="the network has no layer fc9; it has conv1, conv2"):
        network.features(images, "fc9")


def test_what_is_wrong_is_one_line(trained: Path, exported: Path, tmp_path: Path) -> None:
    run, network = tmp_path / "run", load(exported)
    shutil.copytree(trained, run)
    (run / "statistics.npz").write_bytes(np.random.default_rng(0).bytes(1000))
    (tmp_path / "broken.jpg").write_bytes(files()["plain.jpg"][:3000])
    old = tmp_path / "old"
    shutil.copytree(trained, old)
    (old / "dataset.json").unlink()
    for attempt, kind, said in (
        (lambda: load(tmp_path), RunError, f"no checkpoint {tmp_path}/last.pt; train first"),
        (lambda: load(tmp_path / "a.safetensors"), RunError, "there is no file"),
        (lambda: load(run), RunError, f"the dataset.json or statistics.npz of {run} is damaged: "),
        (lambda: load(old), RunError, f"there is no {old}/dataset.json, which a run of this version keeps: "),
        (lambda: network.preprocess(tmp_path / "broken.jpg"), RunError, "broken.jpg cannot be decoded: "),
        (lambda: network.preprocess(np.zeros((8, 8))), ValueError, r"float64 (8, 8): give uint8"),
    ):
        with pytest.raises(kind) as raised:
            attempt()
        assert said in str(raised.value) and "\n" not in str(raised.value)


def test_importing_model_loads_no_torch() -> None:
    code = "import sys, model; from model import RunError; print('torch' in sys.modules, *dir(model))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded, *names = done.stdout.split()
    assert loaded == "False" and {"load", "RunError", "TrainedNetwork"} <= set(names)
