"""The run directory: its lock, what the run is (run.json), what it measured (metrics.jsonl, TensorBoard)."""

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

Row = dict[str, Any]
OTHER = "another --run (of a baseline: --out)"
Percent = Annotated[float, Meta(ge=0, le=100)]
Amount = Annotated[float, Meta(ge=0, le=1e300)]


class Validation(Struct, tag_field="kind", tag="val"):
    """A row of metrics after an epoch: what evaluation measured."""

    step: Count
    epoch: Amount
    loss: Amount
    top1_err: Percent
    top5_err: Percent


class Training(Validation, tag_field="kind", tag="train"):
    """A row of metrics of the steps since the one before."""

    img_s: Amount
    lr: Amount = 0.0  # a baseline has neither this
    data_time: Amount = 0.0  # nor this


class Data(Struct):
    path: Place
    fingerprint: Fingerprint


class Start(Struct):
    """How a run was started once."""

    command: str
    seed: int | None = None


class Baseline(Struct):
    """The settings of a baseline."""

    baseline: str
    seed: int
    sample: int
    sizes: dict[str, int]
    grid: dict[str, Any]


class About(Struct):
    """What run.json must hold: of a training its recipe, or of a baseline its settings."""

    data: Data
    starts: Annotated[list[Start], Meta(min_length=1)]
    recipe: dict[str, Any] | None = None
    baseline: Baseline | None = None


class RunDirectory:
    """`path`, locked for one training at a time, as a context manager; only the first process touches it."""

    def __init__(self, path: Path, first: bool = True) -> None:
        self.path = path
        if not first:
            return
        self.made = not path.exists()
        with kept(path):
            path.mkdir(parents=True, exist_ok=True)
            try:
                self.lock = lock(path / "lock")
            except BlockingIOError:
                raise RunError(
                    f"another training is using {path}; wait for it, or give this one {OTHER}"
                ) from None

    def open(self, step: int, epochs: int, description: Row, copies: Sequence[Path] = ()) -> None:
        """Go on after `step` steps and `epochs` validations: rows of a stretch that was lost are dropped.

        copies: files that the run's folder is to have, too.
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
        with kept(self.path):
            for name, content in files.items():
                with replacing(self.path / name) as written:
                    written.write(content)
            self.metrics = append(path)
            self.events = Events(self.path / f"events.out.tfevents.{len(starts):010d}")
            self.events.begin(step + 1)

    def add(self, row: Row) -> None:
        """One row of metrics; what it says of a step must be final, since rows are never changed."""
        with kept(self.path / "metrics.jsonl"):
            self.metrics.write(json.dumps(row).encode() + b"\n")
            self.metrics.flush()
        with kept(self.events.path):
            self.events.add(row)

    def sync(self) -> None:
        """Rows reach the disk: to be called before the checkpoint that has them behind it."""
        with kept(self.path / "metrics.jsonl"):
            os.fsync(self.metrics.fileno())

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in ("metrics", "events", "lock"):
            if hasattr(self, name):
                with suppress(OSError):  # every row was written out; what could not be has been reported
                    getattr(self, name).close()
        if hasattr(self, "lock") and self.made and not hasattr(self, "metrics"):  # nothing came of it
            with suppress(OSError):
                (self.path / "lock").unlink()
                self.path.rmdir()


class Events:
    """The metrics for TensorBoard, written at once: its own writer is a thread that dies of a full disk."""

    def __init__(self, path: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.path, self.file = path, create(path)
        self.records = RecordWriter(self.file)

    def begin(self, start: int) -> None:
        """Events of step `start` and later, of starts of this run before this one, are to be ignored."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._write(file_version="brain.Event:2")
        self._write(step=start, session_log=SessionLog(status=SessionLog.START))

    def add(self, row: Row) -> None:
        """Each number of a row as KIND/NAME."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        names = [name for name in row if name not in ("kind", "step")]
        values = [Summary.Value(tag=f"{row['kind']}/{name}", simple_value=row[name]) for name in names]
        self._write(step=row["step"], summary=Summary(value=values))

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self.records.flush()

    def close(self) -> None:
        self.records.close()


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line that a kill cut short is left out."""
    try:
        need_file(path)
    except Unfit as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    *lines, _ = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = parse(line, Row)
            convert(row, Training | Validation)  # type: ignore[arg-type]
        except Unfit as error:
            raise RunError(f"{path}, line {number} is damaged: {error}; remove that line") from None
        rows.append(row)
    return rows


def read_about(path: Path) -> Row:
    """What a run.json says; FileNotFoundError where there is none."""
    try:
        about = read_json(path, Row)
        if recipe := convert(about, About).recipe:
            Recipe.from_dict(recipe)
    except (Unfit, RunError) as error:
        raise RunError(
            f"{path} is damaged: {error}; move it away: train goes on without it and writes another, and the "
            "other commands need --data then"
        ) from None
    return about


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """What keeps a run from being written, as one line that names the file: the error's own, or `path`."""
    try:
        with naming(path):
            yield
    except OSError as error:
        raise RunError(
            f"cannot write {error.filename}: {error.strerror}; what was saved before is kept. Mend that and "
            f"run the same command again, or give {OTHER}"
        ) from None
