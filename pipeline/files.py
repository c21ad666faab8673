"""Read loose image files, decoded, resized and cropped by the graph that evaluation uses."""

import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline import graph, image
from pipeline.arguments import check_count, check_dtype, find_device
from pipeline.batches import Feed, Stream
from pipeline.errors import DataError
from pipeline.formats import HEAD, SUFFIXES, begins_as_image
from pipeline.image import MAX_BYTES, BadImage, Decoded
from pipeline.source.sample import is_litter


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Find the named files, the images of a folder at any depth, what matches a pattern; each sorted."""
    paths: list[Path] = []
    for argument in arguments:
        if os.path.isdir(argument):
            here = sorted(_walk(argument))
        elif os.path.lexists(argument):
            here = [Path(argument)]
        else:
            here = sorted(Path(name) for name in glob.glob(argument, recursive=True) if os.path.isfile(name))
        if not here:
            if os.path.isdir(argument):
                raise DataError(f"{argument} holds no images: give another folder, or files")
            raise DataError(f"{argument}: no such file or folder, and nothing matches it as a pattern")
        paths += here
    return paths


class FileBatches(Stream):
    """Yield each file once and in order; labels are the files' places in `paths`, (rows,) int64.

    Images are those of EvaluationBatches, cut from squares of `side` pixels, and turned as their EXIF
    orientation says if `upright`. A file that cannot be decoded is in no batch: `faults` has its place and
    the reason, by the time a later file is yielded. `notes` has what is wrong with files that are in a batch.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        device: torch.device | str,
        *,
        batch_size: int = 16,
        side: int = 256,
        crop: int = 224,
        ten_crop: bool = False,
        dtype: torch.dtype = torch.float32,
        upright: bool = True,
        threads: int | None = None,
    ) -> None:
        check_count("batch_size", batch_size, 1)
        check_count("side", side, 1)
        check_count("crop", crop, 1, side)
        check_dtype(dtype, subtract_mean=False)
        device = find_device(device)
        self.paths, self.batch_size, self.upright = paths, batch_size, upright
        self.faults: dict[int, str] = {}
        self.notes: dict[int, str] = {}
        options = graph.executor(device, threads, batch_size)
        self.threads = options["num_threads"]
        make: Callable[..., object] = partial(
            graph.evaluation_graph,
            crop=crop,
            kind="original",
            side=side,
            views=graph.TEN_VIEWS if ten_crop else graph.CENTRE_VIEW,
            **options,
        )
        super().__init__(make, device, dtype)

    def _feed(self) -> Feed:
        with ThreadPoolExecutor(self.threads) as pool:
            for first in range(0, len(self.paths), self.batch_size):
                numbers = range(first, min(first + self.batch_size, len(self.paths)))
                read = zip(numbers, pool.map(self._read, numbers), strict=True)
                good = {number: data for number, data in read if data is not None}
                if good:
                    yield np.array(list(good)), (list(good.values()), np.array(list(good), np.int64))

    def _read(self, number: int) -> np.ndarray | None:
        """Return the file that DALI reads in place of this one, or None where there is a fault."""
        try:
            data, decoded = _decode(self.paths[number], self.upright)
        except OSError as error:
            self.faults[number] = f"cannot be read: {error.strerror}"
            return None
        except (BadImage, MemoryError) as error:
            self.faults[number] = f"cannot be decoded: {str(error) or 'too little memory'}"
            return None
        if decoded.damage:
            self.notes[number] = f"damaged: {decoded.damage}; decoded as far as possible"
        return np.frombuffer(decoded.file(data), np.uint8)

    def _damage(self, number: int) -> None:
        self.faults[number] = "cannot be decoded by DALI"


def square(path: Path, upright: bool, side: int) -> np.ndarray:
    """Return the (side, side, 3) uint8 centre of a file that was in a batch; for pictures."""
    return np.asarray(image.square(_decode(path, upright)[1].image, side))


def _decode(path: Path, upright: bool) -> tuple[bytes, Decoded]:
    data = _read_file(path)
    return data, image.decode(data, upright=upright, partly=True)


def _walk(folder: str) -> Iterator[Path]:
    """Yield the images of a folder at any depth; a folder that several links lead to, once."""
    seen = {str(above) for above in Path(folder).resolve().parents}
    unread: list[Path] = []  # folders that cannot be read, so that predict can say so of each
    for here, folders, names in os.walk(
        folder, followlinks=True, onerror=lambda error: unread.append(Path(error.filename))
    ):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        inside = [name for name in folders if not is_litter(name)]
        folders[:] = sorted(inside, key=lambda name: (os.path.islink(os.path.join(here, name)), name))
        paths = (Path(here, name) for name in names if not is_litter(name))
        yield from (path for path in paths if _promises_image(path))
    yield from unread


def _promises_image(path: Path) -> bool:
    """Tell whether a file should be an image, by its suffix, or else by its first bytes."""
    if path.name.lower().endswith(SUFFIXES):
        return True
    try:
        with open(path, "rb", opener=_open_file) as file:
            return begins_as_image(file.read(HEAD))
    except (OSError, BadImage):
        return False


def _read_file(path: Path) -> bytes:
    with open(path, "rb", opener=_open_file) as file:
        data = file.read(MAX_BYTES + 1) if os.fstat(file.fileno()).st_size <= MAX_BYTES else None
    if data is None or len(data) > MAX_BYTES:
        raise BadImage(f"larger than {MAX_BYTES:,} bytes")
    return data


def _open_file(path: str, flags: int) -> int:
    """Open a regular file; BadImage for anything else, on which one could wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise BadImage("it is not a regular file, but a folder, a pipe, a socket or a device")
    return os.open(path, flags | os.O_NONBLOCK)
