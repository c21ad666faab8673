"""Turn files of ours into documents that can be edited: JSON, arrays, checkpoints, tensors, lines."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from safetensors import safe_open
from safetensors.torch import save

from tools.fuzz.damage import JSON

DTYPES = (
    "float32",
    "float64",
    "float16",
    "int64",
    "int32",
    "uint8",
    "uint64",
    "bool",
    "complex64",
    "U3",
    "O",
    "bfloat16",
)
SHAPES = ((), (0,), (1,), (3,), (5,), (2, 2), (256, 256, 3), (10, 5), (0, 7), (1, 1, 1, 1))
FILLS = (0.0, 1.0, -1.0, float("nan"), float("inf"), 1e30, 3.0)


@dataclass(frozen=True)
class Array:
    """Represent an array in the place of another. dent: how the other itself is changed, if at all."""

    dtype: str
    shape: tuple[int, ...]
    fill: float
    dent: str  # "", one, all, cast, shorter, flat, more, wide

    def of(self, old: Any) -> np.ndarray:
        if not isinstance(old, np.ndarray) or not self.dent:
            return np.full(self.shape, self.fill).astype(self.numpy_type)
        new = old.copy()
        if self.dent in ("one", "all") and new.size and new.dtype.kind in "fiu":
            with np.errstate(all="ignore"):
                value = np.array(self.fill).astype(new.dtype)
            new.reshape(-1)[slice(None) if self.dent == "all" else len(self.dtype) % new.size] = value
        if self.dent == "cast" and new.dtype.names is None:
            with np.errstate(all="ignore"):
                new = new.astype(self.numpy_type)
        return {"shorter": new[:-1] if new.ndim else new, "flat": new.reshape(-1), "more": new[None]}.get(
            self.dent, new
        )

    @property
    def numpy_type(self) -> Any:
        return (
            np.float32 if self.dtype == "bfloat16" else np.dtype(self.dtype if self.dtype != "O" else object)
        )


arrays: SearchStrategy[Array] = st.builds(
    Array, st.sampled_from(DTYPES), st.sampled_from(SHAPES), st.sampled_from(FILLS),
    st.sampled_from(["", "one", "all", "cast", "shorter", "flat", "more"]),
)  # fmt: skip
values: SearchStrategy[Any] = JSON | arrays


def numpy_tensor(tensor: Any) -> Any:
    if isinstance(tensor, torch.Tensor):
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()
    if isinstance(tensor, dict):
        return {key: numpy_tensor(value) for key, value in tensor.items()}
    return [numpy_tensor(value) for value in tensor] if isinstance(tensor, list) else tensor


def torch_tensor(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array.copy())
    if isinstance(array, dict):
        return {key: torch_tensor(value) for key, value in array.items()}
    return [torch_tensor(value) for value in array] if isinstance(array, list) else array


def read_npz(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data)) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write_npz(content: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **content)
    return file.getvalue()


def read_record(data: bytes) -> dict[str, Any]:
    """Read a shard's record: its text is JSON in an array."""
    record: dict[str, Any] = read_npz(data)
    return record | {"text": json.loads(record["text"].tobytes())}


def write_record(content: Any) -> bytes:
    text = np.frombuffer(json.dumps(content["text"]).encode(), np.uint8) if "text" in content else None
    return write_npz({**content, "text": text} if text is not None else content)


def write_npy(content: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, content[0])
    return file.getvalue()


def write_pt(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(torch_tensor(content), file)
    return file.getvalue()


def read_tensors(data: bytes) -> dict[str, Any]:
    path = Path("tensors")
    path.write_bytes(data)
    with safe_open(path, framework="pt") as file:
        tensors = {name: numpy_tensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        about = {
            key: json.loads(text) if text[:1] in '{["' else text for key, text in file.metadata().items()
        }
    path.unlink()
    return {"tensors": tensors, "metadata": about}


def write_tensors(content: Any) -> bytes:
    about = {
        key: text if isinstance(text, str) else json.dumps(text) for key, text in content["metadata"].items()
    }
    return bytes(save(torch_tensor(content["tensors"]), about))


def write_lines(content: Any) -> bytes:
    return "\n".join(map(str, content)).encode("utf-8", "surrogateescape")


def write_json(content: Any) -> bytes:
    return json.dumps(content).encode()


Form = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]
LINES: Form = (lambda data: data.decode("utf-8", "surrogateescape").split("\n"), write_lines)
ROWS: Form = (
    lambda data: [json.loads(line) for line in data.splitlines()],
    lambda rows: b"".join(write_json(row) + b"\n" for row in rows),
)
FORMS: dict[str, Form] = {
    ".json": (json.loads, write_json),
    ".jsonl": ROWS,
    ".npz": (read_npz, write_npz),
    ".npy": (lambda data: [np.load(io.BytesIO(data))], write_npy),
    ".pt": (lambda data: numpy_tensor(torch.load(io.BytesIO(data), weights_only=True)), write_pt),
    ".safetensors": (read_tensors, write_tensors),
    ".txt": LINES,
    ".idx": LINES,
}
RECORD: Form = (read_record, write_record)
