"""Write files whole or not at all: every file that a command leaves behind passes through here.

It imports the standard library only, so that `model` may use it, too.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of our own that takes the place of `path`, unless the block fails: then the old one stays.

    For files in folders that the program keeps: its temporary name is `path` with .tmp, and what a killed
    program left under that name is removed. Links are never followed, in either place. OSError names `path`.
    """
    temporary = path.with_name(path.name + ".tmp")
    with naming(path):
        temporary.unlink(missing_ok=True)
    with _renamed(temporary, path) as file:
        yield file


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that the user named, for writing: whole, or the older one stays as it was.

    A link stays a link, and the file that it leads to is replaced; a device or a pipe is written to.
    OSError names `path`.
    """
    with naming(path):
        target = path.resolve()
        regular = not target.exists() or stat.S_ISREG(target.stat().st_mode)
    if regular:
        with _renamed(target.with_name(f".{secrets.token_hex(8)}.tmp"), target) as file:
            yield file
    else:
        with naming(path), open(target, "wb") as file:
            yield file


def make_ready(path: Path) -> None:
    """Fail now, rather than after the work, where a file that the user named cannot be written."""
    with naming(path):
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if target.is_file() or not target.exists():
            probe = target.with_name(f".{secrets.token_hex(8)}.tmp")
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK))
            probe.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` outlast a loss of power, where its file system can."""
    with naming(folder):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not sync folders
                raise
        finally:
            os.close(opened)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that names no file name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def _renamed(temporary: Path, path: Path) -> Iterator[IO[bytes]]:
    """A new file that gets its name when the block ends well, with the older one's permissions."""
    try:
        with naming(path):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666)
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                if path.is_file() and not path.is_symlink():
                    os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
                os.fsync(descriptor)
            os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
