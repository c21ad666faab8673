"""alexnet-dali bench: that it times what it says, not how fast that is."""

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from cli.bench.meter import images_per_second, measure, ratios, summary
from cli.commands.bench import limit
from pipeline.dataset import Dataset
from tools.compare import peers
from tools.compare.__main__ import command


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
    assert list(said["ours"]) == ["DataLoader, Pillow", "plain step"]
    assert all(ratio > 0 for ratio in (*said["ours"].values(), said["normalisations"]))
    assert said["missing"] == {"broken": "KeyError: 'broken'", "absent": "pip install no_such_module"}
    assert "not measured: absent: pip install no_such_module" in result.output
    assert f"LRN       {said['normalisations']:.0%} of the step's time" in result.output


def test_ratios_are_those_of_a_round() -> None:
    """On a machine that is twice as slow for a while, all parts are."""
    rounds = {"loader": [10.0, 5.0, 10.0], "step": [4.0, 2.0, 8.0], "normalisations": [40.0, 20.0, 40.0]}
    found = ratios(
        rounds | {"other": [5.0, 2.5, 2.0], "plain step": [2.0, 1.0, 2.0]}, ["other", "plain step"]
    )
    assert found == {"ours": {"other": 2, "plain step": 2}, "normalisations": 0.1}


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
