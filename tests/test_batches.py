"""The stream of batches: what it holds, where it stands, and how processes share it."""

import gc
import io
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.placement import prefetch_to_devices
from model.replicas import Replicas
from pipeline.batches import EvaluationBatches, Samples, TrainBatches
from pipeline.dataset import Dataset, open_dataset, read_names
from pipeline.errors import DataError
from pipeline.graph import CENTRE_VIEW, TEN_VIEWS
from pipeline.order import draws, epoch_order

CPU = {"device": torch.device("cpu"), "threads": 2, "crop": 224}
MATRIX = np.array([[4.0, 0, 0], [0, 3, 1], [1, 0, 2]])


def endless(dataset: Dataset, **options: Any) -> TrainBatches:
    """Noise is on in the first epoch and off after it."""
    settings = {
        "batch_size": 8,
        "offsets": 33,
        "colour": lambda epoch: MATRIX if epoch == 1 else 0 * MATRIX,
        "seed": 7,
        "start": 0,
        **CPU,
    }
    return TrainBatches(dataset, **{**settings, **options})


def train(dataset: Dataset, count: int, **options: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The first `count` batches."""
    return list(itertools.islice(endless(dataset, **options), count))


def evaluation(dataset: Dataset, **options: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    settings = {"views": CENTRE_VIEW, "batch_size": 4, **CPU}
    return list(EvaluationBatches(dataset, "val", **{**settings, **options}))


def test_two_epochs_by_the_formula(dataset: Dataset) -> None:
    """28 images in batches of 8: 8, 8, 8, 4, and again."""
    samples = Samples(dataset, "train")
    batches = train(dataset, 8)
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 4] * 2
    for step, (images, labels) in enumerate(batches):
        epoch, within = divmod(step, 4)
        chosen = epoch_order(samples.index["shard"], 7, epoch)[8 * within :][:8]
        assert labels.tolist() == samples.index["label"][chosen].tolist()
        drawn = draws(7, step, len(chosen), range(len(chosen)), 33)
        for row, jpeg in enumerate(samples.read(chosen)[0]):
            top, left = int(drawn.top[row]), int(drawn.left[row])
            image = np.asarray(Image.open(io.BytesIO(jpeg.tobytes()))).astype(np.float64)
            crop = image[top : top + 224, left : left + 224]
            crop = crop[:, ::-1] if drawn.mirror[row] else crop
            shift = MATRIX @ drawn.normal[row] if epoch == 0 else 0
            expected = (crop + shift).transpose(2, 0, 1)
            assert np.abs(images[row].numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("start", [1, 3, 4, 6])
def test_a_stream_starts_anywhere(dataset: Dataset, start: int) -> None:
    whole, rest = train(dataset, 8), train(dataset, 8 - start, start=start)
    for (images, labels), (images_again, labels_again) in zip(whole[start:], rest, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)


@pytest.mark.parametrize("world", [3, 6])  # six processes have a last batch of four images
def test_processes_share_each_batch(dataset: Dataset, world: int) -> None:
    whole = train(dataset, 4)
    parts = [train(dataset, 4, rows=Replicas(rank, world).rows) for rank in range(world)]
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), labels)


def test_batches_stay_what_they_were(dataset: Dataset) -> None:
    """They come without a copy, so DALI must not use their memory again."""
    kept = train(dataset, 12)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, train(dataset, 12), strict=True))


@pytest.mark.parametrize("world", [1, 2, 4, 9, 11])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_evaluation_counts_every_image_once(dataset: Dataset, world: int, batch_size: int) -> None:
    labels = [
        label
        for rank in range(world)
        for _, batch in evaluation(dataset, rows=Replicas(rank, world).rows, batch_size=batch_size)
        for label in batch.tolist()
    ]
    assert labels == Samples(dataset, "val").index["label"].tolist()
    assert len(labels) == 9


def test_evaluation_is_a_pure_function(dataset: Dataset) -> None:
    views = [torch.cat([images for images, _ in evaluation(dataset, views=TEN_VIEWS)]) for _ in range(2)]
    assert views[0].shape == (9, 10, 3, 224, 224)
    assert torch.equal(*views)


def test_originals_are_resized_on_the_way(dataset: Dataset, originals: Dataset) -> None:
    """Prep's resize, its JPEG coding and the graph's resize differ by little."""
    for ours, others in zip(evaluation(dataset), evaluation(originals), strict=True):
        assert (ours[0].float() - others[0].float()).abs().mean() < 3
        assert torch.equal(ours[1], others[1])
    ours, others = train(dataset, 1)[0], train(originals, 1)[0]
    assert (ours[0] - others[0]).abs().mean() < 3


def test_a_damaged_image_is_named(dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(dataset.root, tmp_path / "copy")
    copy = open_dataset(tmp_path / "copy")
    row = Samples(copy, "train").index[20]
    with open(copy.root / "train" / f"{row['shard']:06d}.tar", "r+b") as file:
        file.seek(int(row["offset"]) + 300)
        file.write(bytes(int(row["size"]) - 300))
    name = read_names(copy, "train")[20]
    with pytest.raises(DataError, match=rf"{row['shard']:06d}.tar, byte {row['offset']}: {name}.*--verify"):
        train(copy, 4)


def test_a_split_that_is_not_there(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="no nonsense images"):
        Samples(dataset, "nonsense")


def held() -> list[int]:
    """Threads and open files of this process."""
    return [len(list(Path("/proc/self", kind).iterdir())) for kind in ("task", "fd")]


@pytest.fixture
def uncollected() -> Iterator[list[int]]:
    """What was held before, while Python's garbage collector waits."""
    gc.collect()
    gc.disable()
    yield held()
    gc.enable()


def test_a_stream_that_has_ended_lets_go(dataset: Dataset, uncollected: list[int]) -> None:
    """Of its threads and files, at once: validations must not wait for Python's garbage collector."""
    for _ in range(3):
        assert sum(len(labels) for _, labels in evaluation(dataset, batch_size=4)) == 9
    assert held() == uncollected


def test_a_stream_that_has_ended_stays_so(dataset: Dataset) -> None:
    stream = EvaluationBatches(dataset, "val", views=CENTRE_VIEW, batch_size=4, **CPU)
    assert len(next(stream)[1]) == 4
    threads = held()[0]
    assert len(list(stream)) == 2 and held()[0] < threads
    assert list(stream) == [] and next(stream, None) is None


@pytest.mark.parametrize("end", ["closed", "closed twice", "dropped by a training"])
def test_a_stream_without_an_end_lets_go(dataset: Dataset, uncollected: list[int], end: str) -> None:
    stream = endless(dataset)
    given = prefetch_to_devices(stream, [CPU["device"]]) if "dropped" in end else stream
    assert len(next(given)[1]) == 8 and held()[0] > uncollected[0]
    if "closed" in end:
        stream.close()
        assert held()[0] == uncollected[0] and next(stream, None) is None
    if "twice" in end:
        stream.close()
    del stream, given
    assert held() == uncollected
