"""Train our recipes and torchvision's AlexNet on the same photographs: python -m tools.imagenette DIR

DIR holds train/ and val/ with a folder for each class, as Imagenette does. Ours runs as a user would run
it: prep, train, eval. A recipe may have changed settings: original,keep=1. torchvision's AlexNet runs by the
recipe of torchvision's own references, with DataLoader, on the same images, batches and epochs
(`pip install '.[compare]'` brings it). Each training writes OUT/NET-SEED.json when it has finished; the same
command resumes the others. At the end it prints a table.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cli.paper.reproduction import start_command
from model.placement import autocast
from model.run import read_metrics
from pipeline.dataset import open_dataset

OURS = ("original", "paper")
THEIRS = "torchvision"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's references


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, metavar="DIR", help="folder with train/ and val/ class folders")
    parser.add_argument("--out", type=Path, default=Path("runs/imagenette"), help="folder for all results")
    parser.add_argument(
        "--nets", nargs="+", default=[*OURS, THEIRS], help="our recipes, with changes if any, and torchvision"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="random seeds (default: 0)")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of every training (default: 30)")
    parser.add_argument("--batch-size", type=int, default=128, help="images a step (default: 128)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--width", type=float, default=1, help="width of our nets (default: 1)")
    parser.add_argument("--precision", default="float32", help="as of train (default: float32)")
    given = parser.parse_args()
    data = given.out / "data"
    given.out.mkdir(parents=True, exist_ok=True)
    if not run("prep", "--imagenet-root", given.root, "--out", data):
        return 1
    for seed in given.seeds:
        for net in given.nets:
            result = given.out / f"{net}-{seed}.json"
            if not result.exists():
                train = train_theirs if net == THEIRS else train_ours
                figures = train(net, seed, data, given)
                result.write_text(json.dumps(figures, indent=1) + "\n")
    images = given.epochs * open_dataset(data).samples("train")
    print(table(given.out, given.nets, given.seeds, images))
    return 0


def train_ours(net: str, seed: int, data: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train one of our recipes, and evaluate its last state by the centre crop and by ten views."""
    folder, (recipe, *changes) = given.out / f"{net}-{seed}", net.split(",")
    options = ["--recipe", recipe, "--seed", seed, "--epochs", given.epochs, "--batch-size", given.batch_size]
    options += [word for change in changes for word in ("--set", change)]
    same = ["--data", data, "--run", folder, "--device", given.device, "--precision", given.precision]
    errors = {}
    if not run("train", *same, *options, "--width", given.width):
        raise SystemExit(f"{folder}: the training failed; the same command resumes it")
    for views, more in (("centre", []), ("ten", ["--ten-crop"])):
        path = folder / "eval.json"
        if not run("eval", *same, *more, "--json", path, "--force"):
            raise SystemExit(f"{folder}: the evaluation failed")
        result = json.loads(path.read_text())
        errors[views] = [result["top1_err"], result["top5_err"]]
    speeds = [row["img_s"] for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "train"]
    return {"errors": errors, "img_s": median(speeds)}


def train_theirs(net: str, seed: int, data: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train torchvision.models.alexnet by its references' recipe: a third of the epochs at each rate."""
    from torchvision import datasets, models, transforms

    torch.manual_seed(seed)
    device = torch.device(given.device)
    normal = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    varied = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *normal]
    images = datasets.ImageFolder(given.root / "train", transforms.Compose(varied))
    loader = DataLoader(images, given.batch_size, shuffle=True, drop_last=False, num_workers=2)
    model = models.alexnet(num_classes=len(images.classes)).to(device)
    rule = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    steps = torch.optim.lr_scheduler.StepLR(rule, max(1, given.epochs // 3), gamma=0.1)
    state = given.out / f"{net}-{seed}.pt"
    begun, speeds = take_up(state, model, rule, steps)
    for epoch in range(begun, given.epochs):
        started = time.perf_counter()
        loss = train_epoch(model, rule, loader, device, given.precision)
        speeds.append(len(images) / (time.perf_counter() - started))
        steps.step()
        print(f"{net} seed {seed}, epoch {epoch + 1}/{given.epochs}: loss {loss:.4f}", flush=True)
        parts = [model.state_dict(), rule.state_dict(), steps.state_dict()]
        torch.save({"epoch": epoch + 1, "parts": parts, "speeds": speeds}, state)
    resized = transforms.Compose([transforms.Resize(256), transforms.TenCrop(224), views_to_tensors])
    held = datasets.ImageFolder(given.root / "val", resized)
    return {
        "errors": count_errors(model, DataLoader(held, 16, num_workers=2), device),
        "img_s": median(speeds),
    }


def take_up(state: Path, *parts: Any) -> tuple[int, list[float]]:
    """Bring network, update rule and schedule to where they were saved; return the epochs done."""
    if not state.exists():
        return 0, []
    saved = torch.load(state, weights_only=True)
    for part, values in zip(parts, saved["parts"], strict=True):
        part.load_state_dict(values)
    return saved["epoch"], saved["speeds"]


def train_epoch(
    model: nn.Module,
    rule: torch.optim.SGD,
    loader: "DataLoader[Any]",
    device: torch.device,
    precision: str,
) -> float:
    """Train on every image once; return the mean loss."""
    model.train()
    total = images = 0.0
    for pixels, labels in loader:
        rule.zero_grad()
        with autocast(device, precision):
            outputs = model(pixels.to(device))
        loss = F.cross_entropy(outputs.float(), labels.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        rule.step()
        total, images = total + loss.item() * len(labels), images + len(labels)
    return total / images


def views_to_tensors(views: Sequence[Any]) -> Tensor:
    """Turn ten PIL images into (10, 3, 224, 224), normalised as torchvision's references do."""
    from torchvision.transforms.functional import normalize, to_tensor

    return torch.stack([normalize(to_tensor(view), list(MEAN), list(DEVIATION)) for view in views])


@torch.no_grad()
def count_errors(model: nn.Module, loader: "DataLoader[Any]", device: torch.device) -> dict[str, list[float]]:
    """Return top-1 and top-5 errors in percent: of the centre crop, and of ten views' mean probability."""
    model.eval()
    right = torch.zeros(2, 2)  # by views, and by top-1 and top-5
    images = 0
    for views, labels in loader:
        rows = len(views)
        outputs = model(views.flatten(0, 1).to(device)).softmax(1).view(rows, 10, -1).cpu()
        for number, probabilities in enumerate((outputs[:, 4], outputs.mean(1))):  # the fifth is the centre
            hits = probabilities.topk(min(5, probabilities.shape[1])).indices == labels[:, None]
            right[number] += torch.stack([hits[:, 0].sum(), hits.sum()])
        images += rows
    errors = (100 * (1 - right / images)).tolist()
    return {"centre": errors[0], "ten": errors[1]}


def table(out: Path, nets: Sequence[str], seeds: Sequence[int], images: int) -> str:
    """Format the results that are there in GitHub's notation: means over seeds, ten views' differences from
    the first net in percentage points over the seeds of both, and the minutes for so many training images.
    """
    views = ("centre crop, top-1 / top-5", "ten views, top-1 / top-5")
    rows: list[tuple[str, ...]] = [
        ("net", "seeds", *views, "difference", "images/s", "minutes"),
        ("---",) * 7,
    ]
    first: dict[int, list[float]] = {}
    for net in nets:
        paths = {seed: path for seed in seeds if (path := out / f"{net}-{seed}.json").exists()}
        results = {seed: json.loads(path.read_text()) for seed, path in paths.items()}
        if not results:
            continue
        ten = {seed: result["errors"]["ten"] for seed, result in results.items()}
        first = first or ten
        apart = np.mean([np.subtract(ten[seed], first[seed]) for seed in ten.keys() & first.keys()], axis=0)
        speed = mean(result["img_s"] for result in results.values())
        errors = [result["errors"]["centre"] for result in results.values()], list(ten.values())
        times = f"{speed:,.0f}", f"{images / speed / 60:.0f}"
        difference = " / ".join(f"{value:+.2f}" for value in apart)
        rows.append((net, str(len(results)), *map(as_text, errors), difference, *times))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def as_text(errors: Sequence[Sequence[float]]) -> str:
    """Format (seeds, 2) top-1 and top-5 errors in percent: the means, and the range if there are several."""
    texts = []
    for values in zip(*errors, strict=True):
        spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
        texts.append(f"{mean(values):.2f} %{spread}")
    return " / ".join(texts)


def run(*words: object) -> bool:
    """Run a command of alexnet-dali; return whether it did its work."""
    texts = [str(word) for word in words]
    print("$ alexnet-dali", *texts, flush=True)
    return start_command(texts).wait() == 0


if __name__ == "__main__":
    sys.exit(main())
