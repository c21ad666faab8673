"""The schedules against the notes of the 2012 runs, typed here by hand."""

import pytest

from model.recipe import get_recipe
from model.schedule import epochs, finished, noise, rates, table


def rows(recipe):
    return [
        (name, *(pytest.approx(value, rel=1e-12) for value in numbers), on)
        for name, *numbers, on in table(recipe)
    ]


def test_hand_schedule_of_145():
    """25, 51, 79, stopped at 91; conv1 slowed and noise off at 67, conv1 frozen at 72."""
    assert rows(get_recipe("original")) == [
        ("1-24", 1e-2, 2e-2, 1e-2, True),
        ("25-50", 1e-3, 2e-2, 1e-3, True),
        ("51-66", 1e-4, 2e-2, 1e-4, True),
        ("67-71", 1e-4, 2e-2, 1e-5, False),
        ("72-78", 1e-4, 2e-2, 0, False),
        ("79-90", 1e-5, 2e-2, 0, False),
    ]


def test_hand_schedule_of_145_2010():
    """23, 51, 78, stopped at 93; conv1 slowed and noise off at 68, conv1 frozen at 72."""
    assert rows(get_recipe("original", schedule="145-2010")) == [
        ("1-22", 1e-2, 2e-2, 1e-2, True),
        ("23-50", 1e-3, 2e-3, 1e-3, True),
        ("51-67", 1e-4, 2e-3, 1e-4, True),
        ("68-71", 1e-4, 2e-3, 1e-5, False),
        ("72-77", 1e-4, 2e-3, 0, False),
        ("78-92", 1e-5, 2e-3, 0, False),
    ]


def test_automatic_schedule_of_170():
    """dexp(250, 4) = 0.01, 0.001587, 0.000252, 0.00004, dexp(10, 2), 95 epochs; quiet at 68, frozen at 74."""
    found = table(get_recipe("original", schedule="170"))
    assert [row[0] for row in found] == ["1-24", "25-48", "49-67", "68-72", "73-73", "74-95"]
    assert [row[1] for row in found] == pytest.approx(
        [1e-2, 1.587e-3, 2.52e-4, 2.52e-4, 4e-5, 4e-5], rel=1e-3
    )
    assert [row[2] for row in found] == pytest.approx([2e-2, 2e-2, 2e-3, 2e-3, 2e-3, 2e-3])
    assert [row[3] for row in found] == pytest.approx([1e-2, 1.587e-3, 2.52e-4, 2.52e-4, 4e-5, 0], rel=1e-3)
    assert [row[4] for row in found] == [True, True, True, False, False, False]


def test_rates_by_layer():
    late = rates(get_recipe("original"), 72)
    assert late.weight.pop("conv1") == late.bias.pop("conv1") == 0
    assert set(late.weight) == {"conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"}
    assert list(late.weight.values()) == pytest.approx([1e-4] * 7)
    assert set(late.bias.values()) == {0.02}
    assert not late.noise


def test_rates_scale_with_the_first():
    assert rates(get_recipe("original", rate=0.005), 30).weight["fc8"] == pytest.approx(0.0005)
    assert rates(get_recipe("original", rate=0.005), 30).bias["fc8"] == pytest.approx(0.01)


def test_epochs_stretch_the_schedule():
    assert epochs(get_recipe("original")) == 90
    assert [row[0] for row in table(get_recipe("original", epochs=180))] == [
        "1-48", "49-100", "101-132", "133-142", "143-156", "157-180"]  # fmt: skip
    short = get_recipe(
        "original", epochs=9
    )  # 24 / 10 = 2.4 epochs at the first rate: until the fourth starts
    assert [row[0] for row in table(short)] == ["1-3", "4-5", "6-7", "8-8", "9-9"]
    assert finished(short, [50.0] * 9)
    assert not finished(short, [50.0] * 8)


def plateaus(history, **overrides):
    recipe = get_recipe("paper", **{"patience": 2, **overrides})
    found = [rates(recipe, epoch, history).weight["fc8"] for epoch in range(1, len(history) + 2)]
    return found, finished(recipe, history)


def test_plateau_divides_when_the_error_stops_improving():
    found, over = plateaus([90, 80, 81, 80, 70, 70, 71])
    assert found == pytest.approx([1e-2] * 4 + [1e-3] * 3 + [1e-4])  # 81 and 80 are no better than 80
    assert not over


def test_plateau_counts_improvement_anew_at_each_rate():
    found, _ = plateaus([50, 51, 52, 60, 55, 54, 53])
    assert found == pytest.approx([1e-2] * 3 + [1e-3] * 5)  # worse than 50 for good, yet improving


def test_plateau_ends_after_three_reductions():
    flat = [50.0] * 12
    found, over = plateaus(flat)
    assert found == pytest.approx([1e-2] * 3 + [1e-3] * 3 + [1e-4] * 3 + [1e-5] * 4)
    assert over
    assert not plateaus(flat[:-1])[1]


def test_plateau_is_a_function_of_what_was_known():
    """Later errors do not change earlier rates; nan does not improve; the ceiling ends it all."""
    history = [50.0] * 12
    recipe = get_recipe("paper", patience=2)
    assert all(rates(recipe, e, history) == rates(recipe, e, history[: e - 1]) for e in range(1, 13))
    assert plateaus([50, float("nan"), float("nan")])[0] == pytest.approx([1e-2] * 3 + [1e-3])
    falling = [100 - i for i in range(90)]
    assert finished(recipe, falling)
    assert not finished(recipe, falling[:-1])
    assert finished(get_recipe("paper", epochs=4), falling[:4])


def test_plateau_table_and_biases():
    assert rows(get_recipe("paper")) == [
        ("to plateau 1", 1e-2, 1e-2, 1e-2, True),
        ("to plateau 2", 1e-3, 1e-3, 1e-3, True),
        ("to plateau 3", 1e-4, 1e-4, 1e-4, True),
        ("to plateau 4", 1e-5, 1e-5, 1e-5, True),
    ]


def test_noise_is_known_beforehand():
    assert [noise(get_recipe("original"), epoch) for epoch in (1, 66, 67, 90)] == [True, True, False, False]
    assert noise(get_recipe("paper"), 90)
