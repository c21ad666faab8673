"""Measure what docs/speed.md lacks for a GPU, in one go on a fresh machine: python -m tools.gpu

First the tests that need a card; then `alexnet-dali bench` on drawn images as JPEG and as raw shards, with
and without --cuda-graph, in every precision, with the towers apart on one card and, where there are two, on
two; and the memory that an epoch of training takes; and the loader by the share of JPEGs that the card's own
decoder gets. Prints the tables last; its status is 1 where a test or a measurement failed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cli.bench.meter import images_per_second
from cli.bench.workloads import Workloads
from cli.options import Machine
from model.recipes import get_recipe
from pipeline import graph
from pipeline.dataset import Dataset, open_dataset
from pipeline.source import miniature

STORES = ("jpeg", "raw")
SETTINGS = (
    "--gpus 0",
    "--gpus 0 --cuda-graph",
    "--gpus 0 --precision tf32",
    "--gpus 0 --precision float32",
    "--gpus 0,0",
    "--gpus 0,1",
)
SHARES = (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)  # DALI's default is 0.65


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2, help="seconds per part and round (default: 2)")
    parser.add_argument("--batch-size", type=int, default=128, help="images a step (default: 128)")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU was found")
    settings = [words for words in SETTINGS if torch.cuda.device_count() > 1 or words != "--gpus 0,1"]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        failed = not run("-m", "pytest", "-q", "-m", "gpu")
        source = Path(folder, "source")
        miniature.write_folders(source, classes=20, train=100, val=20)
        for store in STORES:
            data = ["--imagenet-root", source, "--out", Path(folder, store), "--max-rejected", "0.5"]
            run("-m", "cli", "prep", *data, "--store", store)
            for words in settings:
                path, name = Path(folder, "bench.json"), f"{store} {words}"
                same = ["--data", Path(folder, store), "--batch-size", given.batch_size, *words.split()]
                trained, took = memory_of(
                    "-m", "cli", "train", *same, "--epochs", 1, "--run", Path(folder, name)
                )
                measure = ("--seconds", given.seconds, "--json", path, "--force")
                if trained and run("-m", "cli", "bench", *same, *measure):
                    results[name] = json.loads(path.read_text()) | {"taken": took}
                else:
                    failed = True
        print(table(results), flush=True)
        by_share = shares(open_dataset(Path(folder, "jpeg")), "cuda:0", given.batch_size, given.seconds)
        print("loader, images/s by hw_decoder_load:", by_share)
    return int(failed)


def shares(dataset: Dataset, device: str, batch_size: int, seconds: float) -> dict[float, int]:
    """Measure the loader's images/s for each share of JPEGs that the card's own decoder gets."""
    recipe = get_recipe(classes=len(dataset.classes), batch_size=batch_size)
    speeds = {}
    for share in SHARES:
        graph.SQUARES["hw_decoder_load"] = share
        speeds[share] = round(
            images_per_second(Workloads(dataset, recipe, Machine(device=device)).works["loader"], seconds)
        )
    del graph.SQUARES["hw_decoder_load"]
    return speeds


def run(*words: object) -> bool:
    """Run a Python command, which prints what it has to say; return whether it did its work."""
    return start(*words).wait() == 0


def memory_of(*words: object) -> tuple[bool, int]:
    """Run a Python command; return whether it did its work, and its peak of bytes on the first card."""
    before = least = torch.cuda.mem_get_info(0)[0]
    process = start(*words)
    while process.poll() is None:
        least = min(least, torch.cuda.mem_get_info(0)[0])
        time.sleep(0.05)
    return process.returncode == 0, before - least


def start(*words: object) -> "subprocess.Popen[bytes]":
    texts = [str(word) for word in words]
    print("$ python", *texts, flush=True)
    return subprocess.Popen([sys.executable, *texts], cwd=Path(__file__).parent.parent)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Format images/s of each part under each setting, and the memory of a training, in GitHub's notation."""
    parts = dict.fromkeys(part for result in results.values() for part in result["parts"])
    rows: list[Sequence[str]] = [["", *(f"`{name}`" for name in results)], ["---"] * (1 + len(results))]
    for part in parts:
        rates = [result["parts"].get(part, {}).get("img_s") for result in results.values()]
        rows.append([part, *("" if rate is None else f"{rate:,.0f}" for rate in rates)])
    rows.append(["waiting for data", *(f"{result['waiting']:.0%}" for result in results.values())])
    rows.append(
        ["memory of a training, GB", *(f"{result['taken'] / 1e9:.1f}" for result in results.values())]
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
