"""The stream of batches: what it holds, where it stands, and how processes share it."""

import gc
import io
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.placement import prefetch_to_devices
from model.replicas import Replicas
from pipeline.batches import EvaluationBatches, TrainBatches
from pipeline.dataset import Dataset, open_dataset, read_names
from pipeline.errors import DataError
from pipeline.order import draws, epoch_order
from pipeline.samples import Samples

ROOT = Path(__file__).parent.parent
CPU = {"device": torch.device("cpu"), "threads": 2, "crop": 224}
Batch = tuple[torch.Tensor, torch.Tensor]


def stream(dataset: Dataset, **options: Any) -> TrainBatches:
    """Noise is on in the first epoch and off after it."""
    settings = {"batch_size": 8, "noise": lambda epoch: 0.5 if epoch == 0 else 0.0, "seed": 7, **CPU}
    return TrainBatches(dataset, **{**settings, **options})


def train(dataset: Dataset, count: int, **options: Any) -> list[Batch]:
    """The first `count` batches."""
    return list(itertools.islice(stream(dataset, **options).endless(), count))


def evaluation(dataset: Dataset, **options: Any) -> list[Batch]:
    return list(EvaluationBatches(dataset, "val", **{"batch_size": 4, **CPU, **options}))


def same(ours: Batch, others: Batch) -> bool:
    return all(torch.equal(*pair) for pair in zip(ours, others, strict=True))


def test_two_epochs_by_the_formula(dataset: Dataset) -> None:
    """28 images in batches of 8: 8, 8, 8, 4, and again."""
    samples, known = Samples(dataset, "train"), np.load(dataset.root / "statistics.npz")
    matrix = 0.5 * known["eigenvectors"] * known["deviations"]
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
            shift = matrix @ drawn.normal[row] if epoch == 0 else 0
            expected = (crop + shift).transpose(2, 0, 1)
            assert np.abs(images[row].numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("start", [1, 3, 4, 6])
def test_a_stream_starts_anywhere(dataset: Dataset, start: int) -> None:
    whole, rest = train(dataset, 8), train(dataset, 8 - start, start=start)
    assert all(map(same, whole[start:], rest))


@pytest.mark.parametrize("world", [3, 6])  # six processes have a last batch of four images
def test_processes_share_each_batch(dataset: Dataset, world: int) -> None:
    whole = train(dataset, 4)
    parts = [train(dataset, 4, rank=rank, world=world) for rank in range(world)]
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), labels)
        rows = [Replicas(rank, world).rows(len(labels)) for rank in range(world)]  # where masks begin
        assert [len(part[step][1]) for part in parts] == list(map(len, rows))


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
        for _, batch in evaluation(dataset, rank=rank, world=world, batch_size=batch_size)
        for label in batch.tolist()
    ]
    assert labels == Samples(dataset, "val").index["label"].tolist()
    assert len(labels) == 9


def test_evaluation_is_a_pure_function(dataset: Dataset) -> None:
    views = [torch.cat([images for images, _ in evaluation(dataset, ten_crop=True)]) for _ in range(2)]
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
    stream = iter(EvaluationBatches(dataset, "val", batch_size=4, **CPU))
    assert len(next(stream)[1]) == 4
    threads = held()[0]
    assert [len(next(stream)[1]) for _ in range(2)] == [4, 1] and next(stream, None) is None
    assert held()[0] < threads and next(stream, None) is None


def test_each_loop_over_a_split_begins_anew(dataset: Dataset) -> None:
    batches = EvaluationBatches(dataset, "val", batch_size=4, **CPU)
    first = next(iter(batches))
    for _ in range(2):
        again = list(batches)
        assert [len(labels) for _, labels in again] == [4, 4, 1] and same(first, again[0])


@pytest.mark.parametrize("end", ["closed", "closed twice", "dropped by a training"])
def test_a_stream_without_an_end_lets_go(dataset: Dataset, uncollected: list[int], end: str) -> None:
    batches = stream(dataset)
    given = prefetch_to_devices(batches.endless(), [CPU["device"]]) if "dropped" in end else batches.endless()
    assert len(next(given)[1]) == 8 and held()[0] > uncollected[0]
    if "closed" in end:
        batches.close()
        assert held()[0] == uncollected[0]
    if "twice" in end:
        with batches:
            assert len(next(given)[1]) == 8 and held()[0] > uncollected[0]  # it has started again
        assert held()[0] == uncollected[0] and next(batches, None) is None
    del batches, given
    assert held() == uncollected


def test_epochs(dataset: Dataset) -> None:
    """Each is itself in whatever order, whether or not the one before was left early."""
    whole, batches = train(dataset, 12), stream(dataset)
    assert batches.steps_per_epoch == 4
    assert all(map(same, whole[:8], itertools.chain(batches.epoch(0), batches.epoch(1))))
    assert same(next(batches.epoch(2)), whole[8])
    for epoch in (0, 2, 2):
        again = list(batches.epoch(epoch))
        assert len(again) == 4 and all(map(same, again, whole[4 * epoch :]))
    late = stream(dataset, start=6)
    assert [len(list(late.epoch(epoch))) for epoch in range(4)] == [0, 2, 4, 4]
    assert all(map(same, late.epoch(1), whole[6:8]))
    with pytest.raises(TypeError, match=r"^training never ends: loop over epoch\(0\), epoch\(1\) and so on"):
        iter(batches)


@pytest.mark.parametrize("kind", ["dataset", "raw", "originals"])
def test_numbers_of_other_types(kind: str, request: pytest.FixtureRequest) -> None:
    """Mean and type, against the same images as float32."""
    dataset = request.getfixturevalue(kind)
    mean = torch.from_numpy(np.load(dataset.root / "statistics.npz")["mean"][16:240, 16:240]).movedim(-1, 0)
    ((plain, labels), *_), ((noisy, _), *_) = (train(dataset, 2, noise=noise) for noise in (None, 0.5))
    assert plain.dtype == torch.float32 and plain.min() >= 0 and plain.max() <= 255
    ((whole, same_labels), *_) = train(dataset, 2, noise=None, dtype=torch.uint8)
    assert (
        whole.dtype == torch.uint8 and torch.equal(whole.float(), plain) and torch.equal(labels, same_labels)
    )
    ((centred, _), *_) = train(dataset, 2, noise=0.5, subtract_mean=True)
    assert torch.equal(centred, noisy - mean)
    ((half, _), *_) = train(dataset, 2, noise=0.5, subtract_mean=True, dtype=torch.bfloat16)
    assert torch.equal(half, (noisy - mean).bfloat16())


def test_evaluation_of_other_types(dataset: Dataset) -> None:
    mean = torch.from_numpy(np.load(dataset.root / "statistics.npz")["mean"][28:228, 28:228]).movedim(-1, 0)
    plain = torch.cat([images for images, _ in evaluation(dataset, crop=200)])
    assert plain.dtype == torch.float32 and plain.shape == (9, 3, 200, 200)
    squares = np.stack([Samples(dataset, "val").square(number) for number in range(9)])[:, 28:228, 28:228]
    assert np.array_equal(plain.permute(0, 2, 3, 1), squares)
    ((whole, _),) = evaluation(dataset, crop=200, dtype=torch.uint8, batch_size=9)
    assert whole.dtype == torch.uint8 and torch.equal(whole.float(), plain)
    options = {"subtract_mean": True, "dtype": torch.bfloat16, "ten_crop": True, "crop": 200, "batch_size": 9}
    ((views, _),) = evaluation(dataset, **options)
    assert views.shape == (9, 10, 3, 200, 200) and torch.equal(views[:, 2], (plain - mean).bfloat16())
    corner = np.stack([Samples(dataset, "val").square(number) for number in range(9)])[:, 56:, 56:, ::-1]
    assert (
        np.abs((views[:, 9].float() + mean).permute(0, 2, 3, 1).numpy()[:, :, ::-1, ::-1] - corner).max() <= 1
    )


@pytest.mark.parametrize("kind", ["dataset", "raw", "originals"])
def test_all_of_an_image_in_evaluation(kind: str, request: pytest.FixtureRequest) -> None:
    dataset = request.getfixturevalue(kind)
    images = torch.cat([images for images, _ in evaluation(dataset, crop=256, dtype=torch.uint8)])
    squares = np.stack([Samples(dataset, "val").square(number) for number in range(9)])
    error = np.abs(images.permute(0, 2, 3, 1).numpy().astype(int) - squares)
    assert images.shape == (9, 3, 256, 256) and error.max() <= (4 if kind == "originals" else 0)


def test_all_of_an_image(dataset: Dataset) -> None:
    """A crop of its whole size has one position."""
    ((images, _), *_) = train(dataset, 4, crop=256, noise=None)
    order = epoch_order(Samples(dataset, "train").index["shard"], 7, 0)
    mirror = draws(7, 0, 8, range(8), 1).mirror
    for row, number in enumerate(order[:8].tolist()):
        square = Samples(dataset, "train").square(number)
        expected = square[:, ::-1] if mirror[row] else square
        assert np.array_equal(images[row].permute(1, 2, 0), expected)


def test_the_papers_noise_by_default(dataset: Dataset) -> None:
    """Deviations or, as printed, eigenvalues."""
    known = np.load(dataset.root / "statistics.npz")
    (plain, _), (noisy, _), (printed, _) = (
        next(TrainBatches(dataset, batch_size=8, device="cpu", **options).epoch(0))
        for options in ({"noise": None}, {}, {"noise_basis": "eigenvalues"})
    )
    normal = draws(0, 0, 8, range(8), 33).normal
    for images, sizes in ((noisy, known["deviations"]), (printed, known["eigenvalues"] / 255)):
        shift = normal @ (0.1 * known["eigenvectors"] * sizes).T
        assert np.allclose((images - plain).mean((2, 3)), shift, atol=1e-3) and np.abs(shift).max() > 0.1


WRONG = {
    "batch_size=0: give a whole number, 1 or more": {"batch_size": 0},
    "batch_size=2.5: give a whole number, 1 or more": {"batch_size": 2.5},
    "crop=257: give a whole number, 1 to 256": {"crop": 257},
    "offsets=34: give a whole number, 1 to 33": {"offsets": 34},
    "seed=-1: give a whole number, 0 or more": {"seed": -1},
    "start='3': give a whole number, 0 or more": {"start": "3"},
    "rank=2: give a whole number, 0 to 1": {"rank": 2, "world": 2},
    "world=0: give a whole number, 1 or more": {"world": 0},
    "threads=0: give a whole number, 1 or more": {"threads": 0},
    "noise=-1: give a number, 0 or more, or None": {"noise": -1},
    "noise='much': give a number, 0 or more, or None": {"noise": "much"},
    "noise_basis='variances': give 'deviations' or 'eigenvalues'": {"noise_basis": "variances"},
    "dtype=torch.float16: give torch.float32, torch.bfloat16 or torch.uint8": {"dtype": torch.float16},
    "dtype=torch.uint8 holds whole numbers from 0 to 255: give noise=None": {"dtype": torch.uint8},
    "device='gpu': give 'cpu', or 'cuda' or 'cuda:0' and so on": {"device": "gpu"},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_argument_is_one_line(dataset: Dataset, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        TrainBatches(dataset, **{"batch_size": 8, "device": "cpu", **WRONG[said]})
    assert "\n" not in str(raised.value)


def test_a_folder_is_not_a_dataset() -> None:
    with pytest.raises(
        ValueError, match=r"^dataset='data': give what pipeline.open_dataset\(FOLDER\) returns$"
    ):
        EvaluationBatches("data", "val", "cpu")  # type: ignore[arg-type]


def test_a_gpu_that_is_not_there(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    for there, asked, said in (
        (0, "cuda", "device='cuda': no GPU was found; 'cpu' does without"),
        (2, "cuda:2", "device number=2: give a whole number, 0 to 1"),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: there)
        with pytest.raises(ValueError, match=re.escape(said)):
            EvaluationBatches(dataset, "val", device=asked)


def test_importing_pipeline_loads_neither_torch_nor_dali() -> None:
    code = "import sys; from pipeline import open_dataset, DataError; print(*sys.modules); import pipeline; "
    code += "print(*dir(pipeline)); pipeline.TrainBatches; assert 'torch' in sys.modules; pipeline.Batches"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    loaded, names = map(str.split, done.stdout.splitlines())
    assert "numpy" in loaded and not {"torch", "nvidia", "nvidia.dali"} & set(loaded)
    assert {"TrainBatches", "EvaluationBatches", "open_dataset", "DataError"} <= set(names)
    assert "AttributeError: module 'pipeline' has no attribute 'Batches'" in done.stderr.splitlines()[-1]
