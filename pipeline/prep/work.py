"""Keep what is not finished in a folder, OUT/.work, that only one prep uses at a time."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.atomic import lock, make_folder
from pipeline.dataset import WORK
from pipeline.errors import DataError
from pipeline.prep.plan import PLAN

LOCK = "lock"
UNPACKED = "unpacked-"  # shards without random access, as tars (unpack.py)
# All files that prep writes there. A folder that came from elsewhere may hold others, which stay.
OURS = re.compile(
    rf"{LOCK}|({re.escape(PLAN)}|[a-z]+-\d{{6}}\.(tar|idx|made|npz)|{UNPACKED}\d{{5}}-[0-9a-f]{{16}}\.tar)(\.tmp)?"
)


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Make, lock and tidy the folder; whatever cannot be written meanwhile becomes a DataError."""
    work = out / WORK
    try:
        ours = (out / "dataset.json").exists() or work.exists()
        if not ours and out.exists() and any(path.name != "lost+found" for path in out.iterdir()):
            raise DataError(f"{out} holds other files: choose an --out that is empty or does not exist")
        out.mkdir(parents=True, exist_ok=True)
        make_folder(work)
        try:
            held = lock(work / LOCK)
        except BlockingIOError:
            raise DataError(f"another prep is running in {out}: wait for it, or stop it") from None
        with held:
            _tidy(work)
            try:
                yield work
            finally:
                _tidy(work)
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename or out}: {error.strerror}; no finished shard is lost. Fix that, "
            "then run the same command again"
        ) from None


def remove(work: Path) -> None:
    """Remove what is ours. What cannot be removed now (NFS keeps an open lock) the next prep removes."""
    with suppress(OSError):
        for path in work.iterdir():
            if OURS.fullmatch(path.name):
                path.unlink()
        work.rmdir()


def remove_left(out: Path) -> None:
    """Remove from a finished dataset what a run that was stopped after its last step left behind."""
    if (out / WORK).exists():
        with work_folder(out) as work:
            remove(work)


def _tidy(work: Path) -> None:
    """Remove what an unfinished shard left: on a full disk, the next run needs that space."""
    for path in work.glob("*"):
        kept = path.suffix == ".npz" or path.name in (PLAN, LOCK)
        kept |= path.suffix == ".tar" and path.name.startswith(UNPACKED)
        if OURS.fullmatch(path.name) and not kept:
            path.unlink()
