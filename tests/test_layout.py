"""The house keeps its shape: imports point one way, and the command line answers before torch wakes up."""

import ast
import graphlib
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "pipeline": {"model", "cli", "tools", "tests", "click", "rich"},
    "model": {"pipeline", "cli", "tools", "tests", "click", "rich"},
    "cli": {"tools", "tests"},
    "tools": {"tests"},
}


SHARED = ("pipeline.atomic", "pipeline.schema", "pipeline.image")  # know nothing of batches; model uses them


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: the import path is the file path"
            if node.module not in SHARED:
                found.add(str(node.module).partition(".")[0])
    return found


def test_what_pipeline_and_model_share_knows_neither() -> None:
    assert imports(ROOT / "pipeline/atomic.py") <= sys.stdlib_module_names
    known = modules()
    needed = {"pipeline.atomic", "pipeline.schema", "pipeline.formats", "pipeline.jpeg"}
    assert imported(known["pipeline.image"], known) <= needed
    assert not any(imported(known[name], known) for name in needed)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    wrong = {path.name: sorted(imports(path) & FORBIDDEN[package]) for path in (ROOT / package).rglob("*.py")}
    assert not {name: packages for name, packages in wrong.items() if packages}


def test_the_command_line_wakes_nothing_heavy() -> None:
    code = "import sys, cli; print(*sys.modules)"
    woken = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "nvidia", "matplotlib", "scipy", "tensorboard"}
    assert "cli" in woken.stdout.split() and not heavy & set(woken.stdout.split())


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        """Of processor time, which a busy machine does not stretch as it does the clock."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "cli", "--help"], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1


def test_the_tests_shadow_no_package() -> None:
    """A tests/model/__init__.py would be imported in place of model."""
    assert not list(Path(__file__).parent.glob("*/__init__.py"))


NO_VERBS = (
    "A|All|An|As|At|Beside|Between|By|Each|Every|For|From|How|In|Its|Of|On|One|Our|Same|Several|That|The|This|"
    "Those|To|Unfit|Until|What|Where|Whether|Which|Whose|With"
)
# A word that is none of these, no plural or "Makes", no name, no code
VERB = re.compile(rf"(?!({NO_VERBS})\b)[A-Z][a-z]*([a-rt-z]|ss)[ ,]")


def is_command(decorator: ast.expr) -> bool:
    """Tell whether a function is a command, whose docstring is its help."""
    return re.match(r"\w+\.(command|group)\(", ast.unparse(decorator)) is not None


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_docstring_begins_with_a_verb(package: str) -> None:
    nodes = [
        (path, node)
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {text.splitlines()[0]}"
        for path, node in nodes
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node))
        if not VERB.match(text) and not any(map(is_command, node.decorator_list))
    ]
    assert not wrong


def modules() -> dict[str, Path]:
    """Every module of the product and of the tools, by its name."""
    files = [path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def imported(path: Path, known: Collection[str]) -> set[str]:
    """Those of the `known` modules that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in inner}
    return found & set(known)


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {name: imported(path, known) - {name} for name, path in known.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_no_command_imports_another() -> None:
    commands = {name for name in modules() if name.startswith("cli.commands.")}
    assert len(commands) >= 15
    for name, path in modules().items():
        if name in commands:
            assert not imported(path, commands) - {name}, name
        elif not name.startswith("tools.") and name != "cli":
            assert not imported(path, commands), f"{name}: a command composes, nothing else needs it"


def test_what_one_room_alone_needs_is_in_it() -> None:
    """Flat in a package is what a batch meets, or what more than one of its rooms needs."""
    known = modules()
    users: dict[str, set[str]] = {name: set() for name in known}  # the folders of the files that import it
    for name, path in known.items():
        for other in imported(path, known):
            users[other].add(name.rpartition(".")[0])
    for name, folders in users.items():
        first, *others = folders - {"tools"} or {""}
        assert others or not first.startswith(f"{name.rpartition('.')[0]}."), f"{name} belongs in {first}"


def test_every_room_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = set(setuptools["packages"]) - set(setuptools["package-dir"])  # without second names
    rooms = [ROOT / name for name in ("pipeline", "model", "cli")]
    folders = [path.parent for room in rooms for path in room.rglob("__init__.py")]
    assert sorted(listed) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)


def test_every_data_file_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    named = {ROOT / folder.replace(".", "/") / name for folder, names in listed.items() for name in names}
    files = [path for room in ("pipeline", "model", "cli") for path in (ROOT / room).rglob("*.*")]
    assert named == {path for path in files if path.suffix not in (".py", ".pyc")}


def test_the_command_line_shows_in_one_look() -> None:
    shown = [path.name for path in (ROOT / "cli").iterdir() if path.name != "__pycache__"]
    files = ["__init__.py", "__main__.py", "display.py", "failures.py", "options.py", "signals.py"]
    rooms = ["bench", "commands", "compose", "launch", "paper", "pictures", "study"]
    assert sorted(shown) == sorted(files + rooms)
