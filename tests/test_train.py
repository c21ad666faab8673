"""The loop on batches that are drawn here: what it logs, when it gives up, and that it takes any iterable."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch.nn import functional as F

from model import checkpoint, schedule
from model.captured import Record
from model.errors import RunError
from model.evaluate import Evaluation, evaluate
from model.network import AlexNet
from model.optim import Momentum
from model.placement import prefetch_to_devices
from model.recipe import Recipe
from model.recipes import get_recipe
from model.run import MetricsRow, RunDirectory, read_metrics
from model.step import Step
from model.train import RunState, Stopped, Trainer, Watch

IMAGES = 10  # of an epoch: batches of 4, 4 and 2
Batch = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def recipe() -> Recipe:
    return get_recipe("original", width=0.02, classes=3, batch_size=4, epochs=2)


def batches(start: int = 0) -> Iterator[Batch]:
    """From step `start` on, each a function of its step."""
    step = start
    while True:
        draw = torch.Generator().manual_seed(step)
        rows = (4, 4, 2)[step % 3]
        yield torch.randn(rows, 3, 224, 224, generator=draw) * 60, torch.randint(3, (rows,), generator=draw)
        step += 1


def trainer(
    recipe: Recipe,
    run: RunDirectory,
    given: Iterator[Batch],
    device: str = "cpu",
    record: Record | None = None,
    **more: object,
) -> Trainer:
    network = AlexNet(recipe, device.split(","), seed=0)
    home = network.devices[0]

    def validate(each: Callable[[int], None]) -> Evaluation:
        some = [next(batches(100)), next(batches(101))]
        views = ((images[:, None].to(home), labels.to(home)) for images, labels in some)
        return evaluate(network, views, precision="float32", each=each)

    run.open(0, 0, {"starts": {}})
    return Trainer(
        step=Step(network, Momentum(network, recipe), "float32", record=record),
        batches=given,
        images=IMAGES,
        validate=validate,
        run=run,
        identity={"recipe": recipe.to_dict(), "dataset": 16 * "0"},
        state=RunState(),
        **more,  # type: ignore[arg-type]
    )


def test_rows_say_what_was_computed(recipe: Recipe, tmp_path: Path) -> None:
    """The loss of each row is that of its own images at the weights of their step."""
    told: list[MetricsRow] = []
    with RunDirectory(tmp_path) as run:
        trained = trainer(recipe, run, batches(), log_steps=2, watch=Watch(row=told.append))
        trained.train()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows == told
    assert [(row["kind"], row["step"], round(row["epoch"], 2)) for row in rows] == [
        ("train", 2, 0.67), ("train", 3, 1), ("val", 3, 1),
        ("train", 4, 1.33), ("train", 6, 2), ("val", 6, 2),
    ]  # fmt: skip
    network = AlexNet(recipe, ["cpu"], seed=0)
    optimiser = Momentum(network, recipe)
    losses = []
    for step, (images, labels) in zip(range(6), batches(), strict=False):
        optimiser.set_rates(schedule.learning_rates(recipe, step // 3 + 1))
        masks, divisor = network.masks(step, 0, len(images)), 1.1  # noise is on to the end of so short a run
        loss = F.cross_entropy(network(images, masks, divisor), labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item() * len(labels))
    expected = [sum(losses[:2]) / 8, losses[2] / 2, losses[3] / 4, sum(losses[4:]) / 6]
    assert [row["loss"] for row in rows if row["kind"] == "train"] == pytest.approx(expected, rel=1e-5)
    for name, tensor in network.state().items():
        torch.testing.assert_close(trained.step.network.state()[name], tensor, rtol=1e-4, atol=1e-6)


def test_best_is_the_best(recipe: Recipe, tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as run:
        trained = trainer(replace(recipe, epochs=4), run, batches())
        errors = iter([50, 25, 75, 25])  # images of a hundred
        trained.validate = lambda each: Evaluation(
            torch.tensor([100.0, 1, next(errors), 0]).double(), torch.empty(0)
        )
        trained.train()
    assert checkpoint.read(tmp_path / "best.pt")["step"] == 6
    assert [row["top1_err"] for row in checkpoint.read(tmp_path / "last.pt")["history"]] == [50, 25, 75, 25]


def test_a_lost_loss_keeps_the_state_before(recipe: Recipe, tmp_path: Path) -> None:
    def spoilt() -> Iterator[Batch]:
        for step, (images, labels) in enumerate(batches()):
            yield images * (math.nan if step == 4 else 1), labels

    with RunDirectory(tmp_path) as run:
        trained = trainer(recipe, run, spoilt(), save_seconds=0)
        with pytest.raises(RunError, match=r"the loss became nan before step 5; .*--precision float32"):
            trained.train()
    saved = checkpoint.read(tmp_path / "last.pt")
    assert saved["step"] == 4 and all(tensor.isfinite().all() for tensor in saved["weights"].values())


@pytest.mark.parametrize("what", ["weights", "velocities"])
def test_a_state_that_is_not_finite_is_not_saved(recipe: Recipe, tmp_path: Path, what: str) -> None:
    """The last update of an epoch spoils a number of which its own loss cannot tell yet."""

    def spoil(step: int, figures: object) -> None:
        if step == 6:
            bias = list(trained.step.network.pieces())[-1][2][0]
            (bias.data if what == "weights" else trained.step.optimiser.opposite[bias])[0] = math.inf

    with RunDirectory(tmp_path) as run:
        trained = trainer(recipe, run, batches(), watch=Watch(step=spoil))
        with pytest.raises(RunError, match=rf"{what} fc8.bias is no longer finite: .*keeps the state"):
            trained.train()
    assert {path.name: checkpoint.read(path)["step"] for path in tmp_path.glob("*.pt")} == {
        "last.pt": 3, "best.pt": 3,
    }  # fmt: skip


def test_figures_are_read_between_rows_and_change_nothing(recipe: Recipe, tmp_path: Path) -> None:
    """What is read after the last step before a row is that row; all rows and weights stay the same bits."""
    read: dict[int, MetricsRow] = {}
    watch = Watch(step=lambda step, figures: read.update({step: figures()}))
    with (
        RunDirectory(tmp_path / "undisturbed") as calm_run,
        RunDirectory(tmp_path / "watched") as watched_run,
    ):
        undisturbed = trainer(recipe, calm_run, batches(), log_steps=2)
        watched = trainer(recipe, watched_run, batches(), log_steps=2, watch=watch)
        undisturbed.train()
        watched.train()
    timed = {"img_s", "data_time"}
    rows, expected = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("watched", "undisturbed"))
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys() and all(row[key] == other[key] for key in row.keys() - timed)
        if row["kind"] == "train":
            assert {key: row[key] for key in ("loss", "top1_err", "lr")}.items() <= read[row["step"]].items()
    assert sorted(read) == [1, 2, 3, 4, 5, 6]
    for key, tensor in undisturbed.step.network.state().items():
        assert torch.equal(tensor, watched.step.network.state()[key])


def test_a_dead_start_is_called_one(recipe: Recipe, tmp_path: Path) -> None:
    blank = ((torch.zeros_like(images), labels) for images, labels in batches())
    with RunDirectory(tmp_path) as run:
        trained = trainer(recipe, run, blank, dead_start=3, log_steps=3)
        with pytest.raises(
            RunError, match=r"the network does not learn: after 3 steps the loss is .* 3 classes"
        ):
            trained.train()


def test_a_stop_is_granted_between_steps_and_batches(recipe: Recipe, tmp_path: Path) -> None:
    asked = iter([0, 0, 0, 0, 9])  # three steps, the first batch of validation, the second
    with RunDirectory(tmp_path) as run:
        trained = trainer(recipe, run, batches(), watch=Watch(stop=lambda: next(asked)))
        with pytest.raises(Stopped) as stopped:
            trained.train()
    assert stopped.value.status == 9
    saved = checkpoint.read(tmp_path / "last.pt")
    assert saved["step"] == 3 and saved["history"] == []


def test_batches_for_a_cpu_are_left_alone() -> None:
    given = [(torch.zeros(1), torch.zeros(1)), (torch.ones(1), torch.ones(1))]
    for devices in ["cpu"], ["cpu", "cpu"]:
        assert list(prefetch_to_devices(iter(given), [torch.device(device) for device in devices])) == given


@pytest.mark.gpu
@pytest.mark.parametrize(
    "second",
    [
        "cuda:0",
        pytest.param("cuda:1", marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")),
    ],
)
def test_gpu_copies_beside_the_step_change_nothing(recipe: Recipe, tmp_path: Path, second: str) -> None:
    """Images that come from much work on the stream of the copies, and are gone as soon as they may be."""
    torch.backends.cudnn.deterministic = True
    recipe, devices = replace(recipe, width=1 / 4, epochs=20), f"cuda:0,{second}"

    def made() -> Iterator[Batch]:
        for images, labels in batches():
            there = images.to("cuda:0")
            for _ in range(50):
                there = there.flip(3)
            yield there, labels.to("cuda:0")

    losses = []
    for name, given in (
        ("plain", made()),
        ("beside", prefetch_to_devices(made(), list(map(torch.device, devices.split(","))))),
    ):
        with RunDirectory(tmp_path / name) as run:
            trainer(recipe, run, given, devices, log_steps=1).train()
        losses.append(torch.tensor([row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")]))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)
