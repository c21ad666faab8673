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
from PIL import Image, ImageOps

from pipeline.image import BadImage, decode, encode, square
from pipeline.source.miniature import draw

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
    *[("RGB", "GIF"), ("RGB", "BMP"), ("RGB", "WEBP"), ("RGB", "TIFF"), ("RGB", "PPM")],
]


def reference(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if image.mode == "I;16":
        grey = np.round(np.asarray(image) / 65535 * 255).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("mode", "kind"), KINDS)
def test_formats(mode: str, kind: str) -> None:
    image = decode(saved(mode, kind)).image
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
    del data[len(data) // 2 : len(data) // 2 + 4000]
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
    assert decode(file.getvalue()).image.size == (width, height)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def huge_png(side: int) -> bytes:
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


@pytest.mark.parametrize("size", [(65_501, 1), (1, 65_501)])
def test_what_no_jpeg_can_hold(size: tuple[int, int]) -> None:
    """It could be stored at 256x256 and not as an original: one image would be two."""
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    with pytest.raises(BadImage, match="65,500"):
        decode(file.getvalue())


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
    kind=st.sampled_from(
        [
            ("RGB", "JPEG"),
            ("CMYK", "JPEG"),
            ("P", "PNG"),
            ("RGB", "GIF"),
            ("RGB", "WEBP"),
            ("RGB", "BMP"),
            ("RGB", "TIFF"),
            ("RGB", "PPM"),
        ]
    ),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    keep=st.floats(0, 1),
)
def test_any_bytes(kind: tuple[str, str], changes: list[tuple[float, int]], keep: float) -> None:
    """An image or a BadImage, whatever the bytes."""
    data = bytearray(saved(*kind))
    for place, value in changes:
        data[int(place**3 * len(data))] = value  # more often in the headers
    with suppress(BadImage):
        assert decode(bytes(data if keep > 0.5 else data[: int(2 * keep * len(data))])).image.mode == "RGB"


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
    found = np.asarray(square(Image.fromarray(pixels), 256))
    assert found.shape == (256, 256, 3)
    # Pillow rounds to 8 bits between the two passes and cuts the filter off at whole pixels.
    assert np.abs(found - expected).max() <= 2


def test_encode() -> None:
    small = square(decode(saved("CMYK", "JPEG")).image, 256)
    data = encode(small)
    image = Image.open(io.BytesIO(data))
    assert image.size == (256, 256)
    assert [part[1:3] for part in image.layer] == [(1, 1)] * 3  # no subsampling
    assert b"by hand" not in data
    assert np.abs(np.asarray(image, float) - np.asarray(small, float)).mean() < 3
    assert data == encode(small)


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"IEND", b"PLTE"])
def test_each_checksum_of_a_png_counts(name: bytes) -> None:
    data = bytearray(saved("P", "PNG"))
    place = data.index(name)
    data[place + 4 + int.from_bytes(data[place - 4 : place], "big")] ^= 1
    with pytest.raises(BadImage):
        decode(bytes(data))


@pytest.mark.parametrize("lost", range(1, 30))
@pytest.mark.parametrize(
    "kind", [("RGB", "PNG"), ("P", "GIF"), ("RGB", "WEBP"), ("RGB", "TIFF"), ("RGB", "PPM")]
)
def test_a_lost_end(kind: tuple[str, str], lost: int) -> None:
    with pytest.raises(BadImage):
        decode(saved(*kind)[:-lost])


def test_a_gif_that_ends_in_its_second_picture() -> None:
    file = io.BytesIO()
    first, second = (Image.fromarray(pixels).quantize(16) for pixels in (PIXELS, PIXELS[::-1]))
    first.save(file, "GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode(file.getvalue()).image, np.asarray(first.convert("RGB")))
    with pytest.raises(BadImage):
        decode(file.getvalue()[:-500] + b";")


def bitmap(bits: int, compression: int, rows: bytes, palette: bytes = b"") -> bytes:
    """A BMP of 20 x 10 pixels."""
    start = 54 + len(palette)
    head = struct.pack(
        "<IiiHHIIiiII", 40, 20, 10, 1, bits, compression, len(rows), 0, 0, len(palette) // 4, 0
    )
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + palette + rows


GREYS = np.arange(200, dtype=np.uint8).reshape(10, 20)
BITMAPS = {
    "5-5-5": (bitmap(16, 0, (GREYS[::-1].astype("<u2") >> 3).tobytes()), 8),
    "RLE4": (
        bitmap(
            4,
            2,
            b"".join(b"".join(bytes((1, value & 0xF0)) for value in row) + b"\0\0" for row in GREYS[::-1])
            + b"\0\1",
            b"".join(bytes((17 * grey,) * 3) + b"\0" for grey in range(16)),
        ),
        17,
    ),
}


@pytest.mark.parametrize("kind", BITMAPS)
def test_bitmaps_that_dali_refuses(kind: str) -> None:
    """They are decoded, and DALI is given our JPEG."""
    data, step = BITMAPS[kind]
    found = decode(data)
    blue = np.asarray(found.image, int)[:, :, 2]
    assert np.abs(blue - GREYS).max() <= step
    assert Image.open(io.BytesIO(found.file(data))).format == "JPEG"
    with pytest.raises(BadImage):
        decode(data[:-60])


@pytest.mark.parametrize("kind", KINDS)
def test_only_jpegs_stay_as_they_are(kind: tuple[str, str]) -> None:
    data = saved(*kind)
    file = decode(data).file(data)
    assert Image.open(io.BytesIO(file)).format == "JPEG"
    assert (file == data) == (kind in (("RGB", "JPEG"), ("L", "JPEG")))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_composed_on_white(kind: str) -> None:
    alpha = np.linspace(0, 255, PIXELS.shape[1]).astype(np.uint8) * np.ones((len(PIXELS), 1), np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.dstack([PIXELS, alpha])).save(file, kind, lossless=True, exact=True)
    share = alpha[..., None] / 255
    found = np.asarray(decode(file.getvalue()).image, float)
    assert np.abs(found - (share * PIXELS + (1 - share) * 255)).max() <= 1
    np.testing.assert_array_equal(found[:, -1], PIXELS[:, -1])  # opaque: as it is


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_transparent_colour_is_white(mode: str) -> None:
    image = Image.new(mode, (8, 8), 0)
    file = io.BytesIO()
    image.save(file, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert np.asarray(decode(file.getvalue()).image).min() == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    wide = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    file = io.BytesIO()
    Image.fromarray(wide).save(file, kind)
    found = np.asarray(decode(file.getvalue()).image)
    np.testing.assert_array_equal(found[..., 0], np.rint(wide / 257))


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_tiff(compression: str) -> None:
    """The first page, if its compression tells damage."""
    file, other = io.BytesIO(), Image.new("RGB", (5, 5))
    image = Image.fromarray(PIXELS)
    image.save(file, "TIFF", compression=compression, save_all=True, append_images=[other])
    if compression == "jpeg":
        with pytest.raises(BadImage, match="convert it"):
            decode(file.getvalue())
    else:
        np.testing.assert_array_equal(decode(file.getvalue()).image, PIXELS)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_range(mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert("L").convert(mode).save(file, "TIFF")
    with pytest.raises(BadImage, match="no known range"):
        decode(file.getvalue())


def test_a_preview_is_not_the_picture() -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "TIFF", tiffinfo={254: 1})
    with pytest.raises(BadImage, match="begins with a preview"):
        decode(file.getvalue())


@pytest.mark.parametrize(("kind", "name"), [("AVIF", "AVIF"), ("JPEG2000", "JPEG 2000")])
def test_formats_that_are_not_read_are_named(kind: str, name: str) -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind)
    with pytest.raises(BadImage, match=f"{name} cannot be read: convert it to JPEG"):
        decode(file.getvalue())
    with pytest.raises(BadImage, match="HEIC cannot be read: convert it to JPEG"):
        decode(b"\0\0\0\x18ftypheic" + bytes(100))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation(orientation: int, kind: str) -> None:
    """Honoured as Pillow's own function does, or ignored; what is turned is never the original file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, exif=exif)
    data = file.getvalue()
    opened = Image.open(io.BytesIO(data)).convert("RGB")
    found = decode(data, upright=True)
    np.testing.assert_array_equal(found.image, np.asarray(ImageOps.exif_transpose(opened)))
    np.testing.assert_array_equal(decode(data).image, np.asarray(opened))
    assert found.usual == (kind == "JPEG" and not 2 <= orientation <= 8)
