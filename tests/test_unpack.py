"""The Hugging Face hub's archives and parquet files, unpacked first, give the dataset of class folders."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import SMALL
from shards import content, labelled, look, photo
from triggers import Trigger, die

from pipeline.dataset import Dataset, open_dataset, read_names
from pipeline.errors import DataError
from pipeline.prep.prepare import prepare
from pipeline.source.miniature import tar, write
from pipeline.source.miniature_shards import write_hub, write_parquet, write_table
from pipeline.source.names import ilsvrc_names
from tools.commands import Command

ILSVRC = sorted(ilsvrc_names())
WRITERS = {"hub": write_hub, "parquet": write_parquet}


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both forms that have no random access."""
    roots = {form: tmp_path_factory.mktemp(form) for form in WRITERS}
    for form, root in roots.items():
        WRITERS[form](root, **SMALL)
    return roots


@pytest.mark.parametrize("form", WRITERS)
def test_streams_give_the_bytes_of_class_folders(
    form: str, streams: dict[str, Path], dataset: Dataset, tmp_path: Path
) -> None:
    """Test images, too: all three splits have the names of ImageNet's own archives."""
    root, out = streams[form], tmp_path / "out"
    source = look(root, out)
    made = prepare(source, out, workers=2, max_rejected=0.5)
    assert made.fingerprint == dataset.fingerprint and read_names(made, "test") == read_names(dataset, "test")
    assert content(made) == content(dataset)
    assert not (out / ".work").exists()
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(Path(row["file"]).is_relative_to(root / "data") for row in rows)


def test_what_the_hubs_archives_are_called(streams: dict[str, Path], tmp_path: Path) -> None:
    source = look(streams["hub"], tmp_path / "out")
    assert source.kind == (
        f"the Hugging Face hub's archives in {streams['hub'] / 'data'}: train_images_*.tar.gz (2 files), "
        "val_images.tar.gz (1 file) labelled by wnid, test_images.tar.gz (1 file)"
    )


def test_killed_while_it_unpacks_and_later(
    streams: dict[str, Path], dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("prep", "--imagenet-root", streams["hub"], "--out", out, "--workers", 1, "--max-rejected", 0.5)
    # A worker is given two tasks at first, and one more for each that is done.
    kills = {"unpacking": 3, "making shards": 4 + 1 + 1}
    for moment, nth in kills.items():
        command = Command(*words, folder=tmp_path, before=Trigger("pipeline.workers:_give", nth, die))
        assert command.wait() == -9, f"{moment}: {command.text}"
        assert list((out / ".work").glob("unpacked-*.tar")) and not (out / "dataset.json").exists(), moment
    kept = {path: path.stat().st_ino for path in (out / ".work").glob("unpacked-*.tar")}
    assert len(kept) == 4
    command = Command(*words, folder=tmp_path)
    assert command.wait() == 0, command.text
    assert command.text.count("Unpacking 4 files into") == 1
    assert open_dataset(out).fingerprint == dataset.fingerprint and not (out / ".work").exists()


def test_a_dataset_from_archives_is_repaired_from_them(streams: dict[str, Path], tmp_path: Path) -> None:
    out, root = tmp_path / "out", streams["parquet"]
    made = prepare(look(root, out), out, workers=1, max_rejected=0.5)
    shard = out / made.splits["val"][0].name
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    prepare(look(root, out), out, workers=1)
    assert shard.read_bytes() == whole and not (out / ".work").exists()


def test_archives_in_place_of_a_dataset(streams: dict[str, Path]) -> None:
    for root in streams.values():
        with pytest.raises(DataError, match=r"holds images, not a prepared dataset; .* --out \S+$"):
            open_dataset(root)  # no --val-fraction: data/ has val


def test_what_is_wrong_with_val_is_told_before_anything_is_unpacked(
    streams: dict[str, Path], tmp_path: Path
) -> None:
    root = shutil.copytree(streams["hub"], tmp_path / "root")
    with pytest.raises(DataError, match=r"val_images\.tar\.gz is of the val split: leave --val-fraction out"):
        look(root, tmp_path / "out", 0.5)
    (root / "data/val_images.tar.gz").unlink()
    with pytest.raises(DataError, match="data has train but no val: add it, or give --val-fraction"):
        look(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(look(root, tmp_path / "out", 0.5).splits["val"]) == 16


def test_an_archive_that_changed_is_unpacked_again(streams: dict[str, Path], tmp_path: Path) -> None:
    root, out = shutil.copytree(streams["hub"], tmp_path / "root"), tmp_path / "out"
    before = look(root, out)
    write(root / "data/test_images.tar.gz", gzip.compress(tar([("a.JPEG", photo(0)), ("b.JPEG", photo(1))])))
    after = look(root, out)
    assert (len(before.splits["test"]), len(after.splits["test"])) == (5, 2)
    assert len(list((out / ".work").glob("unpacked-*"))) == 4  # the older one is gone


@pytest.mark.parametrize("form", WRITERS)
def test_a_damaged_archive_is_named(form: str, streams: dict[str, Path], tmp_path: Path) -> None:
    root = shutil.copytree(streams[form], tmp_path / "root")
    path = sorted((root / "data").glob("train*"))[1]
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[: len(whole) // 2], b"", whole[:-4] + b"\0\0\0\0"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{path.name} is damaged .*download it again"):
            look(root, tmp_path / "out")
        assert len(list((tmp_path / "out/.work").glob("unpacked-*"))) < 4
    path.write_bytes(whole)
    assert look(root, tmp_path / "out").count == 45


def test_an_archive_that_holds_half_a_tar(streams: dict[str, Path], tmp_path: Path) -> None:
    root = shutil.copytree(streams["hub"], tmp_path / "root")
    path = root / "data/train_images_1.tar.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-30_000]))
    with pytest.raises(DataError, match=r"train_images_1\.tar\.gz is (cut off or )?damaged .* byte"):
        look(root, tmp_path / "out")


def test_a_full_disk_is_told_before_anything_is_unpacked(
    streams: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    # noise is larger when it is gzipped
    for data, size in ((np.random.default_rng(0).bytes(300_000), "0.00"), (bytes(50_000_000), "0.05")):
        write(tmp_path / "root/train_images_0.tar.gz", gzip.compress(data, 1))
        with pytest.raises(DataError, match=f"needs {size} GB in .*work .* 0.00 GB are free: make room"):
            look(tmp_path / "root", tmp_path / "out", 0.5)
    for form, root in streams.items():
        with pytest.raises(DataError, match=r"needs 0\.00 GB in .*\.work .* 0\.00 GB are free: make room"):
            look(root, tmp_path / form)
        assert not list((tmp_path / form / ".work").glob("unpacked-*"))


def test_parquet_without_pyarrow(
    streams: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"\.parquet needs pyarrow: pip install 'alexnet-dali\[parquet\]'"):
        look(streams["parquet"], tmp_path / "out")


def numbered(root: Path, count: int, names: Sequence[str], paths: str = "") -> Path:
    """A parquet file with an image of each of so many classes."""
    files = [(paths and paths.format(number), number, photo(number)) for number in range(count)]
    write_table(root / "train-00000-of-00003.parquet", files, names)
    return root


def test_class_names_of_a_schema_keep_its_order(tmp_path: Path) -> None:
    root = numbered(tmp_path / "root", 3, ["owl", "cat", "dog"])
    write_table(root / "validation.parquet", [("", 2, photo(1))], ["owl", "cat", "dog"])
    source = look(root, tmp_path / "out")
    assert [(each.wnid, each.words) for each in source.classes] == [(n, n) for n in ("owl", "cat", "dog")]
    assert "train-00000-of-00003.parquet (1 of 3 files, named and numbered)" in source.kind
    assert source.named == "3 from the metadata of parquet files (--names FILE gives others)"
    assert labelled(source)["train-00000-of-00003-00000001.jpg"] == "cat"
    write_table(root / "validation.parquet", [("", 2, photo(1))], ["owl", "dog", "cat"])
    with pytest.raises(DataError, match=r"validation\.parquet names the class 1 dog, but another file cat"):
        look(root, tmp_path / "out")


def test_classes_of_a_schema_with_ilsvrcs_names_get_its_wnids(tmp_path: Path) -> None:
    """Whose order is that of the wnids: 1,000 names prove it, whichever of the classes there are."""
    words = [ilsvrc_names()[wnid].split(",")[0].upper() for wnid in ILSVRC]
    root = numbered(tmp_path / "root", 8, words)
    write_table(root / "validation.parquet", [("", 5, photo(1))], words)
    source = look(root, tmp_path / "out")
    assert [each.wnid for each in source.classes] == ILSVRC[:8]
    assert [each.words for each in source.classes] == [ilsvrc_names()[wnid] for wnid in ILSVRC[:8]]
    assert "whose names are ILSVRC's in the order of the wnids" in source.kind
    wnids = [*ILSVRC[8:], *ILSVRC[:8]]
    for name in ("train-00000-of-00003.parquet", "validation.parquet"):
        write_table(root / name, [("", 993, photo(1)), ("", 0, photo(2))], wnids)
    source = look(root, tmp_path / "out")
    assert [each.wnid for each in source.classes] == [ILSVRC[1], ILSVRC[8]]


def test_the_paths_of_parquet_rows_may_be_anything(tmp_path: Path) -> None:
    """Repeated, absolute, hidden, with several dots, too long, none at all; bytes may be none."""
    paths = ["a.jpg", "a.jpg", "/etc/../x/b.c.jpg", ".hidden", "é\n" + 300 * "x" + ".jpg", "", None]
    files: Any = [(path, number % 2, photo(number)) for number, path in enumerate(paths)]
    files.append(("empty.jpg", 0, None))
    write_table(tmp_path / "root/train.parquet", files, ["no", "yes"])
    source = look(tmp_path / "root", tmp_path / "out", 0.3)
    names = [each.name for split in source.splits.values() for each in split]
    nameless = [f"train-0000000{number}.jpg" for number in (3, 5, 6)]
    long = (r"é\n" + 300 * "x" + ".jpg")[-200:]
    assert sorted(names) == sorted(["a.jpg", "a.jpg", "b.c.jpg", "empty.jpg", *nameless, long])
    made = prepare(source, tmp_path / "out", workers=1, max_rejected=1)
    assert made.made["rejected"] == 1


PEAK = """
import resource, sys
from pathlib import Path
from pipeline.source.parquet import read_rows
rows = read_rows(Path(sys.argv[1]))
seen = len(next(rows).image)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seen += sum(len(row.image) for row in rows)
print(seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    """One of 200 MB, in pages of 1 MB, takes a tenth of that."""
    import pyarrow
    import pyarrow.parquet

    data, count = np.random.default_rng(0).bytes(100_000), 2000
    image = pyarrow.StructArray.from_arrays(
        [pyarrow.array([data] * count), pyarrow.array(["a.jpg"] * count)], ["bytes", "path"]
    )
    table = pyarrow.table({"image": image, "label": pyarrow.array(range(count))})
    path = tmp_path / "big.parquet"
    options: dict[str, Any] = {"use_dictionary": False, "compression": "none", "write_batch_size": 8}
    pyarrow.parquet.write_table(table, path, row_group_size=count, **options)
    assert pyarrow.parquet.ParquetFile(path).metadata.num_row_groups == 1
    command = [sys.executable, "-c", PEAK, str(path)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    seen, kilobytes = map(int, done.stdout.split())
    assert seen == count * 100_000 and kilobytes * 1024 < 20_000_000
