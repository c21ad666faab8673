"""Read images and labels from parquet files, as the Hugging Face hub has them, a page of the file at a time.

The image is a column of structs with the fields bytes and path, the label a column of numbers or names; the
schema's metadata names the columns and the classes.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import DataError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

ROWS = 16  # at a time
BUFFER = 2**20  # bytes; without it pyarrow reads the column of a whole row group
PER_ROW = 4096  # bytes that a tar adds to an image, at most


class Row(NamedTuple):
    image: bytes  # empty where there is none
    path: str  # the image's own, or ""
    label: str  # or ""


def read_class_names(path: Path) -> dict[str, str]:
    """Return the names of the classes that the schema has, by number."""
    with _opened(path) as file:
        names = _features(file).get(_columns(path, file)[1], {}).get("names") or []
    return {str(number): str(name) for number, name in enumerate(names)}


def measure(path: Path) -> int:
    """Return about how many bytes a tar of its images has."""
    with _opened(path) as file:
        meta = file.metadata
        groups = [meta.row_group(number) for number in range(meta.num_row_groups)]
        return int(sum(group.total_byte_size for group in groups) + PER_ROW * meta.num_rows)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows."""
    with _opened(path) as file:
        image, label = _columns(path, file)
        rows = 0
        for batch in file.iter_batches(ROWS, columns=[image, label] if label else [image], use_threads=False):
            images = batch.column(image).to_pylist()
            rows += len(images)
            labels = batch.column(label).to_pylist() if label else [None] * len(images)
            for each, said in zip(images, labels, strict=True):
                content = each or {}
                number = "" if said is None else str(said)
                yield Row(content.get("bytes") or b"", content.get("path") or "", number)
        if rows != file.metadata.num_rows:
            raise DataError(
                f"{path} is damaged ({rows:,} of {file.metadata.num_rows:,} rows): download it again"
            )


@contextmanager
def _opened(path: Path) -> "Iterator[ParquetFile]":
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path} needs pyarrow: pip install 'alexnet-dali[parquet]'") from None
    try:
        with ParquetFile(path, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True) as file:
            yield file
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged ({what}): download it again") from None


def _features(file: "ParquetFile") -> dict[str, Any]:
    """Return what the hub's metadata says of each column."""
    try:
        text = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(text)["info"]["features"]
        return {name: each for name, each in features.items() if isinstance(each, dict)}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


def _columns(path: Path, file: "ParquetFile") -> tuple[str, str]:
    """Return the column of images, and that of labels, or ""."""
    import pyarrow

    schema, features = file.schema_arrow, _features(file)
    images = [
        each.name
        for each in schema
        if pyarrow.types.is_struct(each.type) and each.type.get_field_index("bytes") >= 0
    ]
    if not images:
        raise DataError(
            f"{path} has no column of images (structs with the fields bytes and path): move it away"
        )
    labels = [name for name, each in features.items() if each.get("_type") == "ClassLabel"]
    labels = [name for name in ("label", *labels) if name in schema.names]
    return images[0], labels[0] if labels else ""
