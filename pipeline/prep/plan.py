"""Plan which image goes into which shard: it follows from the source and the settings alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import simplejpeg

from pipeline.atomic import replacing
from pipeline.dataset import Made
from pipeline.errors import DataError
from pipeline.prep.shard import Task
from pipeline.schema import Unfit, convert, read_json
from pipeline.source.find import Source

# A shard of ImageNet is some 50 MB, or 200 MB raw; a small set still has enough shards for every core.
PER_SHARD, FEWEST_PER_SHARD, SHARDS = 1024, 64, 32
PLAN = "plan.json"


def plan(source: Source, size: str, store: str, seed: int, exif: str, work: Path) -> list[Task]:
    """Return the shards in order: train is shuffled as a whole; val and test keep the source's order."""
    tasks = []
    for split, samples in source.splits.items():
        count = len(samples)
        order = np.random.default_rng(seed).permutation(count) if split == "train" else np.arange(count)
        step = min(PER_SHARD, max(FEWEST_PER_SHARD, -(-count // SHARDS)))
        for number, first in enumerate(range(0, count, step)):
            part = tuple(samples[place] for place in order[first : first + step])
            tasks.append(Task(split, number, first, size, store, exif, part, work))
    return tasks


def describe_preparation(
    source: Source, size: str, store: str, seed: int, exif: str, tasks: list[Task]
) -> dict[str, Any]:
    """Return what decides the bytes of the dataset, whichever layout the images come in."""
    digest = hashlib.sha256(json.dumps([category.wnid for category in source.classes]).encode())
    for task in tasks:
        images = [(sample.label, sample.name) for sample in task.samples]
        digest.update(json.dumps([task.split, task.number, task.first, images]).encode())
    return {
        "source": source.kind,
        "size": size,
        "store": store,
        "seed": seed,
        "exif": exif,
        "images": digest.hexdigest(),
        "pillow": PIL.__version__,
        "simplejpeg": simplejpeg.__version__,
    }


def begin(work: Path, made: dict[str, Any]) -> None:
    """Write the settings down, or compare them with those of the run that began this dataset."""
    path = work / PLAN
    if not path.exists():
        with replacing(path) as file:
            file.write(json.dumps(made).encode())
    try:
        before = read_json(path, dict[str, Any])
        convert(before, Made)
    except Unfit as error:
        raise DataError(f"{path} is damaged: {error}; remove {work} and prepare from the start") from None
    refuse_other(work.parent, before, made)


def refuse_other(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise DataError if a dataset was started with other images, settings or versions."""
    before = {"exif": "ignore"} | before  # the default before the option existed
    for name in ("size", "store", "seed", "exif", "images", "pillow", "simplejpeg"):
        if before.get(name) != now[name]:
            what = "other images" if name == "images" else f"{name} {before.get(name)}, not {now[name]}"
            raise DataError(f"{out} was started with {what}: repeat that, or choose another --out")
