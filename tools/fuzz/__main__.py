"""Search for inputs that break the product: python -m tools.fuzz --minutes 10

Draws inputs of four sorts (see roots.py, images.py, files.py and options.py) and tries them: each must end
well or with one line that names a file, in time, leave everything but its output alone,
and account for every image. One process for each part works in parallel with the others; one that hangs or
dies is replaced, and its input kept.

Prints how many inputs ran and what was found; exit status 1 where there was anything. What was found lies in
--findings, a folder each: the words, the seed and the input, which --again tries once more.
"""

import argparse
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.fuzz.harness import KINDS, attempt
from tools.fuzz.watch import PARTS, Watch, make_part

MEMORY = Path("/dev/shm")


def show(watches: list[Watch], minutes: float) -> None:
    table = Table("part", *(("inputs"), *KINDS))
    for watch in watches:
        table.add_row(watch.name, f"{watch.inputs:,}", *(str(watch.found[kind]) for kind in KINDS))
    total: Counter[str] = sum((watch.found for watch in watches), Counter())
    table.add_row("all", f"{sum(watch.inputs for watch in watches):,}", *(str(total[kind]) for kind in KINDS))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"{minutes:.1f} minutes; each place in the code is counted once")


def try_again(folder: Path, place: Path) -> None:
    value: Any = pickle.loads((folder / "input").read_bytes())
    part = make_part(folder.name.partition("-")[0], place)
    print(repr(value).encode("ascii", "backslashreplace").decode())
    _, fault = attempt(part, value)
    sys.exit(f"{fault.kind}: {fault.where}\n{fault}" if fault else 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="time to search (default: 10)")
    parser.add_argument("--inputs", type=int, help="number of inputs of each part, instead of --minutes")
    parser.add_argument("--part", choices=PARTS, help="part to search (default: all, in parallel)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder for what is found")
    parser.add_argument(
        "--again", type=Path, metavar="FOLDER", help="a folder of --findings, to try its input again"
    )
    given = parser.parse_args()
    memory = MEMORY if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**30 else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory, ignore_cleanup_errors=True) as folder:
        if given.again:
            try_again(given.again.resolve(), Path(folder))
        print(f"seed {given.seed}", flush=True)
        names = [given.part] if given.part else PARTS
        watches = [Watch(name, Path(folder), given.seed) for name in names]
        started = time.monotonic()
        for watch in watches:
            watch.start()
        left = watches
        try:
            while left and (given.inputs or time.monotonic() < started + 60 * given.minutes):
                wait([watch.connection for watch in left], timeout=1)
                for watch in left:
                    watch.listen(given.findings)
                    if given.inputs and watch.inputs >= given.inputs:
                        watch.stop()
                left = [watch for watch in left if not given.inputs or watch.inputs < given.inputs]
        except KeyboardInterrupt:
            pass
        finally:
            for watch in left:
                watch.stop()
        show(watches, (time.monotonic() - started) / 60)
    sys.exit(any(watch.found for watch in watches))


if __name__ == "__main__":
    main()
