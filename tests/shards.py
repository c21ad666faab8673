"""What tests of shards share."""

from functools import partial
from pathlib import Path
from typing import Any

from pipeline.dataset import Dataset, read_index, read_names
from pipeline.prep.unpack import unpack
from pipeline.source.find import Source, find_source
from pipeline.source.miniature import Miniature, jpeg


def content(dataset: Dataset) -> dict[str, Any]:
    """What a dataset has of train and val: shards by their checksums, names and labels."""
    return {
        split: (dataset.splits[split], read_names(dataset, split), read_index(dataset, split).tolist())
        for split in ("train", "val")
    }


def photo(number: int) -> bytes:
    return jpeg(Miniature().image(0, number % 40, number))


def labelled(source: Source, split: str = "train") -> dict[str, str]:
    """Names of images and the wnids of their classes."""
    return {each.name: source.classes[each.label].wnid for each in source.splits[split]}


def look(root: Path, out: Path, val_fraction: float | None = None) -> Source:
    return find_source(root, val_fraction, unpack=partial(unpack, out=out, workers=1))
