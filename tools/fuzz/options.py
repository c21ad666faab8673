"""Try the command line: with odd values of any option a command ends with a status and a line, in time."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from cli import main
from tools.fuzz.desk import CPU, Desk, clear
from tools.fuzz.files import look
from tools.fuzz.harness import Fault

SECONDS = 30  # of processor time, after which a command is stopped
LONG = {"demo": 3, "bench": 3, "reproduce": 3, "baseline": 5, "train": 10}  # those that may well take longer
OUTPUTS = ("out", "json", "csv", "picture", "submission", "runs")
NUMBERS = (
    "0", "1", "2", "-1", "3", "7", "1.5", "0.5", "", "x", "nan", "inf", "-inf", "1e308", "1e-320", "1e12",
    "-0", "0x10", "1_0",
    "2147483648", "4294967296", "9223372036854775807", "18446744073709551616", "9" * 30, "9" * 5000,
    "\uff11",
    "1,2", " 1", "1e400",
)  # fmt: skip
TEXTS = ("", " ", "-", "--", ".", "..", "x", "a b", "[b]x[/b]", "$x_1$", "<i>", "=1+1", "\udcff",
    "\x1b[31m", "a\nb", "x" * 300,
         "‮x", "%s", "{0}", "None", "*", "[", "**/*", "~", "conv1", "fc8", "conv1,conv2", "0", "cpu",
         "cpu,cpu", "0,1", "cuda:9",
         "meta", "cpu:1", "mps", "last", "0.5,0.5", "nan,1", "n02084071", "1", "-1")  # fmt: skip
INPUTS = ("data", "run", "half", "root", "bad", "val.npz", "features.npy", "safetensors.safetensors",
    "caffe.safetensors", "image.JPEG",
          "data/dataset.json", "run/last.pt", "val.json", "sift", "sift/predictions.npz", "nowhere",
          "data/train", "run/run.json", "val.npz/x")  # fmt: skip
PLACES = ("new", "new.png", "new.pdf", "new.npz", "new.npy", "new.json", "new.safetensors", "a/b/new.png",
    "there", "there.png", "file/x.png",
          "folder", "link.png", "nowhere.png", "/dev/null", "-", "", "ä b.png", "\udcff.png", "a\nb.png",
          "x" * 300, "[b].png", "$x_1$.png", "/dev/full")  # fmt: skip


def leaves(
    command: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that does something, and how it is called."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*words, name))
    else:
        yield words, command


COMMANDS = dict(leaves(main))
SELDOM = (
    ("demo",),
    ("bench",),
    ("report",),
    ("baseline", "sift-fv"),
    ("baseline", "sparse-coding"),
)  # they take long where they have what they need
NAMES = [words for words in COMMANDS for _ in range(1 if words in SELDOM else 6)]


def values(words: tuple[str, ...], option: click.Parameter) -> SearchStrategy[str]:
    """Return what may stand behind an option, as text; {desk} is the folder of the inputs."""
    kind, name = option.type, str(option.name)
    texts = st.sampled_from(TEXTS) | st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=6
    )
    places = st.sampled_from(PLACES)
    inputs = st.sampled_from(INPUTS).map("{{desk}}/{}".format)
    if isinstance(kind, click.Choice):
        return st.sampled_from([*map(str, kind.choices)] * 3 + ["", "x", "VAL"])
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        near = [str(x) for x in (getattr(kind, "min", None), getattr(kind, "max", None)) if x is not None]
        return (
            st.sampled_from([*NUMBERS, *near])
            | st.integers().map(str)
            | st.floats().map(str)
            | st.integers(0, 9).map(str)
        )
    if name.removesuffix("_path").removesuffix("_name") in OUTPUTS or (
        name == "predictions" and words[0] == "eval"
    ):
        return places
    if words[0] == "train" and name == "run_name":
        return places
    return texts if name in ("layer", "gpus", "device", "weights") else inputs | texts


@st.composite
def command_lines(draw: DrawFn) -> tuple[tuple[str, ...], bool, tuple[tuple[str, ...], ...]]:
    """Draw a command, whether what it needs is given before, and options."""
    words = draw(st.sampled_from(NAMES))
    options: list[tuple[str, ...]] = []
    for option in draw(st.lists(st.sampled_from(COMMANDS[words].params), max_size=4)):
        if getattr(option, "is_flag", False):
            options.append((option.opts[0],))
        elif isinstance(option, click.Argument):
            options.append((draw(values(words, option)),))
        else:
            options.append((option.opts[0], draw(values(words, option))))
    return words, draw(st.sampled_from([True, True, True, True, False])), tuple(options)


class Late(BaseException):
    """Represent a command that takes too long."""


class Options:
    """Represent a part whose inputs are the words of a command."""

    inputs = command_lines()
    shrinks = True

    def __init__(self, place: Path) -> None:
        self.desk = Desk(place / "desk")
        self.bases = bases(self.desk)
        self.glance = look(self.desk)
        self.guard = Guard(place)
        signal.signal(signal.SIGPROF, late)

    def attempt(self, value: Any) -> int:
        command, based, options = value
        words = [*command, *(self.bases.get(command, ()) if based else ())]
        words += [word.replace("{desk}", str(self.desk.folder)) for option in options for word in option]
        lay(self.desk.out)
        handlers = {
            number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        signal.setitimer(signal.ITIMER_PROF, LONG.get(command[0], SECONDS))
        self.guard.found = []
        try:
            self.guard.on = True
            result = self.desk.command(*words)
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.guard.on = False
            self.desk.check(result, words)
        except Late:
            if command[0] not in LONG:
                raise Fault("hang", f"slow {command}", f"{words} took more than {SECONDS} s") from None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.guard.on = False
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.chdir(self.desk.out)
            clear(self.desk.out)
        if self.guard.found:
            raise Fault("outside", f"outside {command}", f"{words} wrote {self.guard.found}")
        if look(self.desk) != self.glance:
            self.desk.restore()
            self.glance = look(self.desk)
            raise Fault("outside", f"outside {command}", f"{words} changed its inputs")
        return 1


def late(number: int, frame: FrameType | None) -> None:
    raise Late


def lay(out: Path) -> None:
    """Lay out what outputs meet: a file, a folder, a link to a file and one to nowhere."""
    (out / "there").write_text("older")
    (out / "there.png").write_text("older")
    (out / "file").write_text("older")
    (out / "folder").mkdir()
    (out / "link.png").symlink_to("there.png")
    (out / "nowhere.png").symlink_to("nowhere/x")


def bases(desk: Desk) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """Return by command what it needs to end well and soon."""
    folder = desk.folder
    data, run, image = ("--data", folder / "data"), ("--run", folder / "run", *CPU), folder / "image.JPEG"
    small = ("--width", 0.02, "--batch-size", 8)
    bench = folder / "bench.json"
    few = ("--epochs", 1, "--sample", 200, "--step", 64, "--workers", 1, "--out", "new")
    return {
        ("prep",): ("--imagenet-root", folder / "root", "--out", "new", "--workers", 1),
        ("train",): (*data, "--run", "new", *CPU, *small, "--epochs", 1),
        ("eval",): (*data, *run),
        ("doctor",): data,
        ("bench",): (*data, *CPU, *small, "--seconds", 0.01),
        ("demo",): ("--out", "new"),
        ("predict",): (image, *run),
        ("show", "filters"): run[:2],
        ("show", "curves"): (folder / "run",),
        ("show", "confusion"): run,
        ("show", "activations"): (image, *run),
        ("show", "gradient"): (image, *run),
        ("show", "batch"): (*data, *run[:2]),
        ("features",): (*run, "--out", "new.npy"),
        ("similar",): (image, "--features", folder / "features.npy", *CPU),
        ("ensemble",): (folder / "val.npz", folder / "val.npz", *data),
        ("export",): (*run[:2], "--out", "new.safetensors"),
        ("report",): (folder / "run", *CPU, "--out", "new.html"),
        ("baseline", "sift-fv"): (*data, *few, "--components", 2, "--dimensions", 4),
        ("baseline", "sparse-coding"): (*data, *few, "--words", 4),
        ("reproduce",): ("ilsvrc-2012", *data, *CPU, *small, "--runs", "new", "--dry-run", "--bench", bench),
    }


class Guard:
    """Watch, and forbid, what this process does to files beyond a folder and those for its own use."""

    WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    CHANGES = (
        "os.mkdir",
        "os.remove",
        "os.rmdir",
        "os.truncate",
        "os.chmod",
        "os.chown",
        "os.rename",
        "os.link",
        "os.symlink",
    )

    def __init__(self, folder: Path) -> None:
        self.on, self.found = False, list[str]()
        caches = (Path.home() / ".cache", Path.home() / ".config", Path.home() / ".triton", sys.prefix)
        self.allowed = tuple(map(str, (folder, *caches, tempfile.gettempdir(), "/dev", "/proc")))
        sys.addaudithook(self.see)

    def see(self, event: str, words: tuple[Any, ...]) -> None:
        if not self.on:
            return
        paths: list[Any] = []
        if event == "open" and words[2] & self.WRITES:
            paths = [words[0]]
        elif event in self.CHANGES:
            paths = list(
                words[1:2] if event == "os.symlink" else words[: 1 + (event in ("os.rename", "os.link"))]
            )
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                place = os.path.abspath(os.fsdecode(path))
                whole = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
                if not whole.startswith(self.allowed):
                    self.found.append(f"{event} {whole}")
                    raise PermissionError(13, "forbidden here", whole)
