"""What README's table has for a GPU, in one go on a fresh machine with a card: python -m tools.gpu

First the tests that need a card; then `alexnet-dali bench` on drawn images as JPEG and as raw shards, with
and without --cuda-graph, in every precision, with the towers apart on one card and, where there are two, on
two. Prints a table last; its status is 1 where a test or a measurement failed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline import drawn

STORES = ("jpeg", "raw")
SETTINGS = (
    "--gpus 0",
    "--gpus 0 --cuda-graph",
    "--gpus 0 --precision tf32",
    "--gpus 0 --precision float32",
    "--gpus 0,0",
    "--gpus 0,1",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", default="5", help="for a part in a round (default: 5)")
    parser.add_argument("--batch-size", default="128", help="images a step (default: 128)")
    given = parser.parse_args()
    settings = [words for words in SETTINGS if torch.cuda.device_count() > 1 or words != "--gpus 0,1"]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        failed = not run("-m", "pytest", "-q", "-m", "gpu")
        source = Path(folder, "source")
        drawn.write_folders(source, classes=20, train=100, val=20)
        for store in STORES:
            data = ["--imagenet-root", source, "--out", Path(folder, store), "--max-rejected", "0.5"]
            run("-m", "cli", "prep", *data, "--store", store)
            for words in settings:
                path, size = Path(folder, "bench.json"), ["--batch-size", given.batch_size]
                data = ["--data", Path(folder, store), "--json", path, "--seconds", given.seconds]
                if run("-m", "cli", "bench", *data, *size, *words.split()):
                    found[f"{store} {words}"] = json.loads(path.read_text())
                else:
                    failed = True
    print(table(found))
    return int(failed)


def run(*words: object) -> bool:
    """Whether a Python command did its work; it prints what it has to say."""
    texts = [str(word) for word in words]
    print("$ python", *texts, flush=True)
    return subprocess.run([sys.executable, *texts], cwd=Path(__file__).parent.parent).returncode == 0


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Images/s of each part under each setting, in GitHub's notation, and the memory in use on a card."""
    parts = dict.fromkeys(part for result in found.values() for part in result["parts"])
    rows: list[Sequence[str]] = [["", *(f"`{name}`" for name in found)], ["---"] * (1 + len(found))]
    for part in parts:
        rates = [result["parts"].get(part, {}).get("img_s") for result in found.values()]
        rows.append([part, *("" if rate is None else f"{rate:,.0f}" for rate in rates)])
    rows.append(["waiting for data", *(f"{result['waiting']:.0%}" for result in found.values())])
    rows.append(["GPU memory, GB", *(f"{memory(result):.1f}" for result in found.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def memory(result: Mapping[str, Any]) -> float:
    return max((size for name, size in result["memory"].items() if name != "host"), default=0) / 1e9


if __name__ == "__main__":
    sys.exit(main())
