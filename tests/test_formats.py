"""Images are told by their first bytes, as Pillow writes them; other files are not taken for images."""

import io

import pytest
from PIL import Image

from pipeline.formats import HEAD, begins_as_image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_every_kind_that_pillow_writes(kind: str) -> None:
    file = io.BytesIO()
    Image.effect_noise((16, 16), 50).convert("RGB").save(file, kind)
    assert begins_as_image(file.getvalue()[:HEAD])


OTHERS = [
    b"",
    b"BMW makes cars, which this text describes",
    b"P1 and P2 are people",
    b"<!DOCTYPE html>",
    b"%PDF",
]
CONTAINERS = [b"PK\x03\x04", b"\x1f\x8b\x08", b"RIFF\0\0\0\0WAVEfmt ", b"\0\0\0\x18ftypmp42", bytes(32)]


@pytest.mark.parametrize("data", OTHERS + CONTAINERS)
def test_other_files(data: bytes) -> None:
    assert not begins_as_image(data)
