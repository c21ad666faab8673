"""Does it survive? python -m tools.soak --cycles 200

Runs prep, train and eval on a drawn ImageNet, each until it ends by itself, while signals (SIGKILL, SIGTERM,
SIGHUP) and full disks strike at random moments: a cycle is one start of a command. Whenever all three have
ended, everything they left (dataset, states, metrics, errors) must have the bits of a run in calm weather;
then it begins anew.
Prints what struck; exit status 1 and the evidence kept, when something is not as it should be.
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
FATES = {
    "peace": (0,),
    "SIGKILL": (0, -9),
    "SIGTERM": (0, 143, -15),
    "SIGHUP": (0, 129, -1),
    "full disk": (0, 1),
}


class Broken(Exception):
    """What the soak is there to find."""


def commands(root: Path, place: Path) -> dict[str, tuple[object, ...]]:
    """The three, all of whose files lie in `place`."""
    data, run = place / "data", place / "run"
    return {
        "prep": ("prep", "--imagenet-root", root, "--out", data, "--workers", 2, "--max-rejected", 0.5),
        "train": ("train", "--data", data, "--run", run, *TRAINING),
        "eval": ("eval", "--data", data, "--run", run, "--device", "cpu", "--json", place / "errors.json"),
    }


@dataclass
class Soak:
    """Strikes commands for so many starts; `struck` counts them by command and kind."""

    folder: Path
    cycles: int
    draw: random.Random
    fates: tuple[str, ...] = tuple(FATES)
    struck: Counter[str] = field(default_factory=Counter)
    rounds: int = 0

    def run(self) -> None:
        """Broken when anything differs or ends as it should not."""
        root, seconds = self.folder / "archives", {}
        miniature.write_archives(root, classes=3, train=12, val=5)
        for name, words in commands(root, self.folder / "calm").items():
            started = time.monotonic()
            expect(Command(*words, folder=self.folder), name, (0,))
            seconds[name] = time.monotonic() - started
        place = self.folder / "stormy"
        with small_disk(place) as mounted:
            if not mounted:
                self.fates = self.fates[:-1]
            while self.struck.total() < self.cycles:
                for name, words in commands(root, place).items():
                    self.weather(name, words, place, seconds[name])
                compare(self.folder / "calm", place)
                self.rounds += 1
                for path in place.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def weather(self, name: str, words: tuple[object, ...], place: Path, seconds: float) -> None:
        """One command again and again until it has ended well; after the last cycle, in peace."""
        status = None
        while status != 0:
            fate = self.draw.choice(self.fates) if self.struck.total() < self.cycles else "peace"
            self.struck[f"{name}: {fate}"] += 1
            command = Command(*words, folder=self.folder)
            command.process.join(self.draw.uniform(0, seconds))
            if fate == "full disk":
                fill(place / "ballast", left=self.draw.choice((0, 4096, 100_000, 300_000, 500_000)))
            elif fate != "peace":
                command.send(getattr(signal, fate))
            status = expect(command, f"{name}, {fate}", FATES[fate])
            (place / "ballast").unlink(missing_ok=True)


def fill(ballast: Path, left: int) -> None:
    """Leave about so many bytes free on its disk, which others may be writing on."""
    about = os.statvfs(ballast.parent)
    with suppress(OSError):
        ballast.write_bytes(bytes(max(0, about.f_bavail * about.f_bsize - left)))


def expect(command: Command, what: str, statuses: tuple[int, ...]) -> int:
    """The command's exit status, which is one of these; and a failure is told in one line."""
    status, text = command.wait(300), command.text
    if status not in statuses or "Traceback" in text or text.count("Error") > 1:
        raise Broken(f"{what}: ended with {status} and these words:\n{text}")
    command.output.unlink(missing_ok=True)
    return status


def compare(calm: Path, stormy: Path) -> None:
    """Broken unless every byte of the data, and every number of run and errors, is the same."""
    for path in sorted((calm / "data").rglob("*")):
        twin = stormy / path.relative_to(calm)
        if path.is_file() and not filecmp.cmp(path, twin, shallow=False):
            raise Broken(f"{twin} is not {path}")
    for name in ("last.pt", "best.pt"):
        found, expected = (checkpoint.read(place / "run" / name) for place in (stormy, calm))
        if where := differing(found, expected):
            raise Broken(f"{stormy / 'run' / name} differs in {', '.join(where)}")
    if rows(stormy / "run") != rows(calm / "run"):
        raise Broken(f"{stormy / 'run' / 'metrics.jsonl'} differs")
    found, expected = (json.loads((place / "errors.json").read_text()) for place in (stormy, calm))
    if found | {"run": ""} != expected | {"run": ""}:
        raise Broken(f"eval: {found}, not {expected}")


def rows(run: Path) -> list[dict[str, Any]]:
    """A run's metrics without what the clock says."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(run / "metrics.jsonl")]


def differing(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ."""
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict) and a.keys() == b.keys():
        return [text for key in a for text in differing(a[key], b[key], f"{where}/{key}")]
    return [] if a == b else [where]


@contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """A disk of its own in this folder, where that is permitted."""
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
    parser.add_argument("--seed", type=int, default=0, help="of the weather (default: 0)")
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
