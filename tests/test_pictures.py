"""The pictures: their size, and pixels whose colours are known."""

import io
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axis import Tick
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from cli.pictures.canvas import DPI, new_figure, percent
from cli.pictures.confusion import Counts, Pair, confusion
from cli.pictures.curves import (
    COLOURS,
    TOP1,
    compare,
    curves,
    finish,
    loss_and_error,
    mark_drops,
    running_mean,
)
from cli.pictures.filters import filters, kernels_shown, mosaic, table
from cli.pictures.panels import Guess, grid, guesses, layers, maps


def pixels(path: Path) -> np.ndarray:
    """The picture at 100 dpi, in which it is laid out; each pixel is four of the file."""
    with Image.open(path) as image:
        assert image.format == "PNG" and image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        return np.asarray(image.convert("RGB"))[::2, ::2]


def step_kernel() -> np.ndarray:
    """Left half lowest, right half highest, in red only; green and blue in the middle of the range."""
    kernel = np.zeros((3, 11, 11), np.float32)
    kernel[0, :, :5], kernel[0, :, 5:] = -0.25, 0.25
    return kernel


def test_a_known_kernel_has_its_colours(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(96, 3, 11, 11)).astype(np.float32)
    weight[0] = weight[95] = step_kernel()
    filters(weight, tmp_path / "filters.png", "conv1")
    picture = pixels(tmp_path / "filters.png")
    zoom, tower_height = 6, 6 * (3 * 12 - 1)
    assert picture.shape[1] == 40 + zoom * (16 * 12 - 1) + 16
    assert picture.shape[0] == 66 + 2 * tower_height + 16 + 16
    first, last = picture[66:, 40:], picture[: -16 + 1, : -16 + 1]
    assert first[3, 3].tolist() == [0, 128, 128] and first[3, 63].tolist() == [255, 128, 128]  # of tower a
    assert (
        first[3, 5 * zoom - 1, 0] == 0 and first[3, 5 * zoom, 0] == 255
    )  # the edge is where the kernel has it
    assert first[3, 11 * zoom + 2].tolist() == [255, 255, 255]  # the gap to its neighbour
    assert last[-4, -4].tolist() == [255, 128, 128]  # of tower b


def test_a_kernel_is_scaled_by_itself_and_a_constant_one_is_grey() -> None:
    kernels = np.stack([step_kernel(), 1000 * step_kernel() - 7, np.full((3, 11, 11), 3.0)])
    sheet = mosaic(kernels)
    assert sheet.shape == (11, 35, 3)
    assert np.array_equal(sheet[:, :11], sheet[:, 12:23])
    assert (sheet[:, 24:] == 128).all()


@pytest.mark.parametrize(
    ("count", "shape"), [(48, (3, 16)), (24, (2, 12)), (12, (1, 12)), (17, (2, 16)), (1, (1, 1))]
)
def test_rows_and_columns(count: int, shape: tuple[int, int]) -> None:
    sheet = mosaic(np.zeros((count, 3, 5, 5)))
    assert sheet.shape == (6 * shape[0] - 1, 6 * shape[1] - 1, 3)


@pytest.mark.parametrize("count", [8, 24, 7])
def test_narrow_networks_fit_too(count: int, tmp_path: Path) -> None:
    filters(np.random.default_rng(0).normal(size=(count, 3, 11, 11)), tmp_path / "filters.png", "conv1")
    assert pixels(tmp_path / "filters.png").std() > 10


def metrics(epochs: int) -> list[dict[str, Any]]:
    steps = [n / 10 for n in range(1, 10 * epochs + 1)]
    train = [
        {
            "kind": "train",
            "step": 0,
            "epoch": x,
            "loss": 7 / (1 + x),
            "top1_err": 99 / (1 + x),
            "lr": 0.01 / (1 + (x > 2)),
        }
        for x in steps
    ]
    val = [
        {"kind": "val", "step": 0, "epoch": x, "loss": 8 / (1 + x), "top1_err": 90 / x, "top5_err": 50 / x}
        for x in range(1, epochs + 1)
    ]
    return train + val


@pytest.mark.parametrize("epochs", [0, 1, 5])
def test_curves_at_any_length(epochs: int, tmp_path: Path) -> None:
    curves(metrics(epochs), tmp_path / "curves.png", "a run")
    picture = pixels(tmp_path / "curves.png")
    assert picture.shape == (524, 1200, 3)
    red = tuple(int(TOP1[at : at + 2], 16) for at in (1, 3, 5))
    assert (picture == red).all(axis=-1).any() == (epochs > 0)


def test_a_drop_of_the_learning_rate_is_one_line_in_each_half() -> None:
    figure = new_figure(100, 100)
    axes = figure.add_subplot()
    mark_drops(axes, [row for row in metrics(5) if row["kind"] == "train"])
    assert [line.get_xdata() for line in axes.lines] == [[2.1, 2.1]]
    assert [text.get_text() for text in axes.texts] == ["lr 0.005"]


def test_the_values_at_the_ends_keep_clear_of_one_another_and_of_the_axis() -> None:
    _, axes, _ = loss_and_error("a run")
    rows = [row for row in metrics(3) if row["kind"] == "val"]
    axes.plot([1, 3], [0, 100])
    finish(axes, rows, [(0.0, "0 %", "red"), (0.5, "0.5 %", "blue"), (80.0, "80 %", "red"), None])
    heights = sorted(text.get_position()[1] * DPI / 72 for text in axes.texts)
    assert heights[0] >= 9 and min(b - a for a, b in pairwise(heights)) >= 16
    ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= 3]
    assert ticks == [round(tick) for tick in ticks] and len(ticks) > 1


def test_runs_over_one_another_have_their_colours(tmp_path: Path) -> None:
    compare({"one": metrics(3), "two": metrics(5), "none": []}, tmp_path / "two.png", "two runs")
    picture = pixels(tmp_path / "two.png")
    for colour in COLOURS[:2]:
        rgb = tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
        assert (picture == rgb).all(axis=-1).any()


def test_kernels_that_read_maps_are_a_row_each(tmp_path: Path) -> None:
    """The largest weights are kept, in their order; black at zero, each row in its own range."""
    kernels = np.zeros((30, 5, 3, 3))
    kernels[6:, 0, 1, 1] = np.arange(1, 25)
    kernels[29, 2] = -24
    sheet = table(kernels)
    assert sheet.shape == (24 * 4 - 1, 5 * 4 - 1, 3)
    assert sheet[1, 1].tolist() == sheet[93, 1].tolist() == [255, 200, 120]
    assert sheet[0, 0].tolist() == [0, 0, 0] and sheet[92, 8].tolist() == [110, 180, 255]
    filters(kernels, tmp_path / "conv2.png", "conv2")
    assert pixels(tmp_path / "conv2.png").std() > 10


def test_one_tower_is_one_sheet(tmp_path: Path) -> None:
    filters(np.zeros((16, 3, 5, 5)), tmp_path / "filters.png", "conv1", towers=1)
    zoom = 12  # of 1152 pixels for a row of 16 kernels, 95 wide
    assert pixels(tmp_path / "filters.png").shape[0] == 66 + zoom * 5 + 16 + 16


@pytest.mark.parametrize(("suffix", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_each_format_by_suffix_has_the_same_bytes_again(suffix: str, start: bytes, tmp_path: Path) -> None:
    kernels = np.random.default_rng(0).normal(size=(8, 3, 11, 11))
    for name in ("one", "two"):
        curves(metrics(3), tmp_path / f"{name}-curves.{suffix}", "a run", classes=10)
        filters(kernels, tmp_path / f"{name}-filters.{suffix}", "conv1")
    for name in ("curves", "filters"):
        one, two = ((tmp_path / f"{n}-{name}.{suffix}").read_bytes() for n in ("one", "two"))
        assert one.startswith(start) and one == two


def drawn(monkeypatch: pytest.MonkeyPatch, draw: Callable[..., None], *content: Any, **more: Any) -> Figure:
    """The figure that a picture is, before it is saved."""
    figures: list[Figure] = []
    module = sys.modules[draw.__module__]
    monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure))
    draw(*content, path=io.BytesIO(), **more)
    figures[0].draw_without_rendering()
    return figures[0]


def texts_lie_inside(figure: Figure) -> bool:
    """Texts of ticks beyond the limits of an axis are not drawn."""
    edge, ticks = figure.bbox, figure.findobj(Tick)
    labels = {label for tick in ticks for label in (tick.label1, tick.label2)}
    boxes = [
        text.get_window_extent() for text in figure.findobj(Text) if text.get_text() and text not in labels
    ]
    return all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= edge.x1 and b.y1 <= edge.y1 for b in boxes)


def points(line: Line2D) -> np.ndarray:
    """A line's points in pixels, (points, 2)."""
    return np.asarray(line.get_transform().transform(line.get_xydata()))


@pytest.mark.parametrize("runs", [1, 2, 5])
@pytest.mark.parametrize("epochs", [1, 5])
def test_no_line_runs_below_the_legend_and_all_text_is_inside(
    runs: int, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runs == 1:
        figure = drawn(monkeypatch, curves, metrics(epochs), title="a run " * 50, classes=1000)
    else:
        named = {f"_a run with a rather long name, {n}": metrics(epochs) for n in range(runs)}
        figure = drawn(monkeypatch, compare, named, title="all " * 60, classes=10)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == (4 if runs == 1 else runs + 3)
    space = legend.get_window_extent()
    for axes in figure.axes:
        assert not space.overlaps(axes.get_tightbbox())
        assert not any(space.contains(x, y) for line in axes.lines for x, y in points(line))
    assert texts_lie_inside(figure)
    for axes in figure.axes:  # the last values keep clear of one another
        heights = sorted(text.get_window_extent().y0 for text in axes.texts if "lr" not in text.get_text())
        assert all(b - a >= 16 for a, b in pairwise(heights))


def test_lines_of_guessing_are_where_guessing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, error = drawn(monkeypatch, curves, metrics(3), title="a run", classes=10).axes
    assert [line.get_ydata()[0] for line in loss.lines if list(line.get_xdata()) == [0, 1]] == [np.log(10)]
    assert [line.get_ydata()[0] for line in error.lines if list(line.get_xdata()) == [0, 1]] == [90]


def test_the_running_mean_counts_steps() -> None:
    """A loss that falls evenly, in rows of 50 and of 2 steps, noisy in the short ones, has an even mean."""
    ends = np.array([step for epoch in range(20) for step in (52 * epoch + 50, 52 * epoch + 52)], float) / 52
    middles = ends - np.where(np.arange(40) % 2, 1, 25) / 52
    values = 5 - middles / 10 + np.where(np.arange(40) % 2, 2.0, 0)
    found = running_mean(ends, values)
    assert np.abs(np.diff(found)).max() < 0.3 < np.abs(np.diff(values)).min()
    assert running_mean(np.array([0.5]), np.array([3.0])).tolist() == [3.0]
    assert np.allclose(running_mean(np.arange(1.0, 9), np.full(8, 4.0)), 4)


def test_text_and_bar_of_a_guess_keep_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((224, 224, 3), np.uint8)
    names = ["a class with a name that is far too long for its place", *"bcde"]
    guess = Guess(
        image,
        "its own class has a name that is as long as that",
        names,
        [0.9, 0.05, 0.03, 0.01, 0.01],
        0,
        True,
    )
    figure = drawn(monkeypatch, guesses, [guess] * 5, title="Images")
    written = [text.get_window_extent() for text in figure.texts]
    bars = [axes.get_window_extent() for axes in figure.axes]
    assert not any(text.overlaps(bar) for text in written for bar in bars)
    assert not any(a.overlaps(b) for n, a in enumerate(written) for b in written[:n])
    assert texts_lie_inside(figure) and "true class" in [text.get_text() for text in figure.texts]


def test_activations_have_their_guess_and_the_numbers_of_their_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tower b's maps go on counting; the strongest come first."""
    found = {"conv1": np.zeros((8, 6, 6)), "fc6": np.arange(9.0)}
    found["conv1"][:, 2, 2] = [1, 3, 2, 4, 8, 5, 7, 6]
    image = np.zeros((224, 224, 3), np.uint8)
    figure = drawn(monkeypatch, layers, image, "a class, 64 %", found, title="Activations " * 20)
    words = [text.get_text() for text in figure.texts]
    assert [word for word in words if word.isdecimal() and len(word) == 1][:8] == list("31204675")[:8]
    assert "a class, 64 %" in words and texts_lie_inside(figure)
    figure = drawn(monkeypatch, maps, np.zeros((48, 6, 6)), title="all maps")
    assert [[t.get_text() for t in a.get_yticklabels()] for a in figure.axes] == [["0", "16"], ["24", "40"]]


def test_the_title_of_a_gradient_of_one_image_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((224, 224, 3), np.uint8)
    figure = drawn(monkeypatch, grid, {"magnitude": [image]}, title="Gradient of log p(class), a run",
                   captions=["a class whose name is much too long"])  # fmt: skip
    words = [text.get_text() for text in figure.texts]
    assert words[0] == "Gradient of log p(class), a run" and words[-1].endswith("…")
    assert texts_lie_inside(figure)


@pytest.mark.parametrize(
    ("shape", "towers", "text"),
    [
        ((96, 3, 11, 11), 2, "96 kernels of 11x11"),
        ((128, 24, 5, 5), 2, "24 of 64 kernels in each tower, 24 of 24 maps"),
        ((20, 64, 3, 3), 1, "20 of 20 kernels, 48 of 64 maps"),
    ],
)
def test_a_title_counts_the_kernels_that_are_shown(shape: tuple[int, ...], towers: int, text: str) -> None:
    weight = np.zeros(shape)
    assert kernels_shown(weight, towers) == text
    if shape[1] > 3:
        high, wide = table(np.array_split(weight, towers)[0]).shape[:2]
        rows, columns = (high + 1) // (shape[2] + 1), (wide + 1) // (shape[3] + 1)
        assert text.startswith(f"{rows} of ") and f" {columns} of " in text


def drawn_confusion(monkeypatch: pytest.MonkeyPatch, classes: int) -> Figure:
    """Class n of 100 images has n % 100 wrong, all taken for the next one."""
    names, every = [f"a class with a long name, {n}" for n in range(classes)], np.arange(classes)
    wrong = every % 100
    counts = Counts(np.tile(every, 2), np.concatenate([every, (every + 1) % classes]),
                    np.concatenate([100 - wrong, wrong]))  # fmt: skip
    pairs = [Pair(names[n], names[n + 1], n % 100, 100) for n in range(classes - 2, classes - 10, -1)]
    return drawn(monkeypatch, confusion, counts, names, pairs, title="Confusions " * 30)


def test_confusions_are_ordered_and_drawn_by_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of classes of unequal size a pair of more images may be a smaller part of its class."""
    counts = Counts(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), np.array([300, 40, 70, 30]))
    pairs = [Pair("a", "b", 40, 340), Pair("b", "a", 30, 100)]
    bars = drawn(monkeypatch, confusion, counts, ["a", "b"], pairs, title="Confusions").axes[-1]
    assert [bar.get_width() for bar in bars.containers[0]] == [40, 30]
    texts = [text.get_text().strip() for text in bars.texts]
    assert texts == ["40 of 340 images (12 %)", "30 of 100 images (30 %)"]


def test_a_share_is_written_in_percent_and_never_as_none_of_what_there_is() -> None:
    shares = [percent(share) for share in (0, 0.004, 0.006, 0.64, 1)]
    assert shares == ["0 %", "< 1 %", "1 %", "64 %", "100 %"]


@pytest.mark.parametrize("classes", [12, 28, 1000])
def test_a_confusion_matrix_names_its_axes_and_unit(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn_confusion(monkeypatch, classes)
    words = [text.get_text() for text in figure.findobj(Text)]
    for wanted in ("predicted class", "true class", "percent of the images of the true class"):
        assert any(word.startswith(wanted) for word in words), wanted
    assert texts_lie_inside(figure)
    matrix, *_ = figure.axes
    upright = [text.get_window_extent() for text in figure.texts]
    labels = [label.get_window_extent() for label in matrix.get_yticklabels()] + [
        matrix.yaxis.label.get_window_extent()
    ]
    assert not any(a.overlaps(b) for a in upright for b in labels)
    assert not any(matrix.yaxis.label.get_window_extent().overlaps(label) for label in labels[:-1])


def test_of_many_classes_those_of_the_highest_error_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    share = drawn_confusion(monkeypatch, 1000).axes[0].images[0].get_array()
    assert share is not None
    assert share.shape == (1000, 1000) and np.array_equal(np.diag(share), np.repeat(np.arange(1, 101), 10))


def test_no_display_and_no_pyplot(tmp_path: Path) -> None:
    code = f"""
import sys, numpy, pathlib
from cli.pictures.filters import filters
assert "matplotlib" not in sys.modules
filters(numpy.zeros((4, 3, 11, 11)), pathlib.Path({str(tmp_path / "a.png")!r}), "a")
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())).format == "PNG"
