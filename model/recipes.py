"""List every net of the paper and of the 2012 source as data; `get_recipe` returns one by name."""

from decimal import Decimal
from typing import Any

import msgspec
from msgspec.structs import replace

from model.changes import called, changes, composed
from model.errors import RunError
from model.layers import Colour, Conv, Full, Layer, ResponseNorm
from model.recipe import NET_145, Recipe
from pipeline.schema import Unfit, convert


def _but(layers: tuple[Layer, ...], **changes: dict[str, Any]) -> tuple[Layer, ...]:
    """Return the layers with some fields of those named replaced."""
    return tuple(replace(layer, **changes.get(layer.name, {})) for layer in layers)


# The paper's text: one initial standard deviation, ReLU first, no normalisation that it does not name.
PRINTED = _but(
    tuple(replace(layer, std=0.01) for layer in NET_145),
    conv1={"then": ("relu", "lrn", "pool")},
    conv2={"then": ("relu", "lrn", "pool")},
    conv5={"then": ("relu", "pool")},
)
# Net 137 (layers-137.cfg): a third fewer kernels on the image; conv2 reads coarse colours beside their maps.
NET_137 = _but(
    NET_145,
    conv1={"maps": 64},
    conv2={"colour": Colour(sigma=4, window=9, step=4, kernel=5, stride=2)},
)
# Nets 131 and 135 (layers-131.cfg, layers-135.cfg): contrast normalisation in place of the spatial one.
NET_131 = _but(NET_137, conv2={"then": ("relu", "lrn", "contrast", "pool")})
# Nets 141 and 146 (layers-141.cfg, layers-146-2012-2011.cfg): 137 and 145 with a sixth convolution over what
# the last pooling leaves of both towers; none follows.
CONV6 = Conv("conv6", 256, 3, pad=1, crossing=True, std=0.03, bias=1)
NET_141 = (*NET_137[:5], CONV6, *NET_137[5:])
NET_146 = (*NET_145[:5], CONV6, *NET_145[5:])
# Net 146 for the 21,843 classes of Fall 2011 (layers-146-2011.cfg): before them two linear layers of 1,024
# units, one on each GPU. Here they are the towers' halves of one layer, as of fc6 and fc7; the classes, which
# 2012 dealt to the GPUs as 10,921 and 10,922, are all on the first device, as in every net.
NET_146_2011 = (*NET_146[:-1], Full("bottleneck", 2048), Full("fc8"))
# layers-145-half.cfg: one tower. conv5 and what follows are as wide as two towers' are: otherwise it "would
# have about half as many parameters".
HALF = _but(NET_145, conv1={"maps": 48}, conv2={"maps": 128}, conv3={"maps": 192}, conv4={"maps": 192})
# layers-148.cfg: none of the three normalisations. layers-147.cfg: pads that suit pooling of 2 x 2, every 2.
BARE = _but(NET_145, conv1={"then": ("pool", "relu")}, conv2={"then": ("relu", "pool")})
NET_147 = _but(NET_145, conv2={"pad": 1}, conv5={"pad": 0})
# Ours: the paper's figure 1 says no more than "four-layer" and "CIFAR-10". Sizes and initial deviations are
# those of the source's layers-cifar/layers-18pct.cfg; its norms are left out, and all pools are of maxima.
FOUR = (
    Conv("conv1", 32, 5, pad=2, crossing=True, std=0.0001, then=("relu", "pool")),
    Conv("conv2", 32, 5, pad=2, then=("relu", "pool")),
    Conv("conv3", 64, 5, pad=2, then=("relu", "pool")),
    Full("fc4"),
)
FOUR_TANH = _but(FOUR, **{f"conv{n}": {"then": ("tanh", "pool")} for n in (1, 2, 3)})

MOST_TOLD = 6  # differences in a title
ORIGINAL = Recipe()
# CIFAR-10's images, 32 x 32, are read whole and as they are: "no regularization of any kind was employed".
# "The learning rates for each network were chosen independently to make training as fast as possible": ReLU's
# is that of layers-18pct.cfg, tanh's the best of six on drawn images.
FIGURE_1 = Recipe(
    "relu4",
    FOUR,
    towers=1,
    classes=10,
    crop=32,
    offsets=1,
    mirror=False,
    noise=0,
    decay=0,
    rate=0.001,
    schedule="constant",
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        ORIGINAL,
        Recipe(
            "paper",
            PRINTED,
            offsets=32,
            noise_basis="eigenvalues",
            noise_divided=False,
            lrn=ResponseNorm(size=5, alpha=1e-4, k=2),
            lrn_across_towers=True,
            bias_factor=1.0,
            schedule="plateau",
        ),
        # the five and the seven nets whose averages were sent to the challenge
        Recipe("net131", NET_131, lrn=replace(ORIGINAL.lrn, k=1), schedule="131"),
        Recipe("net135", NET_131, schedule="135"),
        Recipe("net137", NET_137, schedule="137"),
        # Trained on "2012-full", which the source does not describe: here 145 with the schedule of that run.
        replace(ORIGINAL, name="net145f", schedule="145-full"),
        # First on 2012; begun with that, on Fall 2009 (--schedule 141-2009); on 2012 again (141-2009-2012).
        Recipe("net141", NET_141, schedule="141", anew=("fc8",)),
        # The convolutions of 145 on Fall 2009; these on Fall 2011; all of these but the classes on 2012. Or
        # all of Fall 2009 on 2012 (--schedule 146-2012-2009).
        Recipe("net146-2009", NET_146, classes=10184, schedule="146-2009", anew=("fc6", "fc7", "fc8")),
        Recipe(
            "net146-2011",
            NET_146_2011,
            classes=21843,
            schedule="146-2011",
            anew=("fc6", "fc7", "bottleneck", "fc8"),
        ),
        Recipe("net146", NET_146, schedule="146-2012-2011", anew=("fc8",)),
        # ablations that the paper quotes
        Recipe("half", HALF, towers=1, schedule="145-half"),
        Recipe("no-lrn", BARE, schedule="148"),
        Recipe("no-overlap", NET_147, pool_size=2, schedule="147"),
        replace(ORIGINAL, name="no-noise", noise=0),
        FIGURE_1,
        replace(FIGURE_1, name="tanh4", layers=FOUR_TANH, rate=0.004),
    )
}


def title(recipe: Recipe, *but: str) -> str:
    """Return the recipe's name and in what it differs from the one of that name, except in the fields `but`.

    For a recipe with a name of its own: only its width, if that is not 1.
    """
    base, told = RECIPES.get(recipe.name, replace(recipe, width=1.0)), list[str]()
    for path, _, new in changes(base.to_dict(), recipe.to_dict()):
        if path[0] not in but:
            name = ".".join(called(path))
            told.append(f"own {name}" if composed(new) else f"{name} {spelled(new)}")
    more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    return ", ".join([recipe.name, *told[:MOST_TOLD], *more])


def spelled(value: Any) -> str:
    """Return a value as titles and reports have it: 0.00002, on, none, "relu pool"."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, float):
        text = f"{value:g}"
        return f"{Decimal(text):f}" if "e-0" in text else text
    return str(value)


def get_recipe(name: str = "original", **overrides: object) -> Recipe:
    """Return the named recipe with those overrides that are not None; RunError if it is invalid."""
    if name not in RECIPES:
        raise RunError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return adapted(RECIPES[name], **overrides)


def adapted(recipe: Recipe, **overrides: object) -> Recipe:
    """Return the recipe with those overrides that are not None; RunError if it is invalid then."""
    if unknown := [field for field in overrides if field not in Recipe.__struct_fields__]:
        fields = ", ".join(Recipe.__struct_fields__)
        raise RunError(f"a recipe has no field {unknown[0]!r}; its fields are {fields}")
    given = {field: value for field, value in overrides.items() if value is not None}
    try:
        return convert(msgspec.to_builtins(msgspec.structs.asdict(recipe) | given), Recipe)
    except Unfit as error:
        raise RunError(f"recipe {recipe.name}: {error}") from None
