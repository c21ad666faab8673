"""Measure other loaders and a plain training step, each in a process of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cli.bench.meter import Meter, Work, images_per_second
from cli.bench.others import wait_for_rest
from cli.bench.workloads import Workloads
from pipeline.arguments import read_statistics
from tools.compare import loaders, step, turbo
from tools.compare.loaders import Batch, Job, loader


class PeerError(Exception):
    """Represent why a peer does not answer."""


@dataclass(frozen=True)
class Peer:
    """Hold a peer's work, its module, the one that resizes originals, and the kinds of dataset it takes.

    batches: the fewest that a measurement has of each worker. Workers finish theirs at about the same time,
    so that a shorter measurement would count one too many or too few of each.
    """

    work: Callable[[Job], Iterator[Batch]]
    module: str = "torch"
    resizer: str = "cv2"
    kinds: tuple[str, ...] = ("256", "original")
    batches: int = 8


PATIENCE = 300  # seconds: FFCV compiles for half a minute
ANY = ("256", "original", "raw")
PEERS = {
    "DataLoader, Pillow": Peer(partial(loader, crop=loaders.crop_pillow, floats=True), resizer="PIL"),
    "DataLoader, OpenCV": Peer(partial(loader, crop=loaders.crop_opencv, floats=True), "cv2"),
    "DataLoader, simplejpeg": Peer(partial(loader, crop=loaders.crop_simplejpeg, floats=True)),
    "DataLoader, torchvision": Peer(
        partial(loader, crop=loaders.crop_torchvision, floats=True), "torchvision", resizer="torchvision"
    ),
    "DataLoader, by uint8": Peer(partial(loader, crop=loaders.crop_simplejpeg, floats=False), kinds=ANY),
    "DataLoader, uint8 alone": Peer(
        partial(loader, crop=loaders.crop_simplejpeg, floats=False, left=True), kinds=ANY
    ),
    "the same, no filter": Peer(
        partial(loader, crop=loaders.crop_quickly, floats=False, left=True), kinds=("original",)
    ),
    "webdataset": Peer(loaders.webdataset, "webdataset"),
    "FFCV": Peer(partial(loaders.ffcv, noise=True), "ffcv", kinds=("256", "raw")),
    "FFCV, no noise": Peer(partial(loaders.ffcv, noise=False), "ffcv", kinds=("256", "raw")),
    "TurboLoader, our crops": Peer(turbo.our_crops, "turboloader", resizer="turboloader", kinds=ANY),
    "TurboLoader, its crops": Peer(turbo.its_crops, "turboloader", resizer="turboloader", kinds=ANY),
    "plain step": Peer(step.steps, resizer="torch", kinds=ANY, batches=0),
}
PACKAGES = {"cv2": "opencv-python-headless"}  # where a module is not named as its package


@contextmanager
def started(job: Job) -> Iterator[tuple[dict[str, Meter], dict[str, str]]]:
    """Yield the peers that run here, each in a process that waits until asked; and why the others do not."""
    pipes: dict[str, Connection] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="alexnet-dali-"))
        job = replace(job, folder=Path(folder))
        for name, peer in PEERS.items():
            needed = [peer.module, *([peer.resizer] if job.dataset.kind == "original" else [])]
            if job.dataset.kind not in peer.kinds:
                continue
            if absent := [PACKAGES.get(module, module) for module in needed if not find_spec(module)]:
                missing[name] = f"pip install {absent[0]}"
            else:
                pipes[name] = stack.enter_context(running(name, job))
        for pipe in pipes.values():
            pipe.send(0)
        for name, pipe in pipes.items():
            try:
                answer(pipe)
            except PeerError as error:  # ours is measured all the same
                missing[name] = str(error)
        yield {name: partial(ask, pipe) for name, pipe in pipes.items() if name not in missing}, missing


@contextmanager
def running(name: str, job: Job) -> Iterator[Connection]:
    """Start a peer's process; yield the end of a pipe that takes seconds and gives images/s."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(name, job, theirs))
    process.start()
    theirs.close()
    with ours:
        yield ours
    process.join(10)
    process.kill()  # where its own clean-up does not end


def ask(pipe: Connection, seconds: float) -> float:
    pipe.send(seconds)
    return answer(pipe)


def answer(pipe: Connection) -> float:
    try:
        result: float | str = pipe.recv() if pipe.poll(PATIENCE) else f"no answer in {PATIENCE} seconds"
    except EOFError:
        result = "its process died"
    if isinstance(result, str):
        raise PeerError(result)
    return result


def serve(name: str, job: Job, pipe: Connection) -> None:
    """Work in a peer's process whenever it is asked, until nobody is there to ask.

    It answers when its workers have filled their queues again, which would slow down whoever comes next.
    """

    def pieces() -> Work:
        import_module(PEERS[name].module)  # where that fails, here it says why, and not in a worker
        for images, _ in PEERS[name].work(job):
            if job.device.type == "cuda":
                torch.cuda.synchronize(job.device)
            yield len(images)

    work = pieces()
    try:
        while True:
            seconds = pipe.recv()  # none to warm up
            least = max(1, PEERS[name].batches * job.cores) if seconds else 1
            rate = images_per_second(work, seconds, least)
            wait_for_rest()
            pipe.send(rate)
    except EOFError:
        return
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def job(parts: Workloads) -> Job:
    """Return the task of the peers, which is that of these parts."""
    return Job(
        dataset=parts.dataset,
        recipe=parts.recipe,
        matrix=read_statistics(parts.dataset).noise_matrix(parts.recipe.noise, parts.recipe.noise_basis),
        device=parts.device,
        precision=parts.precision,
        cores=parts.cores,
    )
