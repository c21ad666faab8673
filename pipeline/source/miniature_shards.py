"""Write an ImageNet in miniature as shards, as the Hugging Face hub has the real one in three forms."""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.source.miniature import WNIDS, File, Miniature, tar, write


def write_webdataset(root: Path, *, numbers_only: bool = False, **counts: Any) -> None:
    """Write tars as those of timm/imagenet-1k-wds; `numbers_only`: a label is a number alone."""
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


def write_hub(root: Path, **counts: Any) -> None:
    """Write archives as those of ILSVRC/imagenet-1k."""
    small = Miniature(**counts)
    for number, part in enumerate(divide(list(small.train_files()), 2)):
        write(root / f"data/train_images_{number}.tar.gz", gzip.compress(tar(hub(part)), 1, mtime=0))
    write(root / "data/val_images.tar.gz", gzip.compress(tar(hub(small.val_files())), 1, mtime=0))
    if small.test:
        files = ((name, data) for name, _, data in small.test_files())
        write(root / "data/test_images.tar.gz", gzip.compress(tar(files), 1, mtime=0))


def hub(files: Iterable[File]) -> Iterator[tuple[str, bytes]]:
    """Yield files under the names that the hub gives them, which end with the class."""
    for name, label, data in files:
        yield name.replace(".JPEG", f"_{WNIDS[label]}.JPEG"), data


def write_parquet(root: Path, *, names: Sequence[str] = WNIDS, **counts: Any) -> None:
    """Write parquet files as those of ILSVRC/imagenet-1k."""
    small = Miniature(**counts)
    splits = {"train": (small.train_files(), 2), "validation": (small.val_files(), 1)}
    if small.test:
        splits["test"] = (((name, -1, data) for name, _, data in small.test_files()), 1)
    for split, (files, count) in splits.items():
        for number, part in enumerate(divide(list(files), count)):
            path = root / f"data/{split}-{number:05d}-of-{count:05d}.parquet"
            write_table(path, part, names[: small.classes])


def write_table(path: Path, files: Iterable[File], names: Sequence[str], rows: int = 100) -> None:
    """Write a parquet file with so many rows in a group, and the metadata of the hub."""
    import pyarrow
    import pyarrow.parquet

    listed = [({"bytes": data, "path": name}, label) for name, label, data in files]
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    schema = pyarrow.schema(
        [("image", image), ("label", pyarrow.int64())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pyarrow.table([[row[0] for row in listed], [row[1] for row in listed]], schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=rows)
