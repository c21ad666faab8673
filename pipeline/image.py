"""One image: any bytes that ImageNet calls .JPEG -> RGB pixels -> the 256x256 that AlexNet is trained on."""

import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # declared: what would take more than this much memory is no photograph
MAX_BYTES = 2**28
MAX_SCANS = 100  # of a progressive JPEG; they have about ten
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
DALI_FORMATS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF")  # all of them but GIF


class BadImage(Exception):
    """Why an image cannot be used."""


def decode(data: bytes) -> Image.Image:
    """The RGB image in `data`. Any damage is a BadImage, also what libjpeg only warns of and pads with grey.

    Pixels in stored order: the EXIF rotation is ignored, as the 2012 code ignored it.
    """
    if not data:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd metadata, as a few good JPEGs have
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            # MPO, a JPEG with more pictures behind it, is what some cameras write
            return _decode_jpeg(data, image) if image.format in ("JPEG", "MPO") else _to_rgb(image)
    except (BadImage, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise BadImage(f"declares more pixels than the limit of {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise BadImage(f"no image format known here: it begins with {data[:12]!r}") from None
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        raise BadImage(f"{error or type(error).__name__}") from None


def square(image: Image.Image, size: int = 256) -> Image.Image:
    """The shorter side to `size`, and of that the centre `size` x `size`: in one antialiased resize."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def stored(data: bytes) -> np.ndarray:
    """The (256, 256, 3) uint8 square that prep would store of an image, for pictures."""
    return np.asarray(square(decode(data)))


def centre(pixels: np.ndarray, crop: int) -> np.ndarray:
    """The (crop, crop, 3) of a square that the centre view shows."""
    kept = slice((len(pixels) - crop) // 2, (len(pixels) + crop) // 2)
    return pixels[kept, kept]


def encode(image: Image.Image) -> bytes:
    """RGB pixels -> JPEG, quality 95, colour at full resolution.

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


def dali_reads(data: bytes) -> bool:
    """Whether DALI decodes what `decode` accepts, going by the first bytes."""
    return data.startswith(DALI_FORMATS)


def _decode_jpeg(data: bytes, image: Image.Image) -> Image.Image:
    """simplejpeg is the same libjpeg-turbo as Pillow's and DALI's, and tells its warnings."""
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise BadImage(f"more than {MAX_SCANS} scans: made to keep a decoder busy")
    colours = "CMYK" if image.mode == "CMYK" else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(data, colours, fastdct=False, fastupsample=False, strict=True)
    except ValueError as error:
        if "subsampling" not in str(error):
            raise
        return image.convert("RGB")  # sampled in a way that the TurboJPEG interface has no name for
    if colours == "CMYK":
        return image.convert("RGB")
    return Image.fromarray(pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Pillow's own conversion drops alpha, as wanted, but clips 16 bits to 8 where they need scaling."""
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    return image.convert("RGB")
