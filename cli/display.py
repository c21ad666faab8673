"""Show what a command does: text as it is, a live line on a terminal, lines elsewhere, tables, pictures."""

import codecs
import io
import json
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.atomic import naming, writing

if TYPE_CHECKING:
    from _typeshed import SupportsWrite
    from rich.console import ConsoleOptions


# Control characters, the marks that turn the direction of writing, and bytes that are not UTF-8.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

STREAMS = (Path("stdout"), Path("stderr"))  # their names in error messages


def plain(text: object) -> str:
    """Return the text in one line: each unsafe character, newlines too, as its escape sequence."""
    return UNSAFE.sub(lambda match: _escape(match[0]), str(text))


def say(text: object, err: bool = False) -> None:
    """Print one line, to stderr if `err`."""
    with naming(STREAMS[err]):
        print(plain(text), file=sys.stderr if err else sys.stdout, flush=True)


def say_row(name: str, text: object, err: bool = False) -> None:
    """Print one line of a command's account: what was done, where it is, what is next."""
    say(f"  {name:<10}{text}", err)


def tell_written(*paths: str | Path | None, err: bool = False) -> None:
    """Print a row for each file that was asked for and written; - is the terminal."""
    for path in paths:
        if path and str(path) != "-":
            say_row("written", path, err)


def draw(path: Path, picture: Any, *content: Any, title: str, err: bool = False, **more: Any) -> None:
    """Draw a picture and say so, on stderr if `err`."""
    picture(*content, path=path, title=title, **more)
    say_row("drawn", path, err)


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
    """Return a rich console to which all text is plain: no markup, emoji codes or highlighting."""
    return _Console(markup=False, emoji=False, highlight=False, **options)


BAR, WIDER = 10, 14  # columns of a bar, and how many more it takes where there is room
GAP = 2
ECHO = 3  # columns that a live line leaves free: a terminal writes ^C there
SELDOM, OFTEN = 60.0, 5.0  # seconds between plain lines
EARLY = 20.0  # seconds before which less than a fiftieth of the work says nothing of the time left


class Line:
    """Count how far a command has come: call it with how many more are done, and what to say."""

    def __init__(self, what: str, total: int, first: int, unit: str) -> None:
        self.what, self.total, self.first, self.unit = what, total, first, unit
        self.done, self.fields = first, tuple[str, ...]()
        self.started = self.printed = time.monotonic()
        self.print: Callable[[str], None] | None = None  # where plain lines are wanted

    def __call__(self, more: int, *fields: str) -> None:
        self.done += more
        self.fields = fields or self.fields
        if self.due:
            what, count, left, *rest = self.parts()
            self.tell("  ".join(filter(None, (what, count, *rest, left))))

    @property
    def due(self) -> bool:
        """Tell whether it is time for a plain line: ever more rarely, but at least each minute."""
        now = time.monotonic()
        return now - self.printed > min(max(OFTEN, (now - self.started) / 10), SELDOM)

    def tell(self, text: str) -> None:
        """Print a plain line now, unless the line is live."""
        self.printed = time.monotonic()
        if self.print:
            self.print(text)

    def parts(self) -> list[str]:
        """Return what it is, how many are done, the time left once it can be known, and the rest."""
        count = f"{self.done:,} of {self.total:,} {self.unit}" if self.total else ""
        more, left = self.total - self.done, ""
        part = (self.done - self.first) / max(self.total - self.first, 1)
        if more and part and (part >= 1 / 50 or self.seconds >= EARLY):
            left = f"{short_time(more / self.rate)} left"
        return [self.what, count, left, *(self.fields or [self.speed])]

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def rate(self) -> float:
        return (self.done - self.first) / self.seconds

    @property
    def speed(self) -> str:
        return f"{self.rate:,.{0 if self.rate >= 10 else 2}f} {self.unit}/s"

    def __rich_console__(self, screen: Console, options: "ConsoleOptions") -> "Iterator[Table]":
        """Yield one row of what fits, the most important first."""
        what, count, left, *fields = self.parts()
        room, bar, shown = options.max_width - ECHO + GAP, " " * BAR, []
        for text in filter(None, (what, left, count, bar, *fields)):
            if (width := cell_len(text) + GAP) <= room:
                room -= width
                shown.append(text)
        long = ProgressBar(max(self.total, 1), self.done, width=BAR + min(room, WIDER))
        row = [text for text in (what, bar, count, *fields, left) if text in shown]
        grid = Table.grid(padding=(0, GAP, 0, 0))
        grid.add_row(*(long if text is bar else Text(text, no_wrap=True) for text in row))
        yield grid


@contextmanager
def progress(
    what: str, total: int, *, first: int = 0, unit: str = "images", output: bool = False, quiet: bool = False
) -> Iterator[Line]:
    """Show a live line on a terminal, and prints above it; elsewhere plain lines, ever more rarely.

    It is on stdout if it is all that the command prints (output) or stdout is a terminal, else on stderr.
    """
    err = not output and not sys.stdout.isatty()
    screen, line = console(stderr=err, soft_wrap=True), Line(plain(what), total, first, unit)
    if quiet:
        yield line
    elif screen.is_interactive and screen.file.isatty():
        out, err = sys.stdout.isatty(), sys.stderr.isatty()
        with Live(line, console=screen, transient=True, redirect_stdout=out, redirect_stderr=err):
            screen.show_cursor(True)  # so that it is there after a kill
            yield line
    else:
        line.print = partial(say, err=err)
        yield line


def clear_line() -> None:
    """Remove what Ctrl-C leaves on a terminal; a handler of signals may call it at any time."""
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\r\x1b[2K")


def short_time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"


def disk_size(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def plural(number: int, noun: str) -> str:
    """Return count and noun, as in 1 image, 2 images."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def top_errors(errors: Mapping[str, float], classes: int) -> dict[str, str]:
    """Write top-1 and top-5 error; of five classes or fewer no top-5, as five guesses never fail."""
    return {f"top-{k}": f"{errors[f'top{k}_err']:.2f} %" for k in (1, 5) if k < max(classes, 2)}


def in_words(errors: Mapping[str, str]) -> str:
    """Return errors as `top_errors` writes them in one phrase: top-1 error 40.66 %, top-5 error 18.21 %."""
    return ", ".join(f"{name} error {error}" for name, error in errors.items())


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], line: int, title: str = "") -> None:
    """Print a name and numbers per row, with a line below the first `line` rows."""
    table = Table(title=title or None, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for number, row in enumerate(rows):
        table.add_row(*row, end_section=number == line - 1)
    console().print(table)


class _Stdout:
    def write(self, text: str) -> None:
        with naming(STREAMS[0]):
            print(text, end="", flush=True)


@contextmanager
def lines(path: str) -> "Iterator[SupportsWrite[str]]":
    """Open a text file that the user named, whole or not at all; - is the terminal."""
    if path == "-":
        yield _Stdout()
    else:
        with writing(Path(path)) as file:
            yield codecs.getwriter("utf-8")(file)


def write_json(path: str | Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON in ASCII: Python reads names back byte by byte, those that are not UTF-8 as well."""
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
            with suppress(OSError):  # if its descriptor is a pipe now, no longer the file that was opened
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
