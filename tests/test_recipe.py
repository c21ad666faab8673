"""The recipes' numbers against those of the 2012 source, typed here by hand; what a recipe refuses."""

import dataclasses
import json

import pytest

from model.recipe import RECIPES, Conv, Full, Recipe, RunError, get_recipe

# layer: parameters of both towers, linear output, output (recipe.md and the paper's figure 2)
NET_145 = {
    "conv1": (34_944, (96, 55, 55), (96, 27, 27)),
    "conv2": (307_456, (256, 27, 27), (256, 13, 13)),
    "conv3": (885_120, (384, 13, 13), (384, 13, 13)),
    "conv4": (663_936, (384, 13, 13), (384, 13, 13)),
    "conv5": (442_624, (256, 13, 13), (256, 6, 6)),
    "fc6": (37_752_832, (4096, 1, 1), (4096, 1, 1)),
    "fc7": (16_781_312, (4096, 1, 1), (4096, 1, 1)),
    "fc8": (4_097_000, (1000, 1, 1), (1000, 1, 1)),
}


@pytest.mark.parametrize("name", ["original", "paper"])
def test_shapes_and_parameters(name):
    shapes = get_recipe(name).shapes()
    assert {s.layer.name: (s.parameters, s.linear, s.out) for s in shapes} == NET_145
    assert sum(s.parameters for s in shapes) == 60_965_224
    assert [s.overhang for s in shapes] == [3, 0, 0, 0, 0, 0, 0, 0]


def test_original_is_net_145():
    """layers-145.cfg, line by line."""
    recipe = get_recipe("original")
    assert {layer.name: (layer.std, layer.bias, layer.then) for layer in recipe.layers} == {
        "conv1": (0.01, 0, ("lrn", "pool", "relu")),
        "conv2": (0.01, 1, ("relu", "lrn", "spatial", "pool")),
        "conv3": (0.03, 0, ("relu",)),
        "conv4": (0.03, 1, ("relu",)),
        "conv5": (0.03, 1, ("pool", "relu")),
        "fc6": (0.01, 1, ("relu", "dropout")),
        "fc7": (0.01, 1, ("relu", "dropout")),
        "fc8": (0.01, 0, ()),
    }
    assert [layer.name for layer in recipe.layers if layer.crossing] == [
        "conv1",
        "conv3",
        "fc6",
        "fc7",
        "fc8",
    ]
    assert dataclasses.astuple(recipe.lrn) == (5, pytest.approx(2e-5), 2, 0.75)
    assert dataclasses.astuple(recipe.spatial) == (5, pytest.approx(4e-5), 1, 0.75)
    assert not recipe.lrn_across_towers
    assert (recipe.offsets, recipe.noise_basis, recipe.noise_divided) == (33, "deviations", True)
    assert (recipe.rate, recipe.bias_factor, recipe.schedule) == (0.01, 2, "145")


def test_paper_is_the_papers_text():
    recipe = get_recipe("paper")
    assert {layer.name: layer.then for layer in recipe.layers[:5]} == {
        "conv1": ("relu", "lrn", "pool"),
        "conv2": ("relu", "lrn", "pool"),
        "conv3": ("relu",),
        "conv4": ("relu",),
        "conv5": ("relu", "pool"),
    }
    assert {layer.std for layer in recipe.layers} == {0.01}
    assert [layer.bias for layer in recipe.layers] == [layer.bias for layer in get_recipe("original").layers]
    assert dataclasses.astuple(recipe.lrn) == (5, 1e-4, 2, 0.75)
    assert recipe.lrn_across_towers
    assert recipe.offsets**2 * 2 == 2048
    assert (recipe.noise_basis, recipe.noise_divided) == ("eigenvalues", False)
    assert (recipe.rate, recipe.bias_factor, recipe.schedule) == (0.01, 1, "plateau")


@pytest.mark.parametrize("name", ["original", "paper"])
def test_both_agree_on(name):
    recipe = get_recipe(name)
    assert (recipe.batch_size, recipe.momentum, recipe.decay, recipe.keep) == (128, 0.9, 0.0005, 0.5)
    assert (recipe.crop, recipe.noise, recipe.pool_size, recipe.pool_stride) == (224, 0.1, 3, 2)


def test_other_sizes_follow_from_the_numbers():
    """Net 147's 2 x 2 pools leave 28, 14 and 7 (its pads make them so); windows always cover the image."""
    layers = tuple(dataclasses.replace(layer, pad={"conv2": 1, "conv5": 0}.get(layer.name, layer.pad))
                   if isinstance(layer, Conv) else layer for layer in get_recipe().layers)  # fmt: skip
    out = [s.out[1] for s in get_recipe(layers=layers, pool_size=2).shapes()]
    assert out[:5] == [28, 13, 13, 13, 6]
    assert get_recipe(crop=227).shapes()[0].overhang == 0
    assert get_recipe(crop=226).shapes()[0].overhang == 1


def test_narrow_copies():
    full, narrow = get_recipe().shapes(), get_recipe(width=0.25, classes=10).shapes()
    assert [s.weight[0] for s in narrow] == [24, 64, 96, 96, 64, 1024, 1024, 10]
    assert narrow[5].weight == (1024, 64 * 6 * 6)
    assert narrow[0].std == 0.01  # it reads the same three colours
    assert [n.std / f.std for f, n in zip(full, narrow, strict=True)] == pytest.approx([1] + [2] * 7)
    assert [s.weight[0] for s in get_recipe(width=0.001).shapes()] == [4] * 7 + [1000]
    assert get_recipe(width=0.3).scaled(96) == 28  # 14 a tower


@pytest.mark.parametrize("name", RECIPES)
def test_plain_data_and_back(name):
    recipe = get_recipe(name, width=0.5, epochs=7)
    plain = json.loads(json.dumps(recipe.to_dict()))
    assert plain == recipe.to_dict()
    assert Recipe.from_dict(plain) == recipe
    for broken in ({**plain, "colour": 1}, {**plain, "layers": [{"name": "conv1"}]}, {**plain, "lrn": 5}, {}):
        with pytest.raises(RunError, match="no recipe of this version"):
            Recipe.from_dict(broken)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"momentun": 0.9}, "no field 'momentun'"),
        ({"schedule": "146"}, "schedule must be one of 145, 145-2010, .*, constant, plateau, not '146'"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
        ({"epochs": 2.5}, "epochs"),
        ({"batch_size": True}, "batch_size"),
        ({"classes": 1}, "classes must be a whole number of at least 2"),
        ({"width": 0}, "width must be a number above 0"),
        ({"width": float("nan")}, "width"),
        ({"keep": 0}, "keep"),
        ({"momentum": 1}, "momentum"),
        ({"rate": "fast"}, "rate must be a number above 0, not 'fast'"),
        ({"noise_basis": "variances"}, "noise_basis must be deviations or eigenvalues"),
        ({"crop": 30}, "crop 30 is too small for conv"),
        ({"layers": ()}, "at least one layer"),
        ({"layers": (Full("a"), Full("a"))}, "two layers have one name"),
        ({"layers": (Full("a", then=("sigmoid",)), Full("b"))}, "a is followed by 'sigmoid'"),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(RunError, match=message) as error:
        get_recipe("original", **overrides)
    assert "\n" not in str(error.value)


def test_unknown_recipe():
    with pytest.raises(RunError, match="no recipe is called 'orignal'; there are original, paper"):
        get_recipe("orignal")
