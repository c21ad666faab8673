"""Save a run's state, complete or not at all, and read it back with every byte checked."""

import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct

from model.changes import Change, called, changes, composed
from model.errors import RunError
from model.network import check_sizes
from model.recipe import Recipe
from model.run import Validation, write_errors
from pipeline.atomic import replacing, sync_folder
from pipeline.schema import Count, Fingerprint, Unfit, convert, need_file, unfit

FORMAT = 1
# Newest first. new.pt exists only if a process died between writing it and renaming it to last.pt.
NEW, LAST, PREVIOUS = NAMES = ("new.pt", "last.pt", "previous.pt")
# What --allow-changes accepts: the result is then not bit-identical to that of an unchanged run.
MAY_CHANGE = ("epochs", "schedule", "processes", "devices", "precision", "torch", "dali")


class Identity(Struct):
    """Hold the part of a run's identity that is needed to read it."""

    recipe: dict[str, Any]
    dataset: Fingerprint


class Run(Struct, forbid_unknown_fields=True):
    """Hold the content of a run's checkpoint."""

    format: int
    identity: Identity
    step: Count
    history: list[Validation]
    sums: torch.Tensor  # (processes, 4) or (0,)
    weights: dict[str, torch.Tensor]
    velocities: dict[str, torch.Tensor]


class Damaged(RunError):
    """Report a checkpoint whose content is not what was written."""


def save_last(folder: Path, content: dict[str, Any]) -> None:
    """Write `content` as last.pt; keep the one before it as previous.pt."""
    save(folder / NEW, content)
    with write_errors(folder):
        if (folder / LAST).exists():
            os.replace(folder / LAST, folder / PREVIOUS)
        os.replace(folder / NEW, folder / LAST)
        sync_folder(folder)


def save(path: Path, content: dict[str, Any]) -> None:
    """Replace a file atomically. content: tensors, numbers, strings, lists and dicts of them.

    RunError if a number is not finite or the file cannot be written; the old file then stays.
    """
    if broken := next(not_finite(content), None):
        raise RunError(
            f"{broken} is no longer finite: the training diverged; {path.parent} keeps the state saved "
            "before. Try --precision float32 under another --run"
        )
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    with write_errors(path), replacing(path) as file:
        file.write(buffer.getbuffer())


def not_finite(content: Any, name: str = "") -> Iterator[str]:
    """Yield the names of a checkpoint's tensors that hold NaN or infinite numbers."""
    if isinstance(content, torch.Tensor) and not content.isfinite().all():
        yield name
    if isinstance(content, dict):
        for key, value in content.items():
            yield from not_finite(value, f"{name} {key}".strip())


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content; every byte is checked, and that it is a state of its recipe's network.

    Damaged if it is not, RunError if its format is another or it does not exist.
    """
    content = read_content(path, Run)
    try:
        shapes = Recipe.from_dict(content["identity"]["recipe"]).shapes()
        sizes = {f"{s.layer.name}.{kind}": size for s in shapes for kind, size in s.tensors.items()}
        for kind in ("weights", "velocities"):
            check_sizes(content[kind], sizes)
        if content["sums"].numel() and content["sums"].shape[1:] != (4,):
            raise Unfit(f"sums: expected rows of 4 numbers, not {tuple(content['sums'].shape)}")
    except (RunError, Unfit) as error:
        raise Damaged(f"{path} is damaged: {error}") from None
    return content


def read_content(path: Path, kind: type) -> dict[str, Any]:
    """Return what `save` wrote, if it matches the schema `kind` and is finite. Errors: see `read`."""
    try:
        need_file(path)
        content = _load(path)
        if not isinstance(content, dict) or "format" not in content:
            held = f", but {list(content)[:2]}" if isinstance(content, dict) else ""
            raise Unfit(f"it was not written by alexnet-dali train: it holds no format{held}")
        if content["format"] != FORMAT:
            raise RunError(
                f"{path} has format {content['format']!r}, this version reads {FORMAT}: use the version of "
                "alexnet-dali that wrote it"
            )
        convert(content, kind)
        if broken := next(not_finite(content), None):
            raise Unfit(f"it holds NaN or infinite numbers in {broken}")
    except FileNotFoundError:
        raise RunError(f"no checkpoint {path}; train first: alexnet-dali train") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except Unfit as error:
        raise Damaged(f"{path} is damaged: {error}") from None
    return content


def _load(path: Path) -> Any:
    """Load a file with torch, after checking that this takes no more memory than the file has bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            if packed or sum(member.file_size for member in members) > path.stat().st_size:
                raise Unfit("it claims to hold more than its size")
            if damaged := archive.testzip():
                raise Unfit(f"the checksum of its {damaged} differs")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise unfit(error) from None
    # Torch trusts the sizes that the file states, even if the data are missing.
    held = sorted(m.file_size for m in members if re.search(r"/data/\d+$", m.filename) and m.file_size)
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in _tensors(content))}
    if sorted(size for size in storages.values() if size) != held:
        raise Unfit("its tensors are of other sizes than it says")
    return content


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors; Unfit for a kind that no run saves, as one number expanded 10^15 times."""
    if isinstance(content, torch.Tensor):
        usual = content.layout == torch.strided and content.is_contiguous()
        if not usual or content.dtype not in (torch.float32, torch.float64):
            raise Unfit(f"it holds a tensor of {content.dtype} {tuple(content.shape)}, or one with gaps")
        yield content
    elif isinstance(content, dict | list | tuple):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _tensors(value)


def latest(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the newest readable checkpoint, or None if there is none; warn of damaged ones."""
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
            warn(f"{fault}; resuming from {path}, step {content['step']}")
        return content
    if faults:
        raise RunError(f"{'; '.join(faults)}: start again under another name with --run")
    return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, "key old, not new") for each difference of two identities, their recipes included."""

    def order(change: Change) -> list[tuple[bool, str]]:
        return [(part != "name", part) for part in change[0]]

    for path, old, new in sorted(changes(before, now), key=order):
        place = called(path)
        label = "recipe" if path == ("recipe", "name") else " ".join(place).replace("_", " ")
        other = composed(old) or composed(new)
        yield place[0], f"different {label}" if other else f"{label} {old}, not {new}"


def refuse_changes(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], allow: bool, warn: Callable[[str], None]
) -> None:
    """Raise RunError that names the differences between the run on disk and the one asked for.

    With `allow`, those of MAY_CHANGE are only passed to `warn`.
    """
    known = Recipe.from_dict(before["recipe"]).to_dict()  # with the fields that were added since
    found = list(differences({**before, "recipe": known}, now))
    for key, text in found:
        if key == "dataset":
            where = folder / "run.json"
            raise RunError(
                f"{folder} was started with another dataset, which {where} names; use another --run"
            )
        if key not in MAY_CHANGE:
            raise RunError(f"{folder} was started with {text}; repeat that, or use another --run")
    texts = ", ".join(text for _, text in found)
    if found and not allow:
        raise RunError(
            f"{folder} was trained with {texts}; repeat that, or resume with --allow-changes: the result is "
            "then not bit-identical"
        )
    if found:
        warn(f"{folder} was trained with {texts}; resuming all the same")
