"""The report: one page that stands alone and says what eval says."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli import main
from cli.study import page
from pipeline.dataset import Dataset

ALONE = {"br", "hr", "img", "link", "meta"}  # elements without an end


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


class Page(HTMLParser):
    """What a page holds; its elements must be closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.images: list[Image.Image] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.add(tag)
        self.ids.add(values.get("id", ""))
        if tag not in ALONE:
            self.open.append(tag)
        if tag == "img":
            kind, _, data = values["src"].partition(",")
            assert kind == "data:image/webp;base64" and values["alt"]
            self.images.append(Image.open(io.BytesIO(base64.b64decode(data))))
        if "href" in values:
            self.links.append(values["href"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def report(trained: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    out = tmp_path_factory.mktemp("report") / "report.html"
    result = run("report", trained, "--data", dataset.root, "--device", "cpu", "--ten-crop", "--out", out)
    assert result.exit_code == 0, result.output
    text = out.read_text("utf-8")
    return text, Page(text)


def test_it_stands_alone(report: tuple[str, Page]) -> None:
    text, found = report
    text = re.sub('base64,[^"]*', "", text)
    assert "http" not in text and "@import" not in text and "url(" not in text
    assert not found.tags & {"script", "link", "iframe", "object", "video", "audio"}
    assert len(found.links) == 9 and {link.removeprefix("#") for link in found.links} <= found.ids
    assert 'name="viewport"' in text and text.startswith("<!doctype html>")


def test_every_picture_is_one(report: tuple[str, Page]) -> None:
    _, found = report
    assert len(found.images) in (5, 6)  # the misclassified ones are drawn where there are any
    for image in found.images:
        assert min(image.size) > 100 and np.asarray(image.convert("L")).std() > 5


def test_a_drawing_is_kept_exactly_and_photographs_take_a_part_of_their_png() -> None:
    random = np.random.default_rng(0)
    squares = Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).resize((600, 400), 0)
    blurred = random.normal(128, 400, (40, 60, 3)).clip(0, 255).astype(np.uint8)
    grain = random.normal(0, 6, (400, 600, 3))
    photograph = (np.asarray(Image.fromarray(blurred).resize((600, 400))) + grain).clip(0, 255)
    for image, exact in ((squares, True), (Image.fromarray(photograph.astype(np.uint8)), False)):
        png = io.BytesIO()
        image.save(png, "png")
        text = page.picture(png, "a picture")
        (shown,) = Page(text).images
        difference = np.abs(np.asarray(shown.convert("RGB"), float) - np.asarray(image))
        assert difference.max() == 0 if exact else difference.mean() < 10
        assert exact or len(text) < len(png.getvalue()) / 4


def test_its_errors_are_those_of_eval(
    report: tuple[str, Page], trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    _, found = report
    for option in ((), ("--ten-crop",)):
        given = ("--run", trained, "--data", dataset.root, "--device", "cpu", "--force", *option)
        run("eval", *given, "--json", tmp_path / "e.json")
        errors = json.loads((tmp_path / "e.json").read_text())
        name = "this run, ten views" if option else "this run, centre crop"
        at = found.words.index(name)
        cells = [word for word in found.words[at + 1 : at + 8] if word.strip()][:2]
        assert cells == [f"{errors['loss']:.4f}", f"{errors['top1_err']:.2f} %"]


def test_its_head_says_run_dataset_and_progress(
    report: tuple[str, Page], trained: Path, dataset: Dataset
) -> None:
    text, found = report
    assert f"<h1>{trained.name} on {dataset.root.name}</h1>" in text and "epoch 2 of 2." in text
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    val = [row for row in rows if row["kind"] == "val"]
    best = min(val, key=lambda row: row["top1_err"])
    for name, row in (("last", val[-1]), ("best", best)):
        at = found.words.index(f"{name}: epoch {row['epoch']}")
        assert f"{row['loss']:.4f}" in found.words[at : at + 3]
    assert "prefers-color-scheme: dark" in text


def test_a_training_that_has_not_ended_is_called_so() -> None:
    from cli.study.report import last_and_best, progress_of

    rows = [{"kind": "train", "epoch": 6.5}]
    assert progress_of(rows, 40) == "epoch 6.5 of 40, unfinished" and progress_of([], 3).startswith(
        "epoch 0 of 3"
    )
    assert "No epoch" in last_and_best(rows, 10)


def test_it_names_recipe_environment_and_commands(report: tuple[str, Page], trained: Path) -> None:
    _, found = report
    about = json.loads((trained / "run.json").read_text())
    words = "\n".join(found.words)
    assert about["starts"][-1]["command"] in words and about["data"]["fingerprint"] in words
    assert about["starts"][-1]["torch"] in words and f"alexnet-dali eval --ten-crop --run {trained}" in words
    assert "fc8" in words and "momentum" in words
    assert "probability that dropout keeps a unit" in words and "weight decay; biases have none" in words
    assert not {"True", "False", "true", "false", "None", "[]"} & set(found.words) and "{'" not in words
    assert "0.00002" in found.words and not any("e-0" in word for word in found.words)  # alpha of the LRN
    assert "0.01, biases 0.02" in found.words
    assert "guessing among 3 classes" in words and "66.67 %" in words and "40.7 %" not in words


def test_names_cannot_break_the_page() -> None:
    text = page.page("<b>&", '"', [("a b", page.table(["<i>"], [["</td><script>"]]) + page.code(["<x>"]))])
    found = Page(text)
    assert "script" not in found.tags and "</td><script>" in found.words and "<b>&" in found.words


def test_errors(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    assert "there is no run" in run("report", tmp_path / "none").output
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{no\n")
    result = run("report", tmp_path / "run", "--device", "cpu", "--data", dataset.root)
    assert result.exit_code == 1 and "run.json is damaged: not valid JSON" in result.output
    (tmp_path / "run" / "run.json").unlink()
    result = run("report", tmp_path / "run", "--device", "cpu", "--data", dataset.root)
    assert result.exit_code == 1 and "is not a run of alexnet-dali train" in result.output
