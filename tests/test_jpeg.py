"""Each harmless flaw changes no pixel in simplejpeg, Pillow and DALI, hides no damage, and is found again."""

import io
import re
import struct
from itertools import pairwise

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import jpeg
from pipeline.image import BadImage, decode
from pipeline.source.miniature import draw

PIXELS = draw(2, np.random.default_rng(5))[:149, :203]
JUNK = bytes(range(1, 31))
ADOBE = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\x07"  # transform 7
PROFILE = b"\xff\xe2\x00\x14ICC_PROFILE\0\x05\x02abcd"  # part 5 of 2
SOS, EOI = b"\xff\xda", b"\xff\xd9"


def saved(mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


PLAIN, PROGRESSIVE, RESTARTS = saved(), saved(progressive=True), saved(restart_marker_rows=1)


def sampled(*factors: tuple[int, int]) -> bytes:
    """A JPEG of a scan for each colour, which may be sampled in any way: (horizontally, vertically)."""
    across, down = (max(pair[axis] for pair in factors) for axis in (0, 1))
    height, width, _ = PIXELS.shape
    planes = Image.fromarray(PIXELS).convert("YCbCr" if len(factors) == 3 else "L").split()
    scans, components, tables = b"", b"", b""
    for number, (plane, (x, y)) in enumerate(zip(planes, factors, strict=True), start=1):
        size = -(-width * x // across), -(-height * y // down)
        file = io.BytesIO()
        plane.resize(size, Image.Resampling.BILINEAR).save(file, "JPEG", quality=90)
        found = file.getvalue()
        start = found.index(SOS)
        huffman, tables = found[found.index(b"\xff\xc4") : start], found[found.index(b"\xff\xdb") :][:69]
        components += bytes((number, x << 4 | y, 0))
        scans += huffman + SOS + b"\0\x08\x01" + bytes((number, 0)) + b"\0\x3f\0" + found[start + 10 : -2]
    frame = struct.pack(">HBHHB", 8 + len(components), 8, height, width, len(factors)) + components
    return b"\xff\xd8" + tables + b"\xff\xc0" + frame + scans + EOI


def with_scan_parameters(data: bytes) -> bytes:
    """Ss, Se, Ah and Al as some phones write them."""
    place = data.index(SOS)
    end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return data[: end - 3] + b"\0\0\0" + data[end:]


def before(data: bytes, marker: bytes, nth: int = 0) -> bytes:
    place = [found.start() for found in re.finditer(re.escape(marker), data)][nth]
    return data[:place] + JUNK + data[place:]


EXTRANEOUS = "extraneous bytes before a marker"
FLAWED = {
    "bytes before the end": (before(PLAIN, EOI), PLAIN, [EXTRANEOUS]),
    "bytes before a table": (before(PLAIN, b"\xff\xdb"), PLAIN, [EXTRANEOUS]),
    "bytes before the first restart": (before(RESTARTS, b"\xff\xd0"), RESTARTS, [EXTRANEOUS]),
    "bytes before the ninth restart": (before(RESTARTS, b"\xff\xd0", 1), RESTARTS, [EXTRANEOUS]),
    "bytes before a scan": (before(PROGRESSIVE, SOS, 3), PROGRESSIVE, [EXTRANEOUS]),
    "bytes before a scan's table": (before(PROGRESSIVE, b"\xff\xc4", 3), PROGRESSIVE, [EXTRANEOUS]),
    "scan parameters": (with_scan_parameters(PLAIN), PLAIN, ["invalid scan parameters"]),
    "Adobe": (PLAIN[:2] + ADOBE + PLAIN[20:], PLAIN, ["unknown Adobe colour transform"]),
    "JFIF": (PLAIN[:11] + b"\x09" + PLAIN[12:], PLAIN, ["unknown JFIF revision"]),
    "profile": (PLAIN[:20] + PROFILE + PLAIN[20:], PLAIN, ["damaged colour profile"]),
    "two": (before(with_scan_parameters(PLAIN), EOI), PLAIN, ["invalid scan parameters", EXTRANEOUS]),
}


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def by_dali(files: list[bytes]) -> list[np.ndarray]:
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def, types

    @pipeline_def(batch_size=len(files), num_threads=1, device_id=None)
    def graph() -> object:
        encoded = fn.external_source([[np.frombuffer(data, np.uint8) for data in files]], cycle=True)
        return fn.decoders.image(encoded, output_type=types.RGB, adjust_orientation=False)

    return [np.asarray(image) for image in graph().run()[0]]


@pytest.mark.parametrize("kind", FLAWED)
def test_harmless_flaws(kind: str) -> None:
    """libjpeg-turbo warns, and three readers give the pixels of the file without the flaw."""
    data, whole, names = FLAWED[kind]
    with pytest.raises(ValueError, match=r"extraneous|Invalid SOS|Adobe|JFIF|ICC"):
        simplejpeg.decode_jpeg(data, "RGB", strict=True)
    found = jpeg.decode(data, "RGB")
    assert (list(found.flaws), found.damage) == (names, "")
    expected = simplejpeg.decode_jpeg(whole, "RGB")
    np.testing.assert_array_equal(found.array, expected)
    np.testing.assert_array_equal(by_pillow(data), expected)
    assert not decode(data).usual
    if kind != "bytes before a table":  # which DALI's parser does not take: our JPEG takes their place
        np.testing.assert_array_equal(by_dali([data])[0], expected)
    assert jpeg.decode(whole, "RGB").flaws == ()


NOISE = np.random.default_rng(0).integers(0, 255, 3000, dtype=np.uint8).tobytes()
DAMAGES = {
    "Corrupt JPEG data": lambda data: data[: len(data) * 3 // 4] + NOISE + EOI,
    "Premature end": lambda data: data[: len(data) * 3 // 4],
}


@pytest.mark.parametrize("kind", ["scan parameters", "Adobe", "JFIF", "profile", "bytes before a table"])
@pytest.mark.parametrize("reason", DAMAGES)
def test_a_harmless_flaw_hides_no_damage(kind: str, reason: str) -> None:
    data = DAMAGES[reason](FLAWED[kind][0])
    with pytest.raises(BadImage, match=reason):
        decode(data)
    found = decode(data, partly=True)
    assert reason in found.damage and not found.usual
    np.testing.assert_array_equal(np.asarray(found.image)[:16], by_pillow(PLAIN)[:16])  # above the damage


def test_damage_that_leaves_bytes_over() -> None:
    """Most of it is told from bytes that were put in: the decoder stops in the middle of a byte."""
    rng, refused = np.random.default_rng(1), []
    for quality in range(50, 95):
        data = saved(quality=quality)
        place = int(rng.integers(len(data) // 2, len(data) - 300))
        damaged = data[:place] + rng.integers(0, 255, 40, dtype=np.uint8).tobytes() + data[place + 40 :]
        if "extraneous" in jpeg._warning(damaged, "RGB"):
            try:
                decode(damaged)
                refused.append(False)
            except BadImage:
                refused.append(True)
    assert len(refused) > 20 and np.mean(refused) > 0.5


def test_bytes_put_in_are_left_out_anywhere() -> None:
    """Whatever they are, and before whichever restart marker or end."""
    rng = np.random.default_rng(2)
    places = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd9]", RESTARTS[700:])]
    for place in rng.choice(places, 12):
        junk = rng.integers(0, 255, int(rng.integers(10, 300)), dtype=np.uint8).tobytes()
        found = jpeg.decode(RESTARTS[: 700 + place] + junk + RESTARTS[700 + place :], "RGB")
        np.testing.assert_array_equal(found.array, by_pillow(RESTARTS))


def test_damage_behind_bytes_that_do_no_harm() -> None:
    data = before(RESTARTS, b"\xff\xd1")
    place = data.index(b"\xff\xd4") - 300
    with pytest.raises(BadImage):
        decode(data[:place] + NOISE[:200] + data[place + 200 :])


USUAL = [(PLAIN, "RGB"), (PROGRESSIVE, "RGB"), (RESTARTS, "RGB"), (saved("L"), "L")]
USUAL += [(saved(subsampling=kind), kind) for kind in ("4:4:4", "4:2:2", "4:2:0")]
USUAL += [(sampled((x, y), (1, 1), (1, 1)), f"{x}x{y}") for x, y in ((1, 2), (4, 1))]
OTHERS = [(saved(keep_rgb=True), "RGB kept"), (saved("CMYK"), "CMYK"), (sampled((2, 2)), "grey 2x2")]
OTHERS += [
    (sampled(*factors), f"{factors}")
    for factors in [
        ((2, 2),) * 3,
        ((3, 1), (1, 1), (1, 1)),
        ((2, 2), (2, 1), (2, 1)),
        ((1, 1), (2, 2), (2, 2)),
    ]
]


@pytest.mark.parametrize(("usual", "cases"), [(True, USUAL), (False, OTHERS)])
def test_which_jpegs_stay_as_they_are(usual: bool, cases: list[tuple[bytes, str]]) -> None:
    """Those of which every decoder makes the same; in place of the others DALI reads our JPEG."""
    decoded = [decode(data) for data, _ in cases]
    files = [each.file(data) for each, (data, _) in zip(decoded, cases, strict=True)]
    for each, file, (data, name), pixels in zip(decoded, files, cases, by_dali(files), strict=True):
        assert (each.usual, file == data) == (usual, usual), name
        difference = np.abs(pixels.astype(int) - np.asarray(each.image, int))
        assert difference.max() == 0 if usual else difference.mean() < 3, name
        np.testing.assert_array_equal(np.asarray(each.image), by_pillow(data), name)


def test_twelve_bits_are_refused_with_a_reason() -> None:
    place = PLAIN.index(b"\xff\xc0") + 4
    with pytest.raises(BadImage, match="more than 8 bits"):
        decode(PLAIN[:place] + b"\x0c" + PLAIN[place + 1 :])


def test_arithmetic_codes_are_not_passed_on() -> None:
    frame = PLAIN.index(b"\xff\xc0") + 1
    assert not jpeg.is_usual(PLAIN[:frame] + b"\xc9" + PLAIN[frame + 1 :])


OTHER_KINDS = ("PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")


def of_kind(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[::3, ::3]).save(file, kind)
    return file.getvalue()


CHANGE = st.tuples(
    st.floats(0, 1, exclude_max=True), st.sampled_from(["flip", "insert", "delete"]), st.binary()
)


@settings(max_examples=250, deadline=None)
@given(
    data=st.sampled_from([PLAIN, PROGRESSIVE, RESTARTS, saved("L"), *map(of_kind, OTHER_KINDS)]),
    changes=st.lists(CHANGE, min_size=1, max_size=3),
)
def test_dali_makes_the_same_of_what_is_accepted(
    data: bytes, changes: list[tuple[float, str, bytes]]
) -> None:
    damaged = bytearray(data)
    for share, kind, new in changes:
        place = int(share**2 * len(damaged))  # more often in the headers
        if kind == "flip":
            damaged[place] ^= 1 << len(new) % 8
        elif kind == "insert":
            damaged[place:place] = new
        else:
            del damaged[place : place + len(new)]
    try:
        found = decode(bytes(damaged))
    except BadImage:
        return
    (pixels,) = by_dali([found.file(bytes(damaged))])
    difference = np.abs(pixels.astype(int) - np.asarray(found.image, int))
    assert difference.max() == 0 if found.usual else difference.mean() < 10


def test_segments_are_walked_to_the_end() -> None:
    """The marker of each segment of a progressive file, as Pillow wrote them."""
    found = list(jpeg._segments(PROGRESSIVE))
    assert [marker for marker, *_ in found][:2] == [0xE0, 0xDB]
    assert found[-1] == (0xD9, len(PROGRESSIVE) - 2, len(PROGRESSIVE))
    assert all(stop <= start for (_, _, stop), (_, start, _) in pairwise(found))
