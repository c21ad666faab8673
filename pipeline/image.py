"""Decode one image: the bytes of any file -> RGB pixels -> the square that AlexNet is trained on."""

import io
import re
import warnings
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline import jpeg
from pipeline.formats import NOT_READ

MAX_PIXELS = 100_000_000  # that the header declares; more is no photograph and takes too much memory
MAX_SIDE = 65_500  # what Pillow can store as a JPEG
MAX_BYTES = 2**28
MAX_SCANS = 100  # of a progressive JPEG; they have about ten
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
# Compressions of TIFF whose decoders report damage; those of JPEG and fax inside a TIFF do not
TIFF = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate")
SUBFILE, ORIENTATION = 0x00FE, 0x0112  # tags of TIFF and EXIF
TURNS = {  # what turns an image upright, by its orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):
    """Represent an image that cannot be used; its text says why."""


class Decoded(NamedTuple):
    """Hold a decoded image, and what decoding found in its file."""

    image: Image.Image  # RGB
    flaws: tuple[str, ...] = ()  # that change no pixel
    damage: str = ""  # why it is only decoded as far as possible
    usual: bool = False  # DALI decodes its bytes to the same pixels

    def file(self, data: bytes) -> bytes:
        """Return the file that DALI reads in place of `data`: the same, or else our JPEG of the pixels."""
        return data if self.usual else encode(self.image)


def decode(data: bytes, *, upright: bool = False, partly: bool = False) -> Decoded:
    """Decode an image strictly: any damage is a BadImage, also what libjpeg only warns of and pads with grey.

    upright: turn the image as its EXIF orientation says; without it pixels keep the stored order, as in the
    2012 code. A TIFF is always turned: there the tag is part of the format.
    partly: decode a damaged JPEG as far as possible.
    """
    if not data:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd metadata, as a few good JPEGs have
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if max(image.size) > MAX_SIDE:
                raise BadImage(f"has more than {MAX_SIDE:,} pixels in a row or a column")
            # MPO, a JPEG with more pictures behind it, is what some cameras write
            decoded = (
                _decode_jpeg(data, image, partly) if image.format in ("JPEG", "MPO") else _decode(data, image)
            )
            return _turn(decoded, image) if upright else decoded
    except (BadImage, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise BadImage(f"declares more pixels than the limit of {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise BadImage(_why_unknown(data)) from None
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        raise BadImage(f"{error or type(error).__name__}") from None


def square(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size` and crop the centre `size` x `size`, in one antialiased resize."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def stored(data: bytes, side: int) -> np.ndarray:
    """Return the (side, side, 3) uint8 square that prep would store of an image; for pictures."""
    return np.asarray(square(decode(data).image, side))


def centre(pixels: np.ndarray, crop: int) -> np.ndarray:
    """Return the (crop, crop, 3) of a square that the centre view shows."""
    kept = slice((len(pixels) - crop) // 2, (len(pixels) + crop) // 2)
    return pixels[kept, kept]


def encode(image: Image.Image) -> bytes:
    """Encode RGB pixels as a JPEG of quality 95, with colour at full resolution.

    Mean over 24 photo-like 256x256 images (1/f noise) and 24 drawn ones; Pillow 13, one core:

                  KB           mean error    PSNR, dB      encode, ms   decode, ms
        q90 420   34.5  21.3   4.13  2.58    33.7  37.5    0.24  0.20   0.33  0.20
        q90 444   42.9  25.3   3.31  2.19    35.7  39.2    0.32  0.28   0.34  0.25
        q95 420   47.6  30.9   2.68  1.83    37.4  40.4    0.26  0.23   0.33  0.25
        q95 444   58.6  36.6   1.96  1.48    40.1  42.4    0.37  0.31   0.41  0.31
        q98 444   80.5  52.0   1.02  0.79    45.4  47.2    0.40  0.35   0.50  0.39

    `optimize` saves 5 % of the size for thrice the time; simplejpeg saves 0.06 ms by a cruder DCT (39.6 dB).
    """
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling="4:4:4", comment=b"")
    return file.getvalue()


def _decode_jpeg(data: bytes, image: Image.Image, partly: bool) -> Decoded:
    """Decode by simplejpeg: the same libjpeg-turbo as Pillow's and DALI's, but it reports warnings."""
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise BadImage(f"more than {MAX_SCANS} scans, as in files made to exhaust a decoder")
    colours = "CMYK" if image.mode == "CMYK" else "RGB"
    try:
        pixels, flaws, damage = jpeg.decode(data, colours, partly)
    except ValueError as error:
        if "subsampling" not in str(error):
            raise
        # TurboJPEG's interface has no name for this chroma subsampling. Pillow reports missing data.
        return Decoded(image.convert("RGB"))
    if colours == "CMYK":
        return Decoded(image.convert("RGB"), flaws, damage)
    if flaws and not damage and not np.array_equal(pixels, np.asarray(image.convert("RGB"))):
        raise BadImage(f"{' and '.join(flaws)}, which two decoders read differently")
    return Decoded(Image.fromarray(pixels), flaws, damage, not flaws and not damage and jpeg.is_usual(data))


def _decode(data: bytes, image: Image.Image) -> Decoded:
    """Decode any other format: the first picture of several, on white where it is transparent."""
    if image.format == "PNG":
        _check_png(data)
    elif image.format == "GIF":
        _check_gif(data)
    elif image.format == "TIFF" and image.info.get("compression") not in TIFF:
        raise BadImage(f"TIFF with {image.info.get('compression')} inside cannot be read: convert it to PNG")
    elif image.format == "TIFF" and image.getexif().get(SUBFILE, 0) & 1:
        raise BadImage("it begins with a preview, as a camera's raw file: convert it to JPEG")
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        wide = np.asarray(image).astype(np.uint32)  # Pillow would clip 16 bits to 8, where they need scaling
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage("its values have no known range from black to white: convert it to 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Decoded(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    return Decoded(image.convert("RGB"))


def _check_png(data: bytes) -> None:
    """Check the checksum of each chunk, to the last."""
    place, kind = 8, b""
    while kind != b"IEND":
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        place, start = place + 12 + size, place + 4
        if place > len(data):
            raise BadImage("the end of the PNG is missing")
        if zlib.crc32(data[start : place - 4]) != int.from_bytes(data[place - 4 : place], "big"):
            raise BadImage(f"the checksum of a PNG chunk, {kind!r}, is wrong")


def _check_gif(data: bytes) -> None:
    """Check the chain of blocks, to its end mark."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    try:
        place = 13 + table(data[10])
        while (kind := data[place]) != 0x3B:
            if kind not in (0x21, 0x2C):
                raise BadImage(f"a GIF block of the unknown kind {kind:#04x}")
            place += 2 if kind == 0x21 else 11 + table(data[place + 9])
            while data[place]:
                place += 1 + data[place]
            place += 1
    except IndexError:
        raise BadImage("the end of the GIF is missing") from None


def _turn(decoded: Decoded, image: Image.Image) -> Decoded:
    """Turn an image upright by the EXIF orientation that Pillow read; leave it where that makes no sense."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged bytes make Pillow raise nearly anything
        return decoded
    if turn is None:
        return decoded
    return decoded._replace(image=decoded.image.transpose(turn), usual=False)


def _why_unknown(data: bytes) -> str:
    for kind, beginning in NOT_READ.items():
        if re.match(beginning, data, re.DOTALL):
            return f"{kind} cannot be read: convert it to JPEG"
    if data.startswith(b"\xff\xd8\xff"):
        return "a JPEG whose header is damaged, or of more than 8 bits a colour"
    return f"no image format known here: it begins with {data[:12]!r}"
