"""Other packages of the names of ours: the program says which file is in the way, however it is started."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cli.commands import doctor

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]
# As an editable install makes it: our packages by their places in this checkout, after Python's path
SCRIPT = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location

class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if place := PLACES.get(name):
            return spec_from_file_location(name, f"{place}/__init__.py", submodule_search_locations=[place])

sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Editable)
from MODULE import FUNCTION
sys.exit(FUNCTION())
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    names = {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    places = {name: str(ROOT / FOLDERS.get(name, name)) for name in names}
    module, function = PROJECT["project"]["scripts"]["alexnet-dali"].split(":")
    text = SCRIPT.replace("PLACES", repr(places)).replace("MODULE", module).replace("FUNCTION", function)
    path = tmp_path / "bin" / "alexnet-dali"
    path.parent.mkdir()
    path.write_text(text)
    return path


def start(*words: object, folder: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *map(str, words)]
    environment |= {"PYTHONPATH": path} if path else {}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("raise SystemExit('theirs')\n")
    return path


@pytest.mark.parametrize("name", ["model.py", "cli.py", "cli/__init__.py", "pipeline/__init__.py"])
def test_the_console_script_names_the_file_in_the_way(name: str, script: Path, tmp_path: Path) -> None:
    stranger = put(tmp_path / "theirs" / name)
    for words in ("--help", "doctor"):
        result = start(script, words, folder=tmp_path, path=f"{tmp_path / 'nowhere'}:{tmp_path / 'theirs'}")
        package = name.partition("/")[0].removesuffix(".py")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (
            f"Error: '{stranger}' is in the way of alexnet-dali's own package {package}: "
            f"take '{tmp_path / 'theirs'}' off PYTHONPATH\n"
        )


def test_a_folder_without_init_is_in_the_way_of_an_editable_install(script: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs/model").mkdir(parents=True)
    result = start(script, "--help", folder=tmp_path, path=str(tmp_path / "theirs"))
    assert result.returncode == 1 and f"'{tmp_path / 'theirs/model'}' is in the way" in result.stderr


def test_the_working_folder_is_not_in_the_way_of_the_console_script(script: Path, tmp_path: Path) -> None:
    put(tmp_path / "theirs/model.py")
    result = start(script, "--help", folder=tmp_path / "theirs")
    assert result.returncode == 0 and "Usage: alexnet-dali" in result.stdout


def test_python_m_cli_names_the_file_in_the_way(tmp_path: Path) -> None:
    stranger = put(tmp_path / "theirs/model.py")
    result = start("-m", "cli", "doctor", folder=tmp_path / "theirs", path=str(ROOT))
    assert result.returncode == 1
    assert result.stderr == (
        f"Error: '{stranger}' is in the way of alexnet-dali's own package model: start from another folder\n"
    )


def test_doctor_names_packages_that_overwrite_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"cli": ["alexnet-dali", "other-tool"], "model": ["alexnet-dali"], "numpy": ["numpy"]}
    monkeypatch.setattr(doctor, "packages_distributions", lambda: found)
    (fault,) = doctor.find_strangers()
    assert fault.startswith("other-tool installs a package cli, too") and "virtual environment" in fault
