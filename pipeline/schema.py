"""Read the files that this program wrote itself: any of them may have been edited or damaged since.

Each file has one schema, a type that msgspec knows or a table of arrays, beside the code that uses it. What
reads a file turns Unfit into an error of its own package, which names the file and says what to do. Like
pipeline/atomic.py this imports nothing of the project, so that `model` may use it, too.
"""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

T = TypeVar("T")
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Fingerprint = Annotated[str, Meta(pattern="^[0-9a-f]{16,64}$")]  # of a dataset, or the beginning of it
Place = Annotated[str, Meta(min_length=1)]  # a path
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
EXPANSION = 200  # how many times its size a compressed file may hold


class Unfit(ValueError):
    """Represent what is wrong with a file: where in it, and what was expected there."""


class Array(NamedTuple):
    """Represent what an array must be: one of these types, and this shape, where a name is one free size."""

    types: tuple[Any, ...]
    shape: tuple[int | str, ...]


def convert(value: Any, kind: type[T]) -> T:
    """Convert `value`, as parsed from a file, to a `kind`; Unfit names the place that does not fit."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        said = str(error).replace(" - at `$.", " at `").replace(" - at", " at")
        raise Unfit(said[0].lower() + said[1:]) from None
    except RecursionError:
        raise Unfit("nested too deeply") from None
    except UnicodeEncodeError:  # of a key: msgspec reads it as UTF-8
        raise Unfit("a name that is not valid Unicode") from None


def parse(text: bytes | str, kind: type[T]) -> T:
    """Convert JSON, read by json, since msgspec refuses file names that are not UTF-8."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"not valid JSON ({error})") from None
    return convert(value, kind)


def read_json(path: Path, kind: type[T]) -> T:
    """Convert a JSON file; OSError if it cannot be read."""
    need_file(path)
    return parse(path.read_bytes(), kind)


def read_npz(path: Path, arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Read these arrays of a .npz; memory is taken only when all that the file says of them fits."""
    need_file(path)
    sizes: dict[str, int] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > EXPANSION * path.stat().st_size:
                raise Unfit("it claims to hold far more than its size")
            for name, array in arrays.items():
                with archive.open(f"{name}.npy") as file:
                    length = archive.getinfo(f"{name}.npy").file_size
                    _read_header(file, name, array, sizes, length)
        with np.load(path) as stored:
            return {name: stored[name] for name in arrays}
    except Exception as error:
        raise unfit(error) from None


def map_npy(path: Path, array: Array) -> np.ndarray:
    """Map the array of a .npy file into memory, read-only."""
    need_file(path)
    try:
        with open(path, "rb") as file:
            dtype, shape, order = _read_header(file, "", array, {}, path.stat().st_size)
            start = file.tell()
        if math.prod(shape) == 0:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", start, shape, order)
    except Exception as error:
        raise unfit(error) from None


def _read_header(
    file: IO[bytes], name: str, array: Array, sizes: dict[str, int], length: int
) -> tuple[np.dtype[Any], tuple[int, ...], Any]:
    """Read the header of a .npy of `length` bytes. sizes: those that the names in shapes have already."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    what = f"{name}: " if name else ""
    if not (dtype in array.types or (dtype.kind == "U" and np.str_ in array.types)):
        raise Unfit(f"{what}expected {' or '.join(np.dtype(t).name for t in array.types)}, not {dtype}")
    wanted = tuple(sizes.get(side, side) if isinstance(side, str) else side for side in array.shape)
    if len(shape) != len(wanted) or any(
        isinstance(side, int) and side != size for side, size in zip(wanted, shape, strict=True)
    ):
        raise Unfit(f"{what}expected the shape ({', '.join(map(str, wanted))}), not {shape}")
    sizes |= {side: size for side, size in zip(array.shape, shape, strict=True) if isinstance(side, str)}
    if file.tell() + math.prod(shape) * dtype.itemsize != length:
        raise Unfit(f"{what}{shape} {dtype} are not the {length:,} bytes that are there")
    return dtype, shape, "F" if fortran else "C"


def need_file(path: Path) -> None:
    """Raise Unfit if `path` is a folder, a device or a named pipe, which could be waited for without end."""
    if path.exists() and not path.is_file():
        raise Unfit("it is not a regular file")


def unfit(error: Exception) -> Exception:
    """Turn any error into Unfit, except that a file cannot be opened or memory is short.

    Damage makes NumPy, zipfile, pickle and torch raise nearly anything, and they say it in many lines.
    """
    if isinstance(error, Unfit | MemoryError) or (isinstance(error, OSError) and error.filename):
        return error
    return Unfit(f"{type(error).__name__}: {str(error)[:100]}".splitlines()[0].rstrip(": "))
