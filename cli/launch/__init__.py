"""Start the command line with our own packages; another one that is in the way is named in one line.

`pipeline`, `model` and `cli` are common names, and Python takes each from the first folder of its path that
has it. The console script calls this package `alexnet_dali` (see pyproject.toml), a name of its own, so
that it starts even where `cli` is somebody else's. It imports the standard library only.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

NAMES = ("pipeline", "model", "cli")


def main() -> None:
    """Run the command line: the console script."""
    check()
    import_module("cli").main()


def check() -> None:
    """End the process, with one line that says why, if Python would import other packages than our own."""
    ours = next(folder for folder in Path(__file__).parents if (folder / "pipeline").is_dir())
    for name in NAMES:
        spec = find_spec(name)  # imports nothing
        if spec and os.path.realpath(spec.origin or "") != os.path.realpath(ours / name / "__init__.py"):
            place = next(iter(spec.submodule_search_locations or ()), spec.origin or "")  # a folder or a file
            text = f"{spec.origin or place!r} is in the way of alexnet-dali's own package {name}"
            sys.exit(f"Error: {text}: {_remedy(os.path.dirname(place))}")


def _remedy(folder: str) -> str:
    """Return what to do about a folder that Python searches before ours."""
    listed = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if os.path.realpath(folder) in map(os.path.realpath, listed):
        return f"take {folder!r} off PYTHONPATH"
    if os.path.realpath(folder) == os.getcwd():
        return "start from another folder"
    return "install alexnet-dali in a virtual environment of its own"
