"""Draw an ImageNet in miniature: for tests, `alexnet-dali demo` and benchmarks, without the real one.

Ten patterns in random colours, scale, place, angle, light and focus, so that a class is its shape and not its
colour; labels 10 to 39 are the same patterns inside a disc, a square and a triangle. The seed decides every
pixel, and the same seed draws the same images whichever layout they are written in. The writers take the
fields of `Miniature` as keywords.
"""

import gzip
import io
import math
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io
from PIL import Image

Field = npt.NDArray[Any]  # (H, W) float32; NumPy types its arithmetic with numbers as float64
File = tuple[str, int, bytes]  # its name, its label, its bytes

DAMAGED = 3  # a truncated JPEG, a web page, an empty file: prep must reject them
DISGUISED = 4  # a CMYK, a grey and a turned (EXIF) JPEG and a PNG, all named .JPEG: prep must accept them


def saw(t: Field) -> Field:
    """Return the distance to the nearest integer, 0 to 0.5."""
    distance: Field = np.abs(t - np.rint(t))
    return distance


def polygon(x: Field, y: Field, sides: int) -> Field:
    """Return the distance to the nearest edge of a regular polygon of inradius 1, positive inside."""
    turns = [2 * math.pi * k / sides + math.pi / 2 for k in range(sides)]
    across: Field = np.maximum.reduce([math.cos(t) * x + math.sin(t) * y for t in turns])
    return 1 - across


def stripes(x: Field, y: Field) -> Field:
    return saw(x) - 0.25


def checks(x: Field, y: Field) -> Field:
    return 4 * (saw(x) - 0.25) * (saw(y) - 0.25)


def bricks(x: Field, y: Field) -> Field:
    odd_row = np.floor(2 * y) % 2
    return np.minimum(saw(x + odd_row / 2), saw(2 * y) / 2) - 0.04


def waves(x: Field, y: Field) -> Field:
    return saw(y + 0.4 * np.sin(2.5 * x)) - 0.25


def rings(x: Field, y: Field) -> Field:
    return saw(np.hypot(x, y)) - 0.25


def spiral(x: Field, y: Field) -> Field:
    radius = np.hypot(x, y) + 0.05
    return (saw(1.2 * np.log(radius) + np.arctan2(y, x) * (3 / (2 * math.pi))) - 0.25) * radius


def rays(x: Field, y: Field) -> Field:
    return (saw(np.arctan2(y, x) * (12 / (2 * math.pi))) - 0.25) * np.hypot(x, y) * 0.5


def dots(x: Field, y: Field) -> Field:
    return 0.3 - np.hypot(saw(x), saw(y))


def triangles(x: Field, y: Field) -> Field:
    inradius = 0.22
    return inradius * polygon((x - np.rint(x)) / inradius, (y - np.rint(y)) / inradius, 3)


def stars(x: Field, y: Field) -> Field:
    x, y = x - np.rint(x), y - np.rint(y)
    from_tip = saw(np.arctan2(x, -y) * (5 / (2 * math.pi))) * (2 * math.pi / 5)  # angle, 0 to 36 degrees
    return 0.15 - np.hypot(x, y) * np.cos(2 * math.pi / 5 - from_tip)


# What to draw, and the range of its period as a share of the image's shorter side.
PATTERNS: list[tuple[str, Callable[[Field, Field], Field], float, float]] = [
    ("stripes, bars", stripes, 0.10, 0.20),
    ("checkerboard, chequers", checks, 0.16, 0.32),
    ("bricks, brick wall", bricks, 0.20, 0.36),
    ("waves, ripples", waves, 0.12, 0.22),
    ("rings, target", rings, 0.10, 0.20),
    ("spiral, whirl", spiral, 0.15, 0.40),
    ("rays, sunburst", rays, 0.15, 0.30),
    ("dots, polka dots", dots, 0.15, 0.28),
    ("triangles", triangles, 0.18, 0.34),
    ("stars", stars, 0.22, 0.42),
]
FRAMES: list[tuple[str, int]] = [("", 0), (" in a disc", 64), (" in a square", 4), (" in a triangle", 3)]
WNIDS = [f"n{2_084_071 + 7_919 * label:08d}" for label in range(len(PATTERNS) * len(FRAMES))]
WORDS = [
    ", ".join(word + frame for word in words.split(", ")) for frame, _ in FRAMES for words, *_ in PATTERNS
]


def draw(label: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw an image of a class, (H, W, 3): as in ImageNet mostly 4:3, rarely tiny, very rarely a ribbon."""
    _, pattern, finest, coarsest = PATTERNS[label % len(PATTERNS)]
    sides = FRAMES[label // len(PATTERNS)][1]
    height, width = size(rng)
    short = min(height, width)
    y, x = np.ogrid[:height, :width]
    across = (x.astype(np.float32) - width * rng.uniform(0.35, 0.65)) / short
    down = (y.astype(np.float32) - height * rng.uniform(0.35, 0.65)) / short

    period, angle = rng.uniform(finest, coarsest), rng.uniform(-0.6, 0.6)
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = cos * across + sin * down, cos * down - sin * across
    focus = short * rng.uniform(0.15, 1)  # 1: sharp to the pixel
    mask = np.clip(0.5 + pattern(u / period, v / period) * period * focus, 0, 1)

    direction = rng.uniform(0, 2 * math.pi)
    light = math.cos(direction) * across + math.sin(direction) * down
    (dark, bright), drift = two_colours(rng), rng.uniform(-55, 55, (2, 3))
    basis = np.stack([np.ones_like(mask), light, mask, light * mask], axis=-1)  # (H, W, 4)
    mixing = np.stack([dark, drift[0], bright - dark, drift[1] - drift[0]])  # (4, 3)
    image = basis @ mixing.astype(np.float32)
    if sides:
        inradius = 0.3 if sides == 3 else 0.42
        inside = np.clip(0.5 + inradius * polygon(u / inradius, v / inradius, sides) * short, 0, 1)[..., None]
        outside = two_colours(rng)[int(rng.integers(2))].astype(np.float32)
        image = outside + inside * (image - outside)
    image += (rng.random((height, width, 1), np.float32) - 0.5) * rng.uniform(8, 48)
    return np.clip(image, 0, 255).astype(np.uint8)


def size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw a height and a width."""
    kind = rng.random()
    if kind < 0.01:
        short, aspect = rng.integers(90, 160), rng.uniform(4, 7)
    elif kind < 0.05:
        short, aspect = rng.integers(64, 200), rng.uniform(1, 1.6)
    else:
        short, aspect = rng.integers(200, 401), rng.choice([1, 1.25, 4 / 3, 1.5])
    sides = int(short), round(short * aspect)
    return sides if rng.random() < 0.7 else sides[::-1]


def two_colours(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw a dark and a bright colour of any hues, in either order, (2, 3), 0 to 255."""
    hue, saturation = rng.random((2, 1)), rng.uniform([[0.3], [0.1]], [[0.9], [0.7]])
    value = rng.uniform([[30], [180]], [[110], [250]])
    wheel = np.clip(0.5 + np.cos(2 * math.pi * (hue - np.array([0, 1 / 3, 2 / 3]))), 0, 1)
    return rng.permutation(value * (1 - saturation * (1 - wheel)))


def jpeg(pixels: npt.NDArray[np.uint8], mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, options.pop("format", "JPEG"), quality=90, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Miniature:
    """Describe an ImageNet in miniature, and draw its files."""

    classes: int = 10  # 2 to 40
    train: int = 100  # of each class
    val: int = 20  # of each class
    test: int = 0  # in all
    seed: int = 0
    damaged: bool = True  # DAMAGED + DISGUISED more files in train

    def image(self, split: int, label: int, number: int) -> npt.NDArray[np.uint8]:
        return draw(label, np.random.default_rng([self.seed, split, label, number]))

    def train_files(self) -> Iterator[File]:
        """Yield files class by class; the odd files come last in the first classes."""
        for label in range(self.classes):
            files = [jpeg(self.image(0, label, number)) for number in range(self.train)]
            if self.damaged:
                kinds = range(label, DAMAGED + DISGUISED, self.classes)
                files += [self.odd_file(kind, label) for kind in kinds]
            for number, data in enumerate(files):
                yield f"{WNIDS[label]}_{number}.JPEG", label, data

    def odd_file(self, kind: int, label: int) -> bytes:
        """Make a file, damaged for `kind` below DAMAGED, disguised above."""
        pixels = self.image(1, label, kind)
        exif = Image.Exif()
        exif[0x0112] = 6  # the orientation tag: show it turned by 90 degrees
        makers: list[Callable[[], bytes]] = [
            lambda: (whole := jpeg(pixels))[: len(whole) // 2],
            lambda: b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n",
            lambda: b"",
            lambda: jpeg(pixels, "CMYK"),
            lambda: jpeg(pixels, "L"),
            lambda: jpeg(pixels, format="PNG"),
            lambda: jpeg(pixels, exif=exif),
        ]
        return makers[kind]()

    def val_labels(self) -> list[int]:
        """Return the labels of val, shuffled as the real ones are."""
        labels = np.repeat(np.arange(self.classes), self.val)
        shuffled: list[int] = np.random.default_rng([self.seed, 2]).permutation(labels).tolist()
        return shuffled

    def val_files(self) -> Iterator[File]:
        for number, label in enumerate(self.val_labels(), start=1):
            yield f"ILSVRC2012_val_{number:08d}.JPEG", label, jpeg(self.image(2, label, number))

    def test_labels(self) -> list[int]:
        return [number % self.classes for number in range(1, self.test + 1)]

    def test_files(self) -> Iterator[File]:
        for number, label in enumerate(self.test_labels(), start=1):
            yield f"ILSVRC2012_test_{number:08d}.JPEG", label, jpeg(self.image(3, label, number))

    def devkit_id(self, label: int) -> int:
        """Return a class's number, from 1 and, as in the real devkit, not in the order of the wnids."""
        return (label + 1) % self.classes + 1

    def synsets(self, challenge: str) -> npt.NDArray[np.void]:
        """Return the classes by id and, as in the real devkit, the synsets above them: (N, 1)."""
        names = [f"{challenge}_ID", "WNID", "words", "gloss"]
        names += ["num_children", "children", "wordnet_height", "num_train_images"]
        leaves: list[tuple[Any, ...]] = [
            (self.devkit_id(i), WNIDS[i], WORDS[i], f"a drawing of {WORDS[i]}", 0, [], 0, self.train)
            for i in range(self.classes)
        ]
        first = self.classes + 1
        ids = range(1, first)
        above: list[tuple[Any, ...]] = [
            (first, "n00001740", "pattern", "what is drawn", 2, [first + 1, first + 2], 2, 0),
            (first + 1, "n03300000", "odd pattern", "one of odd id", len(ids[::2]), ids[::2], 1, 0),
            (first + 2, "n00500000", "even pattern", "one of even id", len(ids[1::2]), ids[1::2], 1, 0),
        ]
        rows = np.zeros((first + 2, 1), [(name, object) for name in names])
        for row, synset in enumerate(sorted(leaves, key=lambda leaf: leaf[0]) + above):
            rows[row, 0] = synset
        return rows

    def devkit(self, challenge: str = "ILSVRC2012", folder: str = "ILSVRC2012_devkit_t12") -> bytes:
        meta = io.BytesIO()
        scipy.io.savemat(meta, {"synsets": self.synsets(challenge)})
        truth = self.truth(self.val_labels())
        files = {"meta.mat": meta.getvalue(), f"{challenge}_validation_ground_truth.txt": truth}
        return tar((f"{folder}/data/{name}", data) for name, data in files.items())

    def truth(self, labels: Iterable[int]) -> bytes:
        return "".join(f"{self.devkit_id(label)}\n" for label in labels).encode()


def tar(files: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_archives(root: Path, *, devkit_tar: bool = False, **counts: Any) -> None:
    """Write the official archives; `devkit_tar`: the kit already without .gz, as some browsers leave it."""
    small = Miniature(**counts)
    write(root / "ILSVRC2012_img_train.tar", tar(class_tars(small.train_files())))
    write(root / "ILSVRC2012_img_val.tar", tar((name, data) for name, _, data in small.val_files()))
    if small.test:
        files = ((f"test/{name}", data) for name, _, data in small.test_files())
        write(root / "ILSVRC2012_img_test_v10102019.tar", tar(files))
    if devkit_tar:
        write(root / "ILSVRC2012_devkit_t12.tar", small.devkit())
    else:
        write(root / "ILSVRC2012_devkit_t12.tar.gz", gzip.compress(small.devkit(), mtime=0))


def class_tars(files: Iterable[File]) -> Iterator[tuple[str, bytes]]:
    """Pack training images, one tar for each class."""
    classes: dict[int, list[tuple[str, bytes]]] = {}
    for name, label, data in files:
        classes.setdefault(label, []).append((name, data))
    return ((f"{WNIDS[label]}.tar", tar(images)) for label, images in classes.items())


def write_class_tars(root: Path, **counts: Any) -> None:
    """Write a tar for each class and nothing else: Fall 2011's release, unpacked once."""
    for name, data in class_tars(Miniature(**counts).train_files()):
        write(root / name, data)


def write_2010(root: Path, **counts: Any) -> None:
    """Write ILSVRC-2010's archives: as in the real ones an image of each split is blank, and patched."""
    small, patches = Miniature(**counts), []
    blank = jpeg(np.full((120, 160, 3), 255, np.uint8))
    splits = {"train": small.train_files(), "val": small.val_files(), "test": small.test_files()}
    for split, files in splits.items():
        images = [(name.replace("ILSVRC2012", "ILSVRC2010"), label, data) for name, label, data in files]
        patches.append((f"patch_images/{split}/{images[0][0]}", images[0][2]))
        images[0] = (*images[0][:2], blank)
        flat = ((f"{split}/{name}", data) for name, _, data in images)
        content = class_tars(images) if split == "train" else flat
        write(root / f"ILSVRC2010_images_{split}.tar", tar(content))
    write(root / "patch_images.tar", tar(patches))
    kit = small.devkit("ILSVRC2010", "devkit-1.0")
    write(root / "ILSVRC2010_devkit-1.0.tar.gz", gzip.compress(kit, mtime=0))
    write(root / "ILSVRC2010_test_ground_truth.txt", small.truth(small.test_labels()))


def write_folders(root: Path, *, flat_val: bool = False, **counts: Any) -> None:
    """Write train/WNID/ and val/WNID/; `flat_val`: val in one folder and the development kit beside it."""
    small = Miniature(**counts)
    for name, label, data in small.train_files():
        write(root / "train" / WNIDS[label] / name, data)
    for name, label, data in small.val_files():
        write(root / "val" / ("" if flat_val else WNIDS[label]) / name, data)
    for name, _, data in small.test_files():
        write(root / "test" / name, data)
    if flat_val:
        write(root / "ILSVRC2012_devkit_t12.tar.gz", gzip.compress(small.devkit(), mtime=0))


def write_kaggle(root: Path, **counts: Any) -> None:
    """Write Kaggle's tree and its two tables, the solution's rows in no particular order."""
    small = Miniature(**counts)
    images = root / "ILSVRC/Data/CLS-LOC"
    for name, label, data in small.train_files():
        write(images / "train" / WNIDS[label] / name, data)
    for name, _, data in small.val_files():
        write(images / "val" / name, data)
    for name, _, data in small.test_files():
        write(images / "test" / name, data)
    mapping = "".join(f"{WNIDS[label]} {WORDS[label]}\n" for label in range(small.classes))
    write(root / "LOC_synset_mapping.txt", mapping.encode())
    rows = [
        f"ILSVRC2012_val_{number:08d},"
        + f"{WNIDS[label]} 10 20 110 120 " * (1 + number % 3)  # one box per object
        for number, label in enumerate(small.val_labels(), start=1)
    ]
    write(root / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *rows[::-1], ""]).encode())
