"""A run's state on disk: written whole or not at all, read back only where it fits."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model.recipe import RunError

FORMAT = 1
NAMES = ("last.pt", "previous.pt")


def save_last(folder: Path, content: dict[str, Any]) -> None:
    """Write `content` as last.pt; the one before it stays as previous.pt."""
    last, previous, new = (folder / name for name in (*NAMES, "new.pt"))
    save(new, content)
    if last.exists():
        os.replace(last, previous)
    os.replace(new, last)


def save(path: Path, content: dict[str, Any]) -> None:
    """Replace a file in one piece. content: tensors, numbers, strings, lists and dicts of them.

    RunError when the disk is full or refuses; the file that was there stays.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path} ({buffer.tell() / 1e6:.0f} MB): {error.strerror}; "
            "the state saved before it is kept. Make room and run the same command again"
        ) from None


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, every byte checked. RunError when it is damaged or of another format."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
        format = content["format"]
    except FileNotFoundError:
        raise RunError(f"no checkpoint {path}; train first: alexnet-dali train") from None
    except PermissionError:
        raise RunError(f"no permission to read {path}") from None
    except (
        OSError,
        EOFError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:
        raise RunError(f"{path} is damaged ({str(error).splitlines()[0][:80]})") from None
    if format != FORMAT:
        raise RunError(f"{path} has format {format!r}, this version reads {FORMAT}")
    return dict(content)


def latest(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None where there is none; a damaged one is reported."""
    faults = []
    for path in (folder / name for name in NAMES):
        if not path.exists():
            continue
        try:
            content = read(path)
        except RunError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            warn(f"{fault}; going on from {path}, step {content['step']}")
        return content
    if faults:
        raise RunError(f"{'; '.join(faults)}: start again under another name with --run")
    return None


def refuse_changes(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """RunError naming the first setting in which the run on disk and the one asked for differ."""
    for key in sorted(saved.keys() | wanted.keys()):
        before, now = saved.get(key), wanted.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            refuse_changes(path, before, now)
        elif before != now:
            raise RunError(
                f"{path} was started with {key} {before}, not {now}; go on with that, or use another --run"
            )
