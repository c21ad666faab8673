"""What other programs use of the cores: with real processes, on a machine that may be busy or not."""

import os
import subprocess
import sys
import time

from cli.bench.others import used, wait_for_rest, watch

WORK = """
import time
print(flush=True)
while time.process_time() < 0.4: pass
print(flush=True)
input()
"""


def test_a_program_that_keeps_a_core_busy_is_seen() -> None:
    """It is no descendant of ours: the shell between us has ended."""
    core = min(os.sched_getaffinity(0))
    words = ["sh", "-c", '"$0" -c "while True: pass" >&2 & echo $!', sys.executable]
    number = int(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    try:
        os.sched_setaffinity(number, {core})
        others = watch()
        time.sleep(0.5)
        assert 0.5 < others() < 1.1 * len(os.sched_getaffinity(0))
    finally:
        os.kill(number, 9)


def test_what_descendants_use_is_ours() -> None:
    """A grandchild uses 0.4 seconds of a core; that it ends changes nothing."""
    before = used()
    words = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, WORK]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()
        process.stdout.readline()
        alive = used() - before
        process.communicate("\n")
    ended = used() - before
    assert 0.38 < alive <= ended < alive + 0.5


def test_rest_waits_for_work_that_goes_on() -> None:
    """A child works for 0.4 seconds of a core; afterwards it waits."""
    words = [sys.executable, "-c", WORK]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        before = used()
        wait_for_rest()
        assert used() - before > 0.3
        process.communicate("\n")
