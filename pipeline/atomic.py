"""Write files whole or not at all: every file that a command leaves behind passes through here.

It imports the standard library only, so that `model` may use it, too.
"""

import errno
import fcntl
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

LINK = "symbolic link, which is not followed here; remove it"
THERE = "file exists; give --force to overwrite it, or name another file"


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of our own that takes the place of `path`, unless the block fails: then the old one stays.

    For files in folders that the program keeps: its temporary name is `path` with .tmp, and what a killed
    program left under that name is removed. Links are never followed, in either place. OSError names `path`.
    """
    with _renamed(path.with_name(path.name + ".tmp"), path, path) as file:
        yield file


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that the user named, for writing: whole, or the older one stays as it was.

    A link stays a link, and the file that it leads to is replaced; a device or a pipe is written to, and so
    is what stdout or stderr lead to (/dev/stdout). OSError names `path`.
    """
    target, mode = _find(path)
    stream = _standard(path)
    if stat.S_ISREG(mode) and not stream:
        with _renamed(_hidden(target), target, path) as file:
            yield file
    else:
        descriptor = os.dup(stream) if stream else os.open(path, os.O_WRONLY)
        with io.BufferedWriter(_Stream(descriptor, "w", path)) as file:
            yield file


def make_ready(path: Path, overwrite: bool = True) -> None:
    """Fail now, rather than after the work, where a file that the user named cannot be written.

    Unless `overwrite`, a file that holds something is refused, too (FileExistsError); devices, pipes and what
    stdout or stderr lead to are written to in any case.
    """
    target, mode = _find(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISREG(mode) and not _standard(path):
        if not overwrite and target.exists() and target.stat().st_size:
            raise FileExistsError(errno.EEXIST, THERE, str(path))
        probe = _hidden(target)
        create(probe, path).close()
        probe.unlink()


def _find(path: Path) -> tuple[Path, int]:
    """Return where a file is, or will be, at the end of all links, and its mode. OSError if protected."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    else:
        if not os.access(path, os.W_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return Path(os.path.realpath(path)), mode


def _standard(path: Path) -> int:
    """Return the number of the standard stream that leads to the same file: 1 or 2, else 0."""
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(number)):
                return number
    return 0


def _hidden(target: Path) -> Path:
    return target.with_name(f".{secrets.token_hex(8)}.tmp")


def create(path: Path, name: Path | None = None) -> IO[bytes]:
    """Open a new file of our own, in place of what has its name: a link there is removed, not followed.

    OSError calls it `name`, or else `path`.
    """
    try:
        path.unlink(missing_ok=True)
        # to read, too: past a buffer for writing only NumPy writes by itself, and hides why it failed
        return io.BufferedRandom(_File(path, "x+", name or path), 2**20)
    except OSError as error:
        error.filename = str(name or path)
        raise


def append(path: Path) -> IO[bytes]:
    """Open a file of our own at its end; it is made if there is none. OSError if it is a link."""
    with naming(path):
        return open(path, "ab", opener=_not_following)


def lock(path: Path) -> IO[bytes]:
    """Lock a file of our own until it is closed. BlockingIOError if another process has it; not for links."""
    file = append(path)
    try:
        with naming(path):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def make_folder(path: Path) -> None:
    """Make a folder in one of our own, unless it is there. OSError if it is a link."""
    path.mkdir(exist_ok=True)
    if path.is_symlink():
        raise OSError(errno.ELOOP, LINK, str(path))


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
    """Add the name `path` to an OSError that has none; for a link that is not followed, say what to do."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        if error.errno == errno.ELOOP:
            error.strerror = LINK
        raise


def _not_following(path: str, flags: int) -> int:
    """Open a file, but no link, and wait for no pipe: an opener for open()."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


class _File(io.FileIO):
    """Represent a file whose write errors name the path `called`."""

    def __init__(self, file: Path | int, mode: str, called: Path) -> None:
        super().__init__(file, mode)
        self.called = called

    def write(self, data: Any) -> int:
        with naming(self.called):
            return super().write(data)


class _Stream(_File):
    """Represent a stream without positions: /dev/null would give 0 for each, which breaks a ZIP file."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise io.UnsupportedOperation("tell")


@contextmanager
def _renamed(temporary: Path, path: Path, name: Path) -> Iterator[IO[bytes]]:
    """Open a new file that becomes `path` when the block ends well, with the older one's owner and mode.

    OSError calls it `name`.
    """
    try:
        with create(temporary, name) as file:
            yield file
            file.flush()
            with naming(name):
                if path.is_file() and not path.is_symlink():
                    with suppress(PermissionError):  # some file systems have none
                        os.fchown(file.fileno(), path.stat().st_uid, path.stat().st_gid)
                        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
                os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename, error.filename2 = str(name), None
        raise
