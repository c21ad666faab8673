"""Tell how much of this process's cores other programs use, and when its own work has ended."""

import os
import time
from collections.abc import Callable
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds
LOOK = 0.2  # seconds between two looks at whether there is work left
REST = 0.1  # of a core: who has work gets more, even on a busy machine


def watch() -> Callable[[], float]:
    """Start watching; the returned function says how many cores other programs have used since, on average.

    Others are all but this process and its descendants: where the machine is a virtual one, its host, too.
    """
    started, before = time.perf_counter(), busy() - used()
    return lambda: max(0.0, (busy() - used() - before) / (time.perf_counter() - started))


def busy() -> float:
    """Return for how many seconds the cores of this process have worked, for whomever."""
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    # all but 4 and 5, when a core is idle or waits for a disk, and 9 and 10, which are in 1 and 2, too
    return TICK * sum(int(row[place]) for row in rows if row[0] in cores for place in (1, 2, 3, 6, 7, 8))


def used() -> float:
    """Return the CPU seconds of this process and all its descendants, dead ones that were waited for, too."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_bytes().rpartition(b")")[2].split()  # before it stands a name of any kind
        except OSError:  # it has ended
            continue
        number = int(path.parent.name)
        parents[number], ticks[number] = int(fields[1]), sum(map(int, fields[11:15]))

    def own(number: int) -> bool:
        return number == os.getpid() or (number > 1 and own(parents.get(number, 0)))

    return TICK * sum(ticks[number] for number in filter(own, ticks))


def wait_for_rest(seconds: float = 10) -> None:
    """Wait until this process and its descendants have nothing left to do, at most for so many seconds."""
    for _ in range(round(seconds / LOOK)):
        before = used()
        time.sleep(LOOK)
        if used() - before < REST * LOOK:
            return
