"""Unpack shards that have no random access, each into a tar in prep's work folder, until prep has finished.

A tar gets its name when it is complete, so that after a kill prep unpacks only the others.
"""

import gzip
import hashlib
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.atomic import replacing
from pipeline.errors import DataError
from pipeline.prep.work import UNPACKED, work_folder
from pipeline.source import parquet
from pipeline.source.sample import is_litter, one_line
from pipeline.workers import count_cores, run_tasks

CHUNK = 2**20
WRAPS = 2**32  # bytes, after which gzip counts from 0 again
LONGEST = 200  # characters of a name


class Task(NamedTuple):
    archive: Path
    tar: Path
    size: int  # of the tar, about


def unpack(
    archives: Sequence[Path],
    out: Path,
    workers: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Return a tar for each archive, in the work folder of the dataset at `out`.

    report: gets the bytes that are unpacked so far, and those of all.
    """
    with work_folder(out) as work:
        tasks = [_task(archive, number, work) for number, archive in enumerate(archives)]
        for old in set(work.glob(f"{UNPACKED}*")) - {task.tar for task in tasks}:
            old.unlink()
        todo = [task for task in tasks if not task.tar.exists()]
        _need_room(todo, work)
        total = sum(task.size for task in tasks)
        done = total - sum(task.size for task in todo)
        report(done, total)
        for task, _ in run_tasks(_unpack, todo, min(workers or count_cores(), len(todo))):
            done += task.size
            report(done, total)
    return [task.tar for task in tasks]


def _task(archive: Path, number: int, work: Path) -> Task:
    """Name the tar after its archive's name, size and time, so that another one is unpacked again."""
    try:
        status = archive.stat()
        size = _measure(archive, status.st_size)
    except OSError as error:
        raise DataError(f"cannot read {archive}: {error.strerror}") from None
    known = hashlib.sha256(repr((archive.name, status.st_size, status.st_mtime_ns)).encode()).hexdigest()
    return Task(archive, work / f"{UNPACKED}{number:05d}-{known[:16]}.tar", size)


def _measure(archive: Path, size: int) -> int:
    """Return about how many bytes an archive has when it is unpacked; gzip ends with that, modulo 2**32."""
    if _is_parquet(archive):
        return parquet.measure(archive)
    with open(archive, "rb") as file:
        file.seek(-min(4, size), 2)
        rest = int.from_bytes(file.read(4), "little")
    least = size - size // 1000 - 100  # what cannot be compressed becomes a little larger
    return least + (rest - least) % WRAPS


def _is_parquet(archive: Path) -> bool:
    return archive.suffix.lower() == ".parquet"


def _need_room(todo: Sequence[Task], work: Path) -> None:
    needed, free = sum(task.size for task in todo), shutil.disk_usage(work).free
    if needed > free:
        raise DataError(
            f"unpacking {todo[0].archive.parent} needs {needed / 1e9:,.2f} GB in {work} until the dataset is "
            f"finished, and {free / 1e9:,.2f} GB are free: make room, or give an --out on another disk"
        )


def _unpack(task: Task) -> None:
    with replacing(task.tar) as file:
        if _is_parquet(task.archive):
            _write_rows(task.archive, file)
        else:
            _decompress(task.archive, file)


def _decompress(archive: Path, file: IO[bytes]) -> None:
    with gzip.open(archive) as packed:
        while True:
            try:
                data = packed.read(CHUNK)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{archive} is damaged ({error}): download it again") from None
            if not data:
                break
            file.write(data)
    if not file.tell():
        raise DataError(f"{archive} is damaged (empty): download it again")


def _write_rows(archive: Path, file: IO[bytes]) -> None:
    """Write a WebDataset shard: each row's image and label in a folder of its own, as names may repeat."""
    for number, row in enumerate(parquet.read_rows(archive)):
        parts = [one_line(part)[-LONGEST:] for part in row.path.split("/") if part not in ("", ".", "..")][
            -2:
        ]
        if not parts or any(map(is_litter, parts)):
            parts = [f"{archive.stem}-{number:08d}.jpg"]
        path = posixpath.join(f"{number:08d}", *parts)
        _write_member(file, path, row.image)
        if row.label:
            key = posixpath.join(posixpath.dirname(path), parts[-1].partition(".")[0])
            _write_member(file, f"{key}.cls", one_line(row.label).encode())
    file.write(bytes(2 * tarfile.BLOCKSIZE))


def _write_member(file: IO[bytes], path: str, data: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(data)
    file.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
