"""Tell images from other files by their first bytes; a suffix is only a hint."""

import re

HEAD = 32  # first bytes, which identify an image
# Files that count as images without a look at their bytes
SUFFIXES = (".jpeg", ".jpg", ".png", ".gif", ".bmp", ".webp")
READ = (
    rb"\xff\xd8\xff"  # JPEG
    rb"|\x89PNG\r\n"
    rb"|GIF8[79]a"
    rb"|BM.{12}[\x0c(48@l|]\0\0\0"  # BMP: one of the known sizes of its header
    rb"|RIFF.{4}WEBP"
    rb"|II[*+]\0|MM\0[*+]"  # TIFF
    rb"|P[1-6]\s+[#0-9]|P7\n"  # PBM, PGM, PPM, PAM
)
NOT_READ = {
    "AVIF": rb".{4}ftypavi[fs]",
    "HEIC": rb".{4}ftyp(?:hei[cfsx]|hev[cx]|mif1|msf1)",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "a Photoshop file": rb"8BPS\0\x01",
}
ANY = re.compile(b"|".join([READ, *NOT_READ.values()]), re.DOTALL)


def begins_as_image(head: bytes) -> bool:
    """Tell whether a file of these first bytes is an image of any kind, also of one not decoded here."""
    return ANY.match(head) is not None
