"""predict, features, similar and show, through the command line."""

import csv
import io
import json
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
from click.testing import CliRunner, Result
from PIL import Image

from cli import main
from cli.compose import predictions
from cli.compose.predictions import Predictions
from cli.pictures.confusion import matrix
from cli.study.confusion import confused, count
from model import checkpoint
from pipeline.dataset import Dataset, read_names
from pipeline.samples import Samples
from pipeline.statistics import Statistics

Found = dict[str, list[float]]  # probabilities by the name of the image


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def fine(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def error(*arguments: object, status: int = 1) -> str:
    """The one line that a user is told."""
    result = run(*arguments)
    assert result.exit_code == status and "Traceback" not in result.output
    return result.stderr.strip().splitlines()[-1]


def is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format == "PNG" and min(image.size) > 100 and np.asarray(image.convert("L")).std() > 5


@pytest.fixture(scope="module")
def photos(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation images of `folders`, class by class, and two files that are none."""
    root = tmp_path_factory.mktemp("photos")
    shutil.copytree(folders / "val", root, dirs_exist_ok=True)
    (root / "empty.jpg").write_bytes(b"")
    first = next(root.glob("*/*.JPEG"))
    (first.parent / "half.jpg").write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    (root / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def probabilities(
    originals: Dataset, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    """What eval finds for the same images, by name."""
    path = tmp_path_factory.mktemp("eval") / "p.npz"
    fine("eval", "--data", originals.root, "--run", trained, "--device", "cpu", "--predictions", path)
    with np.load(path) as file:
        return dict(zip(file["names"].tolist(), file["probabilities"].tolist(), strict=True))


def test_predict_is_eval(photos: Path, trained: Path, probabilities: Found, tmp_path: Path) -> None:
    fine("predict", photos, "--run", trained, "--device", "cpu", "--json", tmp_path / "p.json")
    rows = json.loads((tmp_path / "p.json").read_text())
    good = [row for row in rows if not row["fault"] and not row["note"]]
    assert {Path(row["image"]).name for row in good} == probabilities.keys()
    for row in good:
        theirs = probabilities[Path(row["image"]).name]
        # to rounding: the last batch is of another size, and sums are in another order
        found = [guess["probability"] for guess in row["guesses"]]
        assert found == pytest.approx(sorted(theirs, reverse=True), abs=1e-6)
        assert [theirs[guess["output"]] for guess in row["guesses"]] == sorted(theirs, reverse=True)
        assert row["class"]["wnid"] == Path(row["image"]).parent.name
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows)


def test_predict_says_what_is_broken_where_it_is(photos: Path, trained: Path) -> None:
    result = fine("predict", photos, "--run", trained, "--device", "cpu", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows) and len(rows) == 11
    said = {Path(row["image"]).name: (row["fault"], row["note"], bool(row["guess_1"])) for row in rows}
    assert said.pop("empty.jpg") == ("cannot be decoded: empty file", "", False)
    assert said.pop("half.jpg") == (
        "",
        "damaged: Premature end of JPEG file; decoded as far as possible",
        True,
    )
    assert set(said.values()) == {("", "", True)}
    rows = dict(line.split(maxsplit=1) for line in result.stderr.splitlines())
    assert rows["images"].startswith("11, ") and rows["broken"].startswith("1, ")
    assert rows["damaged"].startswith("1, ") and "on 10 images of known class" in rows["result"]


def test_predict_nothing_but_broken_files(photos: Path, trained: Path) -> None:
    result = fine("predict", photos / "empty.jpg", photos / "notes.txt", "--run", trained, "--device", "cpu")
    assert "empty file" in result.stdout and "no image format known here" in result.stdout


def test_predict_a_split_as_eval_does(originals: Dataset, trained: Path, probabilities: Found) -> None:
    options = ("--data", originals.root, "--run", trained, "--device", "cpu")
    rows = json.loads(fine("predict", "--split", "val", *options, "--json", "-").stdout)
    assert [row["image"] for row in rows] == read_names(originals, "val")
    assert all(row["guesses"][0]["probability"] == max(probabilities[row["image"]]) for row in rows)
    wrong = json.loads(fine("predict", "--split", "val", *options, "--json", "-", "--only-errors").stdout)
    assert wrong == [row for row in rows if row["guesses"][0]["output"] != row["class"]["output"]]


def test_predict_as_a_table_by_pattern_in_ten_views_on_two_placements(photos: Path, trained: Path) -> None:
    options = ("--run", trained, "--device", "cpu,cpu", "--ten-crop")
    lines = fine("predict", str(photos / "*" / "ILSVRC*.JPEG"), *options).stdout.splitlines()
    assert len(lines) == 1 + 9 * 3 and sum(line.endswith("<- true class") for line in lines) == 9


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_predict_draws(photos: Path, trained: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    fine("predict", photos, "--run", trained, "--device", "cpu", "--picture", path, "--count", 5)
    assert is_picture(path) if suffix == "png" else path.read_bytes().startswith((b"%PDF", b"<?xml"))


def test_predict_without_the_dataset(photos: Path, trained: Path, tmp_path: Path) -> None:
    """A run knows its classes and its mean image by itself."""
    shutil.copytree(trained, tmp_path / "moved")
    (tmp_path / "moved" / "run.json").unlink()
    fine("predict", photos, "--run", tmp_path / "moved", "--device", "cpu")


def test_predict_errors(photos: Path, trained: Path, tmp_path: Path) -> None:
    given = ("--run", trained, "--device", "cpu")
    assert "give images" in error("predict", *given, status=2)
    assert "give images" in error("predict", photos, "--split", "val", *given, status=2)
    assert error("predict", "nowhere/*.jpg", *given).startswith("Error: nowhere/*.jpg: no such file")
    (tmp_path / "bare").mkdir()
    assert "holds no images" in error("predict", tmp_path / "bare", *given)
    assert "there is no run" in error("predict", photos, "--run", tmp_path / "no")
    assert ".png, .pdf or .svg" in error("predict", photos, *given, "--picture", tmp_path / "p.gif", status=2)


@pytest.fixture(scope="module")
def features(originals: Dataset, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "val.npy"
    fine("features", "--data", originals.root, "--run", trained, "--device", "cpu", "--out", path)
    return path


def test_features_are_the_reference_s(dataset: Dataset, trained: Path, tmp_path: Path) -> None:
    """Pixels by Pillow, the network in NumPy float64."""
    path = tmp_path / "val.npy"
    fine("features", "--data", dataset.root, "--run", trained, "--device", "cpu", "--out", path)
    mean = Statistics.load(dataset.root / "statistics.npz").mean[16:240, 16:240]
    samples = Samples(dataset, "val")
    jpegs, _ = samples.read(np.arange(len(samples)))
    pixels = [np.asarray(Image.open(io.BytesIO(jpeg.tobytes())))[16:240, 16:240] - mean for jpeg in jpegs]
    saved = checkpoint.read(trained / "last.pt")["weights"]
    p = {name: reference.Node(tensor.double().numpy()) for name, tensor in saved.items()}
    x = reference.features(
        p, reference.Node(np.stack(pixels).transpose(0, 3, 1, 2).astype(float)), "original"
    )
    for name in ("fc6", "fc7"):
        x = reference.scale(reference.relu(reference.dense(x, p[f"{name}.weight"], p[f"{name}.bias"])), 0.5)
    ours = np.load(path)
    assert ours.dtype == np.float32 and np.linalg.norm(ours - x.value) < 1e-3 * np.linalg.norm(x.value)
    assert path.with_suffix(".txt").read_text().splitlines() == read_names(dataset, "val")
    assert json.loads(path.with_suffix(".json").read_text())["layer"] == "fc7"


def test_features_of_conv5_in_half_the_bytes(originals: Dataset, trained: Path, tmp_path: Path) -> None:
    options = ("--data", originals.root, "--run", trained, "--device", "cpu,cpu", "--split", "train")
    fine("features", *options, "--layer", "conv5", "--type", "float16", "--out", tmp_path / "pool5.npy")
    table = np.load(tmp_path / "pool5.npy")
    assert table.dtype == np.float16 and len(table) == originals.samples("train")
    assert table.shape[1] % 36 == 0 and table.any(axis=1).all()


def test_features_errors(originals: Dataset, trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(originals.root, other)
    description = (other / "dataset.json").read_text()
    (other / "dataset.json").write_text(description.replace(originals.classes[0].wnid, "n00000001"))
    given = ("features", "--data", originals.root, "--run", trained, "--device", "cpu")
    assert "no layer fc9; it has conv1" in error(*given, "--layer", "fc9")
    assert "does not end in .npy" in error(*given, "--out", tmp_path / "f.txt", status=2)
    assert "other classes than" in error(*given[:2], other, *given[3:])
    assert list(tmp_path.iterdir()) == [other]


def test_similar_finds_each_image_itself_and_the_others_in_order(
    photos: Path, features: Path, originals: Dataset, tmp_path: Path
) -> None:
    result = fine("similar", photos, "--features", features, "--count", 4, "--json", tmp_path / "s.json")
    assert result.stderr.count("warning:") == 2
    table, names = np.load(features).astype(np.float64), read_names(originals, "val")
    rows = json.loads((tmp_path / "s.json").read_text())
    whole = [row for row in rows if not row["image"].endswith("half.jpg")]
    assert len(rows) == 10 and len(whole) == 9
    for row in whole:
        query = table[names.index(Path(row["image"]).name)]
        distances = np.linalg.norm(table - query, axis=1)
        near = row["neighbours"]
        assert [one["row"] for one in near] == np.argsort(distances, kind="stable")[:4].tolist()
        assert np.allclose([one["distance"] for one in near], np.sort(distances)[:4], atol=1e-5)
        assert near[0]["name"] == Path(row["image"]).name and near[0]["distance"] < 1e-5


def test_similar_computes_as_precisely_as_the_features_were(
    photos: Path, originals: Dataset, trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "half.npy"
    given = ("--data", originals.root, "--run", trained, "--device", "cpu", "--precision", "bfloat16")
    fine("features", *given, "--out", path)
    worst = []
    for words in ("--force",), ("--force", "--precision", "float32"):
        fine("similar", photos / "*/*.JPEG", "--features", path, "--json", tmp_path / "s.json", *words)
        rows = json.loads((tmp_path / "s.json").read_text())
        worst.append(max(row["neighbours"][0]["distance"] for row in rows))
    assert worst[0] < worst[1] / 10


def test_similar_tells_and_draws(photos: Path, features: Path, tmp_path: Path) -> None:
    image = next(photos.glob("*/ILSVRC*.JPEG"))
    assert len(fine("similar", image, "--features", features).stdout.splitlines()) == 7
    fine("similar", image, "--features", features, "--picture", tmp_path / "s.png")
    assert is_picture(tmp_path / "s.png")


def test_similar_errors(photos: Path, features: Path, tmp_path: Path) -> None:
    assert "none of the images can be decoded" in error(
        "similar", photos / "empty.jpg", "--features", features
    )
    alone = shutil.copy(features, tmp_path)
    assert "make both with alexnet-dali features" in error("similar", photos, "--features", alone)
    facts = json.loads(features.with_suffix(".json").read_text())
    for change, message in (
        ({"step": 1}, "at step 4, not 1"),
        ({"fingerprint": 64 * "0"}, "no longer the dataset"),
    ):
        Path(alone).with_suffix(".json").write_text(json.dumps(facts | change))
        assert message in error("similar", photos, "--features", alone)
    Path(alone).with_suffix(".json").write_text(json.dumps(facts | {"split": "all"}))
    assert "invalid enum value 'all' at `split`" in error("similar", photos, "--features", alone)
    Path(alone).with_suffix(".json").write_text(json.dumps(facts))
    whole = np.load(features)
    for table in (whole[:-1], whole[:, :-1], whole.astype(np.float64), whole[0]):
        np.save(alone, table)
        assert "val.npy is damaged: expected" in error("similar", photos, "--features", alone)
    os.truncate(alone, 300)
    assert "val.npy is damaged: " in error("similar", photos, "--features", alone)


@pytest.mark.parametrize(
    "arguments",
    [
        ("filters",),
        ("filters", "--layer", "conv2"),
        ("activations", "IMAGE", "--device", "cpu"),
        ("activations", "IMAGE", "--device", "cpu,cpu", "--layer", "conv1"),
        ("gradient", "IMAGE", "--device", "cpu"),
        ("gradient", "IMAGE", "--device", "cpu,cpu", "--class", "n02084071"),
        ("batch", "--step", "1"),
        ("confusion", "--device", "cpu"),
    ],
    ids=" ".join,
)
def test_show(arguments: tuple[str, ...], photos: Path, trained: Path, tmp_path: Path) -> None:
    image = next(photos.glob("*/ILSVRC*.JPEG"))
    words = [image if word == "IMAGE" else word for word in arguments]
    fine("show", *words, "--run", trained, "--out", tmp_path / "picture.png")
    assert is_picture(tmp_path / "picture.png")
    fine("show", *words, "--run", trained, "--out", tmp_path / "picture.pdf")
    assert (tmp_path / "picture.pdf").read_bytes().startswith(b"%PDF")


def test_show_curves_of_one_run_and_of_two(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "other" / "tiny")
    fine("show", "curves", trained, "--out", tmp_path / "one.png")
    fine("show", "curves", trained, tmp_path / "other" / "tiny", "--out", tmp_path / "two.png")
    one, two = (np.asarray(Image.open(tmp_path / name)) for name in ("one.png", "two.png"))
    assert is_picture(tmp_path / "one.png") and one.shape[1] == two.shape[1] and one.shape != two.shape


def test_show_errors(photos: Path, trained: Path, tmp_path: Path) -> None:
    image, given = next(photos.glob("*/ILSVRC*.JPEG")), ("--run", trained)
    assert "no convolution fc7; it has conv1, conv2" in error("show", "filters", *given, "--layer", "fc7")
    assert "is not a run" in error("show", "curves", tmp_path)
    assert ".png, .pdf or .svg" in error("show", "filters", *given, "--out", tmp_path / "x.jpg", status=2)
    on_cpu = (*given, "--device", "cpu")
    assert "no layer conv9" in error("show", "activations", image, *on_cpu, "--layer", "conv9")
    assert "fc7 has units" in error("show", "activations", image, *on_cpu, "--layer", "fc7")
    assert "empty file" in error("show", "activations", photos / "empty.jpg", *on_cpu)
    assert "has no class n0" in error("show", "gradient", image, *on_cpu, "--class", "n0")
    assert "holds no predictions" in error(
        "show", "confusion", "--predictions", image, "--out", tmp_path / "c.png"
    )


def test_the_batch_shown_is_the_batch_trained_on(dataset: Dataset, trained: Path) -> None:
    """Each crop is where the picture of the stored image says, reflected or not."""
    from cli.study.batch import training_images
    from model.recipe import Recipe

    saved = checkpoint.read(trained / "last.pt")["identity"]
    recipe = Recipe.from_dict(saved["recipe"])
    rows, captions = training_images(dataset, recipe, saved["seed"], 1, 3)
    framed, cropped, noisy, _ = (np.stack(list(images)).astype(int) for images in rows.values())
    assert framed.shape == (3, 256, 256, 3) and cropped.shape == (3, 224, 224, 3) and len(captions) == 3
    for whole, crop in zip(framed, cropped, strict=True):
        corners = ((y, x) for y in range(33) for x in range(33))
        parts = (whole[y : y + 224, x : x + 224] for y, x in corners)
        assert any(np.abs(part - seen).max() <= 3 for part in parts for seen in (crop, crop[:, ::-1]))
    inside = (noisy > 0) & (noisy < 255) & (cropped > 0) & (cropped < 255)
    shift = np.where(inside, noisy - cropped, np.nan)
    assert (np.nanmax(shift, (1, 2)) - np.nanmin(shift, (1, 2)) <= 2).all() and np.nanstd(shift) > 1


def test_confusion_counts_what_a_file_says(tmp_path: Path) -> None:
    """Three classes and one output more: a taken twice for b, c once for what is no class."""
    labels, guesses = np.array([0, 0, 0, 1, 2, 2]), [0, 1, 1, 1, 2, 3]
    path, out = (
        tmp_path / "p.npz",
        ("--out", tmp_path / "c.png", "--json", tmp_path / "c.json", "--csv", tmp_path / "c.csv"),
    )
    content = Predictions(np.eye(4)[guesses], labels, list("uvwxyz"), ["a", "b", "c"])
    predictions.write(path, content)
    result = fine("show", "confusion", "--predictions", path, *out)
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["counts"] == [[1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert found["pairs"] == [
        {"true": "a", "taken": "b", "images": 2, "of": 3},
        {"true": "c", "taken": "output 3", "images": 1, "of": 2},
    ]
    printed = result.stdout.splitlines()
    assert printed[0] == "most frequent confusions (true -> predicted), p"
    assert printed[1].split() == ["2", "of", "3", "a", "->", "b"]
    assert printed[4].split() == ["2", "of", "3", "66.67", "%", "a"]
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert rows[1:] == [["a", "3", "2", "66.6667"], ["c", "2", "1", "50.0000"], ["b", "1", "0", "0.0000"]]
    predictions.write(path, replace(content, labels=labels - 1))
    assert "without labels" in error("show", "confusion", "--predictions", path, *out, "--force")


def test_confusions_of_very_many_classes_take_no_square_of_memory() -> None:
    """All classes of Fall 2011: the pairs that occur, and of a matrix as many cells as are drawn."""
    draw, classes = np.random.default_rng(0), 21_843
    labels = draw.integers(0, classes, 5000)
    guesses = np.where(draw.random(5000) < 0.5, labels, draw.integers(0, classes, 5000))
    tracemalloc.start()
    counts = count(labels, guesses, classes)
    pairs = confused([str(n) for n in range(classes)], counts)
    cells = matrix(counts, classes)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50e6
    assert sum(pair.images for pair in pairs) == (labels != guesses).sum()
    assert [pair.images for pair in pairs] == sorted((pair.images for pair in pairs), reverse=True)
    assert all(pair.of == (labels == int(pair.true)).sum() for pair in pairs[:50])
    assert max(cells.shape) <= 1000 and cells.sum() == 5000
    few = count(labels % 7, guesses % 7, 7)
    assert np.array_equal(matrix(few, 7), np.histogram2d(labels % 7, guesses % 7, np.arange(8))[0])


def test_the_commands_are_known_and_explain_themselves() -> None:
    assert {"predict", "show", "features", "similar", "ensemble"} <= main.commands.keys()
    pictures = main.commands["show"].commands  # type: ignore[attr-defined]
    assert pictures.keys() == {"filters", "curves", "activations", "gradient", "batch", "confusion"}
    for command in pictures.values():
        assert command.help and all(
            option.help for option in command.params if option.param_type_name == "option"
        )
