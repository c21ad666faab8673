"""The run directory: its lock, what the run is (run.json), what it measured (metrics.jsonl, TensorBoard)."""

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from model.recipe import RunError

Row = dict[str, Any]


class RunDirectory:
    """`path`, locked for one training at a time, as a context manager; only the first process touches it."""

    def __init__(self, path: Path, first: bool = True) -> None:
        self.path = path
        if not first:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.lock = open(path / "lock", "w")  # noqa: SIM115
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another training is using {path}; wait for it, or give this one its own --run"
            ) from None
        except OSError as error:
            raise RunError(
                f"cannot write to the run directory {path}: {error.strerror}; choose another --run"
            ) from None

    def open(self, step: int, epochs: int, description: Row) -> None:
        """Go on after `step` steps and `epochs` validations: rows of a stretch that was lost are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        about = self.path / "run.json"
        before = json.loads(about.read_text())["starts"] if about.exists() else []
        _replace(
            about, json.dumps({**description, "starts": [*before, description["starts"]]}, indent=1) + "\n"
        )
        path = self.path / "metrics.jsonl"
        rows = read_metrics(path) if path.exists() else []
        kept = [
            row for row in rows if (row["step"] <= step if row["kind"] == "train" else row["epoch"] <= epochs)
        ]
        _replace(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.metrics = open(path, "a")  # noqa: SIM115
        self.events = SummaryWriter(str(self.path), purge_step=step + 1)

    def add(self, row: Row) -> None:
        """One row of metrics; what it says of a step must be final, since rows are never changed."""
        self.metrics.write(json.dumps(row) + "\n")
        for key, value in row.items():
            if key not in ("kind", "step"):
                self.events.add_scalar(f"{row['kind']}/{key}", value, row["step"])

    def flush(self) -> None:
        """Rows reach the disk: to be called before the checkpoint that has them behind it."""
        self.metrics.flush()
        os.fsync(self.metrics.fileno())

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in ("metrics", "events", "lock"):
            if hasattr(self, name):
                getattr(self, name).close()


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line that a kill cut short is left out."""
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
