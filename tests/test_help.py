"""Every help text is read alone: it says in whole sentences what the command does or the option changes."""

import re
from collections.abc import Iterator

import click
import pytest

from cli import main

LONGEST = 45  # characters of a command's first sentence: it fits its line of the list of commands
# Words with which a text only goes on from the name of its option, or says nothing by itself
GOES_ON = {
    *("a", "also", "an", "and", "as", "at", "between", "beside", "by", "for", "from", "going", "goes"),
    *("how", "in", "it", "its", "of", "on", "one", "or", "see", "that", "the", "their", "them", "these"),
    *("they", "this", "to", "what", "when", "where", "which", "who", "whose", "with"),
}
PRIVATE = "same bits|other bits|leaves? guessing|as drawn|told plainly|lent|the numbers\\.|reckon"


def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for part in command.commands.values():
            yield from walk(part, f"{name} {part.name}")


COMMANDS = dict(walk(main, "alexnet-dali"))
TEXTS = {
    f"{name} {option.opts[0]}": option.help or ""
    for name, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option)
}


def faults(text: str) -> list[str]:
    """Return what is wrong with the help text of an option; its default in brackets does not count."""
    said = re.sub(r"  \[default: .*\]$", "", text)
    found = [] if re.search(r"[\w)`]\.$", said) else ["it does not end with a full stop"]
    found += [] if re.match(r"[A-Z][\w-]+|[a-z:]+[,:; ]", said) else ["it begins without a word"]
    first = said.partition(" ")[0].strip(".,:").lower()
    found += [f"it goes on from the option's name: {first}"] if first in GOES_ON else []
    return found + [f"private words: {words}" for words in re.findall(PRIVATE, text.lower())]


@pytest.mark.parametrize(
    "text",
    ["Of every layer.", "Whose step.", "Which images.", "The numbers.", "It is the seed.", "Processes", "",
     "On other images.", "For a part in a round.", "To the same bits.", "Goes on to the same bits."],
)  # fmt: skip
def test_a_fragment_is_refused(text: str) -> None:
    assert faults(text)


def test_every_help_text_of_an_option_is_understood_alone() -> None:
    assert len(TEXTS) > 100
    assert {name: found for name, text in TEXTS.items() if (found := faults(text))} == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_begins_with_a_verb_and_one_short_sentence(name: str) -> None:
    """An order, as "Draw": most other words that begin a text end in s, ing or ed, or are refused above."""
    first, stop, _ = (COMMANDS[name].help or "").partition(".")
    assert stop and len(first + stop) <= LONGEST
    word = first.partition(" ")[0]
    assert word[0].isupper() and not word.endswith(("s", "ing", "ed")) and word.lower() not in GOES_ON
    assert not re.search(PRIVATE, (COMMANDS[name].help or "").lower())
