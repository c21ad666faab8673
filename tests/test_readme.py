"""The README speaks of what is there."""

import re
from pathlib import Path

import click

from cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_file_it_names_exists() -> None:
    named = set(re.findall(r"`((?:pipeline|model|cli|tools|docs|tests)/[\w./-]+)`", README))
    assert len(named) >= 8
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_command_is_documented_and_every_documented_command_exists() -> None:
    named = set(re.findall(r"alexnet-dali ([a-z]+)", README))
    assert named - set(main.commands) == set()
    assert set(main.commands) - named == set()


def options(command: click.Command) -> set[str]:
    """Its own, and those of its subcommands."""
    parts = command.commands.values() if isinstance(command, click.Group) else ()
    own = {name for parameter in command.params for name in parameter.opts}
    return own.union(*(options(part) for part in parts))


def test_every_option_it_shows_exists() -> None:
    for command, words in re.findall(r"alexnet-dali ([a-z]+)([^`\n|&]*)", README):
        shown = set(re.findall(r"(--[a-z0-9-]+)", words))
        assert shown - options(main.commands[command]) == set(), command


def test_every_command_and_option_has_help() -> None:
    for command in main.commands.values():
        assert command.help
        for parameter in command.params:
            assert parameter.to_info_dict()["param_type_name"] == "argument" or parameter.help, parameter.name
