"""Show what a command does: text as it is, a live line on a terminal, lines elsewhere, tables, pictures."""

import codecs
import io
import json
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from pipeline.atomic import naming, writing

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from pipeline.prep.repair import Progress as PrepProgress


Row = dict[str, Any]


class Display:
    """A context manager; `step` and `row` are told what happens. Quiet in all processes but the first."""

    def __init__(self, epochs: int, steps_per_epoch: int, step: int, quiet: bool) -> None:
        self.console = console(quiet=quiet, soft_wrap=True)
        self.epochs, self.per_epoch = epochs, steps_per_epoch
        self.live = self.console.is_terminal and not quiet
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=24),
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}  {task.fields[now]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.progress.add_task(
            "train", total=epochs * steps_per_epoch, completed=step, epoch=1, epochs=epochs, now="starting"
        )

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def step(self, step: int) -> None:
        self.progress.update(self.task, completed=step, epoch=(step - 1) // self.per_epoch + 1)

    def row(self, row: Row) -> None:
        text = f"loss {row['loss']:.4f}  top-1 {row['top1_err']:5.2f} %  top-5 {row['top5_err']:5.2f} %"
        if row["kind"] == "val":
            self.console.print(f"epoch {row['epoch']:>3}/{self.epochs}  validation  {text}")
            return
        text += f"  {row['img_s']:,.0f} img/s  waiting {row['data_time']:.0%}"
        self.progress.update(self.task, now=text)
        if not self.live:
            self.console.print(
                f"epoch {row['epoch']:6.2f}/{self.epochs}  step {row['step']:,}  {text}  lr {row['lr']:g}"
            )


EVERY = 5.0  # seconds between plain lines


class PrepDisplay:
    """Told of progress: a live bar on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        screen = console()
        self.live = screen.is_terminal
        columns = "{task.completed:,.0f} of {task.total:,.0f}  {task.fields[rate]:,.0f} images/s"
        self.bar = Progress(
            BarColumn(bar_width=24),
            TextColumn(columns + "  {task.fields[rejected]} rejected"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=screen,
            disable=not self.live,
        )
        self.task: Any = None
        self.started = self.printed = time.monotonic()
        self.first = self.done = 0

    def __enter__(self) -> "PrepDisplay":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    @property
    def rate(self) -> float:
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def __call__(self, progress: "PrepProgress") -> None:
        self.done = progress.done
        fields: dict[str, Any] = {"completed": self.done, "rejected": progress.rejected}
        if self.task is None:
            self.first = self.done
            self.task = self.bar.add_task("", total=progress.total, rate=0.0, **fields)
            if self.first and not self.live:
                say(f"{self.first:,} images are done already")
        self.bar.update(self.task, rate=self.rate, **fields)
        if not self.live and time.monotonic() - self.printed > EVERY:
            self.printed = time.monotonic()
            left = (progress.total - self.done) / max(self.rate, 1e-9)
            say(
                f"{self.done:,} of {progress.total:,} images  {self.rate:,.0f} images/s  "
                f"{progress.rejected:,} rejected  {left / 60:,.0f} min left"
            )


def draw(path: Path, picture: Any, *content: Any, title: str, **more: Any) -> None:
    """Draw and say so."""
    picture(*content, path=path, title=title, **more)
    say(f"drawn: {path}")


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
