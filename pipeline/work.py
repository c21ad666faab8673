"""The folder for what is not finished: OUT/.work, one prep's alone."""

import errno
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.dataset import WORK, DataError
from pipeline.plan import PLAN


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Makes, locks and tidies it; whatever cannot be written meanwhile becomes one line."""
    work = out / WORK
    try:
        ours = (out / "dataset.json").exists() or work.exists()
        if not ours and out.exists() and any(path.name != "lost+found" for path in out.iterdir()):
            raise DataError(f"{out} holds other files: choose an --out that is empty or does not exist")
        work.mkdir(parents=True, exist_ok=True)
        with open(work / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _tidy(work)
            try:
                yield work
            finally:
                _tidy(work)
    except BlockingIOError:
        raise DataError(f"another prep is at work in {out}: let it finish, or stop it") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {out} is full: make room, then run the same command again; no shard is lost"
            ) from None
        raise DataError(f"cannot write {error.filename or out}: {error.strerror}") from None


def remove(work: Path) -> None:
    """What cannot be removed now (NFS keeps an open lock) the next prep removes."""
    shutil.rmtree(work, ignore_errors=True)


def _tidy(work: Path) -> None:
    """Removes what an unfinished shard left: on a full disk, what the next run needs."""
    for path in work.glob("*"):
        if path.suffix != ".npz" and path.name not in (PLAN, "lock"):
            path.unlink()
