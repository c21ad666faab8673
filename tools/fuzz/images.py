"""Try images: what prep accepts is the same picture to DALI, from any store, and to predict."""

import io
import json
import shutil
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from PIL import Image, ImageOps

from pipeline.batches import EvaluationBatches
from pipeline.dataset import read_names
from pipeline.files import FileBatches, find_images
from pipeline.prep import prepare
from pipeline.source.find import find_source
from tools.fuzz.damage import Change, changes, damage
from tools.fuzz.harness import Fault, compare, in_this_process, snapshot

CROP = 224
CPU: dict[str, Any] = {
    "crop": CROP,
    "batch_size": 8,
    "device": torch.device("cpu"),
    "threads": 1,
}
NEAR = 6.0  # levels of 255, on average: JPEG of noise and two resamplers; a negative or a shift is far
SIZES = {"256": ("256", "jpeg"), "original": ("original", "jpeg"), "raw": ("256", "raw")}
KINDS: dict[str, tuple[tuple[str, ...], tuple[dict[str, Any], ...]]] = {
    "JPEG": (("RGB", "L", "CMYK"), (
        {}, {"progressive": True}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"quality": 5},
            {"optimize": True},
        {"restart_marker_rows": 1}, {"comment": b"x" * 70}, {"dpi": (1, 1)}, {"icc_profile": b"x" * 300},
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    )),
    "PNG": (("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I"), ({}, {"compress_level": 0},
    {"transparency": 0}, {"interlace": 1})),
    "GIF": (("P", "L", "RGB"), ({}, {"interlace": False})),
    "BMP": (("RGB", "RGBA", "L", "P", "1"), ({},)),
    "WEBP": (("RGB", "RGBA", "L"), ({}, {"lossless": True}, {"quality": 5})),
    "TIFF": (("RGB", "L", "CMYK", "I;16", "F", "1", "LAB", "YCbCr"), ({}, {"compression": "tiff_lzw"},
    {"compression": "jpeg"})),
    "PPM": (("RGB", "L", "1", "I;16"), ({},)),
    "ICO": (("RGBA",), ({},)),
    "MPO": (("RGB",), ({},)),
    "JPEG2000": (("RGB", "L"), ({},)),
    "TGA": (("RGB", "RGBA"), ({}, {"compression": "tga_rle"})),
}  # fmt: skip
SUFFIXES = (".JPEG", ".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".ppm", ".jpe", ".jfif", "")
SIDES = ((96, 64), (64, 96), (33, 47), (300, 260), (256, 256), (1, 1), (1, 90), (700, 9), (8, 8))


@cache
def painted(kind: str, mode: str, option: int, side: int) -> bytes:
    """Paint a smooth picture, bright on one side; empty where Pillow cannot write this."""
    width, height = SIDES[side]
    y, x = np.ogrid[:height, :width]
    channels = [x * 255 // width + 0 * y, y * 255 // height + 0 * x, 255 - x * 200 // width + 0 * y]
    image = Image.fromarray(np.stack(channels, -1).astype(np.uint8))
    file = io.BytesIO()
    try:
        if mode.startswith("I"):
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        image = image if image.mode == mode else image.convert(mode)
        image.save(file, kind, **KINDS[kind][1][option])
    except (OSError, ValueError, KeyError, TypeError):
        return b""
    return file.getvalue()


@st.composite
def files(draw: DrawFn) -> tuple[str, str, int, int, list[Change], str]:
    kind = draw(st.sampled_from(["JPEG", "JPEG", "PNG", *KINDS]))
    modes, options = KINDS[kind]
    about = (
        draw(st.sampled_from(modes)),
        draw(st.integers(0, len(options) - 1)),
        draw(st.integers(0, len(SIDES) - 1)),
    )
    damages = draw(st.lists(changes, max_size=3))
    return kind, *about, damages, draw(st.sampled_from(SUFFIXES))


class Images:
    """Represent a part whose inputs are files of a class, and how they are stored."""

    inputs = st.tuples(st.lists(files(), min_size=1, max_size=10), st.sampled_from(list(SIZES)))
    shrinks = True

    def __init__(self, place: Path) -> None:
        self.box = place / "box"
        in_this_process()

    def attempt(self, value: Any) -> int:
        drawn, size = value
        shutil.rmtree(self.box, ignore_errors=True)
        folder, out = self.box / "train/n1", self.box / "out"
        folder.mkdir(parents=True)
        for number, (kind, mode, option, side, damages, suffix) in enumerate(drawn):
            (folder / f"{number}{suffix}").write_bytes(damage(painted(kind, mode, option, side), damages))
        good = painted("JPEG", "RGB", 0, 0)
        (folder / "good.JPEG").write_bytes(good)
        (self.box / "val/n1").mkdir(parents=True)
        (self.box / "val/n1/v.JPEG").write_bytes(good)
        before = snapshot(folder)
        accepted = self.prepared(folder, out, size)
        self.predicted(folder, accepted)
        compare(before, snapshot(folder))
        return len(drawn)

    def prepared(self, folder: Path, out: Path, size: str) -> set[str]:
        """Return the names of what prep accepts; raise a Fault where DALI sees something else in them."""
        kept, store = SIZES[size]
        dataset = prepare.prepare(
            find_source(self.box), out, size=kept, store=store, workers=1, max_rejected=1
        )
        rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
        names = read_names(dataset, "train")
        reasons = {Path(row["file"]).name: row["reason"] for row in rows}
        listed = sorted([*names, *reasons])
        if listed != sorted(path.name for path in folder.iterdir()) or not all(reasons.values()):
            raise Fault("unaccounted", "image", f"{listed} of {sorted(folder.iterdir())}")
        images = torch.cat([images for images, _ in EvaluationBatches(dataset, "train", **CPU)])
        for name, pixels in zip(names, images, strict=True):
            same(folder / name, pixels, f"stored {size}")
        return set(names)

    def predicted(self, folder: Path, accepted: set[str]) -> None:
        paths = sorted(set(find_images([str(folder)])) | {folder / name for name in accepted})
        batches = FileBatches(paths, side=256, **CPU)
        seen = set()
        for images, numbers in batches:
            for number, pixels in zip(numbers.tolist(), images, strict=True):
                seen.add(number)
                same(paths[number], pixels, "predict")
        if sorted([*seen, *batches.faults]) != list(range(len(paths))):
            raise Fault("unaccounted", "predict", f"{sorted(seen)} and {batches.faults} of {paths}")
        for number, fault in batches.faults.items():
            if paths[number].name in accepted:
                raise Fault("unaccounted", "only prep accepts", f"{paths[number]}: {fault}")


def same(path: Path, pixels: torch.Tensor, where: str) -> None:
    """Raise a Fault where the crop (3, 224, 224) is not what Pillow sees in the file."""
    try:
        with warnings.catch_warnings(action="ignore"):
            expected = reference(path)
    except Exception:  # Pillow is stricter than the product: nothing to compare with
        return
    error = float(np.abs(pixels.permute(1, 2, 0).numpy().astype(float) - expected).mean())
    if error > NEAR:
        head = path.read_bytes()[:4]
        raise Fault(
            "other picture", f"{where} {head!r}", f"{path.name}: {error:.1f} levels from Pillow's, {where}"
        )


def reference(path: Path) -> np.ndarray:
    """Read a crop by Pillow: upright, on white where it is transparent, 16 bits scaled to 8."""
    image: Image.Image = Image.open(path)
    turned = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        wide = np.asarray(turned).astype(float)
        turned = Image.fromarray((wide / 257).round().clip(0, 255).astype(np.uint8))
    white = Image.new("RGBA", turned.size, "white")
    image = Image.alpha_composite(white, turned.convert("RGBA")).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.resize((256, 256), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(square)[16:240, 16:240].astype(float)
