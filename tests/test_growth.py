"""tools.growth: what stands for many images is made of the few."""

from pathlib import Path

import numpy as np
import pytest
from shards import look

from pipeline.dataset import Dataset, open_dataset, read_names
from pipeline.samples import Samples
from tools import growth
from tools.growth import (
    SHARDS,
    first_batch,
    opening,
    repeat_files,
    repeat_in_shards,
    repeat_shards,
    steady,
    timed,
)


def test_a_dataset_of_many_images(dataset: Dataset, tmp_path: Path) -> None:
    repeat_shards(dataset, tmp_path / "many", 100)
    many = open_dataset(tmp_path / "many")
    ours, theirs = Samples(many, "train"), Samples(dataset, "train")
    assert len(ours) == 4 * 28 and len(many.splits["train"]) == 4
    for number in (0, 31, 111):
        assert np.array_equal(ours.square(number), theirs.square(number % 28))
        assert ours.index["label"][number] == theirs.index["label"][number % 28]
    assert read_names(many, "train") == read_names(dataset, "train") * 4
    for work in (opening, first_batch):
        seconds, held = timed(work, tmp_path / "many")
        assert 0 < seconds < 60 and held > 10e6


def test_a_root_of_many_files(folders: Path, tmp_path: Path) -> None:
    repeat_files(folders, tmp_path / "root", 60)
    for split in ("train", "val"):
        files = list((tmp_path / "root" / split).rglob("*.*"))
        assert len(files) == 60
        assert {path.parent.name for path in files} == {path.name for path in (folders / split).iterdir()}


@pytest.mark.parametrize("form", SHARDS)
def test_a_root_of_many_images_in_shards(
    form: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "DRAWN", 50)  # in a shard
    repeat_in_shards(folders, tmp_path / "root", 60, form)
    source = look(tmp_path / "root", tmp_path / "out")
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 60, "val": 60}
    assert len({sample.name for sample in source.splits["train"]}) == 60
    assert len(list((tmp_path / "root").glob("train*"))) == 2 and len(source.classes) == 3


def test_what_a_training_holds(dataset: Dataset, tmp_path: Path) -> None:
    held = steady(dataset.root, tmp_path / "run", (1, 3))
    assert list(held) == [1, 3]
    assert all(10e6 < own < 10e9 and files > 10e6 for own, files in held.values())
