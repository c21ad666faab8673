"""Files are written whole or not at all, and nothing beside them is touched."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from pipeline.atomic import make_ready, replacing, writing

Writer = Callable[[Path], AbstractContextManager[IO[bytes]]]
both = pytest.mark.parametrize("writer", [replacing, writing])


@both
def test_the_older_file_stays_until_the_block_ends_well(writer: Writer, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    with pytest.raises(KeyboardInterrupt), writer(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with writer(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


FULL = {  # ways of writing 5,000 bytes
    "write": "file.write(bytes(5000))",
    "numpy": "import numpy; numpy.save(file, numpy.zeros(5000, numpy.uint8))",
    "buffer": "[file.write(bytes(1000)) for _ in range(5)]",
}


@pytest.mark.parametrize("how", FULL)
@both
def test_a_full_disk_keeps_the_older_file_and_names_the_path(
    writer: Writer, how: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    # a limit of file size fails like a full disk, in a process of its own
    code = (
        "import resource, sys; from pathlib import Path; from pipeline.atomic import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"try:\n  with {writer.__name__}(Path(sys.argv[1])) as file: {FULL[how]}\n"
        "except OSError as error: print(error.errno, error.filename)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{errno.EFBIG} {path}\n"
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_our_own_files_are_written_beside_links_and_not_through_them(tmp_path: Path) -> None:
    foreign, path = tmp_path / "foreign", tmp_path / "last.pt"
    foreign.write_text("the user's")
    path.symlink_to(foreign)
    (tmp_path / "last.pt.tmp").symlink_to(foreign)
    with replacing(path) as file:
        file.write(b"ours")
    assert foreign.read_text() == "the user's" and not path.is_symlink() and path.read_text() == "ours"


def test_a_file_that_the_user_named_is_written_through_its_link(tmp_path: Path) -> None:
    target, link, dangling = tmp_path / "target", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old")
    link.symlink_to("target")
    dangling.symlink_to("not yet there")
    for path in (link, dangling):
        make_ready(path)
        with writing(path) as file:
            file.write(b"new")
    assert link.is_symlink() and target.read_text() == "new"
    assert dangling.is_symlink() and (tmp_path / "not yet there").read_text() == "new"


@both
def test_an_error_of_something_else_keeps_its_name(writer: Writer, tmp_path: Path) -> None:
    for name in ("other", None):
        with pytest.raises(OSError) as caught, writer(tmp_path / "file") as file:
            file.write(b"half")
            raise OSError(errno.EIO, "no disk", name)
        assert caught.value.filename == name
    assert os.listdir(tmp_path) == []


def test_what_stdout_leads_to_is_added_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "from pathlib import Path; from pipeline.atomic import *; import sys; print('a', flush=True)\n"
    code += "for name in ('/dev/stdout', sys.argv[1]):\n  make_ready(Path(name))\n"
    code += "  with writing(Path(name)) as file: file.write(b'b\\n')\n  print('c', flush=True)"
    with log.open("w") as out:
        root = Path(__file__).parent.parent
        subprocess.run([sys.executable, "-c", code, log], cwd=root, stdout=out, check=True)
    assert log.read_text().split() == ["a", "b", "c", "b", "c"] and os.listdir(tmp_path) == ["log"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_stays_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 1234, 1234)
    with writing(path) as file:
        file.write(b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1234)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_what_is_protected_stays(tmp_path: Path) -> None:
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)  # for another user to enter
    (tmp_path / "his").mkdir()
    path, closed = tmp_path / "his" / "file", tmp_path / "new"
    path.write_text("old")
    path.chmod(0o444)
    os.chown(path.parent, 1234, 1234)
    os.chown(path, 1234, 1234)
    os.seteuid(1234)
    try:
        for each in (path, closed):
            for work in (make_ready, lambda path: writing(path).__enter__()):
                with pytest.raises(PermissionError) as caught:
                    work(each)
                assert caught.value.filename == str(each)
    finally:
        os.seteuid(0)
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file"] and not closed.exists()


def test_links_in_a_circle_are_refused_by_name(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    with pytest.raises(OSError, match=str(one)):
        make_ready(one)


def test_a_device_stays_a_device() -> None:
    make_ready(Path("/dev/null"))
    with writing(Path("/dev/null")) as file:
        file.write(b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_making_ready_leaves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file"
    make_ready(path)
    assert os.listdir(tmp_path / "sub") == []
    path.write_text("old")
    make_ready(path)
    assert path.read_text() == "old"
    with pytest.raises(IsADirectoryError, match="sub"):
        make_ready(tmp_path / "sub")
    with pytest.raises(OSError, match="file"):
        make_ready(path / "below a file")


def test_a_zip_may_be_written_to_a_device() -> None:
    with writing(Path("/dev/null")) as file:
        np.savez(file, probabilities=np.zeros((10, 5)), labels=np.zeros(10), names=np.array(["a"] * 10))
