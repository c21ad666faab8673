"""Check that commands survive signals and full disks: python -m tools.soak --cycles 200

Runs prep, train and eval on a drawn ImageNet, each until it ends by itself, while signals (SIGKILL, SIGTERM,
SIGHUP) and full disks strike at random moments: a cycle is one start of a command. Whenever all three have
ended, everything they left (dataset, states, metrics, errors) must be bit-identical to that of an undisturbed
run; then all begins again. Prints how often each struck. If something is not as it should be, the exit status
is 1, and the files are kept.
"""

import argparse
import filecmp
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model import checkpoint
from model.run import read_metrics
from pipeline.source import miniature
from tools.commands import Command

TRAINING = ("--device", "cpu", "--width", 0.02, "--batch-size", 8, "--epochs", 3, "--save-minutes", 0)
TIMES = ("img_s", "data_time")  # what the clock says
DISK = 8_000_000  # bytes of the small disk that is sometimes full
# What strikes, and how a command may end then: a signal that comes early finds nothing to be saved.
STRIKES = {
    "nothing": (0,),
    "SIGKILL": (0, -9),
    "SIGTERM": (0, 143, -15),
    "SIGHUP": (0, 129, -1),
    "full disk": (0, 1),
}


class Broken(Exception):
    """Represent a difference that the soak is there to find."""


def commands(root: Path, place: Path) -> dict[str, tuple[object, ...]]:
    """Return the words of the three commands, all of whose files lie in `place`."""
    data, run = place / "data", place / "run"
    return {
        "prep": ("prep", "--imagenet-root", root, "--out", data, "--workers", 2, "--max-rejected", 0.5),
        "train": ("train", "--data", data, "--run", run, *TRAINING),
        "eval": ("eval", "--data", data, "--run", run, "--device", "cpu", "--json", place / "errors.json"),
    }


@dataclass
class Soak:
    """Strike commands for so many starts; `struck` counts them by command and kind."""

    folder: Path
    cycles: int
    draw: random.Random
    strikes: tuple[str, ...] = tuple(STRIKES)
    struck: Counter[str] = field(default_factory=Counter)
    rounds: int = 0

    def run(self) -> None:
        """Run all cycles; raise Broken when anything differs or ends as it should not."""
        root, seconds = self.folder / "archives", {}
        miniature.write_archives(root, classes=3, train=12, val=5)
        for name, words in commands(root, self.folder / "undisturbed").items():
            started = time.monotonic()
            expect(Command(*words, folder=self.folder), name, (0,))
            seconds[name] = time.monotonic() - started
        place = self.folder / "disturbed"
        with small_disk(place) as mounted:
            if not mounted:
                self.strikes = self.strikes[:-1]
            while self.struck.total() < self.cycles:
                for name, words in commands(root, place).items():
                    self.strike(name, words, place, seconds[name])
                compare(self.folder / "undisturbed", place)
                self.rounds += 1
                for path in place.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def strike(self, name: str, words: tuple[object, ...], place: Path, seconds: float) -> None:
        """Start one command again and again until it has ended well; after the last cycle, leave it alone."""
        status = None
        while status != 0:
            kind = self.draw.choice(self.strikes) if self.struck.total() < self.cycles else "nothing"
            self.struck[f"{name}: {kind}"] += 1
            command = Command(*words, folder=self.folder)
            command.process.join(self.draw.uniform(0, seconds))
            if kind == "full disk":
                fill(place / "ballast", left=self.draw.choice((0, 4096, 100_000, 300_000, 500_000)))
            elif kind != "nothing":
                command.send(getattr(signal, kind))
            status = expect(command, f"{name}, {kind}", STRIKES[kind])
            (place / "ballast").unlink(missing_ok=True)


def fill(ballast: Path, left: int) -> None:
    """Leave about so many bytes free on its disk, which others may be writing on."""
    about = os.statvfs(ballast.parent)
    with suppress(OSError):
        ballast.write_bytes(bytes(max(0, about.f_bavail * about.f_bsize - left)))


def expect(command: Command, what: str, statuses: tuple[int, ...]) -> int:
    """Return the command's exit status; Broken if it is not one of these, or fails in many lines."""
    status, text = command.wait(300), command.text
    if status not in statuses or "Traceback" in text or text.count("Error") > 1:
        raise Broken(f"{what}: ended with {status} and these words:\n{text}")
    command.output.unlink(missing_ok=True)
    return status


def compare(undisturbed: Path, disturbed: Path) -> None:
    """Raise Broken unless every byte of the data, and every number of run and errors, is the same."""
    for path in sorted((undisturbed / "data").rglob("*")):
        twin = disturbed / path.relative_to(undisturbed)
        if path.is_file() and not filecmp.cmp(path, twin, shallow=False):
            raise Broken(f"{twin} is not {path}")
    for name in ("last.pt", "best.pt"):
        state, expected = (checkpoint.read(place / "run" / name) for place in (disturbed, undisturbed))
        if where := differing(state, expected):
            raise Broken(f"{disturbed / 'run' / name} differs in {', '.join(where)}")
    if rows(disturbed / "run") != rows(undisturbed / "run"):
        raise Broken(f"{disturbed / 'run' / 'metrics.jsonl'} differs")
    errors, expected = (json.loads((place / "errors.json").read_text()) for place in (disturbed, undisturbed))
    if errors | {"run": ""} != expected | {"run": ""}:
        raise Broken(f"eval: {errors}, not {expected}")


def rows(run: Path) -> list[dict[str, Any]]:
    """Read a run's metrics without what the clock says."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(run / "metrics.jsonl")]


def differing(a: Any, b: Any, where: str = "") -> list[str]:
    """Return the places in which two checkpoints differ."""
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict) and a.keys() == b.keys():
        return [text for key in a for text in differing(a[key], b[key], f"{where}/{key}")]
    return [] if a == b else [where]


@contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """Mount a disk of its own in this folder, where that is permitted; yield whether it is."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    mounted = shutil.which("mount") is not None and not subprocess.run(mount, capture_output=True).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", place], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200, help="starts of a command (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of what strikes (default: 0)")
    given = parser.parse_args()
    folder, started = Path(tempfile.mkdtemp(prefix="soak-")), time.monotonic()
    soak = Soak(folder, given.cycles, random.Random(given.seed))
    try:
        soak.run()
    except Broken as error:
        sys.exit(f"broken: {error}\nseed {given.seed}; what is left is in {folder}")
    shutil.rmtree(folder)
    for what, times in sorted(soak.struck.items()):
        print(f"{times:6} {what}")
    seconds = time.monotonic() - started
    print(f"{soak.struck.total()} starts, {soak.rounds} to the end, the same bits each time; {seconds:.0f} s")


if __name__ == "__main__":
    main()
