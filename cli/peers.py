"""What a user would have used instead, each in a process of its own: the other half of bench --compare."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cli import loaders, plain
from cli.bench import Meter, Work, rate
from cli.loaders import Batch, Job, loader


@dataclass(frozen=True)
class Peer:
    """How it works, with which module, and one that resizes originals; the kinds of dataset it takes."""

    work: Callable[[Job], Iterator[Batch]]
    module: str = "torch"
    resizer: str = "cv2"
    kinds: tuple[str, ...] = ("256", "original")


pieces: Work  # in a peer's process, its own
ANY = ("256", "original", "raw")
PEERS = {
    "DataLoader, Pillow": Peer(partial(loader, crop=loaders.crop_pillow, floats=True), resizer="PIL"),
    "DataLoader, OpenCV": Peer(partial(loader, crop=loaders.crop_opencv, floats=True), "cv2"),
    "DataLoader, simplejpeg": Peer(partial(loader, crop=loaders.crop_simplejpeg, floats=True)),
    "DataLoader, by uint8": Peer(partial(loader, crop=loaders.crop_simplejpeg, floats=False), kinds=ANY),
    "DataLoader, uint8 alone": Peer(
        partial(loader, crop=loaders.crop_quickly, floats=False, left=True), kinds=ANY
    ),
    "webdataset": Peer(loaders.webdataset, "webdataset"),
    "FFCV": Peer(loaders.ffcv, "ffcv", kinds=("256", "raw")),
    "plain step": Peer(plain.steps, resizer="torch", kinds=ANY),
}
PACKAGES = {"cv2": "opencv-python-headless"}  # where a module is not named as its package


@contextmanager
def started(job: Job) -> Iterator[tuple[dict[str, Meter], dict[str, str]]]:
    """Those that run here, each in a process that waits until it is asked; and why the others do not."""
    processes: dict[str, ProcessPoolExecutor] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="alexnet-dali-"))
        job = replace(job, folder=Path(folder))
        for name, peer in PEERS.items():
            needed = [peer.module, *([peer.resizer] if job.kind == "original" else [])]
            if job.kind not in peer.kinds:
                continue
            if absent := [PACKAGES.get(module, module) for module in needed if not find_spec(module)]:
                missing[name] = f"pip install {absent[0]}"
                continue
            process = ProcessPoolExecutor(1, get_context("spawn"), begin, (name, job))
            processes[name] = stack.enter_context(process)
        first = {name: process.submit(go_on, 0) for name, process in processes.items()}
        for name, future in first.items():
            if error := future.exception():  # another's code fails as it likes; ours is measured all the same
                missing[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        yield {name: partial(ask, processes[name]) for name in processes if name not in missing}, missing


def ask(process: ProcessPoolExecutor, seconds: float) -> float:
    """A peer's images a second."""
    return process.submit(go_on, seconds).result()


def begin(name: str, job: Job) -> None:
    """In a peer's process: what it does from now on, whenever it is asked."""
    global pieces

    def work() -> Work:
        for images, _ in PEERS[name].work(job):
            if job.device.type == "cuda":
                torch.cuda.synchronize(job.device)
            yield len(images)

    pieces = work()


def go_on(seconds: float) -> float:
    return rate(pieces, seconds)
