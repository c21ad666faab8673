"""Make one shard: from a list of samples to a WebDataset tar, DALI's index of it, and a record of both.

A shard depends on its task alone, so that it can be made by any process, at any time, and made again.
"""

import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np

from pipeline.atomic import replacing
from pipeline.dataset import INDEX, side_of
from pipeline.errors import DataError
from pipeline.image import MAX_BYTES, BadImage, decode, encode, square
from pipeline.schema import Array, Positive, Sha256, Unfit, parse, read_npz
from pipeline.source.sample import Sample
from pipeline.statistics import Sums

RECORD = {  # the arrays of a record
    "rows": Array((INDEX,), ("images",)),
    "text": Array((np.uint8,), ("bytes",)),
    "images": Array((np.int64,), ()),
    "pixels": Array((np.uint32,), ("height", "side", 3)),  # height is 0 where no images are summed
    "products": Array((np.uint64,), (3, 3)),
}


@dataclass(frozen=True)
class Task:
    """Describe a shard to be made: its images, and how they are stored."""

    split: str
    number: int
    first: int  # place of the first sample in its split, which names it: a rejected one leaves a gap
    size: str
    store: str
    exif: str  # "honour" or "ignore" the orientation
    samples: tuple[Sample, ...]
    folder: Path  # prep's work folder

    @property
    def name(self) -> str:
        return f"{self.split}/{self.number:06d}.tar"

    @property
    def side(self) -> int:
        """Return the pixels along its squares."""
        return side_of(self.size)

    def made(self, suffix: str) -> Path:
        """Return the path of a file of this shard while prep runs."""
        return self.folder / f"{self.split}-{self.number:06d}{suffix}"


class Text(NamedTuple):
    """Hold what a record has beside its arrays."""

    bytes: Positive
    sha256: Sha256
    names: list[str]
    rejected: list[dict[str, Any]]
    flawed: list[dict[str, Any]]


@dataclass(frozen=True)
class Record:
    """Hold what is in a shard, and the sums over its images where they count for the statistics."""

    bytes: int
    sha256: str
    rows: np.ndarray  # INDEX
    names: list[str]
    rejected: list[dict[str, Any]]
    flawed: list[dict[str, Any]]  # kept all the same
    sums: Sums

    def save(self, path: Path) -> None:
        """Write the record as a .npz."""
        text = json.dumps([self.bytes, self.sha256, self.names, self.rejected, self.flawed])
        with replacing(path) as file:
            np.savez(
                file,
                rows=self.rows,
                text=np.frombuffer(text.encode(), np.uint8),
                images=self.sums.images,
                pixels=self.sums.pixels.astype(np.uint32)[: None if self.sums.images else 0],
                products=self.sums.products,
            )

    @classmethod
    def load(cls, path: Path, side: int) -> Self:
        """Load what `save` wrote of images of `side` pixels; DataError if the file is anything else."""
        sums = Sums(side)
        try:
            arrays = read_npz(path, RECORD)
            rows, images, pixels = (arrays[name] for name in ("rows", "images", "pixels"))
            size, sha256, names, rejected, flawed = parse(arrays["text"].tobytes(), Text)
            if len(names) != len(rows) or np.any(rows["offset"] + rows["size"] > size):
                raise Unfit("its rows do not fit its names or its shard")
            if not 0 <= images <= len(rows) or pixels.shape[:2] != (side if images else 0, side):
                raise Unfit("its sums do not fit its rows")
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror})") from None
        except Unfit as error:
            raise DataError(f"{path} is damaged: {error}") from None
        if images:
            sums.merge(int(images), pixels, arrays["products"])
        return cls(size, sha256, rows, names, rejected, flawed, sums)


class ShardWriter:
    """Write a tar whose bytes depend on its contents only."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.bytes = 0
        self.index: list[str] = []

    def add(self, key: int, suffix: str, image: bytes, label: int) -> int:
        """Write a sample; return where its image ends."""
        parts = [(suffix, image)] + ([("cls", b"%05d" % label)] if label >= 0 else [])
        places = [(suffix, self._member(f"{key:08d}.{suffix}", data), len(data)) for suffix, data in parts]
        self.index.append(
            " ".join(f"{suffix} {offset} {size} {key:08d}.{suffix}" for suffix, offset, size in places)
        )
        return places[0][1] + len(image)

    def finish(self) -> str:
        """End the tar; return the text of its index."""
        self._write(bytes(-(self.bytes + 1024) % tarfile.RECORDSIZE + 1024))
        return "".join(line + "\n" for line in [f"v1.2 {len(self.index)}", *self.index])

    def _member(self, name: str, data: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.bytes
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.bytes += len(data)


def make_shard(task: Task) -> int:
    """Make the shard and its record in the work folder; return how many images were rejected."""
    rows, names, rejected, flawed, sums = [], [], [], [], Sums(task.side)
    with replacing(task.made(".tar")) as file:
        shard = ShardWriter(file)
        for key, sample in enumerate(task.samples, task.first):
            where = {"split": task.split, "name": sample.name, "file": sample.file, "offset": sample.offset}
            try:
                if sample.fault:
                    raise BadImage(sample.fault)
                pixels, image, flaws = prepare_image(sample.read(MAX_BYTES), task.size, task.store, task.exif)
            except BadImage as error:
                rejected.append(where | {"label": sample.label, "reason": str(error)})
                continue
            flawed += [where | {"flaw": flaw} for flaw in flaws]
            suffix, size = ("npy", pixels.nbytes) if task.store == "raw" else ("jpg", len(image))
            end = shard.add(key, suffix, image, sample.label)  # a .npy ends with its pixels
            rows.append((task.number, end - size, size, sample.label))
            names.append(sample.name)
            if task.split == "train":
                sums.add(pixels)
        index = shard.finish()
    with replacing(task.made(".idx")) as file:
        file.write(index.encode())
    digest = shard.hash.hexdigest()
    Record(shard.bytes, digest, np.array(rows, INDEX), names, rejected, flawed, sums).save(task.made(".made"))
    return len(rejected)


def prepare_image(
    data: bytes | None, size: str, store: str, exif: str
) -> tuple[np.ndarray, bytes, tuple[str, ...]]:
    """Turn a source's bytes into (side, side, 3) uint8 pixels, the stored file, and harmless flaws."""
    if data is None:
        raise BadImage(f"larger than {MAX_BYTES:,} bytes")
    decoded = decode(data, upright=exif == "honour")
    small = square(decoded.image, side_of(size))
    pixels = np.asarray(small)
    if store == "raw":
        file = io.BytesIO()
        np.save(file, pixels)
        return pixels, file.getvalue(), decoded.flaws
    return pixels, decoded.file(data) if size == "original" else encode(small), decoded.flaws


def commit(task: Task, out: Path) -> None:
    """Move a shard to its place; its record comes last, and is what says that the shard is done."""
    for suffix in (".idx", ".tar"):
        os.replace(task.made(suffix), out / task.split / f"{task.number:06d}{suffix}")
    os.replace(task.made(".made"), task.made(".npz"))
