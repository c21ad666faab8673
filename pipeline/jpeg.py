"""Decode a JPEG strictly: a warning of libjpeg-turbo is damage, unless what it warns of changes no pixel.

TurboJPEG reports only the first warning, so that a harmless flaw could hide damage. Therefore the flaw is
removed in a copy, which is decoded strictly in its turn. A file without flaws is decoded once.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg

# What libjpeg-turbo (jerror.h) says of flaws that change no pixel, and what prep calls them. All other
# warnings are of coded data that is missing or makes no sense.
HARMLESS = {
    "extraneous bytes before marker": "extraneous bytes before a marker",
    "Invalid SOS parameters": "invalid scan parameters",
    "Unknown Adobe color transform": "unknown Adobe colour transform",
    "unknown JFIF revision": "unknown JFIF revision",
    "bad ICC marker": "damaged colour profile",
}
MOST_FLAWS = 4  # each costs some ten decodings
READ_AHEAD = 32  # bytes at most that the decoder reads before it needs them
APP0, APP2, APP14, SOS, EOI = 0xE0, 0xE2, 0xEE, 0xDA, 0xD9
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers SOF0 to SOF15
HUFFMAN = (0xC0, 0xC1, 0xC2)  # of these baseline, extended and progressive
SAMPLINGS = ([0x11], *([luma, 0x11, 0x11] for luma in (0x11, 0x21, 0x12, 0x22, 0x41)))  # 4:4:4 to 4:1:1
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # those that begin a segment, and EOI
EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x(..)")


class Pixels(NamedTuple):
    """Hold the pixels of a JPEG, and what is wrong with the file."""

    array: np.ndarray  # (H, W, channels) uint8
    flaws: tuple[str, ...]  # harmless ones, by the names in HARMLESS
    damage: str  # what libjpeg-turbo warned of, where an image is decoded as far as possible


def decode(data: bytes, colours: str, partly: bool = False) -> Pixels:
    """Decode to "RGB" or "CMYK"; a damaged file as far as possible if `partly`, else ValueError says why."""
    flaws: dict[str, None] = {}
    for _ in range(MOST_FLAWS + 1):
        try:
            return Pixels(_decode(data, colours), tuple(flaws), "")
        except ValueError as error:
            warning = str(error)
        flaw = next((name for text, name in HARMLESS.items() if text in warning), None)
        mended = _mend(data, warning, colours) if flaw else data
        if flaw is None or mended == data:
            break
        flaws[flaw], data = None, mended
    if partly:
        return Pixels(_decode(data, colours, strict=False), tuple(flaws), warning)
    raise ValueError(warning)


def is_usual(data: bytes) -> bool:
    """Tell whether every decoder decodes a JPEG without flaws to the same pixels.

    8 bits, Huffman codes, grey or YCbCr of a common sampling, and nothing between the segments, which DALI's
    parser does not take.
    """
    place = 2
    for marker, start, stop in _segments(data):
        if start != place or marker == SOS:
            return False
        place = stop
        if marker in FRAMES:
            sampling = [*data[start + 11 : stop : 3]]
            common = marker in HUFFMAN and data[start + 4] == 8 and sampling in SAMPLINGS
            return common and simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "Gray")
    return False


def _decode(data: bytes, colours: str, strict: bool = True) -> np.ndarray:
    pixels: np.ndarray = simplejpeg.decode_jpeg(
        data, colours, fastdct=False, fastupsample=False, strict=strict
    )
    return pixels


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker, start and stop. Behind SOS lies coded data, EOI is the last."""
    place = 2
    while match := MARKER.search(data, place):
        start, marker = match.start(), match[0][1]
        place = start + 2 + (0 if marker == EOI else int.from_bytes(data[start + 2 : start + 4], "big"))
        yield marker, start, place
        if marker == EOI:
            return


def _mend(data: bytes, warning: str, colours: str) -> bytes:
    """Leave out or correct what is harmless; return the same data if nothing is found."""
    mended = _mend_segments(data, colours)
    if mended == data and (match := EXTRANEOUS.search(warning)):
        return _cut(data, int(match[1]), int(match[2], 16), colours)
    return mended


def _mend_segments(data: bytes, colours: str) -> bytes:
    """Mend all flaws outside the coded data."""
    parts, place, in_scan, sequential = [data[:2]], 2, False, False
    for marker, start, stop in _segments(data):
        segment = bytearray(data[start:stop])
        if in_scan:
            parts.append(data[place:start])
        sequential = marker in HUFFMAN[:2] if marker in FRAMES else sequential
        place, in_scan = stop, marker == SOS
        if marker == APP2 and segment[4:].startswith(b"ICC_PROFILE\0"):
            continue
        if marker == APP0 and segment[4:].startswith(b"JFIF\0"):
            segment[9:10] = b"\1"
        elif marker == APP14 and segment[4:].startswith(b"Adobe") and segment[15:16] > b"\2":
            segment[15] = 2 if colours == "CMYK" else 1  # as libjpeg reads an unknown one
        elif marker == SOS and sequential:
            segment[-3:] = b"\0\x3f\0"
        parts.append(bytes(segment))
    return b"".join([*parts, data[place:]])


def _cut(data: bytes, count: int, marker: int, colours: str) -> bytes:
    """Leave out `count` bytes between coded data and a marker, at the first that causes this warning."""
    scan = next((stop for each, _, stop in _segments(data) if each == SOS), len(data))
    places = [
        scan + match.start() for match in re.finditer(b"\xff" + re.escape(bytes([marker])), data[scan:])
    ]
    told, end = f"{count} extraneous bytes before", bytes((0xFF, EOI))
    first = bisect_left(places, True, key=lambda place: told in _warning(data[:place] + end, colours))
    if first == len(places):
        return data
    coded, rest = data[: places[first] - count], data[places[first] :]
    for _ in range(READ_AHEAD):
        if "premature end" in _warning(coded[:-1] + rest, colours):
            break
        coded = coded[:-1]
    return coded + rest if _is_filled_up(coded, rest, colours) else data


def _is_filled_up(coded: bytes, rest: bytes, colours: str) -> bool:
    """Tell whether coded data ends as encoders end it: with ones in the unused bits of its last byte.

    A decoder that lost its way in damaged data has bytes left over, too, but it stops at any bit.
    """
    last = coded[-1]
    if coded.endswith(b"\xff\0"):
        return True
    other = last | (last + 1)  # its lowest zero is one: this must make a difference
    changed = coded[:-1] + bytes([other]) + b"\0" * (other == 0xFF) + rest
    before, after = (_decode(each, colours, strict=False) for each in (coded + rest, changed))
    return not np.array_equal(before, after) or _warning(coded + rest, colours) != _warning(changed, colours)


def _warning(data: bytes, colours: str) -> str:
    try:
        _decode(data, colours)
    except ValueError as error:
        return str(error)
    return ""
