"""Sort files into images, what is left out with its reason, and what is passed over."""

import os
import re
import stat
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.errors import DataError
from pipeline.formats import HEAD, SUFFIXES, begins_as_image

# Files of systems and programs, which are passed over, as hidden ones are.
LITTER = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "@eadir",
    "lost+found",
    "$recycle.bin",
}
NO_IMAGE = "no image by its first bytes"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip", ".7z", ".rar")
UNREAD = "an archive that is not read: unpack it if its images count"
OUTSIDE = "a link that leads out of the root: put the file itself there"
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
NO_WAIT = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe without a writer is opened at once, and empty


class Sample(NamedTuple):
    """Represent an image: a range of bytes of a file; size -1 is the whole file."""

    path: str
    offset: int
    size: int
    label: int  # -1: unknown
    name: str  # in printable characters, on one line
    fault: str = ""  # why it cannot be used, where finding it has already shown that
    origin: str = ""  # the archive that `path` was unpacked from

    @property
    def file(self) -> str:
        """Return the file that the user gave."""
        return self.origin or self.path

    def read(self, limit: int) -> bytes | None:
        """Read its bytes; return None if they are more than `limit`."""
        try:
            with open(os.open(self.path, NO_WAIT), "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise DataError(f"{self.path} changed while it was read: run the same command again")
                size = status.st_size if self.size < 0 else self.size
                if size > limit:
                    return None
                data = os.pread(file.fileno(), size, self.offset)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from None
        if len(data) != size:
            raise DataError(
                f"{self.path} ends inside {self.name}: it changed while it was read; "
                "run the same command again"
            )
        return data


class LeftOut(NamedTuple):
    """Represent a file that is no image, or a folder or archive whose images are read elsewhere."""

    path: str
    name: str
    reason: str
    offset: int = 0


@dataclass
class Found:
    """Hold what lies in a folder or an archive."""

    images: list[Sample] = field(default_factory=list)
    left: list[LeftOut] = field(default_factory=list)
    passed: int = 0  # hidden files and the like
    archives: list[str] = field(default_factory=list)  # tars, not yet opened

    def add(self, sample: Sample) -> None:
        """Sort a file by its suffix or, where that promises nothing, by its first bytes."""
        promised, unread = sample.name.lower().endswith(SUFFIXES), sample.fault not in ("", OUTSIDE)
        if promised or (not unread and begins_as_image(read_head(sample))):
            self.images.append(sample)
        else:
            packed = sample.name.lower().endswith((".tar", *PACKED))
            reason = sample.fault if unread else UNREAD if packed else NO_IMAGE
            self.left.append(LeftOut(sample.file, sample.name, reason, sample.offset))

    def join(self, other: "Found") -> None:
        self.images += other.images
        self.leave(other)

    def leave(self, other: "Found") -> None:
        """Take over all but the images."""
        self.left += other.left
        self.passed += other.passed


def read_head(sample: Sample) -> bytes:
    """Read the first bytes of a sample."""
    size = HEAD if sample.size < 0 else min(HEAD, sample.size)
    try:
        with open(os.open(sample.path, NO_WAIT), "rb", buffering=0) as file:
            return os.pread(file.fileno(), size, sample.offset)
    except OSError as error:
        raise DataError(f"cannot read {sample.path}: {error.strerror}") from None


def is_litter(name: str) -> bool:
    """Tell whether a file or folder of this name is passed over."""
    return name.startswith(".") or name.lower() in LITTER


def one_line(name: str) -> str:
    """Return the name with what would break a line or is no UTF-8 as an escape: \\r, \\x1b, \\xe9."""
    return UNPRINTABLE.sub(_escape, name)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(match[0])[1:-1]
