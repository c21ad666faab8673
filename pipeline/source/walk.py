"""Walk through a folder at any depth: links are read where they stay inside the root, pipes never."""

import os
import stat
from collections.abc import Collection, Sequence

from pipeline.dataset import SPLITS, WORK
from pipeline.errors import DataError
from pipeline.source.sample import OUTSIDE, Found, LeftOut, Sample, is_litter, one_line

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
NOWHERE = "a link that leads nowhere"
# Files that mark our outputs; and all, beside temporary files, that a dataset may hold before it is finished.
OURS = ({"dataset.json", "statistics.npz"}, {"run.json", "metrics.jsonl"})
UNFINISHED = {WORK, *SPLITS, "statistics.npz", "rejected.jsonl", "flawed.jsonl"}


class Walk:
    """Represent a walk through a folder; `found` is what lies there.

    `roots`: real paths; a link may lead to what lies below one of them, or below the folder itself.
    """

    def __init__(self, folder: str, roots: Sequence[str]) -> None:
        real = os.path.realpath(folder)
        self.found = Found()
        self.ours = False  # whether there is an output of ours, which counts as absent
        self.roots = (*roots, real)
        self.seen = {real, *_above(real)}  # each folder is read once, so that links cannot lead in circles
        self.todo = [(folder, real)]

    def run(self) -> None:
        """Walk to the bottom of every folder."""
        while self.todo:
            folder, real = self.todo.pop()
            for entry in self._entries(folder):
                if entry.is_symlink():
                    self._link(entry)
                elif entry.is_dir():
                    self._enter(entry.path, os.path.join(real, entry.name))
                else:
                    self._file(entry)

    def look(self, known: Collection[str]) -> dict[str, str]:
        """Look at what lies directly in the folder, but for `known` names; return its folders by name."""
        folders = {}
        for entry in self._entries(self.todo.pop()[0]):
            if entry.name in known:
                continue
            if entry.name.lower().endswith(".tar") and os.path.isfile(entry.path):
                self.found.archives.append(entry.path)  # a link to one may lead anywhere, too
            elif not os.path.isdir(entry.path):
                self._link(entry) if entry.is_symlink() else self._file(entry)
            elif self._enter(entry.path, os.path.realpath(entry.path)):
                folders[entry.name] = entry.path
        return folders

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """Return what lies in a folder and counts; links come behind what is there itself."""
        entries = scan(folder)
        if is_ours({entry.name for entry in entries}):
            self.ours = True
            return []
        counted = [entry for entry in entries if not is_litter(entry.name)]
        self.found.passed += len(entries) - len(counted)
        return sorted(counted, key=os.DirEntry.is_symlink)

    def _link(self, entry: os.DirEntry[str]) -> None:
        real = os.path.realpath(entry.path)
        inside = any(real == root or real.startswith(root.rstrip("/") + "/") for root in self.roots)
        if not os.path.exists(entry.path):
            self._file(entry, NOWHERE)
        elif not entry.is_dir():
            self._file(entry, "" if inside else OUTSIDE)
        elif inside:
            self._enter(entry.path, real)
        else:
            self._leave(entry.path, "a link to a folder outside the root: put the folder itself there")

    def _enter(self, path: str, real: str) -> bool:
        """Add a folder to those to be read; return False if it is one already."""
        if real in self.seen:
            self._leave(path, "a link to a folder that is read under another name")
            return False
        self.seen.add(real)
        self.todo.append((path, real))
        return True

    def _file(self, entry: os.DirEntry[str], fault: str = "") -> None:
        if fault != NOWHERE and not entry.is_file():
            fault = f"a link to {kind(entry.path)}" if entry.is_symlink() else kind(entry.path)
        if entry.name.lower().endswith(".tar") and not fault:
            self.found.archives.append(entry.path)
        else:
            self.found.add(Sample(entry.path, 0, -1, -1, one_line(entry.name), fault))

    def _leave(self, path: str, reason: str) -> None:
        self.found.left.append(LeftOut(path, one_line(os.path.basename(path)), reason))


def scan(folder: str) -> list[os.DirEntry[str]]:
    """Return what lies directly in a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from None


def holds_only_ours(folder: str, depth: int = 3) -> bool:
    """Tell whether there is nothing in a folder but outputs of ours, as in data/ and runs/."""
    try:
        entries = [entry for entry in scan(folder) if not is_litter(entry.name) or entry.name == WORK]
    except DataError:
        return False
    if is_ours({entry.name for entry in entries}):
        return True
    if depth == 0 or not entries:
        return False
    return all(
        entry.is_dir(follow_symlinks=False) and holds_only_ours(entry.path, depth - 1) for entry in entries
    )


def is_ours(names: set[str]) -> bool:
    """Tell whether a folder that holds these is a dataset or a run that one of our commands made."""
    unfinished = all(name in UNFINISHED or name.endswith(".tmp") for name in names)
    return any(marks <= names for marks in OURS) or (WORK in names and unfinished)


def kind(path: str) -> str:
    """Return what a path that is neither a file nor a folder leads to."""
    try:
        return KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "no file")
    except OSError:
        return "no file"


def _above(real: str) -> set[str]:
    parts = real.split("/")
    return {"/".join(parts[:count]) or "/" for count in range(1, len(parts))}
