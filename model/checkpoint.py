"""A run's state on disk: written whole or not at all, read back only where it fits."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from model.recipe import RunError
from model.run import kept
from pipeline.atomic import replacing, sync_folder

FORMAT = 1
# Newest first. new.pt is there only if a process died after writing it and before it took last.pt's name.
NEW, LAST, PREVIOUS = NAMES = ("new.pt", "last.pt", "previous.pt")
# What may change in the middle of a run, if its bits need not be those of an undisturbed one.
MAY_CHANGE = ("epochs", "schedule", "processes", "devices", "precision", "torch", "dali")


class Damaged(RunError):
    """A checkpoint that is not what was written."""


def save_last(folder: Path, content: dict[str, Any]) -> None:
    """Write `content` as last.pt; the one before it stays as previous.pt."""
    save(folder / NEW, content)
    with kept(folder):
        if (folder / LAST).exists():
            os.replace(folder / LAST, folder / PREVIOUS)
        os.replace(folder / NEW, folder / LAST)
        sync_folder(folder)


def save(path: Path, content: dict[str, Any]) -> None:
    """Replace a file in one piece. content: tensors, numbers, strings, lists and dicts of them.

    RunError when a number is not finite, or the disk is full or refuses; the file that was there stays.
    """
    if broken := next(not_finite(content), None):
        raise RunError(
            f"{broken} is no longer finite: the training diverged; {path.parent} keeps the state saved "
            "before. Try --precision float32 under another --run"
        )
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    with kept(path), replacing(path) as file:
        file.write(buffer.getbuffer())


def not_finite(content: Any, name: str = "") -> Iterator[str]:
    """The names of the tensors of a checkpoint that hold a number which is not finite."""
    if isinstance(content, torch.Tensor) and not content.isfinite().all():
        yield name
    if isinstance(content, dict):
        for key, value in content.items():
            yield from not_finite(value, f"{name} {key}".strip())


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, every byte checked. Damaged, or RunError when it is of another format."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
        format = content["format"]
    except FileNotFoundError:
        raise RunError(f"no checkpoint {path}; train first: alexnet-dali train") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except (
        EOFError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:
        raise Damaged(f"{path} is damaged ({str(error).splitlines()[0][:80]})") from None
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
        except Damaged as error:
            faults.append(str(error))
            continue
        for fault in faults:
            warn(f"{fault}; going on from {path}, step {content['step']}")
        return content
    if faults:
        raise RunError(f"{'; '.join(faults)}: start again under another name with --run")
    return None


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], name: str = ""
) -> Iterator[tuple[str, str]]:
    """(key, "key old, not new") for each setting in which two identities differ; those of the recipe, too."""
    for key in sorted(before.keys() | now.keys(), key=lambda key: (key != "name", key)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, key)
        elif old != new:
            label = name if key == "name" else key
            yield key, f"{label.replace('_', ' ')} {old}, not {new}"


def refuse_changes(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], allow: bool, warn: Callable[[str], None]
) -> None:
    """RunError naming what differs between the run on disk and the one asked for.

    With `allow`, those of MAY_CHANGE are told to `warn` and pass.
    """
    found = list(differences(before, now))
    for key, text in found:
        if key not in MAY_CHANGE:
            raise RunError(f"{folder} was started with {text}; go on with that, or use another --run")
    texts = ", ".join(text for _, text in found)
    if found and not allow:
        raise RunError(
            f"{folder} was trained with {texts}; go on with that, or with --allow-changes to other bits"
        )
    if found:
        warn(f"{folder} was trained with {texts}; going on")
