"""Try roots: prep makes a dataset that accounts for every entry, or says in one line what it cannot read."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from pipeline.dataset import Dataset
from pipeline.prep import prepare
from pipeline.prep.unpack import unpack
from pipeline.source.find import Source, find_source
from pipeline.source.sample import is_litter
from pipeline.source.sample import one_line as one_line_of
from tools.fuzz.harness import Fault, compare, in_this_process, one_line, snapshot
from tools.fuzz.trees import PICTURES, build, trees

# Files that say what the images are
ABOUT = ("devkit", "LOC_", "ground_truth", "solution", "mapping")


class Roots:
    """Represent a part whose inputs are a tree, --out, what is held out (None: what fits), the store."""

    inputs = st.tuples(
        trees(),
        st.sampled_from(["out", "out", "out", "root/out", "root/train/out"]),
        st.sampled_from([None, None, None, 0.5]),
        st.sampled_from(["256", "256", "original", "raw"]),
    )
    shrinks = True

    def __init__(self, place: Path) -> None:
        self.box = place / "box"
        in_this_process()

    def attempt(self, value: Any) -> int:
        tree, place, fraction, size = value
        if fraction is None and not any("val" in path for path in tree):
            fraction = 0.3
        box = self.box
        shutil.rmtree(box, ignore_errors=True)
        build(tree, box / "root")
        (box / "outside/class").mkdir(parents=True)
        for name in ("secret.JPEG", "class/x.JPEG"):
            (box / "outside" / name).write_bytes(PICTURES["jpeg"])
        out = box / place
        before = snapshot(box, leave=out)
        made = one_line(lambda: self.prepare(out, fraction, size), str(box))
        compare(before, snapshot(box, leave=out))
        if made:
            account(box / "root", out, *made)
        return 1

    def prepare(self, out: Path, fraction: float | None, size: str) -> tuple[Source, Dataset]:
        source = find_source(self.box / "root", fraction, unpack=partial(unpack, out=out, workers=1))
        kept, store = ("256", "raw") if size == "raw" else (size, "jpeg")
        return source, prepare.prepare(source, out, size=kept, store=store, workers=1, max_rejected=1)


def account(root: Path, out: Path, source: Source, dataset: Dataset) -> None:
    """Raise a Fault that names an entry which is neither used nor listed nor one to be passed over."""
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    samples = [sample for found in source.splits.values() for sample in found]
    known = Known(samples, rows)
    places = [(sample.path, sample.offset) for sample in samples]
    if len(set(places)) < len(places):
        raise Fault("unaccounted", "used twice", f"used twice: {sorted(places)}")
    of_splits = sum("left_out" not in row for row in rows)
    if sum(map(dataset.samples, dataset.splits)) != len(samples) - of_splits:
        raise Fault("unaccounted", "sum", f"{len(samples)} images, {of_splits} rejected, {dataset.splits}")
    if (passed := sum(count_passed(root, out, known))) > dataset.made["passed_over"]:
        raise Fault("unaccounted", "passed over", f"{dataset.made['passed_over']} passed over, not {passed}")
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) != out]
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in files + links:
            path = Path(folder, name)
            if passed_over(path.relative_to(root)) or any(word in name for word in ABOUT):
                continue
            if not known.has(path):
                raise Fault(
                    "unaccounted", f"unaccounted {what(path)}", f"unaccounted: {path}\n{source.kind}\n{rows}"
                )


class Known:
    """Hold what became of which file, and of which member of an archive."""

    def __init__(self, samples: list[Any], rows: list[dict[str, Any]]) -> None:
        used = [(sample.file, sample.offset, sample.name) for sample in samples]
        listed = [(row["file"], row.get("offset", 0), row.get("name") or "") for row in rows]
        self.members = {(path, offset) for path, offset, _ in used + listed}
        self.names = {(path, name) for path, _, name in used + listed}
        self.whole = {path for path, _, name in listed if last(path) == name or Path(path).is_dir()}
        self.whole |= {sample.path for sample in samples if sample.size < 0}
        self.archives = {sample.file for sample in samples if sample.size >= 0}
        self.listed = {path for path, *_ in listed}
        self.real = {os.path.realpath(path) for path in self.whole}
        self.through = tuple(path for path, *_ in used + listed)

    def has(self, path: Path) -> bool:
        text = str(path)
        if text in self.whole or (os.path.exists(path) and os.path.realpath(path) in self.real):
            return True
        if any(place.startswith(text + "/") for place in self.through):  # a link to a folder
            return True
        if any(os.fspath(parent) in self.listed for parent in path.parents):  # a folder that is not read
            return True
        inside = next(
            (
                each
                for each in self.archives | self.listed
                if os.path.realpath(each) == os.path.realpath(text)
            ),
            None,
        )
        if inside is None:
            return False
        if missing := [
            name for name, offset in members(path.read_bytes()) if not self.has_member(inside, name, offset)
        ]:
            raise Fault(
                "unaccounted", "unaccounted member", f"unaccounted: {missing} of {path}\n{sorted(self.names)}"
            )
        return True

    def has_member(self, path: str, name: str, offset: int) -> bool:
        label = path in self.archives and name.lower().endswith((".cls", ".json"))
        known = (path, offset) in self.members or (path, last(name)) in self.names
        return known or label or passed_over(Path(name))


def members(data: bytes, start: int = 0) -> Iterator[tuple[str, int]]:
    """Yield each file in a tar, and in the tars in it, and where it begins."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", ignore_zeros=True) as tar:
            entries = tar.getmembers()
    except tarfile.TarError:
        return
    for member in entries:
        inner = data[member.offset_data : member.offset_data + member.size] if member.isreg() else b""
        parts = list(members(inner, start + member.offset_data)) if member.name.endswith(".tar") else []
        if parts:
            yield from parts
        elif not member.isdir():
            yield member.name, start + member.offset_data


def count_passed(root: Path, out: Path, known: Known) -> Iterator[int]:
    """Yield how many hidden files and the like are in each folder, where it is read."""
    for folder, folders, files in os.walk(root):
        yield sum(map(is_litter, folders + files))
        read = [name for name in folders if not is_litter(name) and Path(folder, name) != out]
        folders[:] = [name for name in read if os.path.join(folder, name) not in known.listed]


def last(path: str) -> str:
    """Return the last part of a path, as prep writes it."""
    return one_line_of(path.rpartition("/")[2])


def passed_over(path: Path) -> bool:
    return any(map(is_litter, path.parts))


def what(path: Path) -> str:
    return "link" if path.is_symlink() else "file" if path.is_file() else "special"
