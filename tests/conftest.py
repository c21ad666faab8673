"""Miniature ImageNets for every test, each drawn once a session. Read them; write elsewhere."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.dataset import Dataset
from pipeline.prep.prepare import prepare
from pipeline.source import miniature
from pipeline.source.find import find_source

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests, as nohup, may ignore it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for every process started

settings.register_profile("same", derandomize=True)  # the same inputs each time; others: --hypothesis-profile
settings.load_profile("same")

SMALL = {"classes": 3, "train": 8, "val": 3, "test": 5}  # 24 + 7 odd files, 9 and 5 images


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official archives."""
    root = tmp_path_factory.mktemp("archives")
    miniature.write_archives(root, **SMALL)
    return root


@pytest.fixture(scope="session")
def archives_2010(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as ILSVRC-2010's archives."""
    root = tmp_path_factory.mktemp("archives_2010")
    miniature.write_2010(root, **SMALL)
    return root


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders in train/ and val/."""
    root = tmp_path_factory.mktemp("folders")
    miniature.write_folders(root, **SMALL)
    return root


@pytest.fixture(scope="session")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders in train/, a flat val/ and the development kit."""
    root = tmp_path_factory.mktemp("flat")
    miniature.write_folders(root, flat_val=True, **SMALL)
    return root


@pytest.fixture(scope="session")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kaggle's tree."""
    root = tmp_path_factory.mktemp("kaggle")
    miniature.write_kaggle(root, **SMALL)
    return root


def prepared(root: Path, factory: pytest.TempPathFactory, **options: str) -> Dataset:
    return prepare(find_source(root), factory.mktemp("prepared"), workers=2, max_rejected=0.5, **options)


@pytest.fixture(scope="session")
def dataset(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Prepared from `folders`: 28 training images, 9 of validation, both in one shard."""
    return prepared(folders, tmp_path_factory)


@pytest.fixture(scope="session")
def originals(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same with the images' own bytes."""
    return prepared(folders, tmp_path_factory, size="original")


@pytest.fixture(scope="session")
def dataset_2010(archives_2010: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """ILSVRC-2010: its 5 test images have labels, too."""
    return prepared(archives_2010, tmp_path_factory)


@pytest.fixture(scope="session")
def raw(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same as raw pixels."""
    return prepared(folders, tmp_path_factory, store="raw")


@pytest.fixture(scope="session")
def small(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same as raw squares of 32 pixels."""
    return prepared(folders, tmp_path_factory, size="32", store="raw")


@pytest.fixture(scope="session")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a very narrow network, two epochs of two steps."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    options = ["--width", "0.05", "--batch-size", "16", "--epochs", "2", "--device", "cpu"]
    command = [sys.executable, "-m", "cli", "train", "--data", dataset.root, "--run", path, *options]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)
    return path
