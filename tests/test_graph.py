"""The DALI graphs against NumPy and Pillow, given the same random draws."""

import io
from typing import Any

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from PIL import Image

from pipeline import graph
from pipeline.source.miniature import draw, jpeg

ROWS = 6
RANDOM = np.random.default_rng(0)
EXECUTOR = {"batch_size": ROWS, "num_threads": 2, "device_id": None, "exec_dynamic": True}


def encoded(sizes: list[tuple[int, int]], **options: Any) -> list[np.ndarray]:
    """JPEGs of (height, width); options: of `jpeg`."""
    images = [draw(label, np.random.default_rng(label)) for label in range(len(sizes))]
    pictures = [Image.fromarray(image).resize(size[::-1]) for image, size in zip(images, sizes, strict=True)]
    return [np.frombuffer(jpeg(np.asarray(picture), **options), np.uint8) for picture in pictures]


def decoded(data: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())))


def square(image: np.ndarray) -> np.ndarray:
    """Pillow's: shorter side to 256, centre 256x256."""
    height, width = image.shape[:2]
    side = min(height, width)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR, box))


DRAWS = {
    "labels": np.arange(ROWS),
    "top": np.float32([0, 32, 5, 17, 31, 0]),
    "left": np.float32([32, 0, 11, 16, 1, 0]),
    "mirror": np.int32([0, 1, 0, 1, 1, 0]),
    "shift": RANDOM.normal(0, 8, (ROWS, 3)).astype(np.float32),
}


def expected(images: list[np.ndarray]) -> np.ndarray:
    """decoded + shift, by the formula."""
    out = []
    for row, image in enumerate(images):
        top, left = int(DRAWS["top"][row]), int(DRAWS["left"][row])
        crop = image[top : top + 224, left : left + 224].astype(np.float64)
        crop = crop[:, ::-1] if DRAWS["mirror"][row] else crop
        out.append(crop + DRAWS["shift"][row])
    return np.stack(out)


def train(stored: list[np.ndarray], kind: str = "256", gpu: bool = False) -> tuple[np.ndarray, np.ndarray]:
    def source() -> tuple[object, ...]:
        return (stored, *DRAWS.values())

    executor = {**EXECUTOR, "device_id": 0 if gpu else None}
    outputs = graph.train_graph(source, 224, kind=kind, gpu=gpu, **executor).run()
    images, labels = (np.array((out.as_cpu() if gpu else out).as_tensor()) for out in outputs)
    return images, labels


def test_train_graph_on_prepared_images() -> None:
    jpegs = encoded([(256, 256)] * ROWS)
    images, labels = train(jpegs)
    assert images.dtype == np.float32
    assert images.shape == (ROWS, 224, 224, 3)
    assert np.abs(images - expected([decoded(data) for data in jpegs])).max() < 1e-4
    assert labels.dtype == np.int64
    assert labels.tolist() == list(range(ROWS))


@pipeline_def
def resized_whole(jpegs: list[np.ndarray]) -> object:
    """The (256, 256) centre squares of images that are decoded whole."""
    stored = fn.external_source(lambda: jpegs, batch=True)
    size = fn.cast(fn.peek_image_shape(stored)[:2], dtype=types.FLOAT)
    side = fn.reductions.min(size, keep_dims=True)
    start = (size - side) / 2
    return fn.resize(fn.decoders.image(stored), roi_start=start, roi_end=start + side, size=[256, 256])


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"mode": "L"}],
    ids=str,
)
def test_what_is_decoded_of_an_original_is_all_that_its_crop_reads(options: dict[str, Any]) -> None:
    jpegs = encoded([(1500, 2000), (2017, 1511), (60, 800), (375, 500), (257, 300), (640, 640)], **options)
    images, _ = train(jpegs, "original")
    (whole,) = resized_whole(jpegs, **EXECUTOR).run()
    error = np.abs(images - expected(list(np.array(whole.as_tensor()))))
    assert error.max() < 1.01  # the crop's place is rounded to float32 from another origin
    assert (error > 0.01).mean() < 1e-4


def test_train_graph_resizes_originals_as_pillow_does() -> None:
    jpegs = encoded([(375, 500), (500, 333), (64, 91), (256, 256), (900, 180), (301, 299)])
    images, _ = train(jpegs, "original")
    error = np.abs(images - expected([square(decoded(data)) for data in jpegs]))
    assert error.max() < 6  # levels of 255: two resamplers that round at different places
    assert error.mean() < 0.3


def test_train_graph_on_raw_pixels() -> None:
    """There is nothing to decode, so nothing to differ by."""
    pixels = [RANDOM.integers(256, size=(256, 256, 3), dtype=np.uint8) for _ in range(ROWS)]
    images, _ = train(pixels, kind="raw")
    assert np.array_equal(images, np.float32(expected(pixels)))


@pytest.mark.parametrize("kind", ["256", "original", "raw"])
def test_evaluation_views_are_slices(kind: str) -> None:
    resize = kind == "original"
    jpegs = encoded([(375, 500), (256, 256), (200, 300)] if resize else [(256, 256)] * 3)
    options = {**EXECUTOR, "batch_size": 3}

    def source() -> tuple[object, ...]:
        return [decoded(data) for data in jpegs] if kind == "raw" else jpegs, np.arange(3)

    pipe = graph.evaluation_graph(source, 224, kind=kind, gpu=False, views=graph.TEN_VIEWS, **options)
    images = np.array(pipe.run()[0].as_tensor())
    assert images.dtype == np.uint8
    assert images.shape == (3, 10, 224, 224, 3)
    images = images.astype(np.float64)
    corners = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    for row, data in enumerate(jpegs):
        image = square(decoded(data)) if resize else decoded(data)
        for view, (top, left) in enumerate(corners):
            crop = image[top : top + 224, left : left + 224]
            tolerance = 6 if resize else 0
            assert np.abs(images[row, view] - crop).max() <= tolerance
            assert np.abs(images[row, view + 5] - crop[:, ::-1]).max() <= tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["256", "original", "raw"])
def test_train_graph_on_the_gpu(kind: str) -> None:
    """nvJPEG and libjpeg-turbo round differently: a few levels of 255 at most, less than one on average."""
    jpegs = encoded([(375, 500), (500, 333), (256, 256), (300, 301), (480, 640), (700, 500)])
    if kind != "original":
        jpegs = encoded([(256, 256)] * ROWS, subsampling="4:4:4")  # as prep writes them
    jpegs = [decoded(data) for data in jpegs] if kind == "raw" else jpegs
    (ours, labels), (there, there_labels) = (train(jpegs, kind, gpu=gpu) for gpu in (False, True))
    assert np.array_equal(labels, there_labels)
    assert np.abs(ours - there).max() < 12
    assert np.abs(ours - there).mean() < 0.7


def test_a_damaged_header_in_a_full_batch_is_an_error_and_no_crash() -> None:
    """Without a look at all headers first, threads of DALI crash in most of such batches."""
    (whole,), rows = encoded([(256, 256)]), 128
    damaged = whole.copy()
    damaged[20:420] = 0
    fed = ([*[whole] * 100, damaged, *[whole] * (rows - 101)], np.arange(rows))
    for _ in range(3):
        pipe = graph.evaluation_graph(
            lambda: fed, 224, "256", gpu=False, views=graph.CENTRE_VIEW, **EXECUTOR | {"batch_size": rows}
        )
        with pytest.raises(RuntimeError, match="nvImageCodec failure: '#3'"):
            pipe.run()
