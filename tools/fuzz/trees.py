"""Draw ImageNet roots, whole and broken, as plain data, by hypothesis; and write them to the disk."""

import bz2
import gzip
import io
import os
import socket
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from PIL import Image

from pipeline.source import miniature


@dataclass(frozen=True)
class Picture:
    """Represent one of PICTURES."""

    kind: str


@dataclass(frozen=True)
class Data:
    content: bytes


@dataclass(frozen=True)
class Link:
    """Represent a symbolic link; {box} stands for the folder of the root and of what lies outside."""

    target: str


@dataclass(frozen=True)
class Hard:
    """Represent a hard link: another name of a file."""

    target: str


@dataclass(frozen=True)
class Odd:
    """Represent an empty folder, a named pipe or a socket."""

    kind: str


@dataclass(frozen=True)
class Archive:
    members: tuple[tuple[str, "Node"], ...]
    kind: str = "tar"  # or zip
    packed: str = ""  # or gz, bz2
    copies: int = 1  # one behind the other
    cut: int = 0  # bytes that are missing at its end
    format: int = tarfile.PAX_FORMAT


Node = Picture | Data | Link | Hard | Odd | Archive
Tree = dict[str, Node]


def paint(name: str, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.add.outer(np.arange(14), np.arange(11) * 9).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, name, **options)
    return file.getvalue()


def pictures() -> dict[str, bytes]:
    jpeg = paint("JPEG")
    return {
        "jpeg": jpeg,
        "grey": paint("JPEG", "L"),
        "cmyk": paint("JPEG", "CMYK"),
        "progressive": paint("JPEG", progressive=True),
        "png": paint("PNG"),
        "palette": paint("PNG", "P"),
        "gif": paint("GIF"),
        "bmp": paint("BMP"),
        "webp": paint("WEBP"),
        "tiff": paint("TIFF"),
        "ppm": paint("PPM"),
        "half": jpeg[: len(jpeg) // 2],
        "empty": b"",
        "page": b"<!DOCTYPE html><html></html>\n",
        "thumbs": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504),
        "mac": b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(48),
    }


PICTURES = pictures()
GOOD = ("jpeg", "grey", "cmyk", "progressive", "png", "palette", "gif", "bmp", "webp")
KIT = "ILSVRC2012_devkit_t12"
WNIDS = miniature.WNIDS[:3]
ODD_NAMES = (
    "a b", "ä", "x\ny", "x\ry", "[b]x[/b]", "$x_1$", "<i>", "=1+1", "\udcff\udce9", "\x1b[31m", "-rf",
    "CON", "%s{0}",
    "a" * 250, "x.", "~$x", "‮gpj", "x" + "́" * 5, "n00000001", "n01440764.tar", "train", "val", "test",
    "images",
)  # fmt: skip
LEFTOVERS = (
    "Thumbs.db", "desktop.ini", ".DS_Store", "._n1.JPEG", "__MACOSX/._x.JPEG", "__MACOSX/x.JPEG",
    "@eaDir/x.JPEG",
    "lost+found/x", ".ipynb_checkpoints/x.JPEG", "$RECYCLE.BIN/x.JPEG", "System Volume Information/x",
    ".hidden",
    ".Trash-0/x.JPEG", "ehthumbs.db", "README.txt", "md5sums", "LOC_val_solution.csv",
    "LOC_synset_mapping.txt",
    "ILSVRC2012_img_val.tar", "ILSVRC2012_img_train.tar", "x.JPEG.part", "imagenet/train/n1/x.JPEG",
    "fall11_whole.tar",
    "ILSVRC2012_validation_ground_truth.txt", "val_annotations.txt", "words.txt", "wnids.txt",
    "checksum.sha256",
)  # fmt: skip
SPLITS = (
    "train",
    "val",
    "test",
    "valid",
    "validation",
    "Val",
    "TRAIN",
    "training",
    "testing",
    "dev",
    "unlabeled",
)
SUFFIXES = (
    ".JPEG", ".jpg", ".jpe", ".jfif", ".png", ".gif", ".tif", ".ppm", ".webp", ".bmp", "", ".txt", ".tar",
    ".TAR",
    ".tar.gz", ".tgz", ".zip", ".JPEG.tar", ".xml", ".npy",
)  # fmt: skip

names = st.one_of(
    st.sampled_from(ODD_NAMES),
    st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=8).filter(
        lambda x: x not in (".", "..")
    ),
)
images: SearchStrategy[Node] = st.sampled_from([*GOOD, *PICTURES]).map(Picture)
targets = st.sampled_from(
    ["x.JPEG", "../x.JPEG", "..", ".", "/", "{box}/outside/secret.JPEG", "{box}/outside",
        "../../../outside/class",
     "{box}/root/train", "nowhere", "/dev/zero", "/dev/null", "{box}/root", "loop", "pipe", "train",
     "../train", "a\nb"]
)  # fmt: skip
leaves = st.one_of(
    images, images, targets.map(Link), targets.map(Hard), st.sampled_from([Odd("folder"), Odd("pipe"),
        Odd("socket")]),
    st.binary(max_size=20).map(Data), st.just(Data(bytes(3000))),
        st.text(max_size=20).map(lambda x: Data(x.encode("utf-8", "replace"))),
)  # fmt: skip


@st.composite
def archives(draw: DrawFn, inner: SearchStrategy[Node] = leaves) -> Archive:
    places = st.one_of(st.sampled_from(["a.JPEG", "b.JPEG", "./a.JPEG", "x/a.JPEG", "n1/a.JPEG",
        "../a.JPEG", "/a.JPEG", "pipe", "x.JPEG"]),
                       st.sampled_from(LEFTOVERS), names)  # fmt: skip
    members = draw(st.lists(st.tuples(places, inner), max_size=4))
    return spoil(draw, Archive(tuple(members)))


def spoil(draw: DrawFn, archive: Archive) -> Archive:
    """Return an archive in another form, or damaged."""
    how = draw(st.sampled_from(["no", "zip", "gz", "bz2", "copies", "cut", "gnu", "ustar", "more"]))
    if how == "zip":
        return replace(archive, kind="zip")
    if how in ("gz", "bz2"):
        return replace(archive, packed=how)
    if how == "copies":
        return replace(archive, copies=2)
    if how == "cut":
        return replace(archive, cut=draw(st.sampled_from([1, 512, 1024, 5000, 9000, 9900, 10_300])))
    if how in ("gnu", "ustar"):
        return replace(archive, format=tarfile.GNU_FORMAT if how == "gnu" else tarfile.USTAR_FORMAT)
    if how == "more":
        place = draw(st.one_of(names, st.sampled_from(LEFTOVERS)))
        return replace(archive, members=(*archive.members, (place, draw(leaves))))
    return archive


@st.composite
def layouts(draw: DrawFn) -> Tree:
    """Draw one of the layouts that prep knows."""
    classes = WNIDS[: draw(st.integers(1, 3))]
    count, held = draw(st.integers(1, 3)), draw(st.sampled_from([0, 1, 2, 2]))
    suffix = draw(st.sampled_from([".JPEG", ".JPEG", ".jpg", ".png"]))
    train = {wnid: [(f"{wnid}_{k}{suffix}", draw(images)) for k in range(count)] for wnid in classes}
    val = [(f"ILSVRC2012_val_{k + 1:08d}.JPEG", Picture("jpeg")) for k in range(held)]
    kinds = ["folders", "flat", "class tars", "archives", "kaggle", "2010", "bare", "bare tars"]
    kind = draw(st.sampled_from([*kinds, "shards", "hub"]))
    if kind in ("shards", "hub"):
        each = [(name, node, wnid) for wnid, found in train.items() for name, node in found]
        held_out = [(name, node, classes[k % len(classes)]) for k, (name, node) in enumerate(val)]
        packed, members = ("gz", in_hub) if kind == "hub" else ("", in_shard)
        name = "_images_0.tar" + ".gz" * bool(packed)
        return {
            f"train{name}": Archive(members(each), packed=packed),
            f"val{name}": Archive(members(held_out), packed=packed),
        }
    tars: Tree = {f"{wnid}.tar": Archive(tuple(found)) for wnid, found in train.items()}
    if kind == "archives":
        return {"ILSVRC2012_img_train.tar": Archive(tuple(tars.items())),
            "ILSVRC2012_img_val.tar": Archive(tuple(val)),
                f"{KIT}.tar.gz": kit(len(classes), held)}  # fmt: skip
    if kind == "2010":
        return {"ILSVRC2010_images_train.tar": Archive(tuple(tars.items())),
                "ILSVRC2010_images_val.tar": Archive(tuple((f"val/{name.replace('2012', '2010')}",
                node) for name, node in val)),
                "ILSVRC2010_devkit-1.0.tar.gz": kit(len(classes), held, "ILSVRC2010",
                "devkit-1.0")}  # fmt: skip
    top = {"kaggle": "ILSVRC/Data/CLS-LOC/train/", "bare": "", "bare tars": ""}.get(kind, "train/")
    tree: Tree = {f"{top}{wnid}/{name}": node for wnid, found in train.items() for name, node in found}
    if kind in ("class tars", "bare tars"):
        tree = {f"{top}{name}": node for name, node in tars.items()}
    if kind in ("folders", "class tars"):
        tree |= {f"val/{classes[k % len(classes)]}/{name}": node for k, (name, node) in enumerate(val)}
    if kind == "flat":
        tree |= {f"val/{name}": node for name, node in val} | {f"{KIT}.tar.gz": kit(len(classes), held)}
    if kind == "kaggle":
        tree |= {f"ILSVRC/Data/CLS-LOC/val/{name}": node for name, node in val}
        tree["LOC_synset_mapping.txt"] = Data("".join(f"{wnid} word\n" for wnid in classes).encode())
        rows = "".join(
            f"{name[:-5]},{classes[k % len(classes)]} 1 2 3 4\n" for k, (name, _) in enumerate(val)
        )
        tree["LOC_val_solution.csv"] = Data(b"ImageId,PredictionString\n" + rows.encode())
    return tree


Labelled = Sequence[tuple[str, Node, str]]  # a file's name, what it is, its wnid


def in_shard(files: Labelled) -> tuple[tuple[str, Node], ...]:
    labels = {name: Data(str(WNIDS.index(wnid)).encode()) for name, _, wnid in files}
    return tuple(
        member
        for name, node, _ in files
        for member in ((f"{name.partition('.')[0]}.cls", labels[name]), (name, node))
    )


def in_hub(files: Labelled) -> tuple[tuple[str, Node], ...]:
    return tuple((name.replace(".", f"_{wnid}.", 1), node) for name, node, wnid in files)


@dataclass(frozen=True)
class Kit(miniature.Miniature):
    """Represent a development kit for so many images of val."""

    held: int = 0

    def val_labels(self) -> list[int]:
        return [number % self.classes for number in range(self.held)]


@cache
def kit(classes: int, held: int, challenge: str = "ILSVRC2012", folder: str = KIT) -> Data:
    data = Kit(classes=classes, train=1, held=held).devkit(challenge, folder)
    return Data(gzip.compress(data, mtime=0))


@st.composite
def edits(draw: DrawFn, tree: Tree) -> Tree:
    """Draw the same tree with something changed."""
    paths = sorted(tree)
    folders = sorted(
        {str(parent) + "/" for path in paths for parent in Path(path).parents if str(parent) != "."} | {""}
    )
    how = draw(st.sampled_from(
        ["add", "leftover", "rename", "deepen", "rise", "suffix", "remove", "copy", "link", "folder link",
            "node", "split",
         "archive", "spoil", "class"]
    ))  # fmt: skip
    folder = draw(st.sampled_from(folders))
    if not paths or how == "add":
        return {**tree, folder + draw(names): draw(leaves)}
    if how == "leftover":
        return {**tree, folder + draw(st.sampled_from(LEFTOVERS)): draw(leaves | images)}
    if how == "archive":
        return {**tree, folder + draw(names) + draw(st.sampled_from(SUFFIXES)): draw(archives())}
    if how == "class":
        return {
            **tree,
            folder + draw(st.sampled_from([*WNIDS, "n99999999", "dogs"])) + "/x.JPEG": draw(images),
        }
    path = draw(st.sampled_from(paths))
    node, parent, name = tree[path], path.rpartition("/")[0], path.rpartition("/")[2]
    rest = {key: value for key, value in tree.items() if key != path}
    start = parent + "/" if parent else ""
    if how == "rename":
        return {**rest, start + draw(names): node}
    if how == "deepen":
        return {**rest, start + draw(st.sampled_from(["images/", "a/b/", "train/"])) + name: node}
    if how == "rise":
        return {**rest, folder + name: node}
    if how == "suffix":
        return {**rest, path.rpartition(".")[0] + draw(st.sampled_from(SUFFIXES)): node}
    if how == "remove":
        return rest
    if how == "copy":
        return {**tree, folder + name: node}
    if how in ("link", "folder link"):
        target = "{box}/root/" + (path if how == "link" else folder)
        link: Node = Link(target) if draw(st.booleans()) else Hard(target)
        name = draw(st.sampled_from(["loop", "y.JPEG", "z.tar", *WNIDS]))
        return {**tree, draw(st.sampled_from(folders)) + name: link}
    if how == "node":
        other: Node = draw(st.one_of(leaves, archives()))
        return {**rest, path: other}
    if how == "spoil" and isinstance(node, Archive):
        return {**rest, path: spoil(draw, node)}
    old, new = draw(st.sampled_from(["train", "val", "test"])), draw(st.sampled_from(SPLITS))
    return {
        "/".join(new if part == old else part for part in key.split("/")): value
        for key, value in tree.items()
    }


@st.composite
def trees(draw: DrawFn) -> Tree:
    tree = draw(layouts())
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 2, 3, 5]))):
        tree = draw(edits(tree))
    return tree


def build(tree: Tree, root: Path) -> None:
    """Write what of a tree can be on a disk: links first lack their targets, and names can be too long."""
    root.mkdir(parents=True)
    for late in (False, True):
        for name, node in tree.items():
            path = root / name
            if isinstance(node, Hard) != late or os.path.lexists(path):
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if root.resolve() in path.parent.resolve().joinpath("x").parents:
                    put(node, path, str(root.parent))
            except (OSError, ValueError):
                continue


def put(node: Node, path: Path, box: str) -> None:
    if isinstance(node, Link):
        path.symlink_to(node.target.replace("{box}", box))
    elif isinstance(node, Hard):
        target = (
            Path(node.target.replace("{box}", box)) if "{box}" in node.target else path.parent / node.target
        )
        if target.is_file() and Path(box) in target.resolve().parents:
            os.link(target, path, follow_symlinks=False)
    elif isinstance(node, Odd):
        if node.kind == "folder":
            path.mkdir()
        elif node.kind == "pipe":
            os.mkfifo(path)
        else:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))
    else:
        path.write_bytes(contents(node))


def contents(node: Node) -> bytes:
    """Return the bytes of a file."""
    if isinstance(node, Picture):
        return PICTURES[node.kind]
    if isinstance(node, Data):
        return node.content
    if not isinstance(node, Archive):
        return b""
    data = b"".join([(zipped if node.kind == "zip" else tarred)(node)] * node.copies)
    data = data[: max(0, len(data) - node.cut)]
    return (
        gzip.compress(data, 1, mtime=0)
        if node.packed == "gz"
        else bz2.compress(data)
        if node.packed
        else data
    )


def tarred(node: Archive) -> bytes:
    file = io.BytesIO()
    kinds = {"folder": tarfile.DIRTYPE, "pipe": tarfile.FIFOTYPE, "socket": tarfile.CHRTYPE}
    with tarfile.open(fileobj=file, mode="w", format=node.format, errors="surrogateescape") as tar:
        for name, inner in node.members:
            member = tarfile.TarInfo(name)
            data = contents(inner)
            member.size = len(data)
            if isinstance(inner, Link):
                member.type, member.linkname = tarfile.SYMTYPE, inner.target.replace("{box}/", "/")
            elif isinstance(inner, Hard):
                member.type, member.linkname = tarfile.LNKTYPE, inner.target.replace("{box}/", "")
            elif isinstance(inner, Odd):
                member.type = kinds[inner.kind]
            try:
                tar.addfile(member, io.BytesIO(data))
            except ValueError:  # a name that this format cannot hold
                continue
    return file.getvalue()


def zipped(node: Archive) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, inner in node.members:
            archive.writestr(name.encode("utf-8", "replace").decode(), contents(inner))
    return file.getvalue()
