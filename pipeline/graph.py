"""Fourth stop: decode, crop, flip and add noise, as graphs that are built once and run by DALI.

Bytes and random numbers come from batches.py, which takes back the pixels.

The same code serves both backends: on a GPU nvJPEG decodes ("mixed") and everything after it stays on the
device; on a CPU every operator is the CPU one. Pixels are RGB, 0..255, interleaved (HWC); the mean image is
subtracted later. On a CPU a pass over the pixels takes a seventh of their decoding, so there are few passes.
"""

import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nvidia.dali import fn, math, pipeline_def, types
from nvidia.dali.data_node import DataNode

from pipeline.arguments import check_count
from pipeline.errors import DataError
from pipeline.workers import count_cores

Views = Sequence[tuple[float, float, int]]  # y and x of the crop, 0 to 1 from edge to edge; mirrored or not
TEN_VIEWS = tuple((y, x, m) for m in (0, 1) for y, x in ((0, 0), (0, 1), (0.5, 0.5), (1, 0), (1, 1)))
CENTRE_VIEW = ((0.5, 0.5, 0),)
# Memory that nvJPEG reserves for each thread and for the hardware decoder: by default 32 MB and none
SQUARES: dict[str, Any] = {
    "device_memory_padding": 2**20,
    "host_memory_padding": 2**20,
    "preallocate_width_hint": 256,
    "preallocate_height_hint": 256,
}

ROOM, ROOM_OF_THREAD = 2**28, 2**26  # bytes of address space that DALI takes, about

BatchSource = Callable[[], tuple[Any, ...]]


@pipeline_def  # type: ignore[untyped-decorator]
def train_graph(
    source: BatchSource, crop: int, kind: str, gpu: bool, side: int = 256, floats: bool = True
) -> tuple[DataNode, ...]:
    """Build the training graph: images (rows, crop, crop, 3) and labels (rows,) int64.

    `source` yields per batch: images of a `Dataset.kind` and `side`, labels (rows,) int64, top and left
    (rows,) of the crop, mirror (rows,) 0 or 1 and, for `floats`, shift (rows, 3): colour noise. float32
    pixel = decoded + shift; without `floats` it is uint8, as decoded.
    """
    stored, labels, top, left, mirror, *shift = fn.external_source(
        source, num_outputs=6 if floats else 5, batch=True, no_copy=True
    )
    if kind == "raw" and not gpu:  # one pass, a third quicker than three; on decoded images the slower way
        images = fn.crop_mirror_normalize(
            fn.reshape(stored, layout="HWC"),
            **_window(crop, side, top, left),
            mirror=mirror,
            mean=-shift[0] if floats else 0.0,
            std=1.0,
            dtype=types.FLOAT if floats else types.UINT8,
            output_layout="HWC",
        )
        return images, labels
    if kind == "original":
        images = _resized(stored, fn.stack(top, left), crop, side, gpu)
    elif kind == "raw":  # cropped before they cross the bus
        images = fn.crop(fn.reshape(stored, layout="HWC"), **_window(crop, side, top, left)).gpu()
    elif gpu:  # whole, as nvImageCodec 0.9 fails on parts of images: its issue 55
        images = fn.crop(_decode(stored, gpu, **SQUARES), **_window(crop, side, top, left))
    else:
        images = _decode(stored, gpu, fn.decoders.image_crop, **SQUARES, **_window(crop, side, top, left))
    images = fn.flip(images, horizontal=mirror)
    return images + _there(shift[0], gpu) if floats else images, _there(labels, gpu)


@pipeline_def  # type: ignore[untyped-decorator]
def evaluation_graph(
    source: BatchSource, crop: int, kind: str, gpu: bool, views: Views, side: int = 256
) -> tuple[DataNode, ...]:
    """Build the evaluation graph: images (rows, views, crop, crop, 3) uint8, labels (rows,) int64; no noise.

    `source` yields per batch: images of a `Dataset.kind` and `side`, labels. With one view images are
    (rows, crop, crop, 3).
    """
    stored, labels = fn.external_source(source, num_outputs=2, batch=True, no_copy=True)
    if kind == "original":
        images = _resized(stored, 0, side, side, gpu)
    elif kind == "raw":
        images = _there(fn.reshape(stored, layout="HWC"), gpu)
    else:
        images = _decode(stored, gpu, **SQUARES)
    corners = [(int(y * (side - crop)), int(x * (side - crop))) for y, x, _ in views]
    crops = [fn.crop(images, **_window(crop, side, top, left)) for top, left in corners]
    crops = [fn.flip(x) if mirror else x for x, (*_, mirror) in zip(crops, views, strict=True)]
    return fn.stack(*crops) if len(crops) > 1 else crops[0], _there(labels, gpu)


@pipeline_def  # type: ignore[untyped-decorator]
def decode_graph(source: BatchSource, gpu: bool) -> tuple[DataNode, ...]:
    """Build the graph that decodes only: JPEGs and labels to images (height, width, 3) uint8 and labels."""
    jpegs, labels = fn.external_source(source, num_outputs=2, batch=True, no_copy=True)
    return _decode(jpegs, gpu), labels


def executor(device: Any, threads: int | None, batch_size: int) -> dict[str, Any]:
    """Return the options of all graphs. threads: number of DALI's; None: one more than there are cores.

    Each of DALI's operators waits for its slowest thread: one more than cores keeps all of them busy.
    """
    threads = count_cores() + 1 if threads is None else threads
    check_count("threads", threads, 1)
    _refuse_narrow(threads)
    gpu = device.type == "cuda"
    return {
        "gpu": gpu,
        "device_id": device.index or 0 if gpu else None,
        "num_threads": threads,
        "batch_size": batch_size,
        "prefetch_queue_depth": 2,
        "exec_dynamic": True,  # outputs own their memory, so they can be handed over without a copy
    }


def _refuse_narrow(threads: int) -> None:
    """Refuse an address space in which DALI cannot start its threads: it would abort the program."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    needed = ROOM + threads * ROOM_OF_THREAD
    if limit != resource.RLIM_INFINITY and limit - mapped < needed:
        raise DataError(
            f"out of memory: the limit of address space (ulimit -v) leaves {(limit - mapped) / 1e6:,.0f} MB, "
            f"and {threads} threads of DALI need {needed / 1e6:,.0f}; raise it, or give fewer --workers"
        )


def _window(crop: int, side: int, top: Any, left: Any) -> dict[str, Any]:
    """Return where a crop of the stored square lies, as DALI counts it: as fractions of the free space."""
    free = max(1, side - crop)
    return {"crop": (crop, crop), "crop_pos_y": top / free, "crop_pos_x": left / free}


def _decode(
    jpegs: DataNode, gpu: bool, decoder: Callable[..., DataNode] = fn.decoders.image, **where: Any
) -> DataNode:
    """Decode to RGB, EXIF rotation ignored as the 2012 code ignored it.

    The decoder reads no bytes before all headers of the batch have been: where it finds a damaged one itself,
    DALI 2.4 kills the process, as its threads still decode the rest of a batch that it has given up.
    """
    shape = fn.peek_image_shape(jpegs, adjust_orientation=False)
    jpegs = fn.reshape(jpegs, shape=fn.cast(0 * shape[:1] - 1, dtype=types.INT32))  # -1: all bytes
    device = "mixed" if gpu else "cpu"
    return decoder(jpegs, device=device, output_type=types.RGB, adjust_orientation=False, **where)


def _resized(jpegs: DataNode, corner: DataNode | int, crop: int, side: int, gpu: bool) -> DataNode:
    """Return the (crop, crop) at `corner` (y, x) of the centre square, resized to `side`: paper section 2.

    Only the region that is kept is resized: the same pixels as resizing all and cropping.
    """
    size = fn.cast(fn.peek_image_shape(jpegs, adjust_orientation=False)[:2], dtype=types.FLOAT)
    shorter = fn.reductions.min(size, keep_dims=True)
    scale = shorter / side  # source pixels in a resized one
    start = (size - shorter) / 2 + corner * scale
    end = start + crop * scale
    if gpu:  # whole, as in train_graph; colours between their samples as the CPU's decoder makes them
        images = _decode(jpegs, gpu, jpeg_fancy_upsampling=True)
    else:
        reach = scale + 1  # of the resize's filter beyond what is kept
        first, last = math.max(math.floor(start - reach), 0), math.min(math.ceil(end + reach), size)
        where = {"start": fn.cast(first, dtype=types.INT32), "end": fn.cast(last, dtype=types.INT32)}
        images = _decode(jpegs, gpu, fn.decoders.image_slice, axis_names="HW", **where)
        start, end = start - first, end - first
    return fn.resize(images, roi_start=start, roi_end=end, size=[crop, crop])


def _there(x: DataNode, gpu: bool) -> DataNode:
    return x.gpu() if gpu else x
