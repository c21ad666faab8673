"""Run a part's process and watch it: one that hangs or dies is replaced, and its input kept."""

import os
import pickle
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from tools.fuzz.harness import Fault, Part, Tried, explore, quiet

PARTS = ("roots", "images", "files", "options")
LIMIT = 180  # seconds that an input may take on a busy machine

MEMORY = 4 * 2**30  # bytes that its process may take beside what it begins with


def make_part(name: str, place: Path) -> Part:
    """Return the part of that name, with what it needs made in `place`."""
    if name == "roots":
        from tools.fuzz.roots import Roots

        return Roots(place)
    if name == "images":
        from tools.fuzz.images import Images

        return Images(place)
    if name == "files":
        from tools.fuzz.files import Files

        return Files(place)
    from tools.fuzz.options import Options

    return Options(place)


def work(name: str, place: Path, seed: int, connection: Connection) -> None:
    """Run as the process of a part: write each input to a file, and send each batch by the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir(place)
    part = make_part(name, place)
    quiet()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    now, told = place / "now", time.monotonic()

    def begin(value: bytes) -> None:
        nonlocal told
        now.write_bytes(value)
        if time.monotonic() > told + 1:
            told = time.monotonic()
            connection.send([])

    connection.send([])
    for batch in explore(part, seed, begin):
        connection.send(batch)


@dataclass
class Watch:
    """Watch a part's processes, one after another."""

    name: str
    folder: Path
    seed: int
    inputs: int = 0
    found: Counter[str] = field(default_factory=Counter)
    known: set[str] = field(default_factory=set)

    def start(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.folder))
        self.seed += 1_000_000
        self.connection, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(
            target=work, args=(self.name, self.place, self.seed, theirs)
        )
        self.process.start()
        theirs.close()
        self.heard = time.monotonic()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        shutil.rmtree(self.place, ignore_errors=True)

    def listen(self, findings: Path) -> None:
        """Read what has come, or replace the process where it has been silent for too long, or is dead."""
        try:
            while self.connection.poll():
                for tried in self.connection.recv():
                    self.take(tried, findings)
                self.heard = time.monotonic()
            if time.monotonic() < self.heard + LIMIT:
                return
            fault = Fault("hang", "hang", f"no answer after {LIMIT} s")
        except (EOFError, ConnectionError):
            self.process.join(5)
            fault = Fault(
                "traceback", f"died of {self.process.exitcode}", f"exit status {self.process.exitcode}"
            )
        now = self.place / "now"
        if not now.exists():
            raise SystemExit(f"{self.name} does not even begin: {fault}")
        self.take(Tried(1, fault, now.read_bytes()), findings)
        self.stop()
        self.start()

    def take(self, tried: Tried, findings: Path) -> None:
        self.inputs += tried.inputs
        if not (fault := tried.fault) or fault.where in self.known:
            return
        if fault.kind != "hang":
            self.known.add(fault.where)
        self.found[fault.kind] += 1
        folder = findings / f"{self.name}-{self.seed}-{self.found.total()}"
        folder.mkdir(parents=True, exist_ok=True)
        shown = repr(pickle.loads(tried.value))
        (folder / "words.txt").write_text(
            f"{fault.kind}: {fault.where}\nseed {self.seed}\n\n{fault}\n\n{shown}\n",
            errors="backslashreplace",
        )
        (folder / "input").write_bytes(tried.value)
        print(f"{folder}: {fault.kind}: {fault.where}", flush=True)
