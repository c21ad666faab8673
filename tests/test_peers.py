"""What tools.compare compares with: all of them make what ours make, and the plain step steps as ours."""

import io
import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

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
from pipeline.dataset import Dataset
from pipeline.prep.prepare import prepare
from pipeline.samples import Samples
from pipeline.source.find import find_source
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


KINDS = {"dataset": "256", "originals": "original", "raw": "raw"}
SAME_DRAWS = [
    (name, kind)
    for name, peer in peers.PEERS.items()
    for kind in KINDS
    if name.startswith(("DataLoader", "TurboLoader, our")) and KINDS[kind] in peer.kinds
]


@pytest.mark.parametrize("name, kind", SAME_DRAWS)
def test_the_same_draws_make_the_same_batch(
    name: str, kind: str, process: ProcessPoolExecutor, request: pytest.FixtureRequest
) -> None:
    """Stored squares agree, but for TurboLoader's decoder, which takes libjpeg's fast and less exact way.

    Originals: Pillow resizes as DALI does; the others take whole pixels, or filter in another way.
    """
    dataset = request.getfixturevalue(kind)
    for module in {peers.PEERS[name].module, peers.PEERS[name].resizer if kind == "originals" else "torch"}:
        pytest.importorskip(module, exc_type=Exception)
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
    if kind == "originals":
        most, mean = (6, 0.3) if name.endswith("Pillow") else (120, 5)
    else:
        most, mean = (30, 3) if name.startswith("TurboLoader") and kind == "dataset" else (1e-3, 1e-4)
    assert error.max() < most
    assert error.mean() < mean


def test_crops_of_raw_pixels_by_turboloader_are_ours(
    raw: Dataset, tmp_path: Path, process: ProcessPoolExecutor
) -> None:
    """Its draws are its own: without noise, each image is a crop of one of its class, flipped or not."""
    pytest.importorskip("turboloader")
    recipe = get_recipe(classes=3, width=0.02, batch_size=28, noise=0.0)
    job = replace(peers.job(Workloads(raw, recipe, MACHINE)), folder=tmp_path)
    images, labels = process.submit(first, "TurboLoader, its crops", job).result()
    samples = Samples(raw, "train")
    stored, true = samples.read(np.arange(28))
    assert sorted(labels.tolist()) == sorted(true.tolist())
    size, found = recipe.crop, set()
    for image, label in zip(images.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
        views = [(turn, image[:, ::turn]) for turn in (1, -1)]
        found |= {
            (number, turn)
            for number in np.flatnonzero(true == label).tolist()
            for turn, view in views
            for top, left in np.argwhere(np.abs(stored[number][:33, :33] - view[0, 0]).max(2) < 1e-2)
            if np.abs(stored[number][top : top + size, left : left + size] - view).max() < 1e-2
        }
    assert {number for number, _ in found} == set(range(28))
    assert {turn for _, turn in found} == {1, -1}


def test_jpegs_by_turboloader_have_their_own_labels(tmp_path: Path, process: ProcessPoolExecutor) -> None:
    """Each image is of one colour, which a crop of any size keeps; its noise is left out."""
    pytest.importorskip("turboloader")
    colours = {"n00000001": (200, 40, 40), "n00000002": (40, 200, 40), "n00000003": (40, 40, 200)}
    for split, (wnid, colour) in itertools.product(("train", "val"), colours.items()):
        (tmp_path / "root" / split / wnid).mkdir(parents=True)
        Image.new("RGB", (320, 256), colour).save(tmp_path / "root" / split / wnid / "one.JPEG")
    flat = prepare(find_source(tmp_path / "root"), tmp_path / "flat", workers=1)
    recipe = get_recipe(classes=3, width=0.02, batch_size=3, noise=0.0)
    job = replace(peers.job(Workloads(flat, recipe, MACHINE)), folder=tmp_path)
    images, labels = process.submit(first, "TurboLoader, its crops", job).result()
    assert images.shape == (3, 3, 224, 224) and sorted(labels.tolist()) == [0, 1, 2]
    wanted = torch.tensor(list(colours.values()))[labels][:, :, None, None]
    assert (images - wanted).abs().max() < 4


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
