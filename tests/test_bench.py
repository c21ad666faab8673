"""alexnet-dali bench: that it times what it says, not how fast that is."""

import itertools
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli import main
from cli.bench.meter import images_per_second, measure, ratios, steady, summary
from cli.commands.bench import limit, show
from pipeline.dataset import Dataset
from tools.compare import peers
from tools.compare.__main__ import command

OWN = {"DataLoader, Pillow": "loader", "plain step": "step"}  # what each is compared with


def test_bench(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    words = ["--data", dataset.root, "--json", out, "--seconds", 0.05, "--width", 0.02, "--batch-size", 4]
    result = CliRunner().invoke(main, ["bench", "--device", "cpu", *map(str, words)])
    assert result.exit_code == 0, result.output
    said = json.loads(out.read_text())
    parts = ["storage", "decode, bound", "decode", "loader", "step", "train"]
    parts += ["eval, centre", "eval, ten views", "prep, one core"]
    assert list(said["parts"]) == parts
    for name, part in said["parts"].items():
        assert 0 < part["least"] <= part["img_s"] <= part["most"]
        assert name in result.output
    assert 0 <= said["waiting"] <= 1
    assert all(f"\n  {name:<10}" in result.output for name in ("limit", "training", "ImageNet", "memory"))


def test_bench_beside_what_others_do(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the peers two that run, one that breaks, one whose module is not there, one for other datasets."""
    chosen = {name: peers.PEERS[name] for name in ("DataLoader, Pillow", "plain step")}
    chosen |= {"broken": peers.Peer(print), "absent": peers.Peer(print, "no_such_module")}  # type: ignore[arg-type]
    monkeypatch.setattr(peers, "PEERS", chosen | {"raw": peers.Peer(print, kinds=("raw",))})  # type: ignore[arg-type]
    out = tmp_path / "bench.json"
    words = ["--data", dataset.root, "--json", out, "--seconds", 0.05, "--width", 0.02, "--batch-size", 4]
    result = CliRunner().invoke(command, ["--device", "cpu", *map(str, words)])
    assert result.exit_code == 0, result.output
    said = json.loads(out.read_text())
    assert list(said["parts"])[-3:] == ["normalisations", *list(chosen)[:2]]
    assert all(ratio > 0 for ratio in said["ours"].values())
    sure = {name for name in list(chosen)[:2] if {name, OWN[name]} <= set(said["sure"])}
    assert set(said["ours"]) == sure  # none of a busy machine
    assert ("ours is" in result.output) == bool(sure)
    assert said["missing"] == {"broken": "KeyError: 'broken'", "absent": "pip install no_such_module"}
    assert "not measured: absent: pip install no_such_module" in result.output
    if {"step", "normalisations"} <= set(said["sure"]):
        assert f"LRN       {said['normalisations']:.0%} of the step's time" in result.output
    assert said["others"]["use"] >= 0 and said["others"]["of"] == len(os.sched_getaffinity(0))


def test_ratios_are_those_of_a_round() -> None:
    """On a machine that is twice as slow for a while, all parts are."""
    rounds = {"loader": [10.0, 5.0, 10.0], "step": [4.0, 2.0, 8.0], "normalisations": [40.0, 20.0, 40.0]}
    rounds |= {"other": [5.0, 2.5, 2.0], "plain step": [2.0, 1.0, 2.0]}
    found = ratios(rounds, ["other", "plain step"])
    assert found == {"ours": {"other": 2, "plain step": 2}, "normalisations": 0.1}
    del rounds["loader"]
    assert ratios(rounds, ["other", "plain step"])["ours"] == {"plain step": 2}
    del rounds["step"]
    assert ratios(rounds, ["other", "plain step"]) == {"ours": {}}


def test_rounds_that_disagree_give_no_ratio() -> None:
    rounds = {"close": [100.0, 80.0, 99.0], "apart": [100.0, 79.0, 100.0], "swinging": [96.0, 226.0, 100.0]}
    assert steady(rounds) == {"close": [100.0, 80.0, 99.0]}


def result(others: float, sure: list[str]) -> dict[str, Any]:
    """What bench has measured on two cores; of which parts the rounds agree."""
    names = ["storage", "decode, bound", "decode", "loader", "step", "train", "other"]
    part = {"img_s": 50.0, "least": 40.0, "most": 60.0}
    found = {"parts": dict.fromkeys(names, part), "others": {"use": others, "of": 2}, "sure": sure}
    ours = {"other": 4.567} if {"loader", "other"} <= set(sure) else {}
    return found | {"ours": ours, "waiting": 0.1, "memory": {"host": 10**9}}


def test_a_busy_machine_and_rounds_that_disagree_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    names = list(result(0.0, [])["parts"])
    show(result(0.2, names))
    said = capsys.readouterr().out
    assert "4.57 x" in said and " 100%" in said and "  ratios " not in said
    show(result(0.0, [name for name in names if name != "other"]))
    said = capsys.readouterr().out
    assert "  ratios    not shown where rounds differ by more than a factor of 1.25: other\n" in said
    assert "4.57 x" not in said and " 100%" in said
    show(result(1.3, []))
    said = capsys.readouterr().out
    assert "  ratios    not shown, and images/s are too low: other programs used 1.3 of 2 cores\n" in said
    assert "4.57 x" not in said and " 100%" not in said


def test_a_measurement_has_as_many_pieces_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two workers come three seconds and one second after one another."""
    now = 0.0

    def work() -> Iterator[int]:
        nonlocal now
        for gap in itertools.cycle((3.0, 1.0)):
            now += gap
            yield 32

    monkeypatch.setattr("time.perf_counter", lambda: now)
    endless = work()
    next(endless)
    assert [images_per_second(endless, 0.5) for _ in range(2)] == [32 / 3, 32 / 3]
    next(endless)
    assert images_per_second(endless, 0.5) == 32
    assert images_per_second(endless, 0.5, pieces=16) == 16


def test_rates_are_images_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work() -> Iterator[int]:
        nonlocal now
        while True:
            now += 0.25
            yield 32

    monkeypatch.setattr("time.perf_counter", lambda: now)
    meter = partial(images_per_second, work())
    assert measure({"part": meter}, 10) == {"part": [128, 128, 128]}
    assert summary([2, 9, 3]) == {"img_s": 3, "least": 2, "most": 9}


def test_what_was_ready_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline has batches ready after a pause: here eight, and then one each second."""
    now = 0.0

    def work() -> Iterator[int]:
        nonlocal now
        for number in itertools.count():
            now += 0.0 if number < 8 else 1.0
            yield 32

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert images_per_second(work(), 10) == 32


def test_the_limit_is_the_slower_part() -> None:
    rates = {"storage": 900, "decode": 500, "loader": 400, "step": 800, "train": 380}
    result = {"parts": {name: {"img_s": rate} for name, rate in rates.items()}, "waiting": 0.5}
    said = limit(result)
    assert said == {
        "limit": "the loader, 400 images/s; the step alone reaches 800; "
        "the slowest part of the loader is decode, 500",
        "training": "380 images/s, waiting for data 50% of the time",
        "ImageNet": "56 min per epoch, 3.5 days for 90 epochs",  # of 1,281,167 images
    }
    result["parts"]["step"] = {"img_s": 100}
    assert limit(result)["limit"] == "the step, 100 images/s; the loader alone reaches 400"
