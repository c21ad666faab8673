"""Write an ImageNet in miniature as shards, as the Hugging Face hub has the real one in three forms."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.source.miniature import WNIDS, File, Miniature, tar, write


def write_webdataset(root: Path, *, numbers_only: bool = False, **counts: Any) -> None:
    """Write tars as those of timm/imagenet-1k-wds; `numbers_only`: without what says more than a number."""
    small = Miniature(**counts)
    splits = {"train": (small.train_files(), 4, 2), "validation": (small.val_files(), 2, 1)}
    for split, (files, digits, count) in splits.items():
        for number, part in enumerate(divide(list(files), count)):
            path = root / f"imagenet1k-{split}-{number:0{digits}d}.tar"
            write(path, tar(webdataset(part, numbers_only)))


def divide(files: Sequence[File], count: int) -> list[Sequence[File]]:
    """Divide files into so many parts, as if they were shuffled."""
    return [files[number::count] for number in range(count)]


def webdataset(files: Sequence[File], numbers_only: bool = False) -> Iterator[tuple[str, bytes]]:
    """Yield the members of a shard."""
    for number, (name, label, data) in enumerate(files):
        key = f"{number:06d}" if numbers_only else name.removesuffix(".JPEG")
        about = {"filename": f"{WNIDS[label]}/{name}", "height": 1, "label": label, "width": 1}
        yield f"{key}.cls", str(label).encode()
        yield f"{key}.jpg", data
        if not numbers_only:
            yield f"{key}.json", json.dumps(about).encode()
