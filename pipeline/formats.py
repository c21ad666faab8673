"""Tell images from other files by their first bytes; a suffix is only a hint."""

import re

HEAD = 32  # first bytes, which identify an image
SUFFIXES = (
    ".jpeg",
    ".jpg",
    ".png",
    ".gif",
    ".bmp",
    ".webp",
)  # taken for images without a look: all are decoded
MAGIC = re.compile(
    rb"\xff\xd8\xff"  # JPEG
    rb"|\x89PNG\r\n"
    rb"|GIF8[79]a"
    rb"|BM.{12}[\x0c(48@l|]\0\0\0"  # BMP: a number of its header's known sizes
    rb"|RIFF.{4}WEBP"
    rb"|II[*+]\0|MM\0[*+]"  # TIFF
    rb"|P[1-6]\s+[#0-9]|P7\n"  # PBM, PGM, PPM, PAM
    rb"|\0\0\0\x0c(?:jP  |JXL )|\xff\x4f\xff\x51|\xff\x0a"  # JPEG 2000, JPEG XL
    rb"|.{4}ftyp(?:avi[fs]|hei[cfsx]|hev[cx]|mif1|msf1)"  # AVIF, HEIF
    rb"|8BPS\0\x01",  # Photoshop
    re.DOTALL,
)


def begins_as_image(head: bytes) -> bool:
    """Tell whether a file of these first bytes is an image of any kind, also of one not decoded here."""
    return MAGIC.match(head) is not None
