"""alexnet-dali eval, through the command line."""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from cli import main
from cli.compose import predictions
from cli.failures import explain
from model import checkpoint
from model.network import AlexNet
from model.recipe import Recipe
from pipeline.dataset import Dataset, open_dataset, read_names, write_description
from pipeline.samples import Samples
from pipeline.statistics import Statistics


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def evaluate(dataset: Dataset, trained: Path, *more: object) -> Result:
    return run("eval", "--data", dataset.root, "--run", trained, "--device", "cpu", *more)


def expected(dataset: Dataset, trained: Path, corners: list[tuple[int, int]], mirrored: bool) -> np.ndarray:
    """Averaged probabilities of the validation images, crop by crop through Pillow and NumPy."""
    saved = checkpoint.read(trained / "last.pt")
    network = AlexNet(Recipe.from_dict(saved["identity"]["recipe"]), ["cpu"], seed=1)
    network.load(saved["weights"])
    mean = Statistics.load(dataset.root / "statistics.npz").mean[16:240, 16:240]
    samples = Samples(dataset, "val")
    result = []
    for jpeg in samples.read(np.arange(len(samples)))[0]:
        image = np.asarray(Image.open(io.BytesIO(jpeg.tobytes()))).astype(np.float32)
        crops = [image[y : y + 224, x : x + 224] for y, x in corners]
        crops += [crop[:, ::-1] for crop in crops] if mirrored else []
        views = torch.tensor(np.stack([(crop - mean).transpose(2, 0, 1) for crop in crops]))
        with torch.no_grad():
            result.append(network(views).softmax(1).mean(0).numpy())
    return np.stack(result)


@pytest.mark.parametrize(
    ("option", "corners", "mirrored"),
    [((), [(16, 16)], False), (("--ten-crop",), [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)], True)],
)
def test_errors_and_predictions(
    dataset: Dataset,
    trained: Path,
    tmp_path: Path,
    option: tuple[str, ...],
    corners: list[tuple[int, int]],
    mirrored: bool,
) -> None:
    out, predictions = tmp_path / "result.json", tmp_path / "predictions.npz"
    result = evaluate(dataset, trained, *option, "--json", out, "--predictions", predictions)
    assert result.exit_code == 0, result.output
    said = json.loads(out.read_text())
    with np.load(predictions) as file:
        found = dict(file)
    probabilities = expected(dataset, trained, corners, mirrored)
    assert found["probabilities"] == pytest.approx(probabilities, abs=1e-5)
    labels = Samples(dataset, "val").index["label"]
    assert found["labels"].tolist() == labels.tolist()
    assert found["names"].tolist() == read_names(dataset, "val")
    assert said["images"] == 9
    assert said["top1_err"] == pytest.approx(100 * np.mean(probabilities.argmax(1) != labels))
    assert said["top5_err"] == 0  # of three classes
    assert f"{said['top1_err']:.2f} %" in result.output
    assert "guessing among 3 classes" in result.output and "66.67 %" in result.output
    assert "40.7 %" not in result.output and "top-5" not in result.output  # not of such images


def test_table_1(archives_2010: Path, trained: Path, tmp_path: Path) -> None:
    """ILSVRC-2010 from its archives to the errors of its test images, alone and in an ensemble."""
    data, predictions = tmp_path / "data", tmp_path / "predictions.npz"
    prep = ("prep", "--imagenet-root", archives_2010, "--out", data, "--workers", 1, "--max-rejected", 0.5)
    result = run(*prep)
    assert result.exit_code == 0, result.output
    assert "Found ILSVRC-2010's archives" in result.output
    assert "test      5 images in 1 shard\n" in result.output
    test = ("--split", "test", "--ten-crop", "--predictions", predictions)
    result = evaluate(open_dataset(data), trained, *test)
    assert result.exit_code == 0, result.output
    with np.load(predictions) as file:
        wrong = file["probabilities"].argmax(1) != [1, 2, 0, 1, 2]  # as miniature.py labels them
    assert f"{100 * wrong.mean():.2f} %" in result.output
    assert "5 test images" in result.output and "this run, test, ten views" in result.output
    alone = run("ensemble", predictions, "--data", data)  # its own row, and "together"
    assert alone.output.count(f"{100 * wrong.mean():.2f} %") == 2


def test_the_last_validation_of_training_says_the_same(
    dataset: Dataset, trained: Path, tmp_path: Path
) -> None:
    evaluate(dataset, trained, "--json", tmp_path / "result.json")
    said = json.loads((tmp_path / "result.json").read_text())
    row = checkpoint.read(trained / "last.pt")["history"][-1]
    assert said["top1_err"] == row["top1_err"]
    assert said["loss"] == pytest.approx(row["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--run", "nowhere"], 1, "there is no run runs/nowhere; runs has none: train one"),
        ([], 1, "alexnet-dali train"),
        (["--run", "RUN", "--split", "test"], 2, "have no labels, so no errors: give --predictions"),
        (["--run", "RUN", "--data", "nowhere"], 1, "alexnet-dali prep"),
        (["--run", "RUN", "--gpus", "0", "--device", "cpu"], 1, "--gpus and --device"),
        (["--run", "RUN", "--gpus", "99"], 1, "--device cpu"),
        (["--run", "RUN", "--device", "tpu9"], 1, "no such device"),
        (["--run", "RUN", "--device", "cuda,cpu"], 1, "no such device"),
        (["--run", "RUN", "--device", "cuda:99"], 1, "--device cpu"),
        (["--run", "RUN", "--device", "cpu", "--json", "/proc/no.json"], 1, "/proc/no.json"),
    ],
)
def test_mistakes(
    dataset: Dataset, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    arguments: list[str], status: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALEXNET_DALI_DATA", str(dataset.root))
    result = run("eval", *(str(trained) if word == "RUN" else word for word in arguments))
    assert result.exit_code == status, result.output
    assert words in result.output
    assert len(result.output.strip().splitlines()) == (1 if status == 1 else 4)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out of memory (CUDA"),
        (
            "Critical error in pipeline:\nCan't allocate 9 bytes on device 0.\nMore.",
            "y (Can't allocate 9 bytes on device 0.): end",
        ),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nMore.", "see alexnet-dali doctor"),
        ("The NVIDIA driver on your system is too old (found version 11040).", "the GPU cannot be used"),
    ],
)
def test_what_a_gpu_may_say(
    dataset: Dataset, trained: Path, monkeypatch: pytest.MonkeyPatch, said: str, words: str
) -> None:
    def fail(batches: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr("pipeline.batches.Stream.__next__", fail)
    result = evaluate(dataset, trained)
    assert result.exit_code == 1
    assert words in result.output and len(result.output.strip().splitlines()) == 1


def test_too_little_memory_and_a_bug(
    dataset: Dataset, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.batches.Stream.__next__", lambda batches: torch.empty(2**50))
    assert "out of memory" in evaluate(dataset, trained).output
    monkeypatch.setattr("pipeline.batches.Stream.__next__", lambda batches: torch.empty(2) @ torch.empty(3))
    bug = evaluate(dataset, trained).exception
    assert isinstance(bug, RuntimeError) and "inconsistent tensor size" in str(bug)
    assert explain(bug) is None and str(explain(MemoryError())).startswith(
        "out of memory: end other programs"
    )
    assert explain(RuntimeError("CUDA driver error: invalid argument")) is None


def test_a_run_that_is_not_there_or_not_trained(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        (tmp_path / f"runs/net{number:02d}").mkdir(parents=True)
        (tmp_path / f"runs/net{number:02d}/run.json").touch()
    shutil.copy(trained / "last.pt", "runs/net03/previous.pt")
    Path("here").mkdir()
    names = ", ".join(f"net{number:02d}" for number in range(10))
    for words, text in (
        (["eval", "--run", "nett"], f"there is no run runs/nett; runs has {names} and 2 others"),
        (["report", "nett"], "there is no run runs/nett"),
        (["eval", "--run", "here"], "no run runs/here; give ./here for the folder here; runs has net00"),
        (
            ["predict", "--split", "val", "--run", "net02"],
            "runs/net02 has no last.pt: training has saved nothing yet; it does so after",
        ),
        (["show", "filters", "--run", "net03", "--checkpoint", "best"], "net03 has no best.pt: it has previ"),
    ):
        result = run(*words)
        assert result.exit_code == 1 and text in result.output, result.output
        assert len(result.output.splitlines()) == 1


def test_the_dataset_of_the_run_and_its_mean(
    dataset: Dataset, originals: Dataset, trained: Path, tmp_path: Path
) -> None:
    """Without --data it is that of the run; the mean is the run's, whatever the dataset's."""
    result = run("eval", "--run", trained, "--ten-crop")  # on a CPU, as there is no GPU
    assert result.exit_code == 0, result.output
    said = [f"  run       {trained}/last.pt, step 4", f"  data      9 val images of {dataset.root}"]
    assert result.output.splitlines()[:3:2] == said or torch.cuda.is_available()
    shutil.copytree(dataset.root, tmp_path / "dark")
    statistics = Statistics.load(dataset.root / "statistics.npz")
    replace(statistics, mean=statistics.mean / 2).save(tmp_path / "dark/statistics.npz")
    sha256 = hashlib.sha256((tmp_path / "dark/statistics.npz").read_bytes()).hexdigest()
    files = {**dataset.files, "statistics.npz": sha256}
    dark = replace(dataset, root=tmp_path / "dark", files=files)
    write_description(dark)
    found = []
    for number, each in enumerate((dataset, dark)):
        evaluate(each, trained, "--predictions", tmp_path / f"{number}.npz")
        found.append(predictions.read(tmp_path / f"{number}.npz").probabilities)
    assert (found[0] == found[1]).all()
    shutil.copytree(trained, tmp_path / "run")
    about = json.loads((trained / "run.json").read_text())
    about["data"]["path"] = "/nowhere"
    (tmp_path / "run/run.json").write_text(json.dumps(about))
    result = run("eval", "--run", tmp_path / "run")
    assert result.exit_code == 1 and "/nowhere, which" in result.output and "--data" in result.output


def test_outputs_that_are_not_finite(dataset: Dataset, trained: Path, tmp_path: Path) -> None:
    """Weights that are finite, but so large that what they make of an image is not."""
    shutil.copytree(trained, tmp_path / "run")
    saved = checkpoint.read(trained / "last.pt")
    for name in ("fc7.weight", "fc7.bias", "fc8.weight"):
        saved["weights"][name][:] = 3e38
    del saved["format"]
    checkpoint.save(tmp_path / "run/last.pt", saved)
    words = ("--run", tmp_path / "run", "--device", "cpu")
    for arguments in (
        ("eval", *words),
        ("features", *words, "--out", tmp_path / "f.npy"),
        ("report", tmp_path / "run", "--device", "cpu", "--out", tmp_path / "r.html"),
        ("show", "confusion", *words, "--out", tmp_path / "c.png"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1 and "not finite" in result.output, result.output
        assert "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    result = run("predict", "--split", "val", *words)
    assert result.output.count("the network's outputs for it are not finite") == 9
    assert "top-1 error 100.00 % on 9 images of known class" in result.output


def test_a_damaged_run_says_what_can_still_be_done(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    path = shutil.copytree(trained, tmp_path / "run")
    words = ("eval", "--data", dataset.root, "--device", "cpu", "--run")
    sound = run(*words, path).output
    (path / "statistics.npz").write_bytes(b"")
    (path / "run.json").write_text("{")
    result = run(*words, path)
    assert result.exit_code == 1
    assert f"remove dataset.json and statistics.npz of {path}: then the dataset's own" in result.output
    for name in ("dataset.json", "statistics.npz"):
        (path / name).unlink()
    assert "run.json is damaged: not valid JSON" in run(*words, path).output
    shutil.copy(trained / "run.json", path)
    shutil.copy(path / "last.pt", path / "previous.pt")
    (path / "last.pt").write_bytes(b"")
    result = run(*words, path)
    assert result.exit_code == 1
    assert f"try --run with {path / 'previous.pt'} and {path / 'best.pt'}" in result.output
    assert run(*words, path / "previous.pt").output.replace("previous", "last") == sound


def test_features_that_are_too_large_for_float16(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    saved = checkpoint.read(trained / "last.pt")
    saved["weights"]["fc7.bias"][:] = 1e6
    del saved["format"]
    checkpoint.save(tmp_path / "run/last.pt", saved)
    words = ("features", "--run", tmp_path / "run", "--device", "cpu", "--out", tmp_path / "f.npy", "--type")
    result = run(*words, "float16")
    assert result.exit_code == 1 and "too large for float16" in result.output
    assert not (tmp_path / "f.npy").exists()
    assert run(*words, "float32").exit_code == 0


def test_a_dataset_of_more_classes(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    from pipeline.dataset import Category

    for entry in dataset.root.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "dataset.json").unlink()
    classes = (*dataset.classes, Category(3, "n99999999", "one more", None))
    write_description(replace(dataset, root=tmp_path, classes=classes))
    result = run("eval", "--data", tmp_path, "--run", trained, "--device", "cpu")
    assert result.exit_code == 1
    assert f"{tmp_path} has other classes than {trained} was trained on" in result.output
