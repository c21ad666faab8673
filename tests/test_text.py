"""What a command says is text: it is shown, and never obeyed as markup or as a command to the terminal."""

import ast
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from cli.display import console, plain

ROOT = Path(__file__).parent.parent
BAD = "[b]x\x1b[31m\r\n\u202e日本\udce9"  # markup, a colour, a new line, a turn of direction, a Latin-1 byte
SHOWN = r"[b]x\x1b[31m\r\n\u202e日本\xe9"


def calls(path: Path) -> set[str]:
    """The names of all that a file calls, `click.echo` as such."""
    nodes = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {ast.unparse(name) for name in nodes}


def test_everything_is_said_in_one_place() -> None:
    """Only cli/display.py prints; the others call its `say` and `console`."""
    forbidden = {"print", "Console", "click.echo", "click.secho", "rich.print", "click.open_file"}
    files = [path for path in (ROOT / "cli").rglob("*.py") if path.name != "display.py"]
    assert files and not {path.name: found for path in files if (found := calls(path) & forbidden)}


def test_text_is_one_line_without_control_characters() -> None:
    assert plain(BAD) == SHOWN and plain("ä 日本 \\ $x$") == "ä 日本 \\ $x$"


def test_a_console_obeys_no_text() -> None:
    screen = io.StringIO()
    table = Table(BAD, title=BAD)
    table.add_row(BAD)
    paper = console(file=screen, force_terminal=True, width=80)
    paper.print(BAD)
    paper.print(table)
    assert screen.getvalue().count(SHOWN) == 4 and "\x1b[31m" not in screen.getvalue()


def python(code: str, redirection: str = "", encoding: str = "utf-8") -> "subprocess.CompletedProcess[bytes]":
    """A process of its own, started by a shell, which closes its streams or sends them elsewhere."""
    words = ["sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, code]
    return subprocess.run(words, cwd=ROOT, capture_output=True, env={"PYTHONIOENCODING": encoding})


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "iso-8859-1", "utf-8"])
def test_any_terminal_takes_any_text(encoding: str) -> None:
    code = "import cli.display as t; from rich.table import Table; t.open_streams()\nfor err in (0, 1):"
    code += " t.say('ä日', err=err); t.console(stderr=err).print(Table('ä日'))"
    done = python(code, encoding=encoding)
    word = "ä日".encode(encoding, "backslashreplace")
    assert done.returncode == 0 and done.stdout == done.stderr and done.stdout.count(word) == 2


def test_no_file_takes_the_number_of_a_closed_stream() -> None:
    code = "import sys, cli.display as t; t.open_streams(); "
    code += "t.say('x'); t.say('y', err=True); t.console().print(1)"
    for redirection in ("<&- >&- 2>&-", ">&-", "2>&-"):
        done = python(code + "; sys.exit(open('/dev/null').fileno())", redirection)
        assert done.returncode >= 3 and b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["--help", "train --show-recipe"])
def test_a_full_disk_behind_stdout_is_one_line(command: str) -> None:
    code = f"from cli import main; main({command.split()})"
    done = python(code, "> /dev/full")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"No space left" in done.stderr


def test_errors_of_the_command_line_are_plain() -> None:
    from click.testing import CliRunner

    from cli import main

    bad = BAD.removesuffix("\udce9")  # which click writes as \udce9
    for words in (
        [f"--{bad}"],
        [bad],
        ["train", f"--{bad}"],
        ["train", "--width", bad],
        ["show", "curves", bad],
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code in (1, 2) and SHOWN.removesuffix(r"\xe9") in result.stderr
        assert not set(result.stderr) & set("\x1b\r\u202e")
