"""Run one baseline, from codebook to result.json."""

import json
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cli import options
from cli.compose import predictions
from cli.display import (
    disk_size,
    in_words,
    plural,
    progress,
    say_row,
    short_time,
    tell_written,
    top_errors,
    warn,
)
from cli.paper import baseline_stages
from cli.paper.comparison import find_year, guessing
from cli.paper.tables import PAPER_BASELINES
from cli.signals import ended_in_order
from model.baselines.sift import Grid
from model.checkpoint import differences
from model.errors import RunError
from model.evaluate import Evaluation, sound_rates
from model.run import RunDirectory, read_about
from pipeline.atomic import replacing
from pipeline.dataset import Dataset, has_labels, need_labels, open_dataset, read_names
from pipeline.workers import count_cores

LIBRARIES = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn"}  # module: distribution


@dataclass(frozen=True)
class BaselineSettings:
    """Hold what the command line says of every baseline."""

    data: Path
    split: str  # whose errors are counted
    out: Path | None
    sample: int
    epochs: int
    seed: int
    workers: int | None


def run_baseline(
    name: str,
    grid: tuple[int, int, int],
    levels: tuple[tuple[int, int], ...],
    sizes: dict[str, int],
    settings: BaselineSettings,
) -> None:
    """Run all stages that are not done yet. grid: patch, step and scales."""
    need_libraries()
    dataset, split = open_dataset(settings.data), settings.split
    if dataset.side < grid[0]:
        raise RunError(
            f"{dataset.root} holds images of {dataset.side} pixels, and a patch has {grid[0]}: prepare with "
            "--size 256 into another --out"
        )
    folder = settings.out or options.RUNS / f"baseline-{name}"
    workers = settings.workers or count_cores()
    plan = baseline_stages.BaselinePlan(
        name, Grid(*grid), levels, sizes, settings.sample, settings.seed, dataset.root, folder
    )
    counts = {each: len(baseline_stages.open_samples(dataset.root, each)) for each in ("train", "val", split)}
    need_labels(dataset, "train", "val")
    if not has_labels(dataset, split):
        raise RunError(f"the {split} images of {dataset.root} have no labels; use --split val")
    with ended_in_order(), RunDirectory(folder) as run:
        refuse_changes(plan, dataset)
        state, epochs = baseline_stages.read_state(folder, settings.epochs), settings.epochs
        run.open(state["step"], state["epoch"], about_run(plan, dataset))
        with timed("codebook", min(counts["train"], baseline_stages.SAMPLED)) as each:
            codebook = baseline_stages.learn_codebook(plan, dataset, workers, each)
        tell_reductions(sizes, codebook.sizes)
        size = plan.regions * codebook.length
        room = disk_size(2 * size * sum(counts.values()))
        say_row("features", f"{size:,} numbers per image, {room} in {folder}")
        left = baseline_stages.missing(plan, dataset, counts)
        images = sum(dataset.splits[each][number].samples for each, number in left)
        check_room(folder, 2 * size * images)
        with timed("features", images) as each:
            baseline_stages.write_features(plan, left, workers, each)
        training = baseline_stages.Training(plan, dataset, size, epochs, state)
        with timed("training", (epochs - state["epoch"]) * counts["train"]) as each:
            training.train(run, each)
        write_result(plan, dataset, split, training.evaluate(split))


def need_libraries() -> None:
    if not all(map(find_spec, LIBRARIES)):
        raise RunError("baselines need OpenCV and scikit-learn: pip install 'alexnet-dali[baselines]'")


def refuse_changes(plan: baseline_stages.BaselinePlan, dataset: Dataset) -> None:
    """Raise RunError if the folder's run has other settings or images."""
    path = plan.folder / "run.json"
    if not path.exists():
        return
    before = read_about(path)
    if not before.get("baseline"):
        raise RunError(f"{plan.folder} holds another kind of run; use another --out")
    changes = list(differences(before["baseline"], plan.settings()))
    same = before["data"]["fingerprint"] == dataset.fingerprint
    texts = ", ".join([text for _, text in changes] + ([] if same else ["other images"]))
    if texts:
        raise RunError(f"{plan.folder} was started with {texts}; repeat those settings, or use another --out")


def about_run(plan: baseline_stages.BaselinePlan, dataset: Dataset) -> dict[str, Any]:
    """Return run.json's content: what the run is, and how it was started this time."""
    return {
        "baseline": plan.settings(),
        "data": {"path": str(dataset.root.resolve()), "fingerprint": dataset.fingerprint},
        "starts": {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": shlex.join(["alexnet-dali", *sys.argv[1:]]),
            **{name: version(name) for name in ("torch", *LIBRARIES.values())},
            "python": platform.python_version(),
        },
    }


def tell_reductions(asked: dict[str, int], got: dict[str, int]) -> None:
    for name in asked:
        if got[name] < asked[name]:
            warn(f"there are few descriptors: {name} is {got[name]}, not {asked[name]}")


def check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"features need {disk_size(needed)} in {folder}, but only {disk_size(free)} are free: "
            "make room, use another --out, or choose a smaller codebook"
        )


@contextmanager
def timed(what: str, images: int) -> Iterator[baseline_stages.Each]:
    """Show progress, and at the end a line of what it took."""
    with progress(f"{what:<9}", images) as line:
        yield line
    if line.done:
        say_row(what, f"{plural(line.done, 'image')} in {short_time(line.seconds)}, {line.speed}")


def write_result(
    plan: baseline_stages.BaselinePlan, dataset: Dataset, split: str, evaluation: Evaluation
) -> None:
    """Write predictions.npz and result.json, in place of another split's, and print a line."""
    labels, names = (
        baseline_stages.open_samples(dataset.root, split).index["label"],
        read_names(dataset, split),
    )
    wnids = [category.wnid for category in dataset.classes]
    content = predictions.Predictions(evaluation.probabilities.numpy(), labels, names, wnids)
    path, beside = plan.folder / "result.json", plan.folder / "predictions.npz"
    for older in (path, beside):  # result.json says of which images the predictions are
        older.unlink(missing_ok=True)
    predictions.write(beside, content)
    errors = sound_rates(evaluation.sums, plan.folder)
    images = int(evaluation.sums[0])
    result = {"baseline": plan.baseline, "split": split, "images": images, **errors}
    with replacing(path) as file:
        file.write(json.dumps(result, indent=1).encode() + b"\n")
    say_row("result", f"{in_words(top_errors(errors, len(wnids)))} on {plural(images, f'{split} image')}")
    if find_year(dataset.classes) == 2010:
        top1, top5 = PAPER_BASELINES[plan.baseline]
        say_row("paper", f"top-1 error {top1} %, top-5 error {top5} % on ILSVRC-2010's test images")
    else:
        name, guess = guessing(len(wnids))
        say_row("compare", f"{in_words(guess)} by {name}")
    tell_written(path, beside)
