"""What a command says is text: it is shown, and never obeyed as markup or as a command to the terminal."""

import ast
from pathlib import Path

CLI = Path(__file__).parent.parent / "cli"


def calls(path: Path) -> set[str]:
    """The names of all that a file calls, `click.echo` as such."""
    nodes = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {ast.unparse(name) for name in nodes}


def test_everything_is_said_in_one_place() -> None:
    """Only cli/text.py prints; the others call its `say` and `console`."""
    forbidden = {"print", "Console", "click.echo", "click.secho", "rich.print"}
    files = [path for path in CLI.rglob("*.py") if path.name != "text.py"]
    assert files and not {path.name: found for path in files if (found := calls(path) & forbidden)}
