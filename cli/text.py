"""Print text: what comes from the user's files is shown as it is, never obeyed as markup or as a command."""

import os
import re
import select
import sys
from typing import Any

import click
from rich.console import Console

# Control characters, the marks that turn the direction of writing, and bytes that are not UTF-8.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: object) -> str:
    """The text with each unsafe character written as its escape sequence; newlines and tabs stay."""
    return UNSAFE.sub(lambda found: _escape(found[0]), str(text))


def say(text: object, err: bool = False) -> None:
    """Print one message, to stderr if `err`."""
    click.echo(plain(text), err=err)


def console(**options: Any) -> Console:
    """A rich console that takes no markup, emoji codes or highlighting from the text that it is given."""
    return _Console(markup=False, emoji=False, highlight=False, **options)


def open_streams() -> None:
    """Let standard streams that are closed lead nowhere, before a file takes their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def hush(every: bool = False) -> None:
    """Let outputs that hung up or have no reader any more, or both of them, lead nowhere."""
    with open(os.devnull, "wb") as null:
        for number in (1, 2):
            output = select.poll()
            output.register(number, 0)
            if every or output.poll(0):
                os.dup2(null.fileno(), number)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the caller: rich would end the program."""
        raise


def _escape(character: str) -> str:
    byte = ord(character) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else ascii(character)[1:-1]
