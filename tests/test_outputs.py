"""What every command hands to its user: written whole or not at all, and names in it are nothing but text."""

import ast
import csv
import io
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from test_report import Page

from cli import main, options
from cli.commands import features
from cli.display import plain
from pipeline.prep.prepare import prepare
from pipeline.source import miniature
from pipeline.source.find import find_source

CLI = Path(__file__).parent.parent / "cli"
WRITES = {"json_path", "csv_path", "picture", "submission", "out", "predictions"}
# A formula of matplotlib's, one of a spreadsheet's, rich's markup, HTML, a terminal's title, Latin-1
CLASSES = [
    "$5_{ and $6",
    "=HYPERLINK(1)",
    "[red]x[/red]",
    "<b>&'\"",
    "_\x1b]0;owned\x07\u202e日本🙂",
    "cl\udce4ss %s{0}",
]
FILE = "=1+1 $x_{$ [b]<i>\r\n\x1b[31m\u202e\udce9.jpg"
FORBIDDEN = set(map(chr, [*range(10), *range(11, 32), 127, 0x202E])) | {"\udce4"}


def commands(group: click.Group = main) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield from commands(command) if isinstance(command, click.Group) else [command]


@dataclass(frozen=True)
class Odd:
    """A dataset and a run whose every name is odd."""

    root: Path
    run: Path
    words: dict[str, Path]  # in the place of those below


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert not set(result.output) & FORBIDDEN and "Traceback" not in result.output
    return result


def fine(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Odd:
    folder = tmp_path_factory.mktemp("odd")
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(CLASSES):
            place = folder / "root" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                data = miniature.jpeg(miniature.draw(label, np.random.default_rng([label, number, count])))
                (place / (f"{split}{label}{number}{FILE}")).write_bytes(data)
    photo = folder / FILE
    photo.write_bytes(data)
    data = prepare(find_source(folder / "root"), folder / "data", workers=1).root
    path = folder / "_$r_{$=[b]\x1b[31m\udce9"
    small = ("--width", 0.02, "--batch-size", 8, "--epochs", 1)
    fine("train", "--data", data, "--run", path, "--device", "cpu", *small)
    other = path.with_name("_other")
    other.mkdir()
    shutil.copy(path / "metrics.jsonl", other)
    given = ("--run", path, "--device", "cpu")
    fine("features", *given, "--out", folder / "f.npy")
    fine("eval", *given, "--predictions", folder / "p.npz")
    words = {
        "RUN": path,
        "OTHER": other,
        "PHOTO": photo,
        "VAL": folder / "root/val",
        "OTHER_PICTURE": folder / "other.png",
    }
    return Odd(folder / "root", path, words | {"FEATURES": folder / "f.npy", "PREDICTIONS": folder / "p.npz"})


def test_every_output_is_tried_before_the_work() -> None:
    found = [
        (command.name, each.name)
        for command in commands()
        for each in command.params
        if each.name in WRITES
        and isinstance(each, click.Option)
        and not isinstance(each.type, options.Output)
    ]
    folders = {("prep", "out"), ("demo", "out"), ("sift-fv", "out"), ("sparse-coding", "out")}
    assert set(found) - folders == {("confusion", "predictions")}  # which it reads


def test_every_command_with_an_output_can_overwrite_it() -> None:
    able = {command.name for command in commands() if "force" in {each.name for each in command.params}}
    assert able == {
        command.name
        for command in commands()
        for each in command.params
        if isinstance(each.type, options.Output)
    }


def test_no_command_writes_by_itself() -> None:
    """All go through pipeline.atomic, and pictures through pictures.save."""
    forbidden = {"write_text", "write_bytes", "touch", "tofile", "save_file", "savefig"}
    found = set()
    for path in CLI.rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {ast.unparse(node.func).rpartition(".")[2] for node in nodes}
        found |= {(path.name, name) for name in names & forbidden}
    assert found == {("canvas.py", "savefig")}


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Within the block no file grows larger, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def check_csv(path: Path) -> None:
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
    assert len({len(row) for row in rows}) == 1 and any("'=HYPERLINK(1)" in row for row in rows)
    assert not any(cell[:1] in ("=", "+", "-", "@") for row in rows for cell in row)


def check_json(path: Path) -> None:
    json.loads(path.read_text("ascii"))


def check_page(path: Path) -> None:
    found = Page(path.read_text("utf-8"))
    assert not found.tags & {"b", "i", "red", "script"}
    assert not set("".join(found.words)) & FORBIDDEN


def check_picture(path: Path) -> None:
    if path.suffix == ".pdf":
        assert path.read_bytes().startswith(b"%PDF")
    else:
        with Image.open(path) as image:
            assert min(image.size) > 100


def check_npz(path: Path) -> None:
    with np.load(path) as file:
        assert sorted(file) == ["labels", "names", "probabilities", "wnids"] and len(file["names"]) == 12


def check_features(path: Path) -> None:
    assert len(np.load(path)) == 12
    names = path.with_suffix(".txt").read_bytes().split(b"\n")
    assert len(names) == 13 and all(b"1+1 $x_{$ [b]<i>" in name for name in names[:-1])
    assert json.loads(path.with_suffix(".json").read_text())["split"] == "val"


def check_tensors(path: Path) -> None:
    fine("show", "filters", "--run", path, "--out", path.with_suffix(".png"))
    path.with_suffix(".png").unlink()


OUTPUTS = {  # each command with its output last
    "report.html": ("report RUN --device cpu --out", check_page),
    "split.csv": ("predict --split val --run RUN --device cpu --csv", check_csv),
    "files.csv": ("predict PHOTO VAL --run RUN --device cpu --csv", check_csv),
    "predict.json": ("predict PHOTO --run RUN --device cpu --json", check_json),
    "predict.png": ("predict PHOTO VAL --run RUN --device cpu --picture", check_picture),
    "similar.json": ("similar PHOTO --features FEATURES --device cpu --json", check_json),
    "similar.png": ("similar PHOTO --features FEATURES --device cpu --picture", check_picture),
    "curves.png": ("show curves RUN --out", check_picture),
    "compare.pdf": ("show curves RUN OTHER --out", check_picture),
    "filters.png": ("show filters --run RUN --out", check_picture),
    "confusion.png": ("show confusion --predictions PREDICTIONS --out", check_picture),
    "confusion.pdf": ("show confusion --run RUN --device cpu --out", check_picture),
    "confusion.json": ("show confusion --predictions PREDICTIONS --out OTHER_PICTURE --json", check_json),
    "activations.png": ("show activations PHOTO --run RUN --device cpu --out", check_picture),
    "gradient.png": ("show gradient PHOTO --run RUN --device cpu --out", check_picture),
    "batch.png": ("show batch --run RUN --count 4 --out", check_picture),
    "eval.json": ("eval --run RUN --device cpu --json", check_json),
    "eval.npz": ("eval --run RUN --device cpu --predictions", check_npz),
    "features.npy": ("features --run RUN --device cpu --out", check_features),
    "mean.npz": ("ensemble PREDICTIONS PREDICTIONS --out", check_npz),
    "weights.safetensors": ("export --run RUN --out", check_tensors),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_is_whole_or_the_older_one_stays(name: str, odd: Odd, tmp_path: Path) -> None:
    text, check = OUTPUTS[name]
    words = [*(odd.words.get(word, word) for word in text.split()), tmp_path / name]
    siblings = (
        [(tmp_path / name).with_suffix(each) for each in (".txt", ".json")] if name.endswith("npy") else []
    )
    outputs = sorted([tmp_path / name, *siblings])
    for path in outputs:
        path.write_text("old")
    refused = run(*words)
    assert refused.exit_code == 1 and refused.stderr in {
        f"Error: {path}: file exists; give --force to overwrite it, or name another file\n"
        for path in outputs
    }
    words.append("--force")
    with small_files(100):
        failed = run(*words)
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1].removeprefix("Error: ") in {
        f"{path}: File too large" for path in outputs
    }
    assert sorted(tmp_path.iterdir()) == outputs and {path.read_text() for path in outputs} == {"old"}
    fine(*words)
    check(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == outputs


@pytest.mark.parametrize(
    "words",
    [
        "predict PHOTO VAL --run RUN --device cpu",
        "predict PHOTO --run RUN --device cpu --csv -",
        "predict PHOTO --run RUN --device cpu --json -",
        "similar PHOTO --features FEATURES --device cpu",
        "show confusion --predictions PREDICTIONS --force --out OTHER_PICTURE",
    ],
)
def test_names_on_the_terminal(words: str, odd: Odd) -> None:
    assert r"\x1b" in fine(*(odd.words.get(word, word) for word in words.split())).stdout


def test_a_report_in_the_runs_folder_follows_no_link(odd: Odd, tmp_path: Path) -> None:
    (tmp_path / "foreign").write_text("old")
    page = odd.run / "report.html"
    page.symlink_to(tmp_path / "foreign")
    fine("report", odd.run, "--device", "cpu")
    assert (tmp_path / "foreign").read_text() == "old" and not page.is_symlink()
    check_page(page)


def test_a_signal_leaves_nothing_half_written(
    odd: Odd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = features.compute

    def compute(*arguments: Any) -> Iterator[np.ndarray]:
        yield from found(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(features, "compute", compute)
    (tmp_path / "f.npy").write_text("old")
    before = signal.getsignal(signal.SIGTERM)
    given = ("--run", odd.run, "--device", "cpu", "--force", "--out", tmp_path / "f.npy")
    assert run("features", *given).exit_code == 143
    assert os.listdir(tmp_path) == ["f.npy"] and (tmp_path / "f.npy").read_text() == "old"
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_not_drawn_leaves_the_older_picture(odd: Odd, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_text("no image")
    (tmp_path / "p.png").write_text("old")
    given = ("--run", odd.run, "--device", "cpu", "--force", "--picture", tmp_path / "p.png")
    drawn = fine("predict", tmp_path / "no.jpg", *given)
    assert "nothing: there is no such image" in drawn.stderr and (tmp_path / "p.png").read_text() == "old"


def test_names_that_commands_choose_are_refused_alike(
    odd: Odd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {
        "filters.png": ("show", "filters", "--run", odd.run),
        "val-fc7.txt": ("features", "--run", odd.run, "--device", "cpu"),
        f"{plain(odd.run.name)}.safetensors": ("export", "--run", odd.run),
    }
    for name in ("filters.png", "val-fc7.txt", f"{odd.run.name}.safetensors"):
        (tmp_path / name).write_text("old")
    for name, command in words.items():
        refused = run(*command)
        assert refused.exit_code == 1 and refused.stderr.startswith(f"Error: {name}: file exists")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}
    fine("report", odd.run, "--device", "cpu")
    fine("report", odd.run, "--device", "cpu")  # its own, which it keeps up to date


def test_what_loses_nothing_is_not_refused(odd: Odd, tmp_path: Path) -> None:
    """An empty file, as mktemp makes it, a device, and a link to one."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "null.png").symlink_to("/dev/null")
    for name in ("empty.png", "null.png"):
        fine("show", "filters", "--run", odd.run, "--out", tmp_path / name)
    check_picture(tmp_path / "empty.png")
    assert (tmp_path / "null.png").is_symlink()


@pytest.mark.parametrize(
    "command", ["show curves --out", "ensemble --out", "predict --csv", "features --out"]
)
def test_what_cannot_be_written_is_refused_before_the_work(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    result = run(
        *command.split(), tmp_path / "file" / "below.npy.png"[: 9 if "features" in command else None]
    )
    assert result.exit_code == 1 and str(tmp_path / "file") in result.stderr.splitlines()[-1]
