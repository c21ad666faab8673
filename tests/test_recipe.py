"""The recipes' numbers against those of the 2012 source, typed here by hand; what a recipe refuses."""

import json

import pytest
from msgspec.structs import astuple, replace

from model.errors import RunError
from model.layers import Full
from model.recipe import Recipe
from model.recipes import RECIPES, get_recipe

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


# (maps * (maps read * kernel * kernel) + maps), by hand, where they differ from net 145's
COLOUR = {"conv1": 64 * 363 + 64, "conv2": 256 * 32 * 25 + 256 * 3 * 25 + 256}
SIXTH = {"conv6": 256 * 256 * 9 + 256}
HALF = {
    "conv1": 48 * 363 + 48, "conv2": 128 * 48 * 25 + 128, "conv3": 192 * 128 * 9 + 192,
    "conv4": 192 * 192 * 9 + 192, "conv5": 256 * 192 * 9 + 256,
}  # fmt: skip
DIFFER = {
    "net131": (COLOUR, 60_870_376),
    "net135": (COLOUR, 60_870_376),
    "net137": (COLOUR, 60_870_376),
    "net141": (COLOUR | SIXTH, 61_460_456),
    "net145f": ({}, 60_965_224),
    "net146": (SIXTH, 61_555_304),
    "net146-2009": (SIXTH | {"fc8": 10_184 * 4097}, 99_182_152),
    "net146-2011": (SIXTH | {"bottleneck": 2048 * 4097, "fc8": 21_843 * 2049}, 110_605_267),
    "half": (HALF, 59_798_312),
    "no-lrn": ({}, 60_965_224),
    "no-overlap": ({}, 60_965_224),
    "no-noise": ({}, 60_965_224),
}


@pytest.mark.parametrize("name", DIFFER)
def test_the_other_nets_by_hand(name):
    differing, total = DIFFER[name]
    shapes = get_recipe(name).shapes()
    expected = {layer: numbers[0] for layer, numbers in NET_145.items()} | differing
    assert {s.layer.name: s.parameters for s in shapes} == expected
    assert sum(s.parameters for s in shapes) == total
    out = {s.layer.name: s.out for s in shapes}
    assert out["conv5"] == (256, 6, 6)  # whatever the pads and pools
    assert out.get("conv6", (256, 6, 6)) == (256, 6, 6)
    assert [s.layer.name for s in shapes[-3:]] == (
        ["fc7", "bottleneck", "fc8"] if name == "net146-2011" else ["fc6", "fc7", "fc8"]
    )


def test_figure_1_s_network_by_hand():
    shapes = get_recipe("tanh4").shapes()
    assert {s.layer.name: (s.parameters, s.linear, s.out) for s in shapes} == {
        "conv1": (32 * 75 + 32, (32, 32, 32), (32, 16, 16)),
        "conv2": (32 * 800 + 32, (32, 16, 16), (32, 8, 8)),
        "conv3": (64 * 800 + 64, (64, 8, 8), (64, 4, 4)),
        "fc4": (10 * 1025, (10, 1, 1), (10, 1, 1)),
    }
    relu4 = get_recipe("relu4")
    assert [layer.then for layer in relu4.layers] == [("relu", "pool")] * 3 + [()]
    assert [s.layer.then for s in shapes] == [("tanh", "pool")] * 3 + [()]
    assert (relu4.towers, relu4.decay, relu4.noise, relu4.side) == (1, 0, 0, 32)


def test_what_else_the_nets_differ_in():
    """layer-params-131.cfg (no minDiv: 1), -135.cfg (2); what is drawn anew in each."""
    assert {name: get_recipe(name).lrn.k for name in ("net131", "net135", "net137", "net141", "net146")} == {
        "net131": 1, "net135": 2, "net137": 2, "net141": 2, "net146": 2
    }  # fmt: skip
    second = {name: get_recipe(name).layers[1].then for name in ("net131", "net135", "net137", "no-lrn")}
    assert second["net131"] == second["net135"] == ("relu", "lrn", "contrast", "pool")
    assert second["net137"] == ("relu", "lrn", "spatial", "pool") and second["no-lrn"] == ("relu", "pool")
    assert get_recipe("no-lrn").layers[0].then == ("pool", "relu")
    colour = get_recipe("net137").layers[1].colour
    assert astuple(colour) == (4, 9, 4, 5, 2, 0.01)
    assert list(colour.pixels(224)) == list(range(2, 224, 4))
    assert get_recipe("net137").shapes()[1].coarse_overhang == 1  # 27 windows of 5, every 2, cover 57 of 56
    assert get_recipe("no-noise").noise == 0
    sixth = get_recipe("net146").layers[5]
    assert (sixth.name, sixth.crossing, sixth.pad, sixth.std, sixth.bias) == ("conv6", True, 1, 0.03, 1)
    assert {name: get_recipe(name).anew for name in ("original", "net146-2009", "net146-2011", "net146")} == {
        "original": (),
        "net146-2009": ("fc6", "fc7", "fc8"),
        "net146-2011": ("fc6", "fc7", "bottleneck", "fc8"),
        "net146": ("fc8",),
    }


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
    assert astuple(recipe.lrn) == (5, pytest.approx(2e-5), 2, 0.75)
    assert astuple(recipe.spatial) == (5, pytest.approx(4e-5), 1, 0.75)
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
    assert astuple(recipe.lrn) == (5, 1e-4, 2, 0.75)
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
    """Net 147's 2 x 2 pools leave 28, 13 and 6 (its pads make them so); windows always cover the image."""
    assert [s.out[1] for s in get_recipe("no-overlap").shapes()[:5]] == [28, 13, 13, 13, 6]
    assert get_recipe(crop=227, offsets=30).shapes()[0].overhang == 0
    assert get_recipe(crop=226, offsets=30).shapes()[0].overhang == 1


def test_none_leaves_a_field_as_the_recipe_has_it() -> None:
    assert get_recipe("original", width=None, batch_size=None) == get_recipe("original")


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
    old = {k: v for k, v in plain.items() if k not in ("reduce", "anew", "mirror")}
    old["layers"] = [{k: v for k, v in layer.items() if v or k != "colour"} for layer in plain["layers"]]
    assert Recipe.from_dict(old) == replace(recipe, anew=(), mirror=True)
    lacks_pad = {
        **plain,
        "layers": [{k: v for k, v in plain["layers"][0].items() if k != "std"}, *plain["layers"][1:]],
    }
    for broken in (
        lacks_pad,
        {**plain, "colour": 1},
        {**plain, "layers": [{"name": "conv1"}]},
        {**plain, "lrn": 5},
        {},
    ):
        with pytest.raises(RunError, match="its recipe is not one of this version"):
            Recipe.from_dict(broken)


def test_the_first_relu4_is_still_read():
    """It averaged crops of 224 pixels to 32."""
    recipe = get_recipe("relu4")
    older = recipe.to_dict() | {"crop": 224, "offsets": 33, "reduce": 7}
    assert Recipe.from_dict(older).side == recipe.side == 32
    assert Recipe.from_dict(older).shapes() == recipe.shapes()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"momentun": 0.9}, "no field 'momentun'"),
        ({"schedule": "146"}, "schedule '146' is none of 145, 145-2010, .*, constant, plateau"),
        ({"epochs": 0}, "expected `int` >= 1 at `epochs`"),
        ({"epochs": 2.5}, "epochs"),
        ({"batch_size": True}, "batch_size"),
        ({"classes": 1}, "expected `int` >= 2 at `classes`"),
        ({"width": 0}, "expected `float` > 0.0 at `width`"),
        ({"width": float("nan")}, "width"),
        ({"keep": 0}, "keep"),
        ({"momentum": 1}, "momentum"),
        ({"rate": "fast"}, "expected `float`, got `str` at `rate`"),
        ({"noise_basis": "variances"}, "invalid enum value 'variances' at `noise_basis`"),
        ({"crop": 30}, "crop 30 is too small for conv"),
        ({"reduce": 0}, "expected `int` >= 1 at `reduce`"),
        ({"reduce": 10}, "reduce 10 does not divide crop 224"),
        ({"anew": ("fc9",)}, "anew names fc9, no layer: choose among conv1, "),
        ({"layers": ()}, "expected `array` of length >= 1 at `layers`"),
        ({"layers": (Full("a"), Full("a"))}, "two layers have one name"),
        ({"layers": (Full("a", then=("sigmoid",)), Full("b"))}, r"'sigmoid' at `layers\[0\].then"),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(RunError, match=message) as error:
        get_recipe("original", **overrides)
    assert "\n" not in str(error.value)


def spoilt(**changes):
    """A recipe as a file has it, other in some places; a number says which layer is to be other."""
    plain = get_recipe().to_dict()
    layers = [{**layer, **changes.pop(f"layer{n}", {})} for n, layer in enumerate(plain["layers"])]
    return {**plain, "layers": layers, **changes}


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (spoilt(layer0={"kernel": 0}), r"expected `int` >= 1 at `layers\[0\].kernel`"),
        (spoilt(layer0={"stride": 0}), r"expected `int` >= 1 at `layers\[0\].stride`"),
        (spoilt(layer0={"kernel": 10**400}), r"at `layers\[0\].kernel`"),
        (spoilt(layer1={"pad": -1}), r"at `layers\[1\].pad`"),
        (spoilt(layer1={"maps": 0}), r"at `layers\[1\].maps`"),
        (spoilt(layer1={"bias": "x"}), r"at `layers\[1\].bias`"),
        (spoilt(layer1={"std": float("nan")}), r"at `layers\[1\].std`"),
        (spoilt(layer1={"kind": "Tower"}), r"at `layers\[1\].kind`"),
        (spoilt(layer1={"then": ["dropout"]}), r"'dropout' at `layers\[1\].then\[0\]`"),
        (spoilt(layer0={"name": "a.b"}), r"at `layers\[0\].name`"),
        (spoilt(layer0={"name": ""}), r"at `layers\[0\].name`"),
        (spoilt(layer0={"name": "conv2"}), "two layers have one name"),
        (spoilt(layer0={"crossing": False}), "conv1 reads the image"),
        (spoilt(layer5={"units": 2**20}, layer6={"units": 2**20}), "parameters are more than 8,589,934,592"),
        (spoilt(layer7={"units": 5}), "the last layer must be a Full, a unit a class"),
        (spoilt(width=1e307), "at `width`"),
        (spoilt(width=900.0), "parameters are more than 8,589,934,592: choose a smaller width"),
        (spoilt(batch_size=10**12), "at `batch_size`"),
        (spoilt(batch_size=128.0), "expected `int`, got `float` at `batch_size`"),
        (spoilt(noise_divided=1), "expected `bool`, got `int` at `noise_divided`"),
        (spoilt(crop=1025), "at `crop`"),
        (spoilt(pool_stride=4), "pool_stride 4 leaves gaps"),
        (spoilt(towers=3), "at `towers`"),
        (spoilt(lrn={"size": 4, "alpha": 1e-4, "k": 1, "beta": 0.75}), "norms must have odd windows"),
        (spoilt(lrn={"size": 5, "alpha": "x", "k": 2}), "at `lrn.alpha`"),
        ([], "expected `object`, got `array`"),
        (None, "expected `object`, got `null`"),
    ],
)
def test_a_recipe_in_a_file_is_checked_before_anything_is_made_of_it(plain, message):
    with pytest.raises(RunError, match=message) as error:
        Recipe.from_dict(plain)
    assert "\n" not in str(error.value)


def test_a_colour_branch_makes_as_many_places_as_its_layer():
    layers = get_recipe("net137").layers
    changed = (layers[0], replace(layers[1], pad=1), *layers[2:])
    with pytest.raises(RunError, match="colour branch of conv2 makes 27 x 27 places, conv2 itself 25 x 25"):
        get_recipe("net137", layers=changed)


def test_unknown_recipe():
    with pytest.raises(RunError, match="no recipe is called 'orignal'; there are original, paper, net131"):
        get_recipe("orignal")
