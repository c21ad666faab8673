"""Checkpoints and the run directory: what was written is read, what was not is never taken for it."""

import copy
import json
import math
import random
import zipfile
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model import checkpoint
from model.checkpoint import Damaged
from model.errors import RunError
from model.recipes import get_recipe
from model.run import RunDirectory, read_about, read_metrics
from tools.soak import differing

RECIPE = get_recipe("relu4", width=0.05, classes=2)
SHAPES = {
    f"{shape.layer.name}.{kind}": size for shape in RECIPE.shapes() for kind, size in shape.tensors.items()
}
WEIGHTS = {name: torch.arange(math.prod(size)).float().view(size) for name, size in SHAPES.items()}
CONTENT = {
    "identity": {"recipe": RECIPE.to_dict(), "dataset": 16 * "0", "seed": 0},
    "step": 3,
    "history": [{"kind": "val", "step": 2, "epoch": 1, "loss": 1.5, "top1_err": 50.0, "top5_err": 0}],
    "sums": torch.zeros(1, 4, dtype=torch.float64),
    "weights": WEIGHTS,
    "velocities": {name: -values for name, values in WEIGHTS.items()},
}


def saved(folder: Path, step: int) -> None:
    checkpoint.save_last(folder, {**CONTENT, "step": step})


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    content = checkpoint.read(tmp_path / "last.pt")
    assert content["history"] == CONTENT["history"] and content["step"] == 3
    assert all(torch.equal(content["weights"][name], WEIGHTS[name]) for name in SHAPES)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_any_bit_and_any_length(tmp_path: Path) -> None:
    """What is damaged is refused, or is read as it was where a bit has no meaning; nothing else is raised."""
    saved(tmp_path, 3)
    path, draw = tmp_path / "last.pt", random.Random(0)
    whole = path.read_bytes()
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        if draw.random() < 0.3:
            del damaged[draw.randrange(len(whole)) :]
        else:
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            content = checkpoint.read(path)
        except RunError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert differing(content, {"format": 1, **CONTENT}) == []
    assert refused > 200


@pytest.mark.parametrize("text", [b"", b"no checkpoint", b"PK\x05\x06" + bytes(18)])
def test_other_files(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(text)
    with pytest.raises(Damaged, match=r"last.pt is damaged"):
        checkpoint.read(tmp_path / "last.pt")


def test_another_format_and_no_file(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(RunError, match=r"format 99, this version reads 1"):
        checkpoint.latest(tmp_path, print)
    with pytest.raises(RunError, match=r"no checkpoint .*none.pt; train first"):
        checkpoint.read(tmp_path / "none.pt")


def test_the_newest_that_is_whole(tmp_path: Path) -> None:
    said: list[str] = []

    def latest() -> int | None:
        found = checkpoint.latest(tmp_path, said.append)
        return found["step"] if found else None

    assert latest() is None
    for step in (1, 2):
        saved(tmp_path, step)
    assert latest() == 2 and not said
    checkpoint.save(tmp_path / "new.pt", {**CONTENT, "step": 3})  # a process died before the renames
    assert latest() == 3
    (tmp_path / "last.pt").unlink()  # or between them
    assert latest() == 3 and not said
    saved(tmp_path, 4)
    (tmp_path / "last.pt").write_bytes(b"")
    (tmp_path / "previous.pt").write_bytes(b"")
    with pytest.raises(RunError, match=r"last.pt is damaged: .*; .*previous.pt is damaged: .*--run"):
        latest()
    saved(tmp_path, 5)
    assert latest() == 5


def test_differences_are_named() -> None:
    a = {"recipe": {"name": "original", "batch_size": 1, "rate": 2.0}, "seed": 0}
    b = {"recipe": {"name": "paper", "batch_size": 2, "rate": 2.0}, "seed": 0, "processes": 1}
    assert list(checkpoint.differences(a, a)) == []
    assert [text for _, text in checkpoint.differences(a, b)] == [
        "processes None, not 1",
        "recipe original, not paper",
        "batch size 1, not 2",
    ]


def test_differences_of_layers_and_schedules_are_named() -> None:
    first, phase = RECIPE.to_dict(), {"epochs": 1, "factor": 1.0, "noise": True, "frozen": []}
    layers = [{**layer, "std": 0.5} if layer["name"] == "fc4" else layer for layer in first["layers"]]
    for change, text in (
        ({"layers": layers}, "fc4 std 0.01, not 0.5"),
        ({"layers": layers[1:]}, "different layers"),
        ({"schedule": [phase]}, "different schedule"),
        ({"lrn": {**first["lrn"], "k": 3}}, "lrn k 2.0, not 3"),
    ):
        found = checkpoint.differences({"recipe": first}, {"recipe": first | change})
        assert [what for _, what in found] == [text]


DATA = {"path": "data", "fingerprint": 64 * "0"}


def row(kind: str, step: int, epoch: float) -> dict[str, object]:
    more = {"img_s": 1.0} if kind == "train" else {}
    return {
        "kind": kind,
        "step": step,
        "epoch": epoch,
        "loss": step / 10,
        "top1_err": 1,
        "top5_err": 0,
    } | more


def test_rows_of_a_lost_stretch_are_taken_back(tmp_path: Path) -> None:
    description = {"data": DATA, "starts": {"command": "alexnet-dali train"}}
    rows = [row("train", 5, 0.5), row("train", 10, 1.0), row("val", 10, 1), row("train", 15, 1.5)]
    with RunDirectory(tmp_path) as run:
        run.open(0, 0, description)
        for each in rows:
            run.add(each)
        run.sync()
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"kind": "tra')  # cut short by a kill
    with RunDirectory(tmp_path) as run:
        run.open(10, 0, description)  # saved before the validation
        assert read_metrics(metrics) == rows[:2]
        for each in rows[2:]:
            run.add(each)
    assert read_metrics(metrics) == rows
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 2
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (5, 0.5), (10, 1.0), (15, 1.5)
    ]  # fmt: skip


GOOD = json.dumps(row("train", 1, 0.5))


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "3",
        "[" * 100_000,
        '{"step": 1}',
        GOOD.replace("0.1", "NaN"),
        GOOD.replace("train", "test"),
        GOOD.replace('"step": 1', '"step": "1"'),
        GOOD.replace('"step": 1', '"step": -1'),
        GOOD.replace('"top1_err": 1', '"top1_err": 101'),
        GOOD.replace("train", "tr\udca0in"),
    ],
)
def test_a_damaged_row_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{GOOD}\n{line}\n{GOOD}\n", errors="surrogateescape")
    with (
        RunDirectory(tmp_path) as run,
        pytest.raises(RunError, match=r"metrics.jsonl, line 2 is damaged: .*; remove that line"),
    ):
        run.open(5, 0, {"starts": {}})


@pytest.mark.parametrize(
    "change",
    [
        "[]",
        "[" * 100_000,
        {"starts": []},
        {"starts": [1]},
        {"starts": [{}]},
        {"data": 7},
        {"data": {"path": "data", "fingerprint": "?"}},
        {"recipe": RECIPE.to_dict() | {"width": 1e307}},
    ],
)
def test_a_damaged_run_json_says_what_still_works(tmp_path: Path, change: str | dict[str, object]) -> None:
    whole = {"data": DATA, "starts": [{"command": "x"}], "recipe": RECIPE.to_dict()}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(whole))
    assert read_about(path) == whole
    path.write_text(change if isinstance(change, str) else json.dumps(whole | change))
    with (
        RunDirectory(tmp_path) as run,
        pytest.raises(RunError, match=r"run.json is damaged: .*; move it away: "),
    ):
        run.open(5, 0, {"starts": {}})


def spoilt(*keys: str, value: object = None) -> dict[str, object]:
    """A checkpoint's content with another value at a place, or without that place."""
    content = copy.deepcopy({"format": 1, **CONTENT})
    place: dict[str, object] = content
    for key in keys[:-1]:
        place = place[key]  # type: ignore[assignment]
    place.pop(keys[-1], None)
    if value is not None:
        place[keys[-1]] = value
    return content


LAST = "fc4.bias"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 1}, "missing required field"),
        ([1], "it holds no format"),
        ({"features.0.weight": torch.zeros(2)}, "not written by alexnet-dali train: .*features.0.weight"),
        (spoilt("identity", value="x"), "expected `object`, got `str` at `identity`"),
        (spoilt("identity", "recipe"), "required field `recipe`"),
        (
            spoilt("identity", "recipe", "width", value=1e307),
            "not one of this version: .*width",
        ),
        (spoilt("step", value=-1), "expected `int` >= 0 at `step`"),
        (spoilt("step", value=True), "at `step`"),
        (spoilt("history", value=[{"loss": 1.5}]), "at `history"),
        (spoilt("sums", value=torch.zeros(5)), "sums"),
        (spoilt("more", value=1), "unknown field `more`"),
        (spoilt("weights", value=dict.fromkeys(SHAPES, 3)), "expected `Tensor`, got `int`"),
        (spoilt("weights", LAST), "has no fc4.bias"),
        (
            spoilt("weights", "fc9.bias", value=torch.zeros(2)),
            "has fc9.bias, which the recipe",
        ),
        (spoilt("weights", LAST, value=torch.zeros(3)), r"fc4.bias is \(3,\), the recipe's is \(2,\)"),
        (spoilt("weights", LAST, value=torch.zeros(2).half()), "a tensor of torch.float16"),
        (spoilt("weights", LAST, value=torch.zeros(1).expand(10**15)), "or one with gaps"),
        (spoilt("weights", LAST, value=torch.zeros(2).to_sparse()), "or one with gaps"),
        (
            spoilt("weights", LAST, value=torch.tensor([0, math.nan])),
            "infinite numbers in weights fc4.bias",
        ),
        (spoilt("velocities", LAST, value=torch.tensor([0, math.inf])), "in velocities fc4.bias"),
    ],
)
def test_what_is_in_a_checkpoint_is_checked(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(Damaged, match=rf"last.pt is damaged: .*{message}") as error:
        checkpoint.read(tmp_path / "last.pt")
    assert "\n" not in str(error.value)


def test_a_checkpoint_takes_no_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    """Packed members, and tensors that claim more than the file holds."""
    path = tmp_path / "last.pt"
    torch.save({"format": 1, **CONTENT}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(Damaged, match="it claims to hold more than its size"):
        checkpoint.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data[:4] if "/data/" in name else data)
    with pytest.raises(Damaged):
        checkpoint.read(path)


def test_one_training_at_a_time(tmp_path: Path) -> None:
    with RunDirectory(tmp_path), pytest.raises(RunError, match=r"another training is using"):
        RunDirectory(tmp_path)
    with RunDirectory(tmp_path):
        pass


def test_a_run_from_before_a_setting_existed_is_the_same_run(tmp_path: Path) -> None:
    older = {key: value for key, value in get_recipe("original").to_dict().items() if key != "mirror"}
    before = {"recipe": older, "seed": 0}
    now = {"recipe": get_recipe("original").to_dict(), "seed": 0}
    checkpoint.refuse_changes(tmp_path, before, now, False, warn=pytest.fail)
    with pytest.raises(RunError, match="mirror True, not False"):
        other = get_recipe("original", mirror=False).to_dict()
        checkpoint.refuse_changes(tmp_path, before, {"recipe": other, "seed": 0}, False, warn=pytest.fail)
