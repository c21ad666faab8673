"""Run bench, and beside it other loaders and a plain training step: python -m tools.compare

The options are those of `alexnet-dali bench`. DataLoader, webdataset, FFCV, TurboLoader and a plain step join
its rounds.
"""

import sys

import click

from cli import main
from cli.commands import bench
from tools.compare.peers import job, started


@click.command("compare", params=list(bench.command.params))
@click.pass_context
def command(context: click.Context, /, **given: object) -> None:
    """Measure images/s of each part, of other loaders and of a plain training step."""
    context.invoke(bench.command, **given, beside=lambda parts: started(job(parts)))


if __name__ == "__main__":
    main.add_command(command)
    main(["compare", *sys.argv[1:]])
