"""Text that goes out, to the terminal and to files that the user named.

What comes from the user's files is shown as it is: never obeyed as markup or as a command to the terminal.
"""

import codecs
import io
import json
import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from pipeline.atomic import naming, writing

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

# Control characters, the marks that turn the direction of writing, and bytes that are not UTF-8.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

STREAMS = (Path("stdout"), Path("stderr"))  # as errors call them


def plain(text: object) -> str:
    """The text in one line: each unsafe character, a newline too, is written as its escape sequence."""
    return UNSAFE.sub(lambda found: _escape(found[0]), str(text))


def say(text: object, err: bool = False) -> None:
    """Print one line, to stderr if `err`."""
    with naming(STREAMS[err]):
        print(plain(text), file=sys.stderr if err else sys.stdout, flush=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the caller: rich would end the program."""
        raise

    def print(self, *objects: Any, **options: Any) -> None:
        with naming(STREAMS[self.stderr]):
            super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text), **options)


def warn(text: object) -> None:
    """Print one line on stderr that asks for attention."""
    say(f"warning: {text}", err=True)


def console(**options: Any) -> Console:
    """A rich console to which all text is plain: no markup, no emoji codes, no highlighting."""
    return _Console(markup=False, emoji=False, highlight=False, **options)


@contextmanager
def progress(what: str, total: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, if there is one: call it with how many more are done.

    What is printed meanwhile appears above it.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    terminal = sys.stdout.isatty()
    screen = console(stderr=not terminal)
    columns = (BarColumn(), TaskProgressColumn(), Remaining(), MofNCompleteColumn())
    with Progress(
        TextColumn("{task.description}", markup=False),
        *columns,
        console=screen,
        transient=True,
        redirect_stdout=terminal,
        disable=quiet or not screen.is_interactive,  # or it would print an empty line
    ) as bar:
        task = bar.add_task(plain(what), total=total)
        yield lambda more: bar.advance(task, more)


class _Stdout:
    def write(self, text: str) -> None:
        with naming(STREAMS[0]):
            print(text, end="", flush=True)


@contextmanager
def lines(path: str) -> "Iterator[SupportsWrite[str]]":
    """A text file that the user named, whole or not at all; - is the terminal."""
    if path == "-":
        yield _Stdout()
    else:
        with writing(Path(path)) as file:
            yield codecs.getwriter("utf-8")(file)


def write_json(path: str | Path, content: Any, indent: int | None = 1) -> None:
    """As `lines`, in ASCII. Python reads the names back byte by byte, those that are not UTF-8 as well."""
    with lines(str(path)) as file:
        file.write(json.dumps(content, indent=indent) + "\n")


def open_streams() -> None:
    """Let any text be printed, and closed streams lead nowhere, before a file takes their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # where a pipe has taken the place of the file that it was opened on
                stream.reconfigure(errors="backslashreplace")


def hush(every: bool = False) -> None:
    """Let outputs that hung up or have no reader any more, or both of them, lead nowhere."""
    with open(os.devnull, "wb") as null:
        for number in (1, 2):
            output = select.poll()
            output.register(number, 0)
            if every or output.poll(0):
                os.dup2(null.fileno(), number)


def give_up() -> None:
    """Forget what cannot be printed, so that nothing tries again at the end."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _escape(character: str) -> str:
    byte = ord(character) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else ascii(character)[1:-1]
