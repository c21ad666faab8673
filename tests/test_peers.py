"""What tools.compare compares with: all of them make what ours make, and the plain step steps as ours."""

import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cli.bench.workloads import Workloads
from cli.options import Machine
from model.network import AlexNet
from model.optim import Momentum
from model.recipe import Recipe
from model.recipes import get_recipe
from model.schedule import learning_rates
from pipeline.batches import Samples
from pipeline.dataset import Dataset
from tools.compare import peers
from tools.compare.loaders import Job
from tools.compare.step import network, optimiser, update

MACHINE = Machine(device="cpu", workers=1)


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """One without a DALI pipeline: a DataLoader's workers are forks, where its clean-up would never end."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


def first(name: str, job: Job) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = next(iter(peers.PEERS[name].work(job)))
    return images.clone(), labels.clone()


@pytest.mark.parametrize("kind", ["dataset", "originals"])
@pytest.mark.parametrize("name", [name for name in peers.PEERS if name.startswith("DataLoader")])
def test_the_same_draws_make_the_same_batch(
    name: str, kind: str, process: ProcessPoolExecutor, request: pytest.FixtureRequest
) -> None:
    """In levels of 255: stored squares agree, Pillow resizes as DALI does, OpenCV by other areas."""
    dataset = request.getfixturevalue(kind)
    for module in {peers.PEERS[name].module, peers.PEERS[name].resizer if kind == "originals" else "torch"}:
        pytest.importorskip(module)
    parts = Workloads(dataset, get_recipe(classes=3, width=0.02, batch_size=16), MACHINE)
    ours, ours_labels = next(parts.batches())
    images, labels = process.submit(first, name, peers.job(parts)).result()
    assert torch.equal(labels, ours_labels)
    if images.dtype == torch.uint8:  # before the noise, which moves all pixels of an image alike
        images = images.permute(0, 3, 1, 2)
        shift = (ours - images).mean((2, 3), keepdim=True)
        assert 1 < shift.abs().max() < 60
        images = images + shift
    assert images.dtype == torch.float32
    error = (images - ours).abs()
    most, mean = (1e-3, 1e-4) if kind == "dataset" else (6, 0.3) if name.endswith("Pillow") else (120, 5)
    assert error.max() < most
    assert error.mean() < mean


def test_webdataset_reads_the_same(dataset: Dataset, process: ProcessPoolExecutor) -> None:
    """Its order and draws are its own: with one place to crop and no noise, only the flip is left open."""
    pytest.importorskip("webdataset")
    recipe = get_recipe(classes=3, width=0.02, batch_size=16, offsets=1, noise=0.0)
    job = peers.job(Workloads(dataset, recipe, MACHINE))
    images, labels = process.submit(first, "webdataset", job).result()
    assert images.shape == (16, 3, 224, 224)
    jpegs, true = Samples(dataset, "train").read(np.arange(28))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)))[:224, :224] for jpeg in jpegs])
    views = np.concatenate([pixels, pixels[:, :, ::-1]]).transpose(0, 3, 1, 2).astype(np.float32)
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):
        errors = np.abs(views - image).max((1, 2, 3))
        assert errors.min() < 1e-3
        assert true[errors.argmin() % 28] == label


@pytest.mark.parametrize("name", ["original", "paper"])
def test_the_plain_step_is_ours(name: str) -> None:
    """Four steps without dropout, in float64, where rounding opens no ReLU that the other keeps shut."""
    recipe = get_recipe(name, width=0.1, classes=5, keep=1.0)
    ours, theirs = AlexNet(recipe, ["cpu"], seed=0).double(), network(recipe).double()
    theirs.load_state_dict(ours.state())
    momentum, rule = Momentum(ours, recipe), optimiser(theirs, recipe)
    momentum.set_rates(learning_rates(recipe, 1))
    draw = torch.Generator().manual_seed(0)
    images, labels = 60 * torch.randn(4, 3, 224, 224, generator=draw).double(), torch.arange(4)
    for step in range(4):
        logits = ours(images, ours.masks(step, 0, 4))
        F.cross_entropy(logits, labels).backward()
        momentum.step()
        momentum.zero_grad()
        found = update(theirs, rule, images, labels, half=False)
        assert torch.allclose(found, logits, rtol=1e-9)
    after = ours.state()
    assert all(torch.allclose(after[key], value, rtol=1e-9) for key, value in theirs.state_dict().items())
    untrained = AlexNet(recipe, ["cpu"], seed=0).double().state()
    assert not torch.equal(after["fc8.weight"], untrained["fc8.weight"])


@pytest.mark.parametrize("recipe", [get_recipe("net131"), get_recipe("relu4", reduce=2, crop=64)])
def test_a_network_that_is_not_written_plainly(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=f"no plain network for {recipe.name}"):
        network(recipe)
