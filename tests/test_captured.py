"""A step that is recorded and replayed against the same run step by step.

On a CPU the recording is a tape of torch's operations with their constants and the memory they used, which is
what a CUDA graph holds.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from test_train import IMAGES, batches, trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import schedule
from model.captured import WARM, cuda_graph
from model.network import AlexNet
from model.recipe import Recipe
from model.recipes import get_recipe
from model.run import MetricsRow, RunDirectory
from model.train import Watch

EPOCHS = 34  # of three steps, one of them a short batch
RECIPE = get_recipe("original", width=0.02, classes=3, batch_size=4, epochs=EPOCHS)


aten = torch.ops.aten
HOST = (aten.lift_fresh.default, aten._local_scalar_dense.default)  # torch.tensor(2.0), x.item()


class Tape(TorchDispatchMode):
    """Every operation inside; `replay` does them again, reading and writing the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in HOST, "a CUDA graph cannot record what goes to and from the host"
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.done:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorder:
    """Keeps its tapes. A tape does the step while it records: the first replay has nothing to do."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        tape, fresh = Tape(), True
        with tape:
            work()
        self.tapes.append(tape)

        def replay() -> None:
            nonlocal fresh
            if not fresh:
                with torch.no_grad():
                    tape.replay()
            fresh = False

        return replay


def trained(
    path: Path, record: object, device: str = "cpu", recipe: Recipe = RECIPE
) -> tuple[list[MetricsRow], dict[str, torch.Tensor]]:
    """The rows of a run of 102 steps, and its last weights and velocities."""
    given = ((images.to(device), labels.to(device)) for images, labels in batches())
    told: list[MetricsRow] = []
    with RunDirectory(path) as run:
        made = trainer(recipe, run, given, device, log_steps=2, watch=Watch(row=told.append), record=record)
        made.train()
    rows = [{key: row.get(key) for key in ("kind", "step", "loss", "top1_err", "lr")} for row in told]
    step = made.step
    state = step.network.state() | {f"v {key}": x for key, x in step.optimiser.state().items()}
    return rows, state


def test_a_replayed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    recorder = Recorder()
    (rows, state), (same, replayed) = trained(tmp_path / "a", None), trained(tmp_path / "b", recorder)
    assert rows == same
    assert all(torch.equal(tensor, replayed[key]) for key, tensor in state.items())
    assert rows[-1]["step"] == EPOCHS * 3 and IMAGES % 4
    constants = [
        (schedule.learning_rates(RECIPE, epoch), schedule.divisor(RECIPE, epoch))
        for epoch in range(2, EPOCHS)
    ]
    changes = sum(now != then for now, then in pairwise(constants))
    assert len(recorder.tapes) == 1 + changes > 4  # the first after the first steps


def test_keys_in_tensors_make_the_same_masks() -> None:
    network = AlexNet(get_recipe("original", width=1 / 16, classes=2), ["cpu"], seed=3)
    for step in (0, 1, 10**6):
        keys = [torch.tensor(0).fill_(key) for key in network.keys(step)]
        for (ours,), (theirs,) in zip(network.masks_of(keys, 0, 9), network.masks(step, 0, 9), strict=True):
            assert torch.equal(ours, theirs)


def test_the_first_steps_are_not_recorded(tmp_path: Path) -> None:
    recorder, steps = Recorder(), iter(range(WARM - 1))

    def few() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for (images, labels), _ in zip(batches(), steps, strict=False):
            yield images, labels

    with RunDirectory(tmp_path) as run, pytest.raises(StopIteration):
        trainer(RECIPE, run, few(), record=recorder).train()
    assert not recorder.tapes


@pytest.mark.gpu
def test_gpu_a_graph_is_as_near_to_steps_as_steps_are_to_themselves(tmp_path: Path) -> None:
    """To the bit where torch's kernels repeat themselves; else within a tenth of a percent of the loss."""
    torch.backends.cudnn.deterministic = True
    recipe, records = replace(RECIPE, width=1 / 4), {"steps": None, "again": None, "graph": cuda_graph}
    runs = {name: trained(tmp_path / name, record, "cuda:0", recipe) for name, record in records.items()}
    losses = {name: torch.tensor([row["loss"] for row in rows]) for name, (rows, _) in runs.items()}
    if torch.equal(losses["steps"], losses["again"]):
        assert torch.equal(losses["steps"], losses["graph"])
        assert all(torch.equal(x, runs["graph"][1][key]) for key, x in runs["steps"][1].items())
    torch.testing.assert_close(losses["graph"], losses["steps"], rtol=1e-3, atol=0)
