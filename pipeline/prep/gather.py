"""Gather the records of the shards into the files beside the shards."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.atomic import replacing
from pipeline.dataset import Shard, index_name
from pipeline.prep.shard import Record, Task
from pipeline.source.sample import LeftOut
from pipeline.statistics import Statistics, Sums


class Gathered:
    """Hold what the files beside the shards need of the records, which are added a split at a time."""

    def __init__(self, out: Path, side: int) -> None:
        self.out = out
        self.sums = Sums(side)
        self.splits: dict[str, tuple[Shard, ...]] = {}
        self.rejected: list[dict[str, Any]] = []
        self.flawed: list[dict[str, Any]] = []
        self.files: dict[str, str] = {}  # name -> SHA-256

    def add(self, split: str, tasks: Iterable[Task]) -> None:
        """Read the records of a split's shards; write its samples.npy and names.txt."""
        shards, rows, names = [], [], []
        for task in tasks:
            record = Record.load(task.made(".npz"), task.side)
            shards.append(Shard(task.name, len(record.rows), record.bytes, record.sha256))
            rows.append(record.rows)
            names += record.names
            self.rejected += record.rejected
            self.flawed += record.flawed
            self.sums.merge(record.sums.images, record.sums.pixels, record.sums.products)
        self.splits[split] = tuple(shards)
        with replacing(self.out / split / "samples.npy") as file:
            np.save(file, np.concatenate(rows))
        with replacing(self.out / split / "names.txt") as file:
            file.write("".join(name + "\n" for name in names).encode("utf-8", "surrogateescape"))
        self._hash(f"{split}/samples.npy", f"{split}/names.txt", *map(index_name, shards))

    def write_rejected(self, left: Iterable[LeftOut]) -> Path:
        """List all files that are not used: images that cannot be, and what is `left` out as no image."""
        path = self.out / "rejected.jsonl"
        lines = self.rejected + [
            {
                "left_out": True,
                "name": each.name,
                "file": each.path,
                "offset": each.offset,
                "reason": each.reason,
            }
            for each in left
        ]
        with replacing(path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        return path

    def write_flawed(self) -> dict[str, int]:
        """List the images with harmless flaws; return how many have each flaw."""
        if self.flawed:
            with replacing(self.out / "flawed.jsonl") as file:
                file.write("".join(json.dumps(line) + "\n" for line in self.flawed).encode())
        return dict(Counter(line["flaw"] for line in self.flawed))

    def write_statistics(self) -> None:
        """Write statistics.npz."""
        Statistics.of(self.sums).save(self.out / "statistics.npz")
        self._hash("statistics.npz")

    def _hash(self, *names: str) -> None:
        for name in names:
            with open(self.out / name, "rb") as file:
                self.files[name] = hashlib.file_digest(file, "sha256").hexdigest()
