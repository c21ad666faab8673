"""Find runs by what they are called, and write the commands that go on from a run or a dataset."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from cli import options
from cli.display import plain
from model.errors import RunError

LISTED = 10  # runs in a message


def find_run(name: str | None) -> Path:
    """Return the folder of the named run, or of the one in runs/ that was saved last."""
    if name:
        folder = options.run_path(name)
        if not folder.is_dir():
            here = f"give ./{name} for the folder here; " if Path(name).is_dir() else ""
            raise RunError(f"there is no run {folder}; {here}{known_runs(folder.parent)}")
        return folder
    newest = newest_run()
    if not newest:
        raise RunError(
            "no trained run in runs/; train one (alexnet-dali train) or name its folder with --run"
        )
    return newest


def newest_run() -> Path | None:
    """Return the folder of the run in runs/ that was saved last."""
    states = sorted(options.RUNS.glob("*/last.pt"), key=lambda path: path.stat().st_mtime)
    return states[-1].parent if states else None


def known_runs(place: Path) -> str:
    """Return the names of the runs in a folder."""
    names = sorted({path.parent.name for name in ("run.json", "last.pt") for path in place.glob(f"*/{name}")})
    if not names:
        return f"{place} has none: train one (alexnet-dali train)"
    more = f" and {len(names) - LISTED} others" if len(names) > LISTED else ""
    return f"{place} has {', '.join(names[:LISTED])}{more}"


def recommend(
    *words: str, data: Path | None = None, run: Path | None = None, machine: options.Machine | None = None
) -> str:
    """Write a command for a shell, with the dataset, run and device where it would choose others by itself.

    data: that of `train`; for other commands only if it is not the one that the run was trained on.
    machine: where to compute; None for a command that has no such options.
    """
    given, training = [program(), *words], words[0] == "train"
    default = Path(os.environ.get("ALEXNET_DALI_DATA") or options.DATA)
    if data and not (training and data == default):
        given += ["--data", str(data)]
    if run and run != newest_run():
        given += ["--run", options.run_name(run)]
    if machine:
        given += device_words(machine, training)
    return " ".join(map(quote, given))


def program() -> str:
    """Return alexnet-dali, or the path by which it was called where PATH does not lead to it."""
    called = sys.argv[0]
    apart = Path(called).name == "alexnet-dali" and not shutil.which("alexnet-dali")
    return called if apart else "alexnet-dali"


def device_words(machine: options.Machine, training: bool) -> list[str]:
    """Return the options for a machine, none where the command would take it by itself."""
    import torch  # for seconds; finding a run goes without

    there = torch.cuda.is_available()
    if machine.gpus:
        return [] if machine.gpus == "0" else ["--gpus", machine.gpus]
    device = machine.device or ("cuda" if there else "cpu")
    own = "cuda" if there or training else "cpu"  # training on a CPU must be asked for
    return [] if device in (own, f"{own}:0") else ["--device", device]


def quote(word: str) -> str:
    """Quote a word for a shell; what cannot be printed becomes the escapes that bash and zsh read in $''."""
    if plain(word) == word:
        return shlex.quote(word)
    return "$'" + plain(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"
