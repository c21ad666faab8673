"""Opening a prepared dataset: what it says, and every way in which it can be spoilt."""

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.dataset import find_faults, open_dataset, read_description, read_index, read_names
from pipeline.errors import DataError
from pipeline.prep.prepare import prepare
from pipeline.source.find import find_source
from pipeline.statistics import Statistics


@pytest.fixture(scope="module")
def original(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read it only."""
    root = tmp_path_factory.mktemp("original")
    prepare(find_source(folders), root, workers=2, max_rejected=0.2)
    return root


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A copy, at another place, to be spoilt."""
    return shutil.copytree(original, tmp_path / "a moved dataset")


def edit(root: Path, change: Callable[[Any], object]) -> None:
    content = json.loads((root / "dataset.json").read_text())
    change(content)
    (root / "dataset.json").write_text(json.dumps(content))


def test_open(original: Path, root: Path) -> None:
    dataset = open_dataset(str(root))
    assert dataset.root == root
    assert [category.index for category in dataset.classes] == [0, 1, 2]
    assert [dataset.samples(split) for split in dataset.splits] == [28, 9, 5]
    assert dataset.fingerprint == open_dataset(original).fingerprint
    edit(root, lambda content: content["made"].update(source="elsewhere"))
    assert open_dataset(root).fingerprint == dataset.fingerprint
    edit(root, lambda content: content["splits"]["val"][0].update(sha256="0" * 64))
    assert open_dataset(root).fingerprint != dataset.fingerprint


def test_index_is_mapped(root: Path) -> None:
    index = read_index(open_dataset(root), "train")
    assert isinstance(index, np.memmap)
    assert index.dtype.names == ("shard", "offset", "size", "label")
    assert not index.flags.writeable


def shard(content: Any) -> Any:
    return content["splits"]["train"][0]


SPOILS = {
    "of a later version": (
        lambda content: content.update(format=99),
        "format 99, this version reads format 2",
    ),
    "of no version": (lambda content: content.pop("format"), "format None"),
    "without splits": (lambda content: content.pop("splits"), "required field `splits`"),
    "without classes": (lambda content: content.update(classes=[]), "classes: expected index 0, 1, 2"),
    "another index": (lambda content: content["classes"][1].update(index=5), "classes: expected index 0, 1"),
    "another size": (lambda content: content.update(size="1025"), "matching regex .* at `size`"),
    "another store": (lambda content: content.update(store="zip"), "invalid enum value 'zip' at `store`"),
    "a path outside": (
        lambda content: shard(content).update(name="../../etc/passwd"),
        r"splits.train\[0\].name: expected train/000000.tar",
    ),
    "negative size": (
        lambda content: shard(content).update(bytes=-1),
        r"expected `int` >= 1 at `splits.*\[0\].bytes`",
    ),
    "text for a number": (
        lambda content: shard(content).update(samples="9"),
        r"expected `int`, got `str` at `splits.*\[0\].samples`",
    ),
    "no checksum": (
        lambda content: shard(content).update(sha256="x"),
        "expected `str` matching regex .*sha256",
    ),
    "no file's checksum": (lambda content: content["files"].pop("statistics.npz"), "files: .*statistics.npz"),
    "a file outside": (lambda content: content["files"].update({"../x": "0" * 64}), "files: .*../x"),
    "unknown split": (
        lambda content: content["splits"].update(other=[]),
        "expected `str` matching .* in `.*splits",
    ),
    "no seed": (lambda content: content["made"].pop("seed"), "required field `seed`"),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_bad_description(spoil: str, root: Path) -> None:
    change, message = SPOILS[spoil]
    edit(root, change)
    with pytest.raises(DataError, match=message) as error:
        open_dataset(root)
    assert str(root / "dataset.json") in str(error.value)
    assert "alexnet-dali prep" in str(error.value)


def test_no_dataset(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no prepared dataset in .*nowhere; make it: alexnet-dali prep"):
        open_dataset(tmp_path / "empty/nowhere")
    with pytest.raises(
        DataError, match=f"in .*{root.name}s; {root.parent} has {root.name}: choose one, or make it"
    ):
        open_dataset(root.with_name(root.name + "s"))
    (tmp_path / "half/.work").mkdir(parents=True)
    with pytest.raises(DataError, match="partly prepared; finish it"):
        open_dataset(tmp_path / "half")
    (root / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        open_dataset(root)
    (root / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not valid JSON"):
        open_dataset(root)
    (root / "dataset.json").write_text("[]")
    with pytest.raises(DataError, match="expected `object`, got `array`"):
        open_dataset(root)


def test_bad_shards(root: Path) -> None:
    dataset = open_dataset(root)
    path = root / "val/000000.tar"
    whole = path.read_bytes()
    assert find_faults(dataset, checksums=True) == {}
    path.write_bytes(whole[:5000] + b"?" + whole[5001:])
    open_dataset(root)
    assert find_faults(dataset) == {}
    assert find_faults(dataset, checksums=True) == {"val/000000.tar": "was altered: its checksum differs"}
    os.truncate(path, 7000)
    message = rf"val/000000.tar ends at byte 7000 instead of {len(whole)}: repair it with alexnet-dali prep"
    with pytest.raises(DataError, match=message):
        open_dataset(root)
    path.unlink()
    with pytest.raises(DataError, match=r"val/000000.tar is missing"):
        open_dataset(root)


def test_bad_index(root: Path) -> None:
    dataset = open_dataset(root)
    path = root / "train/samples.npy"
    rows = np.load(path)

    def check(message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_index(dataset, "train")

    for field, value in (("shard", 9), ("offset", 2**40), ("size", 2**31), ("label", 3), ("label", -2)):
        changed = rows.copy()
        changed[field][4] = value
        np.save(path, changed)
        check("does not fit dataset.json")
    np.save(path, rows[:-1])
    check("does not fit dataset.json")
    np.save(path, rows["label"])
    check("does not fit dataset.json")
    np.save(path, rows)
    path.write_bytes(path.read_bytes().replace(b"')]", b"'])"))
    check("samples.npy does not fit dataset.json: .*header")
    os.truncate(path, 40)
    check("samples.npy does not fit dataset.json")
    path.unlink()
    check("cannot read")
    (root / "train/names.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"names.txt does not fit"):
        read_names(dataset, "train")


@pytest.mark.parametrize(
    "name", ["train/samples.npy", "val/names.txt", "statistics.npz", "val/000000.idx", "test/000000.idx"]
)
def test_what_was_altered_is_noticed_when_a_dataset_is_opened(name: str, root: Path) -> None:
    whole = (root / name).read_bytes()
    (root / name).write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))  # one bit, in the same place and length
    with pytest.raises(DataError, match=rf"{name} was altered: .*: repair it with alexnet-dali prep"):
        open_dataset(root)
    (root / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing: repair it with alexnet-dali prep"):
        open_dataset(root)


def test_a_dataset_without_checksums_of_its_indexes(original: Path, root: Path) -> None:
    """As those made until then: opened as ever, and the same dataset."""
    edit(root, lambda content: [content["files"].pop(name) for name in [*content["files"]] if ".idx" in name])
    assert len(open_dataset(original).files) == len(open_dataset(root).files) + 3
    assert open_dataset(root).fingerprint == open_dataset(original).fingerprint


def test_names_hold_any_byte_but_a_line_end(root: Path) -> None:
    names = [b"a\rb", b"\x85\xff", "\u2028".encode(), *(b"%d" % number for number in range(6))]
    (root / "val/names.txt").write_bytes(b"".join(name + b"\n" for name in names))
    assert [os.fsencode(name) for name in read_names(read_description(root), "val")] == names


def test_statistics_must_agree(root: Path) -> None:
    path = root / "statistics.npz"
    whole = dict(np.load(path))
    for name, value in (("covariance", whole["covariance"] + 1), ("mean", whole["mean"] * np.nan),
                        ("mean", whole["mean"][:5]), ("deviations", whole["deviations"].astype("f4")),
                        ("eigenvectors", whole["eigenvectors"][::-1])):  # fmt: skip
        np.savez(path, **(whole | {name: value}))
        with pytest.raises(DataError, match=r"cannot read .*statistics.npz"):
            Statistics.load(path)
    path.write_bytes(b"\x93NUMPY" + bytes(200))  # no archive, whatever it is called
    with pytest.raises(DataError, match=r"cannot read .*statistics.npz .*zip"):
        Statistics.load(path)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_bad_statistics(keep: int, root: Path) -> None:
    os.truncate(root / "statistics.npz", keep)
    with pytest.raises(DataError, match=r"cannot read .*statistics.npz .*repair it with alexnet-dali prep"):
        Statistics.load(root / "statistics.npz")


def test_opening_imagenet_is_quick(root: Path) -> None:
    """A description of ImageNet's size, its shards all the same file."""
    edit(
        root,
        lambda content: content["splits"].update(
            train=[shard(content) | {"name": f"train/{number:06d}.tar"} for number in range(1252)]
        ),
    )
    for number in range(1, 1252):
        (root / f"train/{number:06d}.tar").hardlink_to(root / "train/000000.tar")
    started = time.perf_counter()
    open_dataset(root)
    assert time.perf_counter() - started < 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_description(data: st.DataObject, original: Path, tmp_path: Path) -> None:
    """Any value anywhere in dataset.json: a DataError or a dataset that can be opened and hashed."""
    content = json.loads((original / "dataset.json").read_text())
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        place = inner
    place[key] = data.draw(JSON)
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with suppress(DataError):
        dataset = read_description(tmp_path)
        assert len(dataset.fingerprint) == 64
        find_faults(dataset)
