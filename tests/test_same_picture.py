"""One image file is the same picture to prep, training, evaluation and predict, in every size and store."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from test_jpeg import FLAWED, sampled

from pipeline.batches import EvaluationBatches, TrainBatches
from pipeline.dataset import Dataset, open_dataset, read_names
from pipeline.errors import DataError
from pipeline.files import FileBatches
from pipeline.prep.prepare import prepare
from pipeline.source.find import find_source
from pipeline.source.miniature import draw, write_archives

CPU = {"device": torch.device("cpu"), "threads": 2, "crop": 224}
PIXELS = draw(4, np.random.default_rng(3))
TOLERANCE = {"256": 3, "raw": 0, "original": 4}  # mean difference: of the JPEG coding, and of DALI's resize


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(PIXELS), "JPEG", exif=exif)


def files() -> dict[str, bytes]:
    """By name, an image of each kind that prep accepts."""
    image = Image.fromarray(PIXELS)
    faint = image.copy()
    faint.putalpha(Image.linear_gradient("L").resize(image.size))
    return {
        "plain.jpg": saved(image, "JPEG"),
        "progressive.jpg": saved(image, "JPEG", progressive=True),
        "grey.jpg": saved(image.convert("L"), "JPEG"),
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG"),
        "rgb.jpg": saved(image, "JPEG", keep_rgb=True),
        "sampled.jpg": sampled((3, 1), (1, 1), (1, 1)),
        "flawed.jpg": FLAWED["bytes before a table"][0],
        **{f"turned {number}.jpg": turned(number) for number in (3, 6, 8)},
        "colour.png": saved(image, "PNG"),
        "palette.png": saved(image.quantize(64), "PNG"),
        "faint.png": saved(faint, "PNG"),
        "faint.webp": saved(faint, "WEBP", lossless=True),
        "picture.gif": saved(image.quantize(64), "GIF"),
        "picture.bmp": saved(image, "BMP"),
        "picture.tif": saved(image, "TIFF", compression="tiff_lzw"),
        "picture.ppm": saved(image, "PPM"),
    }


def by_pillow(data: bytes) -> np.ndarray:
    """The centre 224 of the 256 square, upright and on white: (224, 224, 3)."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image, side = image.convert("RGB"), min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    square = image.resize((256, 256), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square, int)[16:240, 16:240]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class of all and one of a single image, the same in train and val."""
    root = tmp_path_factory.mktemp("kinds")
    for split in ("train", "val"):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
        for file, data in files().items():
            (root / split / "a" / file).write_bytes(data)
        (root / split / "b" / "other.jpg").write_bytes(files()["plain.jpg"])
    return root


@pytest.fixture(scope="module")
def datasets(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """By `Dataset.kind`. Read them; write elsewhere."""
    options = {"256": {}, "raw": {"store": "raw"}, "original": {"size": "original"}}
    source, out = find_source(root), tmp_path_factory.mktemp("out")
    return {kind: prepare(source, out / kind, workers=2, **options[kind]) for kind in options}


def pictures(dataset: Dataset) -> dict[str, np.ndarray]:
    """What evaluation sees, by file name."""
    stream = EvaluationBatches(dataset, "val", batch_size=8, **CPU)  # type: ignore[arg-type]
    found = [image for images, _ in stream for image in images.permute(0, 2, 3, 1).numpy().astype(int)]
    return dict(zip(read_names(dataset, "val"), found, strict=True))


@pytest.mark.parametrize("kind", ["256", "raw", "original"])
def test_prep_training_and_evaluation(datasets: dict[str, Dataset], kind: str) -> None:
    dataset = datasets[kind]
    assert dataset.made["rejected"] == 0 and dataset.samples("val") == len(files()) + 1
    found = pictures(dataset)
    for name, data in files().items():
        difference = np.abs(found[name] - by_pillow(data))
        assert difference.mean() <= TOLERANCE[kind], name
    ((images, _),) = TrainBatches(dataset, batch_size=64, offsets=1, noise=None, **CPU).epoch(0)  # type: ignore[arg-type]
    means = sorted(by_pillow(data).mean() for data in [*files().values(), files()["plain.jpg"]])
    assert np.allclose(sorted(images.mean((1, 2, 3)).tolist()), means, atol=14)  # of other crops, mirrored


def test_predict(root: Path) -> None:
    paths = [root / "val/a" / name for name in files()]
    batches = FileBatches(paths, batch_size=8, **CPU)  # type: ignore[arg-type]
    for images, numbers in batches:
        for image, number in zip(images.permute(0, 2, 3, 1).numpy(), numbers.tolist(), strict=True):
            expected = by_pillow(paths[number].read_bytes())
            assert np.abs(image.astype(int) - expected).mean() <= TOLERANCE["original"], paths[number]
    assert batches.faults == batches.notes == {}


def test_harmless_flaws_are_counted_and_listed(datasets: dict[str, Dataset]) -> None:
    dataset = datasets["256"]
    assert dataset.made["flawed"] == {"extraneous bytes before a marker": 2}
    assert open_dataset(dataset.root) == dataset
    lines = [json.loads(line) for line in (dataset.root / "flawed.jsonl").read_text().splitlines()]
    assert [(line["split"], line["name"]) for line in lines] == [
        ("train", "flawed.jpg"),
        ("val", "flawed.jpg"),
    ]


def test_orientation_is_ignored_when_asked(root: Path, tmp_path: Path) -> None:
    dataset = prepare(find_source(root), tmp_path / "out", size="original", exif="ignore", workers=2)
    assert dataset.made["exif"] == "ignore"
    found, stored = pictures(dataset), by_pillow(saved(Image.fromarray(PIXELS), "JPEG"))
    for number in (3, 6, 8):
        assert np.abs(found[f"turned {number}.jpg"] - stored).mean() < 4
    (dataset.root / "val/000000.tar").unlink()
    again = prepare(find_source(root), dataset.root, size="original", workers=2)  # made again as it was made
    assert again == dataset and pictures(again).keys() == found.keys()


def test_a_dataset_is_of_one_way(root: Path, datasets: dict[str, Dataset], tmp_path: Path) -> None:
    """Finished or half done, it does not go on with the other; nor does one of before there was a choice."""
    source, out = find_source(root), shutil.copytree(datasets["256"].root, tmp_path / "out")
    dataset = open_dataset(out)
    assert dataset.made["exif"] == "honour"
    assert prepare(source, out) == prepare(source, out, exif="honour") == dataset
    with pytest.raises(DataError, match="prepared with --exif honour, not ignore"):
        prepare(source, out, exif="ignore")
    half = shutil.copytree(root, tmp_path / "half root")
    (half / "val/a/empty.jpg").write_bytes(b"")
    (half / "val/b/empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be used"):
        prepare(find_source(half), tmp_path / "half", workers=2, max_rejected=0)
    with pytest.raises(DataError, match="started with exif honour, not ignore"):
        prepare(find_source(half), tmp_path / "half", exif="ignore")
    description = json.loads((out / "dataset.json").read_text())
    del description["made"]["exif"]
    (out / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="prepared with --exif ignore, not honour"):
        prepare(source, out, exif="honour")


def test_ilsvrc_is_taken_as_in_2012(tmp_path: Path) -> None:
    write_archives(tmp_path / "root", classes=2, train=2, val=1, damaged=False)
    official = find_source(tmp_path / "root")
    assert official.exif == "ignore"
    assert prepare(official, tmp_path / "out", workers=1).made["exif"] == "ignore"
