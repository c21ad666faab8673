"""Plan what `reproduce` runs: look at the folder of each run, and list what is missing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import Struct

from cli.compose.fitting import need_fitting
from cli.options import Machine
from cli.paper.tables import BASELINES, DATA, RUNS, SpeedRow, Table, TableRow
from model import schedule
from model.errors import RunError
from model.recipe import Recipe
from model.recipes import get_recipe
from model.run import read_about, read_metrics
from pipeline.dataset import Dataset, has_labels
from pipeline.schema import Count, Unfit, read_json

# The fields of PlanSettings that `train` takes, and that each baseline takes
TRAINING = ("width", "batch_size", "epochs")
SIZES = {"sift-fv": ("sample", "step", "components"), "sparse-coding": ("sample", "step", "words")}


class Evaluated(Struct):
    """Describe what is read of the result of an eval."""

    step: Count


class Result(Struct):
    """Describe what is read of the result of a baseline."""

    split: str


@dataclass(frozen=True)
class Step:
    """Describe a command, and what it does to which run."""

    run: str
    words: tuple[str, ...]
    needs: tuple[str, ...]  # the runs without which it cannot be made, and its own
    images: Mapping[str, int]  # how many it reads, by the part of `bench` that does the same


@dataclass(frozen=True)
class PlanSettings:
    """Hold what is asked of all runs; None: the default of the command that makes them."""

    machine: Machine
    width: float | None
    batch_size: int | None
    epochs: int | None
    seed: int
    sample: int | None
    step: int | None
    components: int | None
    words: int | None


@dataclass(frozen=True)
class Plan:
    """Look after the runs in `folder`, by their names in tables.py. data: by the keys of DATA."""

    folder: Path
    data: dict[str, Dataset]
    settings: PlanSettings

    def steps(self, tables: Iterable[Table]) -> list[Step]:
        """Return what is missing, in order and once, of the runs whose images are given."""
        steps: dict[tuple[str, ...], Step] = {}
        for row in (row for table in tables for row in table.rows):
            for name, views in predictions(row):
                if self.lack(name) is None:
                    for step in self.missing(name, views):
                        steps.setdefault(step.words, step)
        return list(steps.values())

    def missing(self, name: str, views: str | None) -> Iterator[Step]:
        """Yield what is missing of a run and those that it begins with. views: of the predictions."""
        if name in BASELINES:
            if not self.is_made(name):
                yield Step(name, self.baseline_words(name), (name,), {})
            return
        for each in chain(name):
            if left := self.epochs_left(each):
                data = self.images(each)
                work = {"train": left * data.samples("train"), "eval, centre": left * data.samples("val")}
                yield Step(each, self.train_words(each), tuple(chain(each)), work)
        if views and not self.is_evaluated(name, views):
            work = {f"eval, {views}": self.images(name).samples(self.split(name))}
            yield Step(name, self.eval_words(name, views), tuple(chain(name)), work)

    def images(self, name: str) -> Dataset:
        return self.data[images_of(name)]

    def lack(self, name: str) -> str | None:
        """Return the images that a run needs and are not given."""
        return next((DATA[key] for key in map(images_of, chain(name)) if key not in self.data), None)

    def split(self, name: str) -> str:
        """Return whose errors are counted: ILSVRC-2010's test images if labelled, else validation."""
        data = self.images(name)
        tested = images_of(name) == "data_2010" and data.splits.get("test")
        return "test" if tested and has_labels(data, "test") else "val"

    def predictions(self, name: str, views: str) -> Path:
        """Return where a run's predictions are; what made them lies beside as .json."""
        if name in BASELINES:
            return self.folder / name / "predictions.npz"
        path = self.folder / name / f"{self.split(name)}-{views}.npz".replace(" ", "-")
        for file in (path, path.with_suffix(".json")):
            if file.is_symlink():  # eval would write to where it leads
                raise RunError(f"{file} is a symbolic link; remove it")
        return path

    def recipe(self, name: str) -> Recipe:
        run, images = RUNS[name], self.images(name)
        given = {"classes": len(images.classes), "schedule": run.schedule, **self.given(*TRAINING)}
        recipe = get_recipe(run.recipe, **given)
        need_fitting(recipe, images)
        return recipe

    def machine_of(self, name: str) -> Machine:
        """Return where to compute; of two devices a net of one tower takes the first."""

        def first(devices: str | None) -> str | None:
            return devices and ",".join(devices.split(",")[: self.recipe(name).towers])

        machine = self.settings.machine
        return replace(machine, gpus=first(machine.gpus), device=first(machine.device))

    def train_words(self, name: str) -> tuple[str, ...]:
        run = RUNS[name]
        own = {
            "data": self.images(name).root,
            "run": self.folder / name,
            "recipe": run.recipe,
            "schedule": run.schedule,
            "init_from": run.begins and self.folder / run.begins,
            "seed": self.settings.seed + run.seed,
        }
        return ("train", *written(own | self.given(*TRAINING) | vars(self.machine_of(name))))

    def eval_words(self, name: str, views: str) -> tuple[str, ...]:
        out = self.predictions(name, views)
        own = {"data": self.images(name).root, "run": self.folder / name, "split": self.split(name)}
        files = {"predictions": out, "json": out.with_suffix(".json")}
        ten = ["--ten-crop"] if views == "ten views" else []
        return ("eval", *ten, *written(own | vars(self.machine_of(name)) | files))

    def baseline_words(self, name: str) -> tuple[str, ...]:
        command = BASELINES[name].command
        own = {"data": self.images(name).root, "out": self.folder / name, "split": self.split(name)}
        own |= {"seed": self.settings.seed, "workers": self.settings.machine.workers}
        return ("baseline", command, *written(own | self.given(*SIZES[command])))

    def given(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self.settings, name) for name in names}

    def validations(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of metrics after each finished epoch of a training."""
        path = self.folder / name
        if not (path / "last.pt").exists() or not (path / "metrics.jsonl").exists():
            return []
        return [row for row in read_metrics(path / "metrics.jsonl") if row["kind"] == "val"]

    def epochs_left(self, name: str) -> int:
        """Return the epochs a training still needs; RunError if a finished one in its folder differs."""
        recipe, rows = self.recipe(name), self.validations(name)
        if not schedule.finished(recipe, [row["top1_err"] for row in rows]):
            return schedule.epochs(recipe) - len(rows)
        about, seed = self.about(name, "recipe"), self.settings.seed + RUNS[name].seed
        made = {"recipe": Recipe.from_dict(about["recipe"]).to_dict(), "seed": about["starts"][0].get("seed")}
        self.refuse_another(name, made, {"recipe": recipe.to_dict(), "seed": seed})
        return 0

    def is_evaluated(self, name: str, views: str) -> bool:
        rows, out = self.validations(name), self.predictions(name, views)
        try:
            said = read_json(out.with_suffix(".json"), Evaluated)
        except (OSError, Unfit):  # eval writes it last
            return False
        return bool(rows) and said.step == rows[-1]["step"] and out.exists()

    def is_made(self, name: str) -> bool:
        """Return whether a baseline is finished and evaluated on our split; RunError if it differs."""
        path = self.folder / name / "result.json"
        try:
            split = read_json(path, Result).split
        except (OSError, Unfit):  # baseline writes it last
            return False
        about = self.about(name, "baseline")["baseline"]
        given = self.given("seed", *SIZES[BASELINES[name].command])
        wanted = {key: value for key, value in given.items() if value is not None}
        made = about | about["sizes"] | about["grid"]
        self.refuse_another(name, {key: made.get(key) for key in wanted}, wanted)
        return split == self.split(name)

    def about(self, name: str, kind: str) -> dict[str, Any]:
        """Return the run.json of a finished run of a kind, recipe or baseline, of the same images."""
        path = self.folder / name / "run.json"
        about = read_about(path) if path.exists() else {}
        if not about.get(kind):
            raise RunError(f"{path} names no {kind}; use another --runs")
        if about["data"]["fingerprint"] != self.images(name).fingerprint:
            raise RunError(
                f"{path.parent} was made from other images than {self.images(name).root}; use another --runs"
            )
        return about

    def refuse_another(self, name: str, made: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        from model.checkpoint import differences

        if texts := [text for _, text in differences(made, wanted)]:
            raise RunError(f"{self.folder / name} was made with {', '.join(texts)}; use another --runs")


def predictions(row: TableRow | SpeedRow) -> Iterator[tuple[str, str | None]]:
    """Yield the runs of a row, with their views if predictions of them are wanted."""
    if isinstance(row, SpeedRow):
        yield from ((name, None) for name in row.runs)
        return
    yield from ((name, row.views) for name in row.runs)
    if row.over:
        yield row.over, "ten views"


def chain(name: str) -> list[str]:
    """Return a run after those that it begins with, the first of them first."""
    begins = RUNS[name].begins if name in RUNS else None
    return [*(chain(begins) if begins else []), name]


def images_of(name: str) -> str:
    """Return the key of DATA of a run's images."""
    return (RUNS[name] if name in RUNS else BASELINES[name]).data


def written(values: Mapping[str, Any]) -> list[str]:
    """Return options of a command line; None is left out."""
    given = {name.replace("_", "-"): value for name, value in values.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]
