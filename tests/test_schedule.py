"""The schedules against the notes of the 2012 runs, typed here by hand."""

import pytest

from model.recipes import get_recipe
from model.schedule import epochs, finished, learning_rates, noise, stages, table


def rows(recipe):
    """(epochs, rate of fc8's weights, of its biases, of conv1's weights, noise)"""
    found = [(name, now.weight["fc8"], now.bias["fc8"], now.weight["conv1"], now.noise)
             for name, now in stages(recipe)]  # fmt: skip
    return [
        (name, *(pytest.approx(value, rel=1e-12) for value in numbers), on) for name, *numbers, on in found
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
    assert table(get_recipe("original", schedule="170")) == [
        ["epochs", "conv1", "conv2-fc8", "colour noise"],
        ["1-24", "0.01, biases 0.02", "0.01, biases 0.02", "on"],
        ["25-48", "0.0015874, biases 0.02", "0.0015874, biases 0.02", "on"],
        ["49-67", "0.000251984, biases 0.002", "0.000251984, biases 0.002", "on"],
        ["68-72", "0.000251984, biases 0.002", "0.000251984, biases 0.002", "off"],
        ["73", "0.00004, biases 0.002", "0.00004, biases 0.002", "off"],
        ["74-95", "frozen", "0.00004, biases 0.002", "off"],
    ]


def shown(name, heads, *rows, **changes):
    """Rows of "epochs, rates, noise" as the table has them."""
    found = table(get_recipe(name, **changes))
    assert found[0] == ["epochs", *heads, "colour noise"]
    assert [" ".join(row).replace(", biases ", "/") for row in found[1:]] == list(rows)


def test_the_others_of_the_five():
    """layer-params-131.cfg, -135.cfg, -137.cfg, -145.cfg"""
    early, late = "conv1, conv2", "conv3-fc8"
    shown("net131", (early, late),
          "1-21 0.01/0.02 0.01/0.02 on", "22-45 0.001/0.002 0.001/0.002 on",
          "46-65 0.0001/0.002 0.0001/0.002 on", "66-74 0.00001/0.002 0.0001/0.002 off",
          "75-80 frozen 0.0001/0.002 off", "81-99 frozen 0.00001/0.002 off")  # fmt: skip
    shown("net135", (early, late),
          "1-19 0.01/0.02 0.01/0.02 on", "20-46 0.001/0.002 0.001/0.002 on",
          "47-65 0.0001/0.002 0.0001/0.002 on", "66-74 0.00001/0.002 0.0001/0.002 off",
          "75-80 frozen 0.0001/0.002 off", "81-95 frozen 0.00001/0.002 off")  # fmt: skip
    shown("net137", (early, late),
          "1-25 0.01/0.02 0.01/0.02 on", "26-49 0.001/0.002 0.001/0.002 on",
          "50-74 0.0001/0.002 0.0001/0.002 on", "75-83 frozen 0.0001/0.002 off",
          "84-98 frozen 0.00001/0.002 off")  # fmt: skip
    shown("net145f", ("conv1-fc8",), "1-18 0.01/0.02 on", "19-46 0.001/0.02 on", "47-60 0.0001/0.02 on")


def test_the_chain_of_141():
    """layer-params-141.cfg, -141-2009.cfg: 4.1189 and 5.1596 wait for the next epoch to start."""
    shown("net141", ("conv1-fc8",), "1-22 0.01/0.02 on", "23-47 0.001/0.02 on", "48-59 0.0001/0.02 on")
    shown("net141", ("conv1-fc8",), "1-4 0.001/0.02 on", "5 0.0001/0.02 on", schedule="141-2009")
    shown("net141", ("conv1, conv2", "conv3-fc8"),
          "1-12 0.001/0.002 0.001/0.002 on", "13-25 0.0001/0.002 0.0001/0.002 on",
          "26-31 0.00001/0.002 0.0001/0.002 off", "32-42 frozen 0.0001/0.002 off",
          "43-53 frozen 0.00001/0.002 off",
          schedule="141-2009-2012")  # fmt: skip


def test_the_chain_of_146():
    """layer-params-146-2009.cfg, -146-2011.cfg, -146-2012-2011.cfg, -146-2012-2009.cfg"""
    shown("net146-2009", ("conv1-conv5", "conv6", "fc6-fc8"),
          "1-2 0.001/0.02 0.01/0.002 0.01/0.02 on", "3-6 0.001/0.02 0.001/0.002 0.001/0.02 on")  # fmt: skip
    shown("net146-2011", ("conv1-conv5", "conv6", "fc6-fc8"),
          "1-5 0.001/0.02 0.001/0.002 0.01/0.02 on", "6-8 0.001/0.02 0.001/0.002 0.001/0.02 on")  # fmt: skip
    shown("net146", ("conv1", "conv2-conv5, fc6, fc7", "conv6", "fc8"),
          "1 0.0001/0.02 0.001/0.02 0.001/0.022 0.001/0.02 on",
          "2-4 0.0001/0.02 0.001/0.02 0.001/0.022 0.01/0.02 on",
          "5-6 0.00001/0.02 0.001/0.02 0.001/0.022 0.01/0.02 on",
          "7-8 frozen 0.001/0.02 0.001/0.022 0.01/0.02 on",
          "9-21 frozen 0.001/0.02 0.001/0.022 0.001/0.02 on",
          "22-37 frozen 0.0001/0.02 0.0001/0.022 0.0001/0.02 on",
          "38-41 frozen 0.0001/0.02 0.0001/0.022 0.0001/0.02 off",
          "42-53 frozen 0.00001/0.02 0.00001/0.022 0.00001/0.02 off")  # fmt: skip
    shown("net146", ("conv1", "conv2-conv5, fc6-fc8", "conv6"),
          "1-2 0.0001/0.02 0.001/0.02 0.001/0.002 on", "3 0.00001/0.02 0.001/0.02 0.001/0.002 on",
          "4-21 frozen 0.001/0.02 0.001/0.002 on", "22-37 frozen 0.0001/0.02 0.0001/0.002 on",
          "38-41 frozen 0.0001/0.02 0.0001/0.002 off", "42-51 frozen 0.00001/0.02 0.00001/0.002 off",
          schedule="146-2012-2009")  # fmt: skip


def test_the_ablations():
    """layer-params-145-half.cfg (its last drop is not noted), -147.cfg, -148.cfg"""
    shown("half", ("conv1", "conv2-fc8"),
          "1-19 0.01/0.02 0.01/0.02 on", "20-47 0.001/0.02 0.001/0.02 on", "48-65 0.0001/0.02 0.0001/0.02 on",
          "66-71 0.00001/0.02 0.0001/0.02 off", "72-77 frozen 0.0001/0.02 off",
          "78-95 frozen 0.00001/0.02 off")  # fmt: skip
    shown("no-overlap", ("conv1", "conv2-fc8"),
          "1-22 0.01/0.02 0.01/0.02 on", "23-50 0.001/0.002 0.001/0.002 on",
          "51-78 0.0001/0.002 0.0001/0.002 on", "79-89 frozen 0.00001/0.002 on")  # fmt: skip
    shown("no-lrn", ("conv1", "conv2-fc8"),
          "1-21 0.01/0.02 0.01/0.02 on", "22-43 0.001/0.02 0.001/0.02 on", "44-68 0.0001/0.02 0.0001/0.02 on",
          "69-72 0.00001/0.02 0.0001/0.02 off", "73-85 frozen 0.0001/0.02 off",
          "86-96 frozen 0.00001/0.02 off")  # fmt: skip
    shown("relu4", ("conv1-fc4",), "1-40 0.001/0.002 off")
    shown("tanh4", ("conv1-fc4",), "1-40 0.004/0.008 off")


def test_layers_that_a_network_does_not_have_are_passed_over():
    assert table(get_recipe("relu4", schedule="146-2012-2011"))[0] == [
        "epochs",
        "conv1",
        "conv2-fc4",
        "colour noise",
    ]


def test_rates_by_layer():
    late = learning_rates(get_recipe("original"), 72)
    assert late.weight.pop("conv1") == late.bias.pop("conv1") == 0
    assert set(late.weight) == {"conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"}
    assert list(late.weight.values()) == pytest.approx([1e-4] * 7)
    assert set(late.bias.values()) == {0.02}
    assert not late.noise


def test_rates_scale_with_the_first():
    assert learning_rates(get_recipe("original", rate=0.005), 30).weight["fc8"] == pytest.approx(0.0005)
    assert learning_rates(get_recipe("original", rate=0.005), 30).bias["fc8"] == pytest.approx(0.01)


def test_epochs_stretch_the_schedule():
    assert epochs(get_recipe("original")) == 90
    assert [row[0] for row in stages(get_recipe("original", epochs=180))] == [
        "1-48", "49-100", "101-132", "133-142", "143-156", "157-180"]  # fmt: skip
    short = get_recipe(
        "original", epochs=9
    )  # 24 / 10 = 2.4 epochs at the first rate: until the fourth starts
    assert [row[0] for row in stages(short)] == ["1-3", "4-5", "6-7", "8", "9"]
    assert finished(short, [50.0] * 9)
    assert not finished(short, [50.0] * 8)


def plateaus(history, **overrides):
    recipe = get_recipe("paper", **{"patience": 2, **overrides})
    found = [learning_rates(recipe, epoch, history).weight["fc8"] for epoch in range(1, len(history) + 2)]
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
    assert all(
        learning_rates(recipe, e, history) == learning_rates(recipe, e, history[: e - 1])
        for e in range(1, 13)
    )
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
