"""Read a dataset that prep has made, to make another one from it: in another size, or another order."""

from pathlib import Path

from pipeline.dataset import Dataset, open_dataset, read_index, read_names
from pipeline.errors import DataError
from pipeline.source.sample import Sample


def is_prepared(root: Path) -> bool:
    return (root / "dataset.json").is_file() and (root / "train/000000.tar").is_file()


def read_prepared(root: Path) -> tuple[Dataset, dict[str, list[Sample]]]:
    """Read the images of each split in the order that another layout would give them."""
    dataset = open_dataset(root)
    if dataset.store == "raw":
        raise DataError(f"{root} holds raw pixels, no images: give the folder that the images came in")
    splits = {}
    for split, shards in dataset.splits.items():
        paths = [str(root / shard.name) for shard in shards]
        samples = [
            Sample(paths[shard], offset, size, label, name)
            for (shard, offset, size, label), name in zip(
                read_index(dataset, split).tolist(), read_names(dataset, split), strict=True
            )
        ]
        by_class = split == "train"
        splits[split] = sorted(samples, key=lambda each: (by_class and each.label, each.name, *each[:2]))
    return dataset, splits
