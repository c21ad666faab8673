"""Every file of ours, edited by hand or damaged: one line that names it, or what was read before."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_checkpoint import CONTENT, DATA, GOOD, RECIPE, WEIGHTS

from cli.commands import similar
from cli.compose import predictions
from cli.paper import baseline_stages, cost
from model import checkpoint, run
from model.errors import RunError
from model.exchange import weights
from model.recipe import Recipe
from pipeline.dataset import INDEX, Dataset
from pipeline.errors import DataError
from pipeline.prep.plan import begin
from pipeline.prep.shard import Record
from pipeline.schema import Unfit, parse
from pipeline.statistics import Statistics, Sums

SHA = 64 * "0"
MADE = {
    "size": "256",
    "store": "jpeg",
    "seed": 0,
    "images": SHA,
    "pillow": "1",
    "simplejpeg": "1",
    "exif": "honour",
}
FACTS = {"run": "r", "checkpoint": "last", "step": 3, "layer": "fc7", "data": "d", "fingerprint": SHA}
TEXTS: dict[str, tuple[Any, Callable[[Path], object]]] = {
    "run.json": ({"data": DATA, "starts": [{"command": "x", "seed": 0}], "recipe": RECIPE.to_dict()},
                 run.read_about),
    "metrics.jsonl": (json.loads(GOOD), run.read_metrics),
    "plan.json": (MADE, lambda path: begin(path.parent, MADE)),
    "features.json": ({**FACTS, "split": "val", "precision": "float32"}, similar.read_facts),
    "bench.json": ({"width": 1, "batch_size": 128, "parts": {name: {"img_s": 9.5} for name in (
                    "train", "eval, centre", "eval, ten views")}},
                   lambda path: cost.read_speeds(path, Recipe())),
}  # fmt: skip


def read_features(path: Path) -> np.ndarray:
    return np.array(similar.read_table(path, 20, 8))


BINARY: dict[str, Callable[[Path], Any]] = {
    "statistics.npz": lambda path: vars(Statistics.load(path)),
    "record.npz": lambda path: vars(Record.load(path, 256)) | {"sums": 0},
    "predictions.npz": lambda path: vars(predictions.read(path)),
    "codebook.npz": lambda path: baseline_stages.read_codebook("sparse-coding", path),
    "last.pt": checkpoint.read,
    "classifier.pt": lambda path: checkpoint.read_content(path, baseline_stages.Classifier),
    "features.npy": read_features,
    "net.safetensors": lambda path: vars(weights.read(path)),
}
UNCHECKED = ("features.npy", "net.safetensors")  # have no checksum: numbers that change are believed


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good file of each kind."""
    root, draw = tmp_path_factory.mktemp("whole"), np.random.default_rng(0)
    (root / "statistics.npz").write_bytes((dataset.root / "statistics.npz").read_bytes())
    sums = Sums(256)
    sums.add(draw.integers(0, 256, (256, 256, 3), np.uint8))
    rows = np.array([(0, 512, 100, 1), (0, 2048, 100, 0)], INDEX)
    Record(10240, SHA, rows, ["a", "b\udcff"], [{"name": "c"}], [], sums).save(root / "record.npz")
    found = predictions.Predictions(
        draw.random((6, 3), np.float32), np.arange(6) % 3, list("abcdef"), list("xyz")
    )
    predictions.write(root / "predictions.npz", found)
    np.savez(root / "codebook.npz", dictionary=draw.random((4, 128), np.float32))
    checkpoint.save(root / "last.pt", CONTENT)
    linear = {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}
    checkpoint.save(root / "classifier.pt", {"weights": linear, "epochs": 2, "step": 3, "epoch": 1})
    np.save(root / "features.npy", draw.random((20, 8), np.float32))
    about = {"classes": [], "step": 3, "dataset": SHA}
    content = weights.Weights(RECIPE, WEIGHTS, torch.zeros(256, 256, 3), about)
    weights.save(root / "net.safetensors", content, "safetensors")
    return root


def read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """What was read, or None where it was refused in one line that names the file."""
    try:
        return reader(path)
    except (DataError, RunError) as error:
        said = str(error)
        assert "\n" not in said and (path.name in said or "was started with" in said)
        return None


OTHER = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
LOST = object()
some = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def edited(content: Any, data: st.DataObject) -> Any:
    """A copy with any value at any place, or without that place."""
    if not isinstance(content, dict | list) or not content or data.draw(st.integers(0, 4)) == 0:
        return data.draw(OTHER | st.just(LOST))
    items = dict(content) if isinstance(content, dict) else dict(enumerate(content))
    key = data.draw(st.sampled_from(list(items)))
    items[key] = edited(items[key], data)
    kept = {key: value for key, value in items.items() if value is not LOST}
    return kept if isinstance(content, dict) else list(kept.values())


@pytest.mark.parametrize("name", TEXTS)
@some
@given(data=st.data())
def test_any_value_anywhere_in_a_text(name: str, data: st.DataObject, tmp_path: Path) -> None:
    content, reader = TEXTS[name]
    path, changed = tmp_path / name, edited(content, data)
    path.write_text(json.dumps(None if changed is LOST else changed) + "\n")
    read(path, reader)


@pytest.mark.parametrize("name", TEXTS)
@some
@given(data=st.data())
def test_any_byte_anywhere_in_a_text(name: str, data: st.DataObject, tmp_path: Path) -> None:
    content, reader = TEXTS[name]
    (tmp_path / name).write_bytes(spoilt(json.dumps(content).encode() + b"\n", data))
    read(tmp_path / name, reader)


@some
@given(data=st.data())
def test_any_value_anywhere_in_a_recipe_and_a_checkpoint(data: st.DataObject, tmp_path: Path) -> None:
    changed = edited({"format": 1, **CONTENT}, data)
    torch.save(None if changed is LOST else changed, tmp_path / "last.pt")
    if found := read(tmp_path / "last.pt", checkpoint.read):
        Recipe.from_dict(found["identity"]["recipe"])


def spoilt(whole: bytes, data: st.DataObject) -> bytes:
    """A bit flipped, a part left out or doubled, or the end cut off; near the ends more often than not."""
    edge = st.integers(0, min(400, len(whole) - 1))
    place = data.draw(edge | edge.map(lambda n: len(whole) - 1 - n) | st.integers(0, len(whole) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "drop", "double"])):
        case "flip":
            return (
                whole[:place] + bytes([whole[place] ^ 1 << data.draw(st.integers(0, 7))]) + whole[place + 1 :]
            )
        case "cut":
            return whole[:place]
        case "drop":
            return whole[:place] + whole[place + data.draw(st.integers(1, 99)) :]
    return whole[:place] + whole[max(0, place - data.draw(st.integers(1, 99))) :]


@pytest.mark.parametrize("name", BINARY)
@some
@given(data=st.data())
def test_any_byte_anywhere_in_an_array(name: str, data: st.DataObject, whole: Path, tmp_path: Path) -> None:
    good = (whole / name).read_bytes()
    (tmp_path / name).write_bytes(spoilt(good, data))
    found = read(tmp_path / name, BINARY[name])
    if found is not None and name not in UNCHECKED:
        assert same(found, BINARY[name](whole / name))


@pytest.mark.parametrize("name", [*TEXTS, *BINARY])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    reader = TEXTS[name][1] if name in TEXTS else BINARY[name]
    assert read(tmp_path / name, reader) is None


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one == other)


def test_a_key_that_no_text_has() -> None:
    with pytest.raises(Unfit, match="a name that is not valid Unicode"):
        parse(rb'{"\udc80": 1}', similar.Facts)
