"""The fuzzer finds what is there to be found, and a short run of it finds nothing."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from cli.paper import baseline_stages
from pipeline.prep import prepare as prep
from pipeline.prep import repair
from pipeline.prep.prepare import prepare
from pipeline.source import devkit
from pipeline.source.find import find_source
from pipeline.source.miniature import write_folders
from tools.fuzz.damage import Change, Edit, damage, edit
from tools.fuzz.harness import Fault, batch, compare, snapshot
from tools.fuzz.roots import account
from tools.fuzz.watch import PARTS, Watch, make_part


class Divides:
    """A part with a fault at 40 and above."""

    inputs = st.integers(0, 100)
    shrinks = True

    def attempt(self, value: Any) -> int:
        return 1 if value < 40 else 1 // 0


def test_the_smallest_input_that_fails_is_kept_and_a_known_fault_is_not_told_again() -> None:
    *_, last = batch(Divides(), 0, lambda value: None, set())
    assert last.fault and last.fault.kind == "traceback" and "ZeroDivisionError" in last.fault.text
    assert pickle.loads(last.value) == 40
    again = batch(Divides(), 0, lambda value: None, {last.fault.where})
    assert not any(one.fault for one in again) and sum(one.inputs for one in again) > 10


def test_what_is_made_changed_or_removed_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    before = snapshot(tmp_path)
    compare(before, snapshot(tmp_path))
    (tmp_path / "a").write_text("b")
    with pytest.raises(Fault, match="changed: "):
        compare(before, snapshot(tmp_path))
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(Fault, match="removed: "):
        compare(before, snapshot(tmp_path))
    before = snapshot(tmp_path)
    (tmp_path / "out").mkdir()
    compare(before, snapshot(tmp_path, leave=tmp_path / "out"))


def test_a_file_of_which_prep_says_nothing_is_missed(tmp_path: Path) -> None:
    write_folders(tmp_path / "root", classes=2, train=2, val=1, damaged=False)
    source = find_source(tmp_path / "root")
    dataset = prepare(source, tmp_path / "out", workers=1)
    account(tmp_path / "root", tmp_path / "out", source, dataset)
    (tmp_path / "root/train/x.txt").write_text("x")
    with pytest.raises(Fault, match=r"^unaccounted: .*x\.txt"):
        account(tmp_path / "root", tmp_path / "out", source, dataset)


def test_damage_is_what_it_says() -> None:
    assert damage(b"abcd", [Change("cut", 0.0, 2, b"")]) == b"ab"
    assert damage(b"abcd", [Change("insert", 1.0, 3, b"x")]) == b"abcxd"
    assert edit({"a": [1, 2]}, Edit("put", (0, 1), "x")) == {"a": [1, "x"]}
    assert edit({"a": [1, 2]}, Edit("drop", (0,), None)) == {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PARTS)
def test_a_short_run_finds_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (devkit, prep, repair, baseline_stages):  # what make_part changes for a process of its own
        monkeypatch.setattr(module, "run_tasks", module.run_tasks)
    monkeypatch.chdir(tmp_path)
    tried = batch(make_part(name, tmp_path), 0, lambda value: None, set())
    assert [str(one.fault) for one in tried if one.fault] == []
    assert sum(one.inputs for one in tried) >= 20


def test_a_process_that_dies_is_replaced_and_its_input_kept(tmp_path: Path) -> None:
    watch, findings = Watch("roots", tmp_path, seed=0), tmp_path / "findings"
    watch.start()
    try:
        while not (watch.place / "now").exists():
            watch.listen(findings)
        first = watch.process
        first.kill()
        first.join()
        while watch.process is first:
            watch.listen(findings)
    finally:
        watch.stop()
    assert watch.found == {"traceback": 1}
    (folder,) = findings.iterdir()
    assert "exit status -9" in (folder / "words.txt").read_text()
    assert pickle.loads((folder / "input").read_bytes())
