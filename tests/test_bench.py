"""alexnet-dali bench: that it times what it says, not how fast that is."""

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main, peers
from cli.bench import limit, measure, rate
from pipeline.dataset import Dataset


def test_bench(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    words = ["--data", dataset.root, "--json", out, "--seconds", 0.05, "--width", 0.02, "--batch-size", 4]
    result = CliRunner().invoke(main, ["bench", "--device", "cpu", *map(str, words)])
    assert result.exit_code == 0, result.output
    said = json.loads(out.read_text())
    parts = ["storage", "decode floor", "decode", "loader", "step", "train"]
    parts += ["eval, centre", "eval, ten views", "prep, one core"]
    assert list(said["parts"]) == parts
    for name, part in said["parts"].items():
        assert 0 < part["least"] <= part["img_s"] <= part["most"]
        assert name in result.output
    assert 0 <= said["waiting"] <= 1
    assert "is the limit" in result.output and "an epoch of ImageNet" in result.output


def test_bench_beside_what_others_do(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the peers two that run, one that breaks, one whose module is not there, one for other datasets."""
    chosen = {name: peers.PEERS[name] for name in ("DataLoader, Pillow", "plain step")}
    chosen |= {"broken": peers.Peer(print), "absent": peers.Peer(print, "no_such_module")}  # type: ignore[arg-type]
    monkeypatch.setattr(peers, "PEERS", chosen | {"raw": peers.Peer(print, kinds=("raw",))})  # type: ignore[arg-type]
    out = tmp_path / "bench.json"
    words = ["--data", dataset.root, "--json", out, "--seconds", 0.05, "--width", 0.02, "--batch-size", 4]
    result = CliRunner().invoke(main, ["bench", "--device", "cpu", "--compare", *map(str, words)])
    assert result.exit_code == 0, result.output
    said = json.loads(out.read_text())
    assert list(said["parts"])[-4:] == [
        "loader, mean off",
        "normalisations",
        "DataLoader, Pillow",
        "plain step",
    ]
    speed = {name: part["img_s"] for name, part in said["parts"].items()}
    assert said["ours"] == {
        "DataLoader, Pillow": pytest.approx(speed["loader, mean off"] / speed["DataLoader, Pillow"]),
        "plain step": pytest.approx(speed["step"] / speed["plain step"]),
    }
    assert said["normalisations"] == pytest.approx(speed["step"] / speed["normalisations"])
    assert said["missing"] == {"broken": "KeyError: 'broken'", "absent": "pip install no_such_module"}
    assert "not measured: absent: pip install no_such_module" in result.output
    assert f"The normalisations take {said['normalisations']:.0%} of the step." in result.output


def test_rates_are_images_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work() -> Iterator[int]:
        nonlocal now
        while True:
            now += 0.25
            yield 32

    monkeypatch.setattr("time.perf_counter", lambda: now)
    meter = partial(rate, work())
    assert measure({"part": meter}, 10)["part"] == {"img_s": 128, "least": 128, "most": 128}


def test_what_was_ready_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline has batches ready after a pause: here eight, and then one each second."""
    now = 0.0

    def work() -> Iterator[int]:
        nonlocal now
        for number in itertools.count():
            now += 0.0 if number < 8 else 1.0
            yield 32

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert rate(work(), 10) == 32


def test_the_limit_is_the_slower_part() -> None:
    rates = {"storage": 900, "decode": 500, "loader": 400, "step": 800, "train": 380}
    result = {"parts": {name: {"img_s": rate} for name, rate in rates.items()}, "waiting": 0.5}
    said = limit(result)
    assert said.startswith(
        "The loader is the limit: 400 images/s against the step's 800 (in it decode, 500);"
    )
    assert said.endswith("together they reach 95% of it and wait for data 50% of the time.")
    result["parts"]["step"] = {"img_s": 100}
    assert limit(result).startswith("The step is the limit: 100 images/s against the loader's 400;")
