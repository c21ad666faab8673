"""Fourth stop: the DALI graphs. Bytes and random draws come from batches.py, pixels go back to it.

One text for both backends: on a GPU nvJPEG decodes ("mixed") and everything after it stays on the device; on
a CPU every operator is the CPU one. Pixels are 0..255 minus the mean image, as in 2012.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode

STORED = 256  # side of the stored or resized square
TEN_VIEWS = tuple((y, x, m) for m in (0, 1) for y, x in ((0, 0), (0, 32), (16, 16), (32, 0), (32, 32)))
CENTRE_VIEW = ((16, 16, 0),)

Source = Callable[[], tuple[Any, ...]]


@pipeline_def  # type: ignore[untyped-decorator]
def train_graph(
    source: Source, mean: np.ndarray, divisor: float, resize: bool, half: bool, gpu: bool
) -> tuple[DataNode, ...]:
    """Images (rows, 3, crop, crop) and labels (rows,) int64.

    `source` yields per batch: JPEGs, labels (rows,) int64, top and left (rows,) of the crop, mirror (rows,)
    0 or 1, shift (rows, 3): colour noise. mean: (3, crop, crop), the same at every crop position and not
    flipped. pixel = (decoded + shift - mean) / divisor
    """
    jpegs, labels, top, left, mirror, shift = fn.external_source(
        source, num_outputs=6, batch=True, no_copy=True
    )
    crop, room = mean.shape[-1], STORED - mean.shape[-1]
    if resize:  # only the region that is kept: the same pixels as resizing all and cropping
        start, side = _square(jpegs)
        start += fn.stack(top, left) * side / STORED
        images = _decode(jpegs, gpu)
        images = fn.resize(images, roi_start=start, roi_end=start + side * crop / STORED, size=[crop, crop])
    else:
        where = {"crop": (crop, crop), "crop_pos_y": top / room, "crop_pos_x": left / room}
        images = _decode(jpegs, gpu, fn.decoders.image_crop, **where)
    images = fn.crop_mirror_normalize(
        images, mirror=mirror, mean=-shift, std=divisor, dtype=types.FLOAT, output_layout="CHW"
    )
    return _out(images - _constant(mean / divisor, gpu), half), labels.gpu() if gpu else labels


@pipeline_def  # type: ignore[untyped-decorator]
def evaluation_graph(
    source: Source,
    mean: np.ndarray,
    resize: bool,
    half: bool,
    gpu: bool,
    views: Sequence[tuple[int, int, int]],
) -> tuple[DataNode, ...]:
    """Images (rows, views, 3, crop, crop) and labels (rows,) int64; no noise, no division.

    `source` yields per batch: JPEGs, labels. views: (top, left, mirror) of each.
    """
    jpegs, labels = fn.external_source(source, num_outputs=2, batch=True, no_copy=True)
    crop, room = mean.shape[-1], STORED - mean.shape[-1]
    images = _decode(jpegs, gpu)
    if resize:
        start, side = _square(jpegs)
        images = fn.resize(images, roi_start=start, roi_end=start + side, size=[STORED, STORED])
    crops = [
        fn.crop_mirror_normalize(
            images,
            crop=(crop, crop),
            crop_pos_y=top / room,
            crop_pos_x=left / room,
            mirror=mirror,
            mean=0.0,
            std=1.0,
            dtype=types.FLOAT,
            output_layout="CHW",
        )
        - _constant(mean, gpu)
        for top, left, mirror in views
    ]
    return _out(fn.stack(*crops), half), labels.gpu() if gpu else labels


@pipeline_def  # type: ignore[untyped-decorator]
def decode_graph(source: Source, gpu: bool) -> tuple[DataNode, ...]:
    """Whole images (height, width, 3) uint8 and labels, of what `source` yields: JPEGs, labels."""
    jpegs, labels = fn.external_source(source, num_outputs=2, batch=True, no_copy=True)
    return _decode(jpegs, gpu), labels


def _decode(
    jpegs: DataNode, gpu: bool, decoder: Callable[..., DataNode] = fn.decoders.image, **where: Any
) -> DataNode:
    """RGB, EXIF rotation ignored as the 2012 code ignored it."""
    device = "mixed" if gpu else "cpu"
    return decoder(jpegs, device=device, output_type=types.RGB, adjust_orientation=False, **where)


def _square(jpegs: DataNode) -> tuple[DataNode, DataNode]:
    """Start (y, x) and side of the centre square, in source pixels: paper section 2."""
    shape = fn.cast(fn.peek_image_shape(jpegs, adjust_orientation=False)[:2], dtype=types.FLOAT)
    side = fn.reductions.min(shape, keep_dims=True)
    return (shape - side) / 2, side


def _constant(mean: np.ndarray, gpu: bool) -> DataNode:
    return types.Constant(np.float32(mean), device="gpu" if gpu else "cpu")


def _out(images: DataNode, half: bool) -> DataNode:
    return fn.cast(images, dtype=types.FLOAT16) if half else images
