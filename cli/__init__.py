"""Define the command line, alexnet-dali: gather the commands, and turn user errors into one line."""

# ruff: noqa: E402 - what comes after the check imports what is checked

from cli import launch

launch.check()

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from cli import failures, signals
from cli.commands import (
    baseline,
    bench,
    completion,
    demo,
    doctor,
    ensemble,
    evaluate,
    export,
    features,
    predict,
    prep,
    report,
    reproduce,
    show,
    similar,
    train,
)
from cli.display import give_up, hush, open_streams, plain
from model.errors import RunError
from pipeline.errors import DataError

SHARED = ("train", "eval", "doctor")  # what several processes may start; doctor only looks

# Must be set before torch is imported: its threads wait for one another by spinning, which on a busy machine
# takes the core from the very thread that is waited for.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")


class Boundary(click.Group):
    """Turn what a user can mend into one line and exit status 1; a bug keeps its traceback."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        chosen = super().resolve_command(ctx, args)
        try:
            os.getcwd()
        except FileNotFoundError:  # libraries would abort at it
            raise RunError("the current folder does not exist any more: change to one that does") from None
        if (name := chosen[0]) not in SHARED and os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
            from model.replicas import find_place

            world = find_place().world
            raise RunError(
                f"{name} runs in one process only, but the environment says WORLD_SIZE={world}: start it "
                "without torchrun, or unset WORLD_SIZE; train and eval run in several"
            )
        return chosen

    def main(self, *arguments: Any, **options: Any) -> Any:
        open_streams()
        try:
            return super().main(*arguments, **options)
        except OSError as error:  # except a broken pipe: click handles it and says nothing
            if error.errno is None:  # not an error of the system
                raise
            hush()
            give_up()
            where = f"{error.filename}: " if error.filename else ""
            click.ClickException(plain(f"{where}{error.strerror}")).show()
            sys.exit(1)

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with in_one_line():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with in_one_line(), signals.handled(signals.leave):
            return super().invoke(ctx)


@contextmanager
def in_one_line() -> Iterator[None]:
    """Raise errors that a user can mend as one plain line."""
    try:
        yield
    except click.ClickException as error:
        vars(error).update(message=plain(error.message))
        raise
    except (DataError, RunError) as error:
        raise click.ClickException(plain(error)) from None
    except (RuntimeError, MemoryError, ImportError) as error:
        if line := failures.explain(error):
            raise click.ClickException(plain(line)) from None
        raise


@click.group(cls=Boundary, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="alexnet-dali")
def main() -> None:
    """Train AlexNet on ImageNet or your own images.

    This is the network of Krizhevsky, Sutskever and Hinton (2012). NVIDIA DALI decodes and augments the
    images, on a GPU if there is one. Three commands prepare, train and evaluate:

    \b
    alexnet-dali prep --imagenet-root DIR
    alexnet-dali train --gpus 0,1
    alexnet-dali eval --ten-crop
    """


for module in (
    prep,
    train,
    evaluate,
    doctor,
    bench,
    demo,
    predict,
    show,
    features,
    similar,
    ensemble,
    export,
    report,
    baseline,
    reproduce,
    completion,
):
    main.add_command(module.command)
