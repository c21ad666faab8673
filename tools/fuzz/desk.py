"""Keep a small dataset, a run of it and what commands make from them in one folder; run commands there."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from pipeline.source import miniature
from tools.fuzz.harness import Fault, check_line, in_this_process

SMALL: dict[str, Any] = {"classes": 5, "train": 3, "val": 2, "damaged": False}
CPU = ("--device", "cpu", "--workers", "1")
OUTPUT = "out"  # where commands may write, and they begin in it


class Desk:
    """Hold folder/data, folder/run and so on. `commands`: one of each kind, by what it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.undisturbed = folder, folder.with_name(folder.name + "-undisturbed")
        in_this_process()
        folder.mkdir()
        self.out = folder / OUTPUT
        self.out.mkdir()
        os.chdir(self.out)
        miniature.write_archives(folder / "root", **SMALL)
        data, run = ("--data", folder / "data"), ("--run", folder / "run", *CPU)
        training = ("--width", 0.02, "--batch-size", 8, "--epochs", 1)
        self.must("prep", "--imagenet-root", folder / "root", "--out", folder / "data", "--workers", 1)
        self.half_prepared()
        self.must("train", *data, *run, *training)
        self.must("eval", *data, *run, "--predictions", folder / "val.npz", "--json", folder / "val.json")
        self.must("features", *run, "--out", folder / "features.npy")
        for naming in ("safetensors", "caffe", "torchvision"):
            self.must("export", *run[:2], "--format", naming, "--out", folder / f"{naming}.safetensors")
        if baseline := self.has_baseline():
            small = ("--epochs", 1, "--sample", 500, "--step", 64, "--components", 2, "--dimensions", 4)
            self.must("baseline", "sift-fv", *data, "--out", folder / "sift", "--workers", 1, *small)
        parts = ("train", "eval, centre", "eval, ten views")
        about = {"width": 0.02, "batch_size": 8, "parts": {name: {"img_s": 9.0} for name in parts}}
        (folder / "bench.json").write_text(json.dumps(about))
        image = folder / "image.JPEG"
        image.write_bytes(miniature.jpeg(miniature.Miniature().image(0, 0, 0)))
        self.commands: dict[str, tuple[Any, ...]] = {
            "prep": ("prep", "--out", folder / "data", "--workers", 1),
            "verify": ("prep", "--out", folder / "data", "--workers", 1, "--verify"),
            "repair": ("prep", "--imagenet-root", folder / "root", "--out", folder / "data", "--workers", 1),
            "go_on": ("prep", "--imagenet-root", folder / "bad", "--out", folder / "half", "--workers", 1,
            "--max-rejected", 1),
            "train": ("train", *data, *run, *training),
            "more": ("train", *data, *run, *training[:-1], 2, "--allow-changes"),
            "begin": ("train", *data, "--run", self.out / "new", *CPU, *training, "--init-from",
            folder / "safetensors.safetensors"),
            "eval": ("eval", *data, *run, "--predictions", "p.npz"),
            "eval_weights": ("eval", *data, "--run", folder / "safetensors.safetensors", *CPU),
            "eval_caffe": ("eval", *data, "--run", folder / "caffe.safetensors", *CPU),
            "predict": ("predict", image, *run, "--json", "p.json"),
            "predict_split": ("predict", "--split", "val", *run, "--csv", "p.csv"),
            "features": ("features", *run, "--out", "f.npy"),
            "similar": ("similar", image, "--features", folder / "features.npy", "--json", "s.json", *CPU),
            "ensemble": ("ensemble", folder / "val.npz", folder / "val.npz", "--out", "e.npz", *data,
            "--submission", "s.txt"),
            "export": ("export", *run[:2], "--out", "x.safetensors"),
            "report": ("report", folder / "run", *CPU, "--out", "r.html"),
            "curves": ("show", "curves", folder / "run"),
            "filters": ("show", "filters", *run[:2]),
            "batch": ("show", "batch", *data, *run[:2]),
            "confusion": ("show", "confusion", *run, "--predictions", folder / "val.npz"),
            "doctor": ("doctor", *data),
            "reproduce": ("reproduce", "ilsvrc-2012", *data, *CPU, *training[:-2], "--dry-run", "--runs",
            "runs",
                          "--bench", folder / "bench.json"),
        }  # fmt: skip
        if baseline:
            self.commands["baseline"] = (
                "baseline",
                "sift-fv",
                *data,
                "--out",
                folder / "sift",
                "--workers",
                1,
                *small,
            )
        clear(self.out)
        shutil.copytree(folder, self.undisturbed, symlinks=True)

    def half_prepared(self) -> None:
        """Make half/.work, with its plan and records."""
        miniature.write_archives(self.folder / "bad", **{**SMALL, "classes": 2, "damaged": True})
        words = ("--imagenet-root", self.folder / "bad", "--out", self.folder / "half", "--workers", 1)
        assert self.command("prep", *words, "--max-rejected", 0.0).exit_code == 1
        assert list((self.folder / "half/.work").glob("*.npz"))

    def has_baseline(self) -> bool:
        from importlib.util import find_spec

        return bool(find_spec("cv2") and find_spec("sklearn"))

    def must(self, *words: object) -> None:
        result = self.command(*words)
        if result.exit_code:
            raise SystemExit(f"{words}: {result.output}") from result.exception

    def command(self, *words: object) -> Result:
        """Run one command in this process."""
        from cli import main

        return CliRunner().invoke(
            main, [os.fsdecode(word) if isinstance(word, Path) else str(word) for word in words]
        )

    def check(self, result: Result, words: Sequence[object], *names: str) -> None:
        """Raise a Fault unless a command ended well, or with one line that has one of `names`, if given."""
        error = result.exception
        if error is not None and not isinstance(error, SystemExit):
            raise error
        if result.exit_code not in (0, 1, 2, 75):
            raise Fault("no line", f"status {words[0]}", f"{words} ended with {result.exit_code}")
        if result.exit_code == 1:
            said = result.stderr.rpartition("Error: ")[2]
            check_line(said.removesuffix("\n"), "")
            check_line(result.output.replace("\n", " "), *(names or ("",)))

    def restore(self) -> None:
        """Restore all files as they were."""
        for path in self.folder.iterdir():
            clear(path) if path == self.out else remove(path)
        shutil.copytree(self.undisturbed, self.folder, symlinks=True, dirs_exist_ok=True)


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        remove(path)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
