"""Damage files of ours: whoever reads them works, or says in one line which file it is.

Some damage is followed by new checksums, as of somebody who edits by hand and knows what he does.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from cli.compose import predictions, trained
from cli.options import Machine
from model import checkpoint
from model.exchange import weights
from model.run import read_metrics
from pipeline.dataset import has_labels, open_dataset, read_index, read_names
from pipeline.statistics import Statistics
from tools.fuzz.damage import changes, damage, edit, edits
from tools.fuzz.desk import Desk, clear
from tools.fuzz.documents import FORMS, RECORD, values
from tools.fuzz.harness import Fault, one_line

# Who reads them: functions of this file and, less often because they are slow, commands by names in Desk
READERS: dict[str, tuple[str, str]] = {
    "data/dataset.json": ("dataset", "prep verify repair train eval ensemble doctor baseline begin batch"),
    "data/statistics.npz": ("dataset", "prep repair eval train begin batch"),
    "data/train/samples.npy": ("dataset", "prep repair train begin baseline batch"),
    "data/val/samples.npy": ("dataset", "prep eval predict_split begin repair"),
    "data/val/names.txt": ("dataset", "eval predict_split similar repair"),
    "data/val/000000.idx": ("dataset", "verify repair"),
    "data/val/000000.tar": ("", "verify eval predict_split repair similar"),
    "data/train/000000.tar": ("", "verify begin batch baseline repair"),
    "data/rejected.jsonl": ("", "prep verify"),
    "half/.work/plan.json": ("", "go_on"),
    "half/.work/train-000000.npz": ("", "go_on"),
    "half/.work/val-000000.npz": ("", "go_on"),
    "half/val/samples.npy": ("", "go_on"),
    "run/run.json": ("open", "train more eval predict_split report curves export features similar"),
    "run/dataset.json": ("open", "eval predict export report similar predict_split"),
    "run/statistics.npz": ("open", "eval predict export features"),
    "run/metrics.jsonl": ("metrics", "curves report train more"),
    "run/last.pt": ("state open", "eval predict train more export filters features report"),
    "run/previous.pt": ("", "train"),
    "safetensors.safetensors": ("weights open_safetensors", "eval_weights begin"),
    "caffe.safetensors": ("weights open_caffe", "eval_caffe"),
    "torchvision.safetensors": ("weights", ""),
    "val.npz": ("predictions", "ensemble confusion"),
    "features.npy": ("", "similar"),
    "features.json": ("", "similar"),
    "features.txt": ("", "similar"),
    "sift/run.json": ("", "baseline"),
    "sift/result.json": ("", "baseline"),
    "sift/predictions.npz": ("", "baseline"),
    "sift/classifier.pt": ("", "baseline"),
    "sift/codebook.npz": ("", "baseline"),
    "sift/metrics.jsonl": ("", "baseline"),
    "sift/val/000000.npy": ("", "baseline"),
    "bench.json": ("", "reproduce"),
    "root/ILSVRC2012_devkit_t12.tar.gz": ("", "repair"),
}  # fmt: skip


def readers(name: str) -> SearchStrategy[tuple[str, str]]:
    """Draw a reader of a file: ten times as often a function as a command, and seldom the slow report."""
    functions, commands = (words.split() for words in READERS[name])
    chosen = [word for word in commands if word != "report"] * 4 + ["report"] * ("report" in commands)
    return st.tuples(st.just(name), st.sampled_from(functions * 40 + chosen))


SEALED = ("samples.npy", "names.txt", "statistics.npz", ".idx")


class Files:
    """Represent a part whose inputs are a file, who reads it, its damage, whether checksums follow."""

    inputs = st.tuples(
        st.sampled_from([name for name in READERS for _ in range(1 + 2 * bool(READERS[name][0]))]).flatmap(
            readers
        ),
        st.lists(edits(values), min_size=1, max_size=3) | st.lists(changes, min_size=1, max_size=3),
        st.booleans(),
    )
    shrinks = True

    def __init__(self, place: Path) -> None:
        self.desk = Desk(place / "desk")
        self.folder = self.desk.folder
        self.glance = look(self.desk)

    def attempt(self, value: Any) -> int:
        (name, reader), damages, sealed = value
        path = self.folder / name
        if not path.exists():  # no baselines here
            return 0
        self.spoil(path, damages)
        seal = self.folder / "data/dataset.json"
        if sealed and name.startswith("data/") and name.endswith(SEALED):
            self.reseal(seal, path)
        damaged = look(self.desk)
        try:
            self.read(reader, path)
            changed = [each for each in look(self.desk).items() if damaged.get(each[0]) != each[1]]
            if changed and reader not in ("prep", "verify", "repair", "go_on", "train", "more", "baseline"):
                raise Fault("outside", f"{reader} wrote", f"{reader} wrote {changed}")
        finally:
            if look(self.desk) != self.glance:
                self.desk.restore()
                self.glance = look(self.desk)
            clear(self.desk.out)
        return 1

    def spoil(self, path: Path, damages: list[Any]) -> None:
        data = path.read_bytes()
        if hasattr(damages[0], "what"):
            path.write_bytes(damage(data, damages))
            return
        read, write = (
            RECORD
            if ".work/" in str(path) and path.suffix == ".npz"
            else FORMS.get(path.suffix, FORMS[".idx"])
        )
        content = read(data)
        try:
            for each in damages:
                content = edit(content, each)
            data = write(content)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError):
            data = data[:-1]  # what this form of file cannot hold
        path.write_bytes(data)

    def reseal(self, seal: Path, path: Path) -> None:
        content = json.loads(seal.read_bytes())
        name = str(path.relative_to(self.folder / "data"))
        if name in content["files"]:
            content["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
            seal.write_text(json.dumps(content))

    def read(self, reader: str, path: Path) -> None:
        if words := self.desk.commands.get(reader):
            self.desk.check(self.desk.command(*words), words, f"{self.folder.name}/", path.name)
        else:
            one_line(lambda: getattr(self, f"read_{reader}")(path), str(self.folder))

    def read_dataset(self, path: Path) -> None:
        dataset = open_dataset(self.folder / "data")
        for split in dataset.splits:
            read_index(dataset, split)
            read_names(dataset, split)
            has_labels(dataset, split)
        Statistics.load(dataset.root / "statistics.npz")

    def read_metrics(self, path: Path) -> None:
        read_metrics(path)

    def read_state(self, path: Path) -> None:
        checkpoint.latest(path.parent, lambda text: None)

    def read_open(self, path: Path) -> None:
        machine = Machine(device="cpu", workers=1)
        trained.open_run(str(path if path.suffix == ".safetensors" else path.parent), "last", machine)

    read_open_safetensors = read_open_caffe = read_open

    def read_weights(self, path: Path) -> None:
        weights.read(path)

    def read_predictions(self, path: Path) -> None:
        predictions.read(path)


def look(desk: Desk) -> dict[str, tuple[int, ...]]:
    """Return each file's size, time and inode, but for what is output."""
    files: dict[str, tuple[int, ...]] = {}
    for folder, folders, names in os.walk(desk.folder):
        folders[:] = [name for name in folders if Path(folder, name) != desk.out]
        for name in names:
            about = os.lstat(os.path.join(folder, name))
            files[os.path.join(folder, name)] = (about.st_size, about.st_mtime_ns, about.st_ino)
    return files
