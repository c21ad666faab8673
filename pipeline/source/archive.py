"""Read tar archives in place: where in the file each image lies, so that any can be read at any time.

The official archives are not compressed: nothing has to be unpacked, and no order is slower than another.
Names of members are only shown and compared; they are never used as paths.
"""

import os
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DataError
from pipeline.source.sample import is_litter, one_line

THREADS = 16  # the scan waits for the disk, not for the processor
MAX_HEADER = CHUNK = 2**20
COMPRESSED = (b"\x1f\x8b", b"PK\3\4", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
MAX_LINKS = 40  # in a chain, as the kernel allows
FAULTS = {
    tarfile.GNUTYPE_SPARSE: "a sparse file, of which tar stores only parts",
    tarfile.REGTYPE: "a sparse file, of which tar stores only parts",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
}


class Member(NamedTuple):
    """Represent an entry of an archive that is no folder; links have the place of what they lead to."""

    path: str  # in the archive
    offset: int  # in the outermost file
    size: int
    fault: str = ""  # why its bytes are not there
    replaced: bool = False  # by a later member of this path, as tar does when it unpacks

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)


Read = Callable[[int, int], bytes]  # so many bytes from such an offset, as os.pread does


def scan_tar(path: Path, called: Path | None = None) -> list[Member]:
    """List the members of a tar, which errors call `called`."""
    with _opened(path) as (read, size):
        return _members(called or path, read, 0, size)


def scan_bytes(path: Path, data: bytes) -> list[Member]:
    """List the members of a tar that was read from `path` into memory."""
    return _members(path, lambda size, offset: data[offset : offset + size], 0, len(data))


def scan_tar_of_tars(path: Path) -> tuple[dict[str, list[Member]], list[Member]]:
    """List the members of each tar in a tar, by its name without ".tar"; and what else is there."""
    inner: dict[str, Member] = {}
    others = []
    with _opened(path) as (read, size), ThreadPoolExecutor(THREADS) as pool:
        for member in _members(path, read, 0, size):
            if is_litter(member.name) or not member.name.lower().endswith(".tar"):
                others.append(member)
                continue
            if member.fault:
                raise DataError(
                    f"{path}: {one_line(member.path)} cannot be read: it is {member.fault}; pack it again"
                )
            if member.name[:-4] in inner:
                raise DataError(f"{path} holds {one_line(member.name)} twice: pack it with one of them")
            inner[member.name[:-4]] = member

        def scan(member: Member) -> list[Member]:
            return _members(path, read, member.offset, member.offset + member.size, one_line(member.name))

        return dict(zip(inner, pool.map(scan, inner.values()), strict=True)), others


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Read, int]]:
    """Yield a function to read the file, which threads can share, and the file's size."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    try:
        if os.pread(file, 8, 0).startswith(COMPRESSED):
            raise DataError(
                f"{path} is compressed, by its first bytes: unpack it; a plain tar is read in place"
            )
        yield partial(os.pread, file), os.fstat(file).st_size
    finally:
        os.close(file)


class _Range:
    """Represent the bytes up to `end` as a file for tarfile, which begins at its position."""

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


class _Members:
    """Collect members, a header at a time; in the end none of them is a link."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.latest: dict[str, int] = {}  # by path
        self.links: dict[int, str] = {}  # symbolic ones: where they lead

    def add(self, header: tarfile.TarInfo) -> None:
        path = posixpath.normpath(header.name)
        place, earlier = len(self.members), self.latest.get(path)
        if header.islnk():
            self._link(path, self.latest.get(posixpath.normpath(header.linkname)))
        elif header.issym():
            self.links[place] = posixpath.normpath(posixpath.join(posixpath.dirname(path), header.linkname))
            self._add(path)
        elif header.isreg() and not header.issparse():
            self._add(path, header.offset_data, header.size)
        elif not header.isdir():
            self._add(path, fault=FAULTS.get(header.type, "no file"))
        if earlier is not None and self.latest[path] == place:
            self.members[earlier] = self.members[earlier]._replace(replaced=True)

    def _add(self, path: str, offset: int = 0, size: int = 0, fault: str = "") -> None:
        self.latest[path] = len(self.members)
        self.members.append(Member(path, offset, size, fault))

    def _link(self, path: str, target: int | None) -> None:
        """Add a hard link, to what had the name when it was made."""
        if target is None:
            fault = "a hard link to what the archive does not hold"  # so it replaces nothing, either
            self.members.append(Member(path, 0, 0, fault))
            return
        if target in self.links:
            self.links[len(self.members)] = self.links[target]
        self._add(path, *self.members[target][1:4])

    def resolve(self) -> list[Member]:
        """Give symbolic links the place of what they lead to; return all members."""
        for place, target in self.links.items():
            end = self.latest.get(target)
            for _ in range(MAX_LINKS):
                if end is None or end not in self.links:
                    break
                end = self.latest.get(self.links[end])
            member = self.members[place]
            if end is None or end in self.links:
                outside = target.startswith(("/", "../"))
                fault = "a link that leads " + (
                    "out of the archive" if outside else "to no file of the archive"
                )
                self.members[place] = member._replace(fault=fault)
            else:
                offset, size, fault = self.members[end][1:4]
                self.members[place] = member._replace(offset=offset, size=size, fault=fault)
        return self.members


def _members(path: Path, read: Read, start: int, end: int, inner: str = "") -> list[Member]:
    """List the members of a tar, and of others that were put behind its end (`cat a.tar b.tar`)."""
    where = f"{path}, in {inner}," if inner else f"{path}"
    members, position = _Members(), start
    try:
        while True:
            position = _read_to_end_mark(members, where, read, position, end)
            position = _skip_zeros(read, position, end)
            if position >= end:
                return members.resolve()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _read_to_end_mark(members: _Members, where: str, read: Read, start: int, end: int) -> int:
    """Read the headers up to the end mark; return where it is."""
    position = start
    try:
        with tarfile.TarFile(fileobj=_Range(read, start, end)) as tar:  # type: ignore[arg-type]
            while header := tar.next():
                if tar.offset <= position:  # a negative size: tarfile would go round for ever
                    raise tarfile.ReadError("a negative size")
                position = tar.offset
                members.add(header)
            position = tar.offset
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{where} is damaged near byte {position} ({error}): copy or download it again"
        ) from None
    # tarfile takes a header it cannot read for the end; the true end is a block of zeros.
    if read(512, position) != bytes(512) or position + 512 > end:
        raise DataError(f"{where} is cut off or damaged at byte {position}: copy or download it again")
    return position


def _skip_zeros(read: Read, start: int, end: int) -> int:
    """Return the start of the block that has the first byte other than zero, or the end."""
    for position in range(start, end, CHUNK):
        data = read(min(CHUNK, end - position), position)
        if rest := data.lstrip(b"\0"):
            return position + (len(data) - len(rest)) // 512 * 512
    return end
