"""Folders that came from elsewhere may hold links: nothing outside them is written, emptied or deleted."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_checkpoint import CONTENT
from test_prep import files

from cli import main
from model import checkpoint
from model.errors import RunError
from model.run import RunDirectory
from pipeline.atomic import make_folder
from pipeline.dataset import Dataset
from pipeline.errors import DataError
from pipeline.prep.prepare import prepare
from pipeline.source.find import Source, find_source

PRECIOUS = b"precious"


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A file of the user's, which keeps its bytes."""
    path = tmp_path / "mine"
    path.write_bytes(PRECIOUS)
    yield path
    assert path.read_bytes() == PRECIOUS


@pytest.fixture
def source(folders: Path) -> Source:
    return find_source(folders)


def make(source: Source, out: Path) -> Dataset:
    return prepare(source, out, workers=1, max_rejected=0.5)


def work(run: Path) -> None:
    """All that a training does in its folder."""
    row = {"kind": "train", "step": 1, "epoch": 1, "loss": 1.0, "top1_err": 0, "top5_err": 0, "img_s": 1}
    about = {
        "data": {"path": "data", "fingerprint": "0" * 64},
        "starts": {"command": "train"},
        "recipe": CONTENT["identity"]["recipe"],
    }
    with RunDirectory(run) as directory:
        directory.open(0, 0, about, [Path(__file__)])
        directory.add(row)
        directory.sync()
        checkpoint.save_last(run, CONTENT)
        checkpoint.save(run / "best.pt", CONTENT)


@pytest.mark.parametrize("make_link", [Path.symlink_to, Path.hardlink_to])
def test_a_run_with_links_in_place_of_its_files(
    mine: Path, tmp_path: Path, make_link: Callable[[Path, Path], None]
) -> None:
    mine.write_bytes(b"")  # which metrics.jsonl may begin with
    work(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()} - {"lock", "run.json"}
    assert {"metrics.jsonl", "last.pt", "events.out.tfevents.0000000001"} <= names
    temporary = {f"{name}.tmp" for name in names | {"new.pt", "run.json"}}
    for name in names | temporary | {"new.pt"}:
        folder = tmp_path / f"run with {name}"
        folder.mkdir()
        make_link(folder / name, mine)
        work(folder)
        assert mine.read_bytes() == b"", name
    mine.write_bytes(PRECIOUS)


def test_a_run_whose_lock_is_a_link(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(mine)
    with pytest.raises(RunError, match=r"run/lock: symbolic link, which is not followed here; remove"):
        work(tmp_path / "run")


def test_a_work_folder_with_links_and_files_of_others(source: Source, mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = out / ".work"
    folder.mkdir(parents=True)
    for end in (".tar", ".idx", ".made"):
        (folder / f"train-000000{end}").symlink_to(mine)
        (folder / f"val-000000{end}.tmp").symlink_to(mine)
    (folder / "plan.json.tmp").symlink_to(mine)
    (folder / "letters").mkdir()
    (folder / "letters/to.txt").write_text("someone")
    make(source, out)
    assert [str(path.relative_to(folder)) for path in folder.rglob("*")] == ["letters", "letters/to.txt"]
    make(source, out)  # nothing to do


@pytest.mark.parametrize("name", [".work", ".work/lock", "train"])
def test_a_dataset_with_links_in_place_of_its_folders(source: Source, tmp_path: Path, name: str) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    (mine / "000000.tar").write_bytes(PRECIOUS)
    (out / ".work").mkdir(parents=True)
    if name == ".work":
        (out / name).rmdir()
    (out / name).symlink_to(mine / "000000.tar" if name == ".work/lock" else mine)
    with pytest.raises(DataError, match=rf"out/{name}: symbolic link"):
        make(source, out)
    assert [path.read_bytes() for path in mine.iterdir()] == [PRECIOUS]


def test_folders_moved_behind_a_link(source: Source, dataset: Dataset, tmp_path: Path) -> None:
    """As to a larger disk: the link is at their top."""
    for name in ("data", "run"):
        (tmp_path / "large" / name).mkdir(parents=True)
        (tmp_path / name).symlink_to(tmp_path / "large" / name)
    make(source, tmp_path / "data")
    assert files(tmp_path / "data") == files(dataset.root)
    work(tmp_path / "run")
    work(tmp_path / "run")
    assert (tmp_path / "run").is_symlink() and (tmp_path / "large/run/previous.pt").exists()


def test_folders_of_features_are_no_links(tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(tmp_path)
    with pytest.raises(OSError, match="symbolic link"):
        make_folder(tmp_path / "train")


def test_predictions_of_reproduce_are_no_links(dataset: Dataset, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "145").mkdir()
    (tmp_path / "145" / "val-ten-views.json").symlink_to(mine)
    words = ["reproduce", "ilsvrc-2012", "--data", dataset.root, "--runs", tmp_path, "--epochs", 1]
    found = CliRunner().invoke(main, [str(word) for word in words])
    assert found.exit_code == 1
    assert f"{tmp_path}/145/val-ten-views.json is a symbolic link; remove it" in found.output
