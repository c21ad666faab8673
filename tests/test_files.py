"""Loose files: what counts as an image in a folder, what may lie beside them, and how DALI's refusals end."""

import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import image
from pipeline.batches import TrainBatches
from pipeline.dataset import Dataset
from pipeline.errors import DataError
from pipeline.files import FileBatches, find_images, square
from pipeline.image import Decoded
from pipeline.samples import Samples
from pipeline.source.miniature import draw

CPU = {"device": torch.device("cpu"), "threads": 2, "crop": 224}


def photo(number: int, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw(1, np.random.default_rng(number))).save(file, kind, **options)
    return file.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read(paths: list[Path], **options: object) -> tuple[dict[int, np.ndarray], FileBatches]:
    """The images by their files' numbers."""
    batches = FileBatches(paths, batch_size=4, dtype=torch.uint8, **{**CPU, **options})  # type: ignore[arg-type]
    found = {}
    for images, labels in batches:
        assert len(images) == len(labels)
        found |= dict(zip(labels.tolist(), images.permute(0, 2, 3, 1).numpy().copy(), strict=True))
    return found, batches


def expected(path: Path) -> np.ndarray:
    return square(path, True, 256)[16:240, 16:240].astype(int)


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder with four good images among everything else that a folder may hold."""
    root = tmp_path / "photos"
    put(root / "a/photo [1].jpg", photo(1))
    put(root / "a/b/-dash.PNG", photo(2, "PNG"))
    put(root / "no suffix", photo(3))
    put(tmp_path / "elsewhere/linked.jfif", photo(4))
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "link again").symlink_to(tmp_path / "elsewhere")
    (root / "a/up").symlink_to(root)
    (root / "beyond").symlink_to(tmp_path)
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "nowhere.jpg").symlink_to(root / "nothing")
    (root / "device.jpg").symlink_to("/dev/zero")
    (root / "folder.jpg").mkdir()
    os.mkfifo(root / "pipe.jpg")
    os.mkfifo(root / "pipe")
    with open(root / "huge.jpg", "wb") as file:
        file.truncate(40 << 30)
    with open(root / "huge", "wb") as file:
        file.truncate(40 << 30)
    put(root / "notes.txt", b"no image")
    for hidden in ("._photo.jpg", ".DS_Store", ".ipynb_checkpoints/photo.jpg", "__MACOSX/photo.jpg"):
        put(root / hidden, photo(5))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket.jpg"))
    return root


def test_every_good_image_whatever_lies_beside_it(crowded: Path) -> None:
    paths = find_images([str(crowded)])
    found, batches = read(paths)
    good = {str(paths[number].relative_to(crowded)) for number in found}
    assert good == {"a/photo [1].jpg", "a/b/-dash.PNG", "no suffix", "link/linked.jfif"}
    for number, pixels in found.items():
        assert np.abs(pixels - expected(paths[number])).mean() < 3
    faults = {paths[number].name: fault for number, fault in batches.faults.items()}
    assert faults.keys() == {
        *("loop.jpg", "nowhere.jpg", "device.jpg", "pipe.jpg", "socket.jpg", "huge.jpg"),
    }
    assert "symbolic links" in faults["loop.jpg"] and "No such file" in faults["nowhere.jpg"]
    assert all("it is not a regular file" in faults[f"{name}.jpg"] for name in ("device", "pipe", "socket"))
    assert "larger than 268,435,456 bytes" in faults["huge.jpg"]
    assert len(found) + len(faults) == len(paths)


def test_named_files_patterns_and_folders_without_images(crowded: Path, tmp_path: Path) -> None:
    name = str(crowded / "a/photo [1].jpg")
    assert find_images([name, str(crowded / "a" / "*.jpg")]) == [Path(name)] * 2
    assert find_images([str(crowded / "pipe")]) == [crowded / "pipe"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        find_images([str(tmp_path / "empty")])
    with pytest.raises(DataError, match="nothing matches it"):
        find_images([str(tmp_path / "nothing*")])


def test_a_folder_that_cannot_be_read_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a/1.jpg", photo(1))
    (tmp_path / "b").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read every folder
    assert find_images([str(tmp_path)]) == [tmp_path / "a/1.jpg", tmp_path / "b"]
    assert "it is not a regular file" in read([tmp_path / "b"])[1].faults[0]


def test_a_damaged_jpeg_has_pixels_and_a_note(tmp_path: Path) -> None:
    whole, half = put(tmp_path / "1.jpg", photo(1)), put(tmp_path / "2.jpg", photo(1)[:-9000])
    found, batches = read([whole, half])
    assert batches.faults == {}
    assert batches.notes == {1: "damaged: Premature end of JPEG file; decoded as far as possible"}
    assert np.abs(found[0][:40].astype(int) - found[1][:40]).mean() < 3
    assert np.abs(found[1] - expected(half)).mean() < 3


@pytest.mark.parametrize("upright", [True, False])
def test_orientation(tmp_path: Path, upright: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    side = put(tmp_path / "side.jpg", photo(1, exif=exif, quality=95))
    stored = np.rot90(draw(1, np.random.default_rng(1)), -1 if upright else 0)
    straight = put(tmp_path / "straight.png", b"")
    Image.fromarray(stored).save(straight)
    found, _ = read([side, straight], upright=upright)
    assert np.abs(found[0].astype(int) - found[1]).mean() < 4


@pytest.mark.parametrize("refused", [[0], [2, 5], [4, 5, 6, 7], [9]])
def test_what_dali_refuses_is_left_out_and_told(
    tmp_path: Path, refused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if our own decoder took for usual what DALI does not read; the rest of each batch is given out."""
    paths = [put(tmp_path / f"{number}.jpg", photo(number)) for number in range(10)]
    bad = {paths[number].read_bytes() for number in refused}
    given = Decoded.file
    monkeypatch.setattr(Decoded, "file", lambda self, data: b"GIF89a" if data in bad else given(self, data))
    found, batches = read(paths)
    assert batches.faults == dict.fromkeys(refused, "cannot be decoded by DALI")
    assert sorted(found) == [number for number in range(10) if number not in refused]
    for number, pixels in found.items():
        assert np.abs(pixels - expected(paths[number])).mean() < 3


def test_training_names_what_dali_refuses(originals: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, given = Samples(originals, "train"), Samples.read
    bad = samples.read(np.array([11]))[0][0].tobytes()

    def swapped(self: Samples, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        images, labels = given(self, chosen)
        gif = np.frombuffer(b"GIF89a", np.uint8)
        return [gif if image.tobytes() == bad else image for image in images], labels

    monkeypatch.setattr(Samples, "read", swapped)
    with pytest.raises(DataError, match=rf"byte {samples.index[11]['offset']}: n.*cannot be decoded"):
        for _ in TrainBatches(originals, batch_size=8, seed=1, **CPU).epoch(0):
            pass


def test_too_little_memory_for_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have their rows all the same."""
    paths = [put(tmp_path / f"{number}.jpg", photo(number)) for number in range(3)]
    large, given = paths[1].read_bytes(), image.decode

    def decode(data: bytes, **options: bool) -> Decoded:
        if data == large:
            raise MemoryError
        return given(data, **options)

    monkeypatch.setattr(image, "decode", decode)
    found, batches = read(paths)
    assert list(found) == [0, 2] and batches.faults == {1: "cannot be decoded: too little memory"}
