"""Every number of a recipe, written once: network, initial weights, images and training are read from here.

`original` is net 145 of the 2012 source, which made the paper's 40.7 / 18.2; `paper` is the paper's text to
the letter. They differ in data only: no other file asks which recipe it has. Sources: the 2012 source's
layers-145.cfg and layer-params-145.cfg; Krizhevsky, Sutskever, Hinton, NIPS 2012.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from model.schedule import SCHEDULES


class RunError(Exception):
    """A user's mistake about a run: one line that says what does not fit."""


@dataclass(frozen=True)
class Conv:
    """A convolution over both towers, counted at width 1, and what follows it, in order.

    Its windows cover the whole input: the last ones may hang over the right and bottom edge, where they read
    zeros, which is how 2012 made 55 x 55 out of 224 (11 x 11 windows every 4 pixels hang over by 3).
    """

    name: str
    maps: int
    kernel: int
    stride: int = 1
    pad: int = 0
    crossing: bool = False  # reads every tower's maps (or the image), not only its own tower's
    std: float = 0.01  # of the initial weights
    bias: float = 0.0  # initial
    then: tuple[str, ...] = ("relu",)


@dataclass(frozen=True)
class Full:
    """A fully connected layer over both towers, counted at width 1; it reads all there is, of every tower."""

    crossing: ClassVar[bool] = True
    name: str
    units: int | None = None  # None: one a class
    std: float = 0.01
    bias: float = 0.0
    then: tuple[str, ...] = ()


Layer = Conv | Full
STEPS = ("relu", "pool", "lrn", "spatial", "dropout")  # what may follow a layer


@dataclass(frozen=True)
class ResponseNorm:
    """x / (k + alpha * sum of squares over a window) ** beta; alpha is the factor of each squared term."""

    size: int
    alpha: float
    k: float
    beta: float = 0.75


@dataclass(frozen=True)
class Shape:
    """A layer at its recipe's width: parameters of both towers, and sizes as (maps, height, width)."""

    layer: Layer
    weight: tuple[int, ...]  # (maps, maps read, kernel, kernel) or (units, units read)
    std: float
    overhang: int  # pixels by which the last windows leave the right and bottom edge
    linear: tuple[int, int, int]  # before `then`
    out: tuple[int, int, int]  # after it

    @property
    def parameters(self) -> int:
        """Weights and biases of the layer."""
        return math.prod(self.weight) + self.weight[0]


# Net 145. `std` of conv3 to conv5 is 0.03, which the paper does not say; at 0.01 the signal that reaches the
# loss is a tenth of this. LRN of layer 1 runs on the linear output, and ReLU follows the pooling.
NET_145: tuple[Layer, ...] = (
    Conv("conv1", 96, 11, stride=4, crossing=True, then=("lrn", "pool", "relu")),
    Conv("conv2", 256, 5, pad=2, bias=1, then=("relu", "lrn", "spatial", "pool")),
    Conv("conv3", 384, 3, pad=1, crossing=True, std=0.03),
    Conv("conv4", 384, 3, pad=1, std=0.03, bias=1),
    Conv("conv5", 256, 3, pad=1, std=0.03, bias=1, then=("pool", "relu")),
    Full("fc6", 4096, bias=1, then=("relu", "dropout")),
    Full("fc7", 4096, bias=1, then=("relu", "dropout")),
    Full("fc8"),
)
AS_PRINTED = {"conv1": ("relu", "lrn", "pool"), "conv2": ("relu", "lrn", "pool"), "conv5": ("relu", "pool")}


@dataclass(frozen=True)
class Recipe:
    """One training, whole. The defaults are `original`; `get_recipe` makes one and refuses what is wrong."""

    name: str = "original"
    layers: tuple[Layer, ...] = NET_145
    towers: int = 2
    classes: int = 1000
    width: float = 1.0  # narrow copies are the same text with fewer maps and units: see `shapes`
    # images, 0..255 minus the mean image
    crop: int = 224
    offsets: int = 33  # crop positions along each side; the paper counts 32 x 32 x 2 = 2048 crops of an image
    noise: float = 0.1  # deviation of the colour noise's factors
    noise_basis: str = "deviations"  # or "eigenvalues" (of pixels in 0..1): what multiplies the eigenvectors
    noise_divided: bool = True  # the noisy image is divided by 1 + noise, for as long as there is noise
    # between the layers
    lrn: ResponseNorm = ResponseNorm(size=5, alpha=1e-4 / 5, k=2)  # 2012 divides its scale by the window
    lrn_across_towers: bool = False
    spatial: ResponseNorm = ResponseNorm(size=5, alpha=1e-3 / 5**2, k=1)
    pool_size: int = 3
    pool_stride: int = 2
    keep: float = 0.5  # units that dropout keeps
    # training
    batch_size: int = 128
    momentum: float = 0.9
    decay: float = 0.0005  # of weights; biases have none
    rate: float = 0.01  # of weights, at first
    bias_factor: float = 2.0  # the biases' first rate over the weights'
    schedule: str = "145"  # of model/schedule.py
    epochs: int | None = None  # None: the schedule's own; else the schedule is stretched to as many
    patience: int = 5  # ours: epochs without a new best error before "plateau" divides the rate

    def __post_init__(self) -> None:
        for field, (what, fits) in CHECKS.items():
            value = getattr(self, field)
            if not fits(value):
                raise RunError(f"recipe {self.name}: {field} must be {what}, not {value!r}")
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise RunError(f"recipe {self.name}: two layers have one name: {', '.join(names)}")
        for layer in self.layers:
            if unknown := [step for step in layer.then if step not in STEPS]:
                raise RunError(f"recipe {self.name}: {layer.name} is followed by {unknown[0]!r}, "
                               f"which is none of {', '.join(STEPS)}")  # fmt: skip
        self.shapes()

    def scaled(self, count: int) -> int:
        """Maps or units at this width: the same number, at least two, in each tower."""
        return max(2, round(count * self.width / self.towers)) * self.towers

    def shapes(self) -> list[Shape]:
        """Every layer's parameters and sizes.

        A narrow layer sums fewer terms: its initial deviation grows by sqrt(full fan-in / its fan-in), so
        that its output deviates at the start as the full network's does. At width 1 it is the recipe's own.
        """
        shapes, maps, size = [], 3, self.crop
        for layer in self.layers:
            read = maps if layer.crossing else maps // self.towers
            overhang = 0
            weight: tuple[int, ...]
            if isinstance(layer, Conv):
                windows = math.ceil((size + 2 * layer.pad - layer.kernel) / layer.stride) + 1
                overhang = (windows - 1) * layer.stride + layer.kernel - (size + 2 * layer.pad)
                weight, size = (self.scaled(layer.maps), read, layer.kernel, layer.kernel), windows
            else:
                units = self.classes if layer.units is None else self.scaled(layer.units)
                weight, size = (units, read * size * size), 1
            maps = weight[0]
            linear = (maps, size, size)
            for _ in range(layer.then.count("pool")):
                if size < self.pool_size:
                    size = 0
                    break
                size = math.ceil((size - self.pool_size) / self.pool_stride) + 1  # the last may be clipped
            if size < 1:
                raise RunError(f"recipe {self.name}: crop {self.crop} is too small for {layer.name}")
            shapes.append(Shape(layer, weight, layer.std, overhang, linear, (maps, size, size)))
        if self.width == 1:
            return shapes
        wide = replace(self, width=1.0).shapes()
        gain = [
            math.sqrt(math.prod(w.weight[1:]) / math.prod(s.weight[1:]))
            for w, s in zip(wide, shapes, strict=True)
        ]
        return [replace(s, std=s.std * g) for s, g in zip(shapes, gain, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, which `from_dict` reads back to an equal recipe."""
        plain = dataclasses.asdict(self)
        layers = [
            {"kind": type(layer).__name__, **fields, "then": list(layer.then)}
            for layer, fields in zip(self.layers, plain["layers"], strict=True)
        ]
        return {**plain, "layers": layers}

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> "Recipe":
        """The recipe that `to_dict` wrote down; RunError where it holds anything else."""
        kinds: dict[str, Callable[..., Layer]] = {"Conv": Conv, "Full": Full}
        try:
            layers = tuple(
                kinds[layer["kind"]](
                    **{k: v for k, v in layer.items() if k not in ("kind", "then")}, then=tuple(layer["then"])
                )
                for layer in plain["layers"]
            )
            norms = {field: ResponseNorm(**plain[field]) for field in ("lrn", "spatial")}
            return Recipe(**{**plain, **norms, "layers": layers})
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"this is no recipe of this version: {error}") from error


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _norm(value: object) -> bool:
    return isinstance(value, ResponseNorm) and _whole(value.size, 1) and value.size % 2 == 1 and value.k > 0


Check = tuple[str, Callable[[Any], bool]]  # what a field must be, and whether it is
_COUNT: Check = ("a whole number of at least 1", lambda v: _whole(v, 1))
_RATE: Check = ("a number of at least 0", lambda v: _number(v) and v >= 0)
_ABOVE_0: Check = ("a number above 0", lambda v: _number(v) and v > 0)
_NORM: Check = ("a norm with an odd window and k above 0", _norm)
CHECKS: dict[str, Check] = {
    "layers": ("at least one layer, the last one a Full", lambda v: bool(v) and isinstance(v[-1], Full)),
    "towers": _COUNT,
    "classes": ("a whole number of at least 2", lambda v: _whole(v, 2)),
    "width": _ABOVE_0,
    "crop": _COUNT,
    "offsets": _COUNT,
    "noise": _RATE,
    "noise_basis": ("deviations or eigenvalues", lambda v: v in ("deviations", "eigenvalues")),
    "lrn": _NORM,
    "spatial": _NORM,
    "pool_size": _COUNT,
    "pool_stride": _COUNT,
    "keep": ("above 0 and at most 1", lambda v: _number(v) and 0 < v <= 1),
    "batch_size": _COUNT,
    "momentum": ("at least 0 and below 1", lambda v: _number(v) and 0 <= v < 1),
    "decay": _RATE,
    "rate": _ABOVE_0,
    "bias_factor": _RATE,
    "schedule": (f"one of {', '.join(SCHEDULES)}", lambda v: v in SCHEDULES),
    "epochs": ("a whole number of at least 1", lambda v: v is None or _whole(v, 1)),
    "patience": _COUNT,
}

RECIPES = {
    "original": Recipe(),
    "paper": Recipe(
        name="paper",
        layers=tuple(
            replace(layer, std=0.01, then=AS_PRINTED.get(layer.name, layer.then)) for layer in NET_145
        ),
        offsets=32,
        noise_basis="eigenvalues",
        noise_divided=False,
        lrn=ResponseNorm(size=5, alpha=1e-4, k=2),
        lrn_across_towers=True,
        bias_factor=1.0,
        schedule="plateau",
    ),
}


def get_recipe(name: str = "original", **overrides: object) -> Recipe:
    """The named recipe with some fields replaced; RunError for a name, a field or a value that cannot be."""
    if name not in RECIPES:
        raise RunError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    known = [field.name for field in dataclasses.fields(Recipe)]
    if unknown := [field for field in overrides if field not in known]:
        raise RunError(f"a recipe has no field {unknown[0]!r}; its fields are {', '.join(known)}")
    changes: dict[str, Any] = overrides
    return replace(RECIPES[name], **changes)
