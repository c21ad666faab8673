"""Damage files at random: changes are plain data that hypothesis draws and `damage` carries out."""

import copy
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Change:
    """Represent a change. how: one of CHANGES; where: a part of the file, 0 to 1; count, what: bytes."""

    how: str
    where: float
    count: int
    what: bytes


CHANGES = ("flip", "set", "cut", "drop", "insert", "repeat", "zero", "chunk", "segment")
WORDS = (
    b"\0",
    b"\xff",
    b"\xff\xd9",
    b"\xff\xda",
    b"\xff\xc0",
    b"\xff\xd8",
    b"\x80\0\0\0",
    b"\xff\xff\xff\x7f",
    b"PK\x03\x04",
    b"\n",
)
changes: SearchStrategy[Change] = st.builds(
    Change,
    st.sampled_from(CHANGES),
    st.floats(0, 1) | st.sampled_from([0.0, 0.001, 0.01, 0.99, 1.0]),
    st.integers(0, 64) | st.sampled_from([1, 2, 4, 12, 20, 512, 4096]),
    st.binary(min_size=1, max_size=8) | st.sampled_from(WORDS),
)


def damage(data: bytes, changes: list[Change]) -> bytes:
    for change in changes:
        data = changed(data, change)
    return data


def changed(data: bytes, change: Change) -> bytes:
    place, count, what = int(change.where * max(0, len(data) - 1)), change.count, change.what
    before, behind = data[:place], data[place:]
    if change.how == "flip":
        return before + bytes([behind[0] ^ (1 << count % 8)]) + behind[1:] if behind else data
    if change.how == "set":
        return before + what + behind[len(what) :]
    if change.how == "cut":
        return data[:place] if count % 2 else data[: max(0, len(data) - count)]
    if change.how == "drop":
        return before + behind[count:]
    if change.how == "insert":
        return before + what * (1 + count % 3) + behind
    if change.how == "repeat":
        return before + behind[:count] * 2 + behind[count:]
    if change.how == "zero":
        return before + bytes(min(count, len(behind))) + behind[count:]
    if change.how == "chunk" and data.startswith(b"\x89PNG"):
        return changed_chunk(data, change)
    if change.how == "segment" and data.startswith(b"\xff\xd8"):
        return changed_segment(data, change)
    return data


def changed_chunk(data: bytes, change: Change) -> bytes:
    """Change a PNG: one chunk has other bytes and the right checksum, or is not there, or twice."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    if not chunks:
        return data
    number = int(change.where * (len(chunks) - 1))
    kind, content = chunks[number]
    at = change.count % (len(content) + 1)
    new = [(kind, content[:at] + change.what + content[at + len(change.what) :])]
    chunks[number : number + 1] = ([], new * 2, new, new)[change.count % 4]
    made = [struct.pack(">I", len(x)) + k + x + struct.pack(">I", zlib.crc32(k + x)) for k, x in chunks]
    return data[:8] + b"".join(made)


def changed_segment(data: bytes, change: Change) -> bytes:
    """Change a JPEG: another value in a segment, or a segment that is new, or not there, or twice."""
    places, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        places.append(place)
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    places.append(min(place, len(data)))
    number = int(change.where * (len(places) - 1))
    start, end = places[number], places[min(number + 1, len(places) - 1)]
    segment = data[start:end]
    if change.count % 4 == 0:
        return data[:start] + data[end:]
    if change.count % 4 == 1:
        return data[:end] + segment + data[end:]
    if change.count % 4 == 2:
        marker = bytes([0xFF, (0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xDD, 0xDC, 0xC4, 0xDB)[change.count % 9]])
        return data[:start] + marker + struct.pack(">H", 2 + len(change.what)) + change.what + data[start:]
    at = 4 + change.count % max(1, len(segment) - 4)
    return data[:start] + segment[:at] + change.what + segment[at + len(change.what) :] + data[end:]


JSON: SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 1e308, -1e308, 1e-320, float("nan"),
        float("inf"), 0.5, 1e12]),
    st.sampled_from(["", "0", "x" * 300, "../../etc", "/dev/zero", "a\nb", "\x1b[31m", "\udc80", "[b]",
        "train", "NaN", "0" * 64]),
    st.text(max_size=5),
    st.sampled_from([[], {}, [[]], {"": 0}, [None], [1, 2, 3], {"name": "x"}]),
)  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """Represent an edit of a JSON document: path leads to a value by numbers, each a place on its level."""

    how: str  # drop, double, put, add, rename
    path: tuple[int, ...]
    value: Any


def edits(values: SearchStrategy[Any]) -> SearchStrategy[Edit]:
    return st.builds(
        Edit,
        st.sampled_from(["drop", "double", "put", "put", "put", "add", "rename", "grow"]),
        st.lists(st.integers(0, 30), min_size=1, max_size=6).map(tuple),
        values,
    )


def edit(content: Any, change: Edit) -> Any:
    """Change one value of a document, in place where that can be; return the document."""
    parent: Any = None
    key: Any = None
    value = content
    for step in change.path:
        keys = (
            list(value)
            if isinstance(value, dict)
            else list(range(len(value)))
            if isinstance(value, list)
            else []
        )
        if not keys:
            break
        parent, key = value, keys[step % len(keys)]
        value = parent[key]
    if parent is None:
        return made(change.value, content)
    new = made(change.value, value)
    if change.how == "drop":
        del parent[key]
    elif change.how == "put":
        parent[key] = new
    elif change.how == "grow" and type(value) in (int, float):
        parent[key] = value * 1e3 if isinstance(new, float) else value + 1
    elif isinstance(parent, list):
        parent.insert(key, value if change.how == "double" else new)
    elif change.how == "rename":
        parent[str(change.value)] = parent.pop(key)
    else:
        parent[str(change.value)[:20]] = value if change.how == "double" else new
    return content


def made(value: Any, old: Any) -> Any:
    """Return a value to put in; one that depends on the value that it replaces is computed from that."""
    return value.of(old) if hasattr(value, "of") else copy.deepcopy(value)
