"""Define a recipe: every number of the network, its initial weights, images and training, once.

`original` is net 145 of the 2012 source, which made the paper's 40.7 % top-1 and 18.2 % top-5 error; `paper`
follows the printed text; the others are the nets of the paper's other rows and ablations. They differ in data
only, in recipes.py: no code depends on a recipe's name. Sources: layers-145.cfg and layer-params-145.cfg of
the 2012 source, or those of the number named; Krizhevsky, Sutskever, Hinton, NIPS 2012.
"""

import math
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from model.errors import RunError
from model.schedules import SCHEDULES
from pipeline.schema import Unfit, convert

STORED = 256  # pixels along a prepared image, which crops are cut from
# Defaults of fields that the oldest runs' recipes do not have
LATER: dict[str, dict[str, Any]] = {"Recipe": {"reduce": 1, "anew": []}, "Conv": {"colour": None}, "Full": {}}
MOST = 2**33  # parameters, of 4 bytes each
Size = Annotated[int, Meta(ge=1, le=STORED)]
Several = Annotated[int, Meta(ge=1, le=2**20)]  # maps, units, classes, images, epochs
FEW = Meta(max_length=20)
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]  # excludes NaN
Rate = Annotated[float, Meta(ge=0, le=1e6)]
Above0 = Annotated[float, Meta(gt=0, le=1e6)]
Width = Annotated[float, Meta(gt=0, le=1000)]
Name = Annotated[str, Meta(pattern="^[A-Za-z0-9-]+$", max_length=40)]  # no dot: ".weight" follows


class Colour(Struct, frozen=True, forbid_unknown_fields=True):
    """Describe a second input of a convolution, added to the first: coarse colours, alike for both towers.

    The image, padded with zeros, is blurred by a Gaussian of standard deviation `sigma` pixels, truncated
    to `window` x `window`; every `step`-th pixel is kept, and kernels run over these.
    """

    sigma: Above0
    window: Size
    step: Size
    kernel: Size
    stride: Size
    std: Rate = 0.01

    def pixels(self, side: int) -> range:
        """Return the positions of the kept pixels, centred along an image of `side` pixels."""
        count = math.ceil(side / self.step)
        start = (side - self.step * (count - 1)) // 2
        return range(start, start + self.step * count, self.step)


class Conv(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="Conv"):
    """Describe a convolution over both towers at width 1, and the steps after it, in order.

    Its windows cover the whole input: the last ones may extend beyond the right and bottom edges, where they
    read zeros, which is how 2012 made 55 x 55 out of 224 (11 x 11 windows every 4 pixels hang over by 3).
    """

    name: Name
    maps: Several
    kernel: Size
    stride: Size = 1
    pad: Annotated[int, Meta(ge=0, le=STORED)] = 0
    crossing: bool = False  # reads all towers' maps (or the image), not only its own tower's
    std: Rate = 0.01  # standard deviation of the initial weights
    bias: Number = 0.0  # initial value
    then: Annotated[tuple[Literal["relu", "tanh", "pool", "lrn", "spatial", "contrast"], ...], FEW] = (
        "relu",
    )
    colour: Colour | None = None


class Full(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="Full"):
    """Describe a fully connected layer over both towers at width 1; it reads the units of all towers."""

    crossing: ClassVar[bool] = True
    colour: ClassVar[None] = None
    name: Name
    units: Several | None = None  # None: one per class
    std: Rate = 0.01
    bias: Number = 0.0
    then: Annotated[tuple[Literal["relu", "tanh", "dropout"], ...], FEW] = ()


Layer = Conv | Full


class ResponseNorm(Struct, frozen=True, forbid_unknown_fields=True):
    """Hold the numbers of x / (k + alpha * sum of squares over a window) ** beta."""

    size: Size  # odd
    alpha: Rate
    k: Above0
    beta: Number = 0.75


@dataclass(frozen=True)
class Shape:
    """Hold a layer's sizes at its recipe's width: parameters of both towers; (maps, height, width)."""

    layer: Layer
    weight: tuple[int, ...]  # (maps, maps read, kernel, kernel) or (units, units read)
    std: float
    overhang: int  # pixels by which the last windows extend beyond the right and bottom edges
    linear: tuple[int, int, int]  # before `then`
    out: tuple[int, int, int]  # after it
    coarse_overhang: int = 0  # the same for a colour branch

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the parameters' sizes by kind; a colour branch has (maps, 3, kernel, kernel)."""
        sizes = {"weight": self.weight}
        if self.layer.colour:
            sizes["colour"] = (self.weight[0], 3, self.layer.colour.kernel, self.layer.colour.kernel)
        return {**sizes, "bias": self.weight[:1]}

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(math.prod(size) for size in self.tensors.values())


# Net 145 (layers-145.cfg). `std` of conv3 to conv5 is 0.03, which the paper does not say; at 0.01 the signal
# that reaches the loss is a tenth of this. LRN of conv1 reads the linear output; ReLU comes after pooling.
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


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Describe a training completely. Defaults are those of `original`; `get_recipe` makes and checks one."""

    name: str = "original"
    layers: Annotated[tuple[Layer, ...], Meta(min_length=1, max_length=100)] = NET_145
    towers: Literal[1, 2] = 2
    classes: Annotated[int, Meta(ge=2, le=2**20)] = 1000
    width: Width = 1.0  # scales the numbers of maps and units: see `shapes`
    # images, 0..255 minus the mean image
    crop: Size = 224
    reduce: Size = 1  # the network first averages squares of so many pixels a side: 224 by 7 is 32
    offsets: Size = 33  # crop positions along each side; the paper: 32 x 32 x 2 = 2048 crops per image
    noise: Rate = 0.1  # standard deviation of the colour noise's factors
    # what multiplies the eigenvectors: eigenvalues are those of pixels in 0..1
    noise_basis: Literal["deviations", "eigenvalues"] = "deviations"
    noise_divided: bool = True  # the noisy image is divided by 1 + noise while there is noise
    # between the layers
    lrn: ResponseNorm = ResponseNorm(size=5, alpha=1e-4 / 5, k=2)  # 2012 divides its scale by the size
    lrn_across_towers: bool = False
    spatial: ResponseNorm = ResponseNorm(size=5, alpha=1e-3 / 5**2, k=1)  # also of "contrast"
    pool_size: Size = 3
    pool_stride: Size = 2
    keep: Annotated[float, Meta(gt=0, le=1)] = 0.5  # probability that dropout keeps a unit
    # training
    batch_size: Several = 128
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    decay: Rate = 0.0005  # weight decay; biases have none
    rate: Above0 = 0.01  # initial learning rate of weights
    bias_factor: Rate = 2.0  # initial learning rate of biases over that of weights
    schedule: str = "145"  # name in model/schedules.py
    epochs: Several | None = None  # None: the schedule's own; else the schedule is stretched to so many
    patience: Several = 5  # ours: epochs without a new best error before "plateau" drops the rate
    anew: tuple[str, ...] = ()  # layers that --init-from leaves at their random initialisation

    def __post_init__(self) -> None:
        """Check that the fields agree with each other. ValueError, which `convert` turns into Unfit."""
        names, first, last = [layer.name for layer in self.layers], self.layers[0], self.layers[-1]
        kinds, most = [isinstance(layer, Full) for layer in self.layers], self.crop + self.offsets - 1
        for fits, what in (
            (isinstance(last, Full) and last.units is None, "the last layer must be a Full, a unit a class"),
            (kinds == sorted(kinds), "a Conv cannot follow a Full"),
            (first.crossing, f"{first.name} reads the image: it must be crossing"),
            (len(set(names)) == len(names), f"two layers have one name: {', '.join(names)}"),
            (set(self.anew) <= set(names), f"anew names {', '.join(self.anew)}, not all of which are layers"),
            (self.schedule in SCHEDULES, f"schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}"),
            (self.crop % self.reduce == 0, f"reduce {self.reduce} does not divide crop {self.crop}"),
            (most <= STORED, f"crop {self.crop} with {self.offsets} offsets needs {most} of {STORED} pixels"),
            (self.pool_stride <= self.pool_size, f"pool_stride {self.pool_stride} leaves gaps between pools"),
            (self.lrn.size % 2 and self.spatial.size % 2, "norms must have odd windows"),
        ):
            if not fits:
                raise ValueError(what)
        if (count := sum(shape.parameters for shape in self.shapes())) > MOST:
            raise ValueError(f"{count:,} parameters are more than {MOST:,}: choose a smaller width")

    def scaled(self, count: int) -> int:
        """Return the maps or units at this width: an equal number, at least two, in each tower."""
        return max(2, round(count * self.width / self.towers)) * self.towers

    def shapes(self) -> list[Shape]:
        """Return every layer's sizes.

        A narrow layer sums fewer terms: its initial deviation grows by sqrt(fan-in at width 1 / its fan-in),
        so that its outputs deviate initially as the full network's do.
        """
        shapes, maps, size = [], 3, self.side
        for layer in self.layers:
            read = maps if layer.crossing else maps // self.towers
            overhang = 0
            weight: tuple[int, ...]
            if isinstance(layer, Conv):
                weight = (self.scaled(layer.maps), read, layer.kernel, layer.kernel)
                size, overhang = _windows(size + 2 * layer.pad, layer.kernel, layer.stride)
            else:
                units = self.classes if layer.units is None else self.scaled(layer.units)
                weight, size = (units, read * size * size), 1
            maps = weight[0]
            linear = (maps, size, size)
            for _ in range(layer.then.count("pool")):
                # the last window may be clipped
                size = _windows(size, self.pool_size, self.pool_stride)[0] if size >= self.pool_size else 0
            if size < 1:
                raise ValueError(f"crop {self.crop} is too small for {layer.name}")
            coarse = self._coarse_overhang(layer, linear[1])
            shapes.append(Shape(layer, weight, layer.std, overhang, linear, (maps, size, size), coarse))
        if self.width == 1:
            return shapes
        wide = replace(self, width=1.0).shapes()
        gain = [
            math.sqrt(math.prod(w.weight[1:]) / math.prod(s.weight[1:]))
            for w, s in zip(wide, shapes, strict=True)
        ]
        return [changed(s, std=s.std * g) for s, g in zip(shapes, gain, strict=True)]

    @property
    def side(self) -> int:
        """Return the pixels along an image as the first layer reads it."""
        return self.crop // self.reduce

    def _coarse_overhang(self, layer: Layer, size: int) -> int:
        """Return a colour branch's overhang; ValueError unless its output is `size` x `size`."""
        if not layer.colour:
            return 0
        kept = len(layer.colour.pixels(self.side))
        made, overhang = _windows(kept, layer.colour.kernel, layer.colour.stride)
        if made != size:
            places = f"{made} x {made} places, {layer.name} itself {size} x {size}"
            raise ValueError(f"the colour branch of {layer.name} makes {places}")
        return overhang

    def to_dict(self) -> dict[str, Any]:
        """Return dicts, lists, strings and numbers, from which `from_dict` makes an equal recipe."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    @staticmethod
    def from_dict(plain: Any) -> "Recipe":
        """Return the recipe that `to_dict` wrote; all files are read by this. RunError for all else."""
        try:
            recipe = convert(plain, Recipe)
            layers = [LATER[layer["kind"]] | layer for layer in plain.get("layers", [])]
            given = LATER["Recipe"] | plain | {"layers": layers}
            for key, value in recipe.to_dict().items():
                if given.get(key) != value:  # a default must not replace a lost value
                    raise Unfit(f"`{key}` is not there in full")
        except Unfit as error:
            raise RunError(f"this is no recipe of this version: {error}") from None
        return recipe


def _windows(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return how many windows cover a side of `size`, and how far the last extends beyond it."""
    count = math.ceil((size - kernel) / stride) + 1
    return count, (count - 1) * stride + kernel - size
