"""What stands beside errors: the paper's where the classes are ILSVRC's, or else guessing; no idle top-5."""

import hashlib

import numpy as np
import pytest

from cli.commands.reproduce import show
from cli.display import top_errors
from cli.paper.comparison import comparison
from cli.paper.tables import TABLES
from pipeline.dataset import Category
from pipeline.source.names import ilsvrc_names


def classes(count: int, first_id: int | None = None) -> list[Category]:
    ids = [None if first_id is None else first_id + number for number in range(count)]
    return [Category(number, f"n{number:08d}", "thing", ids[number]) for number in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5, 6, 10, 1000])
def test_guessing_is_what_random_guesses_make(count: int) -> None:
    draw = np.random.default_rng(0)
    label, guesses = draw.integers(count, size=4000), np.argsort(draw.random((4000, count)), axis=1)
    wrong = [100 * (guesses[:, :k] != label[:, None]).all(1).mean() for k in (1, 5)]
    ((name, *errors),) = comparison(classes(count), "val")
    assert name == f"guessing among {count:,} classes"
    assert len(errors) == (2 if count > 5 else 1)
    for error, expected in zip(errors, wrong, strict=False):
        assert float(error.removesuffix(" %")) == pytest.approx(expected, abs=3)


def test_the_papers_numbers_are_of_ilsvrc_only() -> None:
    rows = comparison(classes(1000, first_id=1), "test")
    assert ("CNN (ILSVRC-2010 test, ten views)", "37.5 %", "17.0 %") in rows
    assert ("CNN, 2012 log (ILSVRC-2010 test, ten views)", "37.47 %", "17.0 %") in rows
    for others in (classes(999, 1), classes(1000), classes(1000, 2)):
        assert [name for name, *_ in comparison(others, "test")] == [
            f"guessing among {len(others):,} classes"
        ]
    assert len(comparison(classes(1000, first_id=1), "train")) == 1  # whose errors the paper does not say


def test_ilsvrc_2012_is_known_by_its_wnids() -> None:
    wnids = sorted(ilsvrc_names())
    # as timm 1.0.31 lists them
    digest = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
    assert hashlib.sha256("\n".join(wnids).encode()).hexdigest() == digest
    found = [Category(number, wnid, wnid, None) for number, wnid in enumerate(wnids)]
    assert comparison(found, "val")[:2] == [
        ("1 CNN (ILSVRC-2012 val, ten views)", "40.7 %", "18.2 %"),
        ("1 CNN, 2012 log (ILSVRC-2012 val, ten views)", "40.66 %", "18.21 %"),
    ]
    assert [name for name, *_ in comparison(found[1:], "val")] == ["guessing among 999 classes"]


def test_five_guesses_among_five_classes_say_nothing() -> None:
    errors = {"top1_err": 12.34, "top5_err": 0.0}
    assert top_errors(errors, 5) == {"top-1": "12.34 %"}
    assert list(top_errors(errors, 6)) == ["top-1", "top-5"]


@pytest.mark.parametrize("comparable", [True, False])
def test_reproduce_shows_the_papers_table_beside_its_own_images_only(
    comparable: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    table = TABLES["ilsvrc-2010"]
    made = {"ours": [50.0, 20.0], "images": 9, "split": "test", "over": None, "submitted": None}
    show(table, [made | {"classes": 1000, "comparable": comparable} for _ in table.rows])
    out = capsys.readouterr().out
    assert "50.00 / 20.00" in out
    assert ("37.5 / 17.0" in out) is comparable
    assert ("guessing among 1,000 classes: 99.90 % / 99.50 %" in out) is not comparable
