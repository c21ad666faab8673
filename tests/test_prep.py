"""What prep writes, against Pillow, NumPy, hashlib, tarfile and DALI's own tools; and how it fails."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipeline.prep.plan
from pipeline.dataset import Dataset, open_dataset, read_index, read_names
from pipeline.errors import DataError
from pipeline.prep.prepare import prepare
from pipeline.prep.repair import Progress
from pipeline.source.find import Source, find_source
from pipeline.statistics import Statistics
from pipeline.workers import run_tasks

ALLOW = 0.2  # of the miniature 3 of 45 are damaged
DAMAGE = ["empty file", "no image format", "Premature end of JPEG file"]


@pytest.fixture(scope="module")
def source(archives: Path) -> Source:
    """The official archives."""
    return find_source(archives)


@pytest.fixture(scope="module")
def prepared(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Read it only."""
    return prepare(source, tmp_path_factory.mktemp("prepared"), workers=2, max_rejected=ALLOW)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def small_shards(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    monkeypatch.setattr(pipeline.prep.plan, "PER_SHARD", samples)
    monkeypatch.setattr(pipeline.prep.plan, "FEWEST_PER_SHARD", samples)


def by_hand(data: bytes) -> np.ndarray:
    """The 256x256 that prep should cut out, by Pillow alone, in two steps."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR, box=box))


def good(source: Source, split: str) -> dict[str, tuple[int, np.ndarray]]:
    """Name -> label and pixels of the images that prep should keep."""
    bad = {"n02084071_8.JPEG", "n02091990_8.JPEG", "n02099909_8.JPEG"}
    return {
        sample.name: (sample.label, by_hand(sample.read(10**9) or b""))
        for sample in source.splits[split]
        if sample.name not in bad
    }


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_samples(split: str, prepared: Dataset, source: Source) -> None:
    """The index finds, for each name, its label and its pixels, but for the JPEG coding."""
    expected = good(source, split)
    names = read_names(prepared, split)
    assert sorted(names) == sorted(expected)
    for name, row in zip(names, read_index(prepared, split), strict=True):
        shard = prepared.root / prepared.splits[split][row["shard"]].name
        data = shard.read_bytes()[row["offset"] : row["offset"] + row["size"]]
        image = Image.open(io.BytesIO(data))
        label, pixels = expected[name]
        assert row["label"] == label
        assert image.size == (256, 256)
        assert np.abs(np.asarray(image, float) - pixels).mean() < 3


def test_shards(prepared: Dataset) -> None:
    """Tars that depend on nothing but their content, with checksums that are those of the files."""
    for split, shards in prepared.splits.items():
        index = read_index(prepared, split)
        for number, shard in enumerate(shards):
            path = prepared.root / shard.name
            assert hashlib.sha256(path.read_bytes()).hexdigest() == shard.sha256
            rows = index[index["shard"] == number]
            assert len(rows) == shard.samples
            with tarfile.open(path) as tar:
                members = tar.getmembers()
                images = [member for member in members if member.name.endswith(".jpg")]
                labels = [tar.extractfile(m).read() for m in members if m.name.endswith(".cls")]  # type: ignore[union-attr]
            assert [(m.offset_data, m.size) for m in images] == [(row["offset"], row["size"]) for row in rows]
            assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in members} == {(0, 0, 0, 0o644, "")}
            assert labels == ([] if split == "test" else [b"%05d" % row["label"] for row in rows])


def test_dali_index(prepared: Dataset, tmp_path: Path) -> None:
    """DALI's own tool writes the same index."""
    tool = Path(sys.executable).with_name("wds2idx")
    for path in prepared.root.glob("*/*.tar"):
        subprocess.run([tool, path, tmp_path / "idx"], check=True, capture_output=True)
        assert path.with_suffix(".idx").read_text() == (tmp_path / "idx").read_text()


def test_dali_reads_the_shards(prepared: Dataset) -> None:
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def

    paths = [str(prepared.root / shard.name) for shard in prepared.splits["val"]]

    @pipeline_def(batch_size=prepared.samples("val"), num_threads=1, device_id=None)
    def graph() -> object:
        indices = [path.replace(".tar", ".idx") for path in paths]
        images, labels = fn.readers.webdataset(
            paths=paths, index_paths=indices, ext=["jpg", "cls"], missing_component_behavior="error"
        )
        return fn.decoders.image(images), labels

    images, labels = graph().run()
    found = [int(bytes(np.asarray(label)).decode()) for label in labels]
    assert found == read_index(prepared, "val")["label"].tolist()
    assert {np.asarray(image).shape for image in images} == {(256, 256, 3)}


def test_rejected(prepared: Dataset) -> None:
    lines = [json.loads(line) for line in (prepared.root / "rejected.jsonl").read_text().splitlines()]
    assert len(lines) == prepared.made["rejected"] == 3
    for line, reason in zip(sorted(lines, key=lambda line: line["reason"]), sorted(DAMAGE), strict=True):
        assert reason in line["reason"]
        assert line["split"] == "train"
        assert line["name"].endswith("_8.JPEG")


def test_order(source: Source, tmp_path: Path, prepared: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """train is shuffled as a whole by the seed, val and test keep the order of their names."""
    names = read_names(prepared, "train")
    assert names != sorted(names)
    for split in ("val", "test"):
        assert read_names(prepared, split) == sorted(read_names(prepared, split))
    small_shards(monkeypatch, 4)
    other = prepare(source, tmp_path / "other", seed=1, workers=1, max_rejected=ALLOW)
    again = read_names(other, "train")
    assert again != names
    assert sorted(again) == sorted(names)


def test_statistics(prepared: Dataset, source: Source) -> None:
    """Against float64 over the pixels as Pillow alone makes them, before JPEG."""
    pixels = np.stack([pixels for _, pixels in good(source, "train").values()]).astype(float)
    colours = pixels.reshape(-1, 3)
    found = Statistics.load(prepared.root / "statistics.npz")
    assert found.mean.dtype == np.float32
    np.testing.assert_array_equal(found.mean, pixels.mean(0).astype(np.float32))
    np.testing.assert_allclose(found.channel_mean, colours.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(colours.T, bias=True), rtol=1e-11)
    assert np.all(np.diff(found.eigenvalues) < 0)
    np.testing.assert_allclose(found.deviations**2, found.eigenvalues)
    vectors = found.eigenvectors
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(vectors @ np.diag(found.eigenvalues) @ vectors.T, found.covariance, rtol=1e-11)


@pytest.mark.parametrize("size", ["256", "original"])
def test_same_bytes_however_made(
    size: str, archives: Path, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker, three, and another layout of the same images."""
    small_shards(monkeypatch, 4)
    made = []
    for root, workers in ((archives, 1), (archives, 3), (flat, 2)):
        out = tmp_path / f"{root.name} {workers}"
        prepare(find_source(root), out, size=size, workers=workers, max_rejected=ALLOW)
        made.append(files(out))
    assert made[0] == made[1]
    differ = {name for name in made[0] if made[0][name] != made[2][name]}
    assert differ == {"dataset.json", "rejected.jsonl"}  # both name the source's files


def test_original(source: Source, tmp_path: Path, prepared: Dataset) -> None:
    """Usual JPEGs are the source's own bytes; the statistics are those of the 256x256 all the same."""
    dataset = prepare(source, tmp_path / "out", size="original", workers=2, max_rejected=ALLOW)
    originals = {sample.name: sample.read(10**9) for sample in source.splits["train"]}
    names = read_names(dataset, "train")
    assert names == read_names(prepared, "train")
    for name, row in zip(names, read_index(dataset, "train"), strict=True):
        shard = dataset.root / dataset.splits["train"][row["shard"]].name
        stored = shard.read_bytes()[row["offset"] : row["offset"] + row["size"]]
        mode, kind = (image := Image.open(io.BytesIO(originals[name]))).mode, image.format
        assert (stored == originals[name]) == (kind == "JPEG" and mode in ("RGB", "L"))
        assert Image.open(io.BytesIO(stored)).size == image.size
    statistics = [(root / "statistics.npz").read_bytes() for root in (dataset.root, prepared.root)]
    assert statistics[0] == statistics[1]


def test_original_of_what_dali_cannot_read(tmp_path: Path) -> None:
    """A GIF is stored as a JPEG of its size."""
    for number in range(2):
        path = tmp_path / f"root/n1/{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 50).save(path, "GIF")
    dataset = prepare(find_source(tmp_path / "root", 0.5), tmp_path / "out", size="original", workers=1)
    row = read_index(dataset, "val")[0]
    data = (tmp_path / "out/val/000000.tar").read_bytes()[row["offset"] : row["offset"] + row["size"]]
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (80, 60))


def test_too_many_rejected(source: Source, tmp_path: Path, prepared: Dataset) -> None:
    """An error at the end that keeps the work; with a larger limit nothing is done twice."""
    out = tmp_path / "out"
    with pytest.raises(
        DataError, match=r"3 of 45 .*--max-rejected 0.001; .*rejected.jsonl .*--max-rejected 0.071"
    ):
        prepare(source, out, workers=2)
    assert len((out / "rejected.jsonl").read_text().splitlines()) == 3
    with pytest.raises(DataError, match="partly prepared; finish it"):
        open_dataset(out)
    seen: list[Progress] = []
    prepare(source, out, workers=2, max_rejected=ALLOW, report=seen.append)
    assert seen == [Progress(45, 45, 3)]
    assert files(out) == files(prepared.root)


def test_finished_is_left_alone(prepared: Dataset, source: Source) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.root.rglob("*")}
    assert prepare(source, prepared.root) == prepared
    assert before == {path: path.stat().st_mtime_ns for path in prepared.root.rglob("*")}
    with pytest.raises(DataError, match="prepared with --seed 0, not 1"):
        prepare(source, prepared.root, seed=1)
    with pytest.raises(DataError, match="prepared with --size 256, not original"):
        prepare(source, prepared.root, size="original")


def test_repair(prepared: Dataset, source: Source, folders: Path, tmp_path: Path) -> None:
    """A missing and a truncated shard come back to the byte. Another source is refused changing nothing."""
    out = shutil.copytree(prepared.root, tmp_path / "out")
    expected = files(out)
    (out / "train/000000.tar").unlink()
    (out / "train/000000.idx").unlink()
    os.truncate(out / "val/000000.tar", 1000)
    for name in ("statistics.npz", "test/names.txt", "val/000000.idx"):
        with open(out / name, "ab") as file:
            file.write(b"more")
    with pytest.raises(DataError, match=r"train/000000.tar is missing: repair it with alexnet-dali prep"):
        open_dataset(out)
    with pytest.raises(DataError, match="other images"):
        prepare(find_source(folders / "train", 0.3), out)
    damaged = shutil.copytree(folders, tmp_path / "damaged")
    image = next((damaged / "val").rglob("*00000001.JPEG"))
    shutil.copy(next((damaged / "val").rglob("*00000002.JPEG")), image)
    with pytest.raises(DataError, match=r"val/000000.tar differs now"):
        prepare(find_source(damaged), out)
    assert (out / "val/000000.tar").stat().st_size == 1000
    prepare(source, out)
    assert files(out) == expected


@pytest.mark.parametrize("change", ["seed", "size", "images"])
def test_another_plan_is_refused(change: str, source: Source, tmp_path: Path) -> None:
    """What was started with other settings is not mixed with these."""
    out = tmp_path / "out"
    with pytest.raises(DataError):
        prepare(source, out, workers=1)
    if change == "images":
        fewer = source.splits | {"val": source.splits["val"][1:]}
        source = replace(source, splits=fewer)
    settings = {"seed": 3} if change == "seed" else {"size": "original"} if change == "size" else {}
    with pytest.raises(DataError, match="other images" if change == "images" else f"started with {change}"):
        prepare(source, out, workers=1, **settings)  # type: ignore[arg-type]


def test_second_prep_is_refused(source: Source, tmp_path: Path) -> None:
    (tmp_path / ".work").mkdir()
    with open(tmp_path / ".work/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another prep is running"):
            prepare(source, tmp_path)


def test_bad_out(source: Source, archives: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, message in (
        (archives, "holds other files"),
        (tmp_path, "holds other files"),
        (tmp_path / "file", "cannot write"),
        (tmp_path / "file/out", "cannot write"),
        (Path("/proc/out"), "cannot write"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(source, out, workers=1)


def test_source_changes_meanwhile(archives: Path, folders: Path, tmp_path: Path) -> None:
    root = shutil.copytree(archives, tmp_path / "archives")
    source = find_source(root)
    os.truncate(root / "ILSVRC2012_img_val.tar", 5000)
    with pytest.raises(DataError, match=r"img_val.tar ends inside ILSVRC2012_val"):
        prepare(source, tmp_path / "out", workers=1)
    root = shutil.copytree(folders, tmp_path / "folders")
    source = find_source(root)
    shutil.rmtree(root / "val")
    with pytest.raises(DataError, match=r"cannot read .*JPEG: No such file"):
        prepare(source, tmp_path / "out2", workers=1)


def test_vanishing_record_is_made_again(source: Source, tmp_path: Path, prepared: Dataset) -> None:
    """What is left of an earlier run counts only if it is whole."""
    out = tmp_path / "out"
    with pytest.raises(DataError):
        prepare(source, out, workers=2)
    os.truncate(out / ".work/train-000000.npz", 500)
    os.truncate(out / "test/000000.tar", 500)
    (out / ".work/val-000000.tar").write_text("half")
    prepare(source, out, workers=2, max_rejected=ALLOW)
    assert files(out) == files(prepared.root)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(small_disk: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear error; with more room the same command finishes, to the same bytes."""
    small_shards(monkeypatch, 4)
    out = small_disk / "out"
    with pytest.raises(DataError, match=r"out/\.work/.*: No space left on device; no finished shard is lost"):
        prepare(source, out, workers=2, max_rejected=ALLOW)
    done = set(files(out)) - {".work/plan.json", ".work/lock"}
    assert not [name for name in done if name.startswith(".work") and not name.endswith(".npz")]
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    seen: list[Progress] = []
    prepare(source, out, workers=2, max_rejected=ALLOW, report=seen.append)
    assert seen[0].done == 4 * sum(name.endswith(".npz") for name in done)
    undisturbed = tmp_path / "undisturbed"
    prepare(source, undisturbed, workers=2, max_rejected=ALLOW)
    assert files(out) == files(undisturbed)


def fail(task: int) -> int:
    if task == 3:
        raise ValueError("task 3")
    return task


def die(task: int) -> int:
    if task == 3:
        os._exit(7)
    time.sleep(0.01)
    return task


def test_workers() -> None:
    environment = dict(os.environ)
    assert sorted(run_tasks(abs, range(-9, 0), 2)) == [(number, -number) for number in range(-9, 0)]
    with pytest.raises(ValueError, match="task 3") as error:
        list(run_tasks(fail, range(9), 2))
    assert "in fail" in error.value.__notes__[0]
    with pytest.raises(DataError, match=r"worker process died \(exit status 7"):
        list(run_tasks(die, range(9), 2))
    assert {**os.environ, "PYTEST_CURRENT_TEST": ""} == {**environment, "PYTEST_CURRENT_TEST": ""}
