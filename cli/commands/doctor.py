"""Define alexnet-dali doctor: show what this machine can do, on one screen."""

import os
import platform
import shutil
import subprocess
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from cli import launch, options
from cli.compose.runs import recommend
from cli.display import console, disk_size, say_row, write_json
from pipeline.dataset import open_dataset
from pipeline.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

Line = tuple[str, str]


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: int  # bytes
    capability: str  # "9.0"
    bfloat16: bool
    peers: list[int]  # the GPUs whose memory it can read directly
    fault: str | None  # the error when it was asked to add two numbers


@dataclass(frozen=True)
class Machine:
    python: str
    torch: str | None  # None: cannot be imported
    torch_cuda: str | None  # the CUDA version it was built for; None: a CPU build
    dali: str | None
    dali_wheels: dict[str, str]  # nvidia-dali-cuda120: 2.4.0
    driver: str | None
    gpus: list[Gpu]
    cores: int
    free: dict[str, int]  # bytes at each default folder
    dataset: str
    faults: list[str]  # in words, with what to do


@click.command("doctor")
@options.data
@click.option("--json", "as_json", is_flag=True, help="Print the same facts as JSON.")
def command(data: Path, as_json: bool) -> None:
    """Check this machine: GPUs, disk, versions.

    The last lines say what that means for training.
    The exit status is 0 when training is possible, on any device, and 1 when torch or DALI is missing.
    """
    machine = examine(data)
    if as_json:
        write_json("-", {**asdict(machine), "ready": ready(machine), "advice": advise(machine)})
    else:
        show(rows(machine), console())
    click.get_current_context().exit(0 if ready(machine) else 1)


def examine(data: Path) -> Machine:
    from pipeline.workers import count_cores

    faults = find_strangers()
    torch = imported("torch", "pip install torch", faults)
    dali = imported("nvidia.dali", "pip install nvidia-dali-cuda120", faults)
    gpus = find_gpus(torch, faults) if torch else []
    if gpus and not any(map(shutil.which, (os.environ.get("CC", "gcc"), "clang"))):
        faults.append("no C compiler, which Triton needs for the GPU's kernels: install gcc and python3-dev")
    names = {wheel.metadata["Name"]: wheel.version for wheel in distributions()}
    return Machine(
        python=platform.python_version(),
        torch=torch and torch.__version__,
        torch_cuda=torch and torch.version.cuda,
        dali=dali and dali.__version__,
        dali_wheels={
            name: names[name] for name in sorted(filter(None, names)) if name.startswith("nvidia-dali-")
        },
        driver=find_driver(),
        gpus=gpus,
        cores=count_cores(),
        free={str(folder): free_bytes(folder) for folder in (data, Path("runs"))},
        dataset=describe_dataset(data),
        faults=faults,
    )


def imported(name: str, remedy: str, faults: list[str]) -> Any:
    """Return the module, or None and note a fault. A library that lacks one of its own is an OSError."""
    try:
        module = __import__(name, fromlist=["__version__"])
    except (ImportError, OSError) as error:
        faults.append(f"{name} cannot be imported ({error}): {remedy}")
        return None
    return module


def find_strangers() -> list[str]:
    """Return a fault for each other installed project whose package has the name of one of ours."""
    found = packages_distributions()
    return [
        f"{other} installs a package {name}, too, and the later one of the two overwrites the other: "
        "install alexnet-dali in a virtual environment of its own"
        for name in launch.NAMES
        for other in sorted(set(found.get(name, [])) - {"alexnet-dali"})
    ]


def find_gpus(torch: Any, faults: list[str]) -> list[Gpu]:
    with warnings.catch_warnings(record=True) as complaints:  # torch warns of a driver it cannot use
        warnings.simplefilter("always")
        numbers = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    faults += [str(complaint.message).partition("\n")[0] for complaint in complaints]
    return [find_gpu(torch, number, len(numbers)) for number in numbers]


def find_gpu(torch: Any, number: int, count: int) -> Gpu:
    about = torch.cuda.get_device_properties(number)
    peers = [peer for peer in range(count) if peer != number]
    try:
        torch.ones(2, device=f"cuda:{number}").sum().item()
        fault = None
    except RuntimeError as error:  # too old for this torch, or taken by others
        fault = str(error).partition("\n")[0]
    return Gpu(
        name=about.name,
        memory=about.total_memory,
        capability=f"{about.major}.{about.minor}",
        bfloat16=about.major >= 8,
        peers=[peer for peer in peers if torch.cuda.can_device_access_peer(number, peer)],
        fault=fault,
    )


def find_driver() -> str | None:
    """Return NVIDIA's driver version, even when this torch has no use for it."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.partition("\n")[0].strip() or None


def free_bytes(folder: Path) -> int:
    """Return the free bytes where the folder is, or will be."""
    folder = folder.absolute()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def describe_dataset(data: Path) -> str:
    if not data.exists():
        return f"none at {data} yet: {recommend('prep', '--imagenet-root', 'DIR', '--out', str(data))}"
    try:
        dataset = open_dataset(data)
    except DataError as error:
        return str(error)
    images = ", ".join(f"{dataset.samples(split):,} {split}" for split in dataset.splits)
    return f"{data}: {len(dataset.classes):,} classes, {images}; size {dataset.size}"


def ready(machine: Machine) -> bool:
    return machine.torch is not None and machine.dali is not None


def advise(machine: Machine) -> list[str]:
    """Return what all this means for `train`."""
    if not ready(machine):
        return ["not possible before torch and DALI can both be imported"]
    good = [number for number, gpu in enumerate(machine.gpus) if gpu.fault is None]
    advice = []
    if not good:
        advice.append("no GPU: alexnet-dali train --device cpu works, for trying out only")
        if machine.driver and machine.torch_cuda is None:
            advice.append("there is an NVIDIA driver, but this torch is a CPU build: install one for CUDA")
    elif len(good) == 1:
        choice = "" if good == [0] else f" --gpus {good[0]}"
        advice.append(f"alexnet-dali train{choice}: both towers fused on GPU {good[0]}")
    else:
        one, two = good[:2]
        advice.append(f"alexnet-dali train --gpus {one},{two}: a tower on each; without --gpus both on GPU 0")
        if two not in machine.gpus[one].peers:
            advice.append(
                f"GPUs {one} and {two} have no peer access: what the towers exchange goes through the host"
            )
    if good and not all(machine.gpus[number].bfloat16 for number in good[:2]):
        advice.append("in float32: there is no bfloat16 arithmetic before compute capability 8.0")
    return advice + advise_wheels(machine)


def advise_wheels(machine: Machine) -> list[str]:
    if len(machine.dali_wheels) > 1:
        return [f"{' and '.join(machine.dali_wheels)} overwrite each other: uninstall them and install one"]
    cuda = (machine.torch_cuda or "").partition(".")[0]
    if cuda and not any(f"cuda{cuda}" in wheel for wheel in machine.dali_wheels):
        return [
            f"torch was built for CUDA {machine.torch_cuda}: nvidia-dali-cuda{cuda}0 is the wheel to match"
        ]
    return []


def rows(machine: Machine) -> list[Line]:
    """Return label and text of each row; an empty label continues the one above."""
    build = f"built for CUDA {machine.torch_cuda}" if machine.torch_cuda else "a CPU build"
    wheels = " and ".join(machine.dali_wheels) or "no wheel of that name"
    table = [
        ("Python", machine.python),
        ("torch", f"{machine.torch}, {build}" if machine.torch else "missing"),
        ("DALI", f"{machine.dali}, {wheels}" if machine.dali else "missing"),
        ("driver", machine.driver or "none"),
    ]
    table += [(f"GPU {number}", describe_gpu(gpu)) for number, gpu in enumerate(machine.gpus)] or [
        ("GPUs", "none")
    ]
    table += [("cores", str(machine.cores))]
    table += [("disk", f"{disk_size(size)} free at {folder}") for folder, size in machine.free.items()]
    table += [("dataset", machine.dataset)]
    table += [("problem", fault) for fault in machine.faults] + [
        ("train", advice) for advice in advise(machine)
    ]
    labels = [label for label, _ in table]
    return [("" if label in labels[:n] else label, text) for n, (label, text) in enumerate(table)]


def describe_gpu(gpu: Gpu) -> str:
    text = f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB, compute capability {gpu.capability}"
    if gpu.peers:
        text += f", peer access to {', '.join(map(str, gpu.peers))}"
    return text + (f"; cannot be used: {gpu.fault}" if gpu.fault else "")


def show(table: list[Line], screen: "Console") -> None:
    if screen.is_terminal:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="cyan")
        grid.add_column(overflow="fold")
        for label, text in table:
            grid.add_row(label, text)
        screen.print(grid)
    else:
        for label, text in table:
            say_row(label, text)
