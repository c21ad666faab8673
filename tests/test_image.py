"""Decoding against Pillow, every kind of damage, the resize against a filter written out, the JPEG coding."""

import io
import struct
import time
import zlib
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.drawn import draw
from pipeline.image import BadImage, dali_reads, decode, encode, square

PIXELS = draw(3, np.random.default_rng(0))


@cache
def saved(mode: str, kind: str) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(PIXELS)
    if mode == "I;16":
        wide = np.arange(PIXELS.shape[0] * PIXELS.shape[1]).reshape(PIXELS.shape[:2]) % 65536
        image = Image.fromarray(wide.astype(np.uint16))
    else:
        image = image.convert(mode)
    image.save(file, kind, quality=90, comment=b"made by hand")
    return file.getvalue()


KINDS = [
    *[(mode, "JPEG") for mode in ("RGB", "L", "CMYK")],
    *[(mode, "PNG") for mode in ("RGB", "L", "P", "1", "LA", "RGBA", "I;16")],
    *[("RGB", "GIF"), ("RGB", "BMP"), ("RGB", "WEBP")],
]


def reference(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if image.mode == "I;16":
        grey = np.round(np.asarray(image) / 65535 * 255).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("mode", "kind"), KINDS)
def test_formats(mode: str, kind: str) -> None:
    image = decode(saved(mode, kind))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, reference(saved(mode, kind)))


@pytest.mark.parametrize(("mode", "kind"), KINDS)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.97])
def test_truncated(mode: str, kind: str, share: float) -> None:
    data = saved(mode, kind)
    with pytest.raises(BadImage):
        decode(data[: int(len(data) * share)])


def test_missing_end_marker() -> None:
    with pytest.raises(BadImage, match="Premature end"):
        decode(saved("RGB", "JPEG")[:-2])


def test_damage_that_pillow_and_dali_swallow() -> None:
    data = bytearray(saved("RGB", "JPEG"))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(range(1, 41))
    Image.open(io.BytesIO(data)).convert("RGB")
    with pytest.raises(BadImage, match="Corrupt JPEG data"):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "DOCTYPE"),
        (bytes(1000), "no image format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no image format"),
    ],
)
def test_no_image(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data)


def test_trailing_bytes_are_no_damage() -> None:
    decode(saved("RGB", "JPEG") + b"more")


def test_odd_exif_is_no_damage() -> None:
    data = saved("RGB", "JPEG")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x1a\x01\x05\0\xff\xff\xff\x7f\xff\xff\xff\x7f"
    decode(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])


def test_rotation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", exif=exif)
    height, width, _ = PIXELS.shape
    assert decode(file.getvalue()).size == (width, height)


def huge_png(side: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_bomb(side: int) -> None:
    jpeg = bytearray(saved("RGB", "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    started = time.perf_counter()
    for data in (huge_png(side), bytes(jpeg)):
        with pytest.raises(BadImage, match="100,000,000"):
            decode(data)
    assert time.perf_counter() - started < 1


def test_endless_scans() -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    decode(data)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(BadImage, match="more than 100 scans"):
        decode(data[:-2] + scan * 200 + data[-2:])


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([("RGB", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGB", "GIF"), ("RGB", "WEBP")]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    keep=st.floats(0, 1),
)
def test_any_bytes(kind: tuple[str, str], changes: list[tuple[float, int]], keep: float) -> None:
    """An image or a BadImage, whatever the bytes."""
    data = bytearray(saved(*kind))
    for place, value in changes:
        data[int(place**3 * len(data))] = value  # more often in the headers
    with suppress(BadImage):
        assert decode(bytes(data if keep > 0.5 else data[: int(2 * keep * len(data))])).mode == "RGB"


def resized(pixels: np.ndarray, axis: int, start: float, stop: float, size: int) -> np.ndarray:
    """Antialiased bilinear along one axis: a triangle as wide as the scale, about each pixel's centre."""
    scale = (stop - start) / size
    reach = max(scale, 1)
    centres = start + (np.arange(size) + 0.5) * scale
    inputs = np.arange(pixels.shape[axis]) + 0.5
    weights = np.maximum(0, 1 - np.abs(inputs - centres[:, None]) / reach)
    weights /= weights.sum(1, keepdims=True)
    return np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (501, 333), (256, 256), (100, 90), (1, 700), (3, 2)]
)
def test_square(height: int, width: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    side = min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    expected = resized(resized(pixels.astype(float), 1, left, left + side, 256), 0, top, top + side, 256)
    found = np.asarray(square(Image.fromarray(pixels)))
    assert found.shape == (256, 256, 3)
    # Pillow rounds to 8 bits between the two passes and cuts the filter off at whole pixels.
    assert np.abs(found - expected).max() <= 2


def test_encode() -> None:
    small = square(decode(saved("CMYK", "JPEG")))
    data = encode(small)
    image = Image.open(io.BytesIO(data))
    assert image.size == (256, 256)
    assert [part[1:3] for part in image.layer] == [(1, 1)] * 3  # no subsampling
    assert b"by hand" not in data
    assert np.abs(np.asarray(image, float) - np.asarray(small, float)).mean() < 3
    assert data == encode(small)


def test_dali_reads_what_is_said() -> None:
    """DALI's decoder, on a CPU, gives our pixels for all formats that are kept as they are."""
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def, types

    files = [saved(*kind) for kind in KINDS if dali_reads(saved(*kind))]
    assert len(files) == len(KINDS) - 1  # all but GIF

    @pipeline_def(batch_size=len(files), num_threads=1, device_id=None)
    def graph() -> object:
        encoded = fn.external_source([[np.frombuffer(data, np.uint8) for data in files]], cycle=True)
        return fn.decoders.image(encoded, output_type=types.RGB, adjust_orientation=False)

    (images,) = graph().run()
    for data, image in zip(files, images, strict=True):
        np.testing.assert_allclose(np.asarray(image, int), np.asarray(decode(data), int), atol=1)
