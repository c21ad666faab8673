"""Tar archives read in place: where in the file each image lies, so that any of them can be read at any time.

The official archives are not compressed: nothing has to be unpacked, and no order is slower than another.
Member names are only ever labels; they are never used as paths.
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.dataset import DataError

THREADS = 16  # the scan waits for the disk, not for the processor
MAX_HEADER = 2**20


class Member(NamedTuple):
    name: str  # without its folders
    offset: int  # in the outermost file
    size: int


Read = Callable[[int, int], bytes]  # so many bytes from such an offset, as os.pread does


def scan_tar(path: Path) -> list[Member]:
    """The files in a tar."""
    with _opened(path) as (read, size):
        return list(_members(path, read, 0, size))


def scan_bytes(path: Path, data: bytes) -> list[Member]:
    """The files in a tar that was read from `path` into memory."""
    return list(_members(path, lambda size, offset: data[offset : offset + size], 0, len(data)))


def scan_tar_of_tars(path: Path) -> dict[str, list[Member]]:
    """For each tar in a tar, by its name without ".tar": the files in it."""
    with _opened(path) as (read, size), ThreadPoolExecutor(THREADS) as pool:
        inner: dict[str, Member] = {}
        for member in _members(path, read, 0, size):
            if member.name.endswith(".tar"):
                if member.name in inner:
                    raise DataError(f"{path} holds {member.name} twice")
                inner[member.name] = member

        def scan(member: Member) -> list[Member]:
            return list(_members(path, read, member.offset, member.offset + member.size, member.name))

        return dict(zip((name[:-4] for name in inner), pool.map(scan, inner.values()), strict=True))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Read, int]]:
    """A way to read the file that threads can share, and its size."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    try:
        yield partial(os.pread, file), os.fstat(file).st_size
    finally:
        os.close(file)


class _Range:
    """Bytes up to `end`, for tarfile, which begins where it finds the position."""

    def __init__(self, read: Read, start: int, end: int) -> None:
        self.source, self.position, self.end = read, start, end

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        self.position = position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self.source(max(0, min(size, self.end - self.position)), self.position)
        self.position += len(data)
        return data


def _members(path: Path, read: Read, start: int, end: int, inner: str = "") -> Iterator[Member]:
    where = f"{path}, in {inner}," if inner else f"{path}"
    position = start
    try:
        with tarfile.TarFile(fileobj=_Range(read, start, end)) as tar:  # type: ignore[arg-type]
            while member := tar.next():
                if tar.offset <= position:  # a negative size: tarfile would go round for ever
                    raise tarfile.ReadError("a negative size")
                position = tar.offset
                name = PurePosixPath(member.name).name.replace("\n", " ")
                if member.isreg() and not member.issparse() and not name.startswith("."):
                    yield Member(name, member.offset_data, member.size)
            position = tar.offset
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{where} is damaged near byte {position} ({error}): copy or download it again"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    # tarfile takes a header it cannot read for the end; the true end is a block of zeros.
    if read(512, position) != bytes(512) or position + 512 > end:
        raise DataError(f"{where} is cut off or damaged at byte {position}: copy or download it again")
