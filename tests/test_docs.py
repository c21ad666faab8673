"""The pages speak of what is there: commands parse, links lead somewhere, no sentence stands twice."""

import argparse
import ast
import importlib
import re
import shlex
import shutil
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from cli import main
from pipeline.atomic import lock
from pipeline.dataset import Dataset

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path.read_text()
         for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}  # fmt: skip
NAMES = list(PAGES)
# A command begins with one of these, in a block or between backticks, and ends with its line or its cell.
BEGINS = r"(?<![\w.'])(alexnet-dali(?= +[a-z-])|python3? -m|torchrun|sbatch|make(?= [a-z]+\b)|pip install)"


def code(page: str) -> str:
    """All code of a page: blocks, indented or fenced, and what stands between backticks; lines joined."""
    joined = page.replace("\\\n", " ")
    fenced = re.findall(r"^ *```(?:sh|text)?\n(.*?)^ *```", joined, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^ *```.*?^ *```", "", joined, flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^    (?!Error: ).*", rest, re.MULTILINE)
    return "\n".join([*fenced, *blocks, *re.findall(r"`([^`]+)`", rest)])


def commands(page: str) -> list[list[str]]:
    found = re.finditer(BEGINS + r"[^\n|&)>]*", code(page))
    return [shlex.split(match[0], comments=True) for match in found]


def parse(words: list[str]) -> None:
    """Parse the words of one of our commands, with what they stand for in the working folder."""
    command: click.Command = main
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    if isinstance(command, click.Group):
        assert all(word in command.get_help_option_names(click.Context(command)) for word in words), words
    elif "--help" not in words:
        command.make_context(str(command.name), words)


def parse_tool(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse the words of `python -m tools.NAME` by its own parser, and go no further."""
    if name == "compare":
        importlib.import_module("tools.compare.__main__").command.make_context(name, words)
        return
    real = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *given: Any) -> None:
        real(self, *given)
        raise KeyboardInterrupt

    file = ROOT / "tools" / name / "__main__.py"
    module = importlib.import_module(f"tools.{name}.__main__" if file.exists() else f"tools.{name}")
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(KeyboardInterrupt):
        module.main()
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", real)


@pytest.mark.parametrize("page", NAMES)
def test_every_command_parses(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the program's own parsers, in a folder that has what its words stand for."""
    monkeypatch.chdir(tmp_path)
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in commands(PAGES[page]):
        for before, word in pairwise(["", *words]):
            if before == "--imagenet-root" or re.match(r"DIR|FOLDER", word):
                Path(word).mkdir(parents=True, exist_ok=True)
            elif re.fullmatch(r"[A-Z]+(\.\.\.)?|[\w-]+\.\w+", word):
                Path(word).touch()
        match words:
            case ["alexnet-dali", *rest]:
                parse(rest)
            case ["torchrun", *rest]:
                after = rest[rest.index("--") :]
                assert after[1] == "alexnet-dali"
                parse(after[2:])
            case ["sbatch", script, *rest]:
                assert (ROOT / script).is_file()
                parse(["train", *rest])
            case ["make", target]:
                assert f"\n{target}:" in makefile, target
            case ["python" | "python3", "-m", module, *rest] if module.startswith("tools."):
                parse_tool(module.removeprefix("tools."), rest, monkeypatch)
            case ["python" | "python3", "-m", module, *rest]:
                assert module in ("venv", "pytest", "cli", "mypy"), words
            case ["pip", "install", *rest]:
                for extra in re.findall(r"\[([\w,-]+)\]", " ".join(rest)):
                    assert set(extra.split(",")) <= set(extras), words
            case _:
                raise AssertionError(words)


def test_the_commands_of_the_readme_are_found() -> None:
    """A few of every kind, or the test above would try nothing."""
    found = [words for page in PAGES.values() for words in commands(page)]
    assert ["alexnet-dali", "prep", "--imagenet-root", "DIR"] in found and ["make", "demo"] in found
    kinds = Counter(words[0] for words in found)
    assert kinds["alexnet-dali"] >= 40 and kinds["torchrun"] >= 2 and kinds["python"] >= 5


def test_every_command_is_documented() -> None:
    named = {words[1] for page in PAGES.values() for words in commands(page) if words[0] == "alexnet-dali"}
    assert named - {"--help"} == set(main.commands)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as Markdown pages are shown with them."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", NAMES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), target


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/\w+\.md)", PAGES["README.md"]))
    assert linked == set(PAGES) - {"README.md"}


def test_every_file_that_a_page_names_exists() -> None:
    path = r"`((?:pipeline|model|cli|tools|docs|tests)/[\w./-]+)`"
    named = {name for page in PAGES.values() for name in re.findall(path, page)}
    assert len(named) >= 8
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def sentences(page: str) -> set[str]:
    """Those of eight words and more, outside of blocks; a cell of a table is a sentence."""
    prose = re.sub(r"^ *```.*?^ *```|^    .*?$", "", page, flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"(?<=[.:;?!])\s|\||\n\s*\n|\n- ", prose)
    plain = (" ".join(re.sub(r"\(docs/|\(", "(", part).split()) for part in parts)
    return {part for part in plain if len(part.split()) >= 8}


def test_no_sentence_stands_twice() -> None:
    counts = Counter(sentence for page in PAGES.values() for sentence in sentences(page))
    assert len(counts) > 100
    assert [sentence for sentence, count in counts.items() if count > 1] == []


def test_every_room_is_named() -> None:
    rooms = {f"{path.parent.name}/{path.name}" for name in ("pipeline", "model", "cli", "tools")
             for path in (ROOT / name).iterdir() if path.is_dir() and path.name != "__pycache__"}  # fmt: skip
    page = PAGES["docs/contributing.md"]
    assert set(re.findall(r"^\| `(\w+/\w+)` \|", page, re.MULTILINE)) == rooms


TROUBLE = PAGES["docs/troubleshooting.md"]
SHOWN = re.findall(r"^    \$ alexnet-dali (.*)\n    (Error: .*)$", TROUBLE, re.MULTILINE)
UNSHOWN = re.findall(r"(?<!    )(?<!\$ )^\n    (Error: .*)$", TROUBLE, re.MULTILINE)


def pattern(shown: str) -> str:
    """The line of an error as a pattern: `...` stands for anything."""
    return ".+".join(map(re.escape, shown.split("...")))


def last_line(words: str) -> str:
    """What a command says last, in the working folder."""
    result = CliRunner().invoke(main, shlex.split(words))
    assert result.exit_code in (1, 2), result.output
    return result.output.splitlines()[-1]


@pytest.fixture(scope="module")
def scene(
    dataset: Dataset, trained: Path, folders: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The working folder of the page's examples: folders of images with something wrong, and two runs."""
    root = tmp_path_factory.mktemp("scene")
    image = next(folders.glob("val/*/*")).read_bytes()
    for place in (
        *("photos/cat/1.jpg", "photos/dog/1.jpg", "unsplit/train/cat/1.jpg", "unsplit/train/dog/1.jpg"),
        *("flat/train/cat/1.jpg", "flat/val/1.jpg"),
        *("uneven/train/cat/1.jpg", "uneven/val/cat/1.jpg", "uneven/val/fish/1.jpg"),
        *(f"broken/train/cat/{number}.jpg" for number in range(6)),
        *("broken/val/cat/1.jpg", "broken/val/cat/bad.jpg", "broken/train/cat/bad.jpg"),
        *("runs/started/run.json", "curves.png"),
    ):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image if path.name[:-4].isdigit() else image[:200])
    shutil.copytree(dataset.root, root / "data/small")
    shutil.copytree(dataset.root, root / "data/torn")
    (root / "data/torn/statistics.npz").unlink()
    shutil.copytree(trained, root / "runs/tiny")
    (root / "runs/busy").mkdir()
    with lock(root / "runs/busy/lock"):
        yield root


@pytest.mark.parametrize(("words", "shown"), SHOWN)
def test_an_error_that_is_shown_with_its_command(
    words: str, shown: str, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scene)
    monkeypatch.delenv("ALEXNET_DALI_DATA", raising=False)
    assert re.fullmatch(pattern(shown), last_line(words)), last_line(words)


@cache
def texts() -> set[str]:
    """Every text in the sources; what is formatted into it is a zero byte."""
    found = set()
    for path in (each for name in ("pipeline", "model", "cli") for each in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant):
                found.add(str(node.value))
    return found


@pytest.mark.parametrize("shown", UNSHOWN)
def test_an_error_that_takes_more_to_provoke_is_in_the_sources(shown: str) -> None:
    """Every longer piece of the shown line between dots stands in one text of the program."""
    pieces = [piece for piece in shown.removeprefix("Error: ").split("...") if len(piece.split()) > 2]
    assert pieces
    assert any(all(piece in text for piece in pieces) for text in texts())


def test_the_page_of_errors_has_both_kinds() -> None:
    assert len(SHOWN) >= 10 and len(UNSHOWN) >= 10
    assert len(SHOWN) + len(UNSHOWN) == TROUBLE.count("    Error: ")


def test_the_commands_of_the_gallery_run(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand and in their order, but on the CPU; an ensemble needs files of earlier evaluations."""
    monkeypatch.chdir(scene)
    monkeypatch.setenv("ALEXNET_DALI_DATA", "data/small")
    (scene / "curves.png").unlink()
    stands = {"IMAGE": "photos/cat/1.jpg", "FOLDER": "photos", "FILE": "val-fc7.npy"}
    blocks = re.sub(r"`[^`]*`", "", PAGES["docs/gallery.md"])
    for words in ([stands.get(word, word) for word in line[1:]] for line in commands(blocks)):
        command = main.commands[words[0]]
        if isinstance(command, click.Group):
            command = command.commands[words[1]]
        if any("--device" in parameter.opts for parameter in command.params):
            words += ["--device", "cpu"]
        if words[0] != "ensemble":
            result = CliRunner().invoke(main, words)
            assert result.exit_code == 0, (words, result.output)
    written = {path.name for path in scene.glob("*.*")}
    assert {
        "guesses.png",
        "similar.png",
        "val-fc7.npy",
        "filters.png",
        "curves.png",
        "confusion.png",
    } <= written
