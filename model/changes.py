"""Compare plain data, as recipes and the identities of runs are: what differs, and where."""

from collections.abc import Iterator
from typing import Any

Change = tuple[tuple[str, ...], Any, Any]  # path, before, now


def composed(value: Any) -> bool:
    """Return whether a value has fields or parts of its own, as layers, phases and norms have."""
    inside = value if isinstance(value, list) else [value]
    return any(isinstance(item, dict) for item in inside)


def called(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a message calls the place of a change: without "recipe" and "layers" before a name."""
    for outer in ("recipe", "layers"):
        path = path[1:] if path[0] == outer and len(path) > 1 else path
    return path


def changes(before: Any, now: Any, *path: str) -> Iterator[Change]:
    """Yield each difference. Lists of the same names, as of layers, are compared name by name."""
    if composed(before) and composed(now):
        before, now = _by_name(before), _by_name(now)
    same_names = not path or path[-1] != "layers" or list(before) == list(now)
    if isinstance(before, dict) and isinstance(now, dict) and same_names:
        for key in now | before:
            yield from changes(before.get(key), now.get(key), *path, key)
    elif before != now:
        yield path, before, now


def _by_name(value: Any) -> Any:
    return {item["name"]: item for item in value} if isinstance(value, list) and "name" in value[0] else value
