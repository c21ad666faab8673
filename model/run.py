"""Write and read a run's folder: lock, run.json, metrics (metrics.jsonl, TensorBoard)."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from msgspec import Meta, Struct

from model.errors import RunError
from model.recipe import Recipe
from pipeline.atomic import append, create, lock, naming, replacing
from pipeline.schema import Count, Fingerprint, Place, Unfit, convert, need_file, parse, read_json

MetricsRow = dict[str, Any]
OTHER = "another --run (of a baseline: --out)"
Percent = Annotated[float, Meta(ge=0, le=100)]
Amount = Annotated[float, Meta(ge=0, le=1e300)]


class Validation(Struct, tag_field="kind", tag="val"):
    """Hold a metrics row of the evaluation after an epoch."""

    step: Count
    epoch: Amount
    loss: Amount
    top1_err: Percent
    top5_err: Percent


class Training(Validation, tag_field="kind", tag="train"):
    """Hold a metrics row of the training steps since the previous one."""

    img_s: Amount
    lr: Amount = 0.0  # a baseline has no learning rate
    data_time: Amount = 0.0  # nor this


class Data(Struct):
    """Hold which dataset a run was trained on."""

    path: Place
    fingerprint: Fingerprint


class Start(Struct):
    """Hold one start of a run: a run that was resumed has several."""

    command: str
    seed: int | None = None


class Baseline(Struct):
    """Hold the settings of a baseline."""

    baseline: str
    seed: int
    sample: int
    sizes: dict[str, int]
    grid: dict[str, Any]


class About(Struct):
    """Hold the content of run.json: a training has a recipe, a baseline its settings."""

    data: Data
    starts: Annotated[list[Start], Meta(min_length=1)]
    recipe: dict[str, Any] | None = None
    baseline: Baseline | None = None


class RunDirectory:
    """Lock `path` for one training at a time, as a context manager; only the first process uses it."""

    def __init__(self, path: Path, first: bool = True) -> None:
        self.path = path
        if not first:
            return
        self.made = not path.exists()
        with write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            try:
                self.lock = lock(path / "lock")
            except BlockingIOError:
                raise RunError(
                    f"another training is using {path}; wait for it, or give this one {OTHER}"
                ) from None

    def open(self, step: int, epochs: int, description: MetricsRow, copies: Sequence[Path] = ()) -> None:
        """Continue after `step` steps and `epochs` validations; drop later rows, whose state was lost.

        copies: files to copy into the run's folder.
        """
        about, path = self.path / "run.json", self.path / "metrics.jsonl"
        starts = read_about(about)["starts"] if about.exists() else []
        kept_rows = [
            row
            for row in (read_metrics(path) if path.exists() else [])
            if (row["step"] <= step if row["kind"] == "train" else row["epoch"] <= epochs)
        ]
        starts.append(description["starts"])
        files = {file.name: file.read_bytes() for file in copies}
        files[about.name] = json.dumps({**description, "starts": starts}, indent=1).encode() + b"\n"
        files[path.name] = "".join(json.dumps(row) + "\n" for row in kept_rows).encode()
        with write_errors(self.path):
            for name, content in files.items():
                with replacing(self.path / name) as written:
                    written.write(content)
            self.metrics = append(path)
            self.events = Events(self.path / f"events.out.tfevents.{len(starts):010d}")
            self.events.begin(step + 1)

    def add(self, row: MetricsRow) -> None:
        """Append one row of metrics. It must be final: rows are never changed."""
        with write_errors(self.path / "metrics.jsonl"):
            self.metrics.write(json.dumps(row).encode() + b"\n")
            self.metrics.flush()
        with write_errors(self.events.path):
            self.events.add(row)

    def sync(self) -> None:
        """Flush the rows to disk; to be called before the checkpoint that follows them is saved."""
        with write_errors(self.path / "metrics.jsonl"):
            os.fsync(self.metrics.fileno())

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in ("metrics", "events", "lock"):
            if hasattr(self, name):
                with suppress(OSError):  # every row is on disk already, or its error was reported
                    getattr(self, name).close()
        if hasattr(self, "lock") and self.made and not hasattr(self, "metrics"):  # never opened
            with suppress(OSError):
                (self.path / "lock").unlink()
                self.path.rmdir()


class Events:
    """Write metrics for TensorBoard at once: its own writer is a thread that dies of a full disk."""

    def __init__(self, path: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.path, self.file = path, create(path)
        self.records = RecordWriter(self.file)

    def begin(self, start: int) -> None:
        """Mark events of step `start` and later, from earlier starts of this run, as to be ignored."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._write(file_version="brain.Event:2")
        self._write(step=start, session_log=SessionLog(status=SessionLog.START))

    def add(self, row: MetricsRow) -> None:
        """Write each number of a row as KIND/NAME."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        names = [name for name in row if name not in ("kind", "step")]
        values = [Summary.Value(tag=f"{row['kind']}/{name}", simple_value=row[name]) for name in names]
        self._write(step=row["step"], summary=Summary(value=values))

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self.records.flush()

    def close(self) -> None:
        """Close the file."""
        self.records.close()


def read_metrics(path: Path) -> list[MetricsRow]:
    """Return the rows of a metrics.jsonl, without a last line that a kill cut short."""
    try:
        need_file(path)
    except Unfit as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    *lines, _ = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = parse(line, MetricsRow)
            convert(row, Training | Validation)  # type: ignore[arg-type]
        except Unfit as error:
            raise RunError(f"{path}, line {number} is damaged: {error}; remove that line") from None
        rows.append(row)
    return rows


def read_about(path: Path) -> MetricsRow:
    """Return the content of a run.json; FileNotFoundError if there is none, RunError if damaged."""
    try:
        about = read_json(path, MetricsRow)
        if recipe := convert(about, About).recipe:
            Recipe.from_dict(recipe)
    except (Unfit, RunError) as error:
        raise RunError(
            f"{path} is damaged: {error}; move it away: train then writes a new one, and until then "
            "the other commands need --data"
        ) from None
    return about


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn OSErrors of writing a run into RunError naming the file: the error's own, else `path`."""
    try:
        with naming(path):
            yield
    except OSError as error:
        raise RunError(
            f"cannot write {error.filename}: {error.strerror}; what was saved before is kept. Fix that and "
            f"run the same command again, or give {OTHER}"
        ) from None
