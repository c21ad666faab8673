"""Bench, and beside it what one would have used instead of this loader and this step: python -m tools.compare

The options are those of `alexnet-dali bench`: DataLoader, webdataset, FFCV and a plain step join its rounds.
"""

import sys
from pathlib import Path
from typing import Any

import click

from cli import main
from cli.commands import bench
from tools.compare.peers import job, started


@click.command("compare", params=list(bench.command.params))
def command(data: Path, seconds: float, json_path: Path | None, **settings: Any) -> None:
    """Say how many images a second each part does, and what one would have used instead."""
    bench.bench(data, seconds, json_path, settings, beside=lambda parts: started(job(parts)))


if __name__ == "__main__":
    main.add_command(command)
    main(["compare", *sys.argv[1:]])
