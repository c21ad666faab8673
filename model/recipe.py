"""Define a recipe: every number of the network, its initial weights, images and training, once.

`original` is net 145 of the 2012 source, which made the paper's 40.7 % top-1 and 18.2 % top-5 error; `paper`
follows the printed text; the others are the nets of the paper's other rows and ablations. They differ in data
only, in recipes.py: no code depends on a recipe's name. Sources: layers-145.cfg and layer-params-145.cfg of
the 2012 source, or those of the number named; Krizhevsky, Sutskever, Hinton, NIPS 2012.
"""

import math
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from model.errors import RunError
from model.layers import Above0, Conv, Full, Layer, Rate, ResponseNorm, Several, Size, says
from model.schedules import SCHEDULES
from pipeline.schema import Unfit, convert

# Defaults of fields that the oldest runs' recipes do not have
LATER: dict[str, dict[str, Any]] = {
    "Recipe": {"reduce": 1, "anew": [], "mirror": True}, "Conv": {"colour": None}, "Full": {}
}  # fmt: skip
MOST = 2**33  # parameters, of 4 bytes each
MOST_EPOCHS = 2**20
Width = Annotated[float, Meta(gt=0, le=1000)]
Title = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=40)]  # of a recipe and its run


class Phase(Struct, frozen=True, forbid_unknown_fields=True):
    """Describe some epochs of a user's own schedule. The phases of a schedule follow each other."""

    epochs: Annotated[Several, says("number of epochs")]
    factor: Annotated[Rate, says("all learning rates are `rate` (of biases: x `bias_factor`) times this")]
    noise: Annotated[bool, says("whether images get colour noise")] = True
    frozen: Annotated[tuple[str, ...], says("names of layers that do not learn in this phase")] = ()


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

    name: Annotated[Title, says("name of the recipe; runs are called so if --run is not given")] = "original"
    layers: Annotated[tuple[Layer, ...], Meta(min_length=1, max_length=100), says("layers, in order")] = (
        NET_145
    )
    towers: Annotated[Literal[1, 2], says("halves of the network: 2, which two GPUs can share, or 1")] = 2
    classes: Annotated[int, Meta(ge=2, le=2**20), says("number of outputs")] = 1000
    width: Annotated[Width, says("scale of the number of maps and units in every layer")] = 1.0
    # images, 0..255 minus the mean image
    crop: Annotated[Size, says("side of the random crops, in pixels")] = 224
    reduce: Annotated[Size, says("crops are averaged over squares of this side, in pixels")] = 1
    # the paper: 32 x 32 x 2 = 2048 crops per image
    offsets: Annotated[Size, says("number of crop positions along each side")] = 33
    mirror: Annotated[bool, says("half of the images, at random, are mirrored left to right")] = True
    noise: Annotated[Rate, says("colour noise: standard deviation of its factors; 0: none")] = 0.1
    noise_basis: Annotated[
        Literal["deviations", "eigenvalues"],
        says("colour noise is scaled by the colours' deviations or eigenvalues"),
    ] = "deviations"
    noise_divided: Annotated[bool, says("images with colour noise are divided by 1 + noise")] = True
    # between the layers; 2012 divides LRN's scale by the size
    lrn: Annotated[ResponseNorm, says("lrn: normalisation across maps")] = ResponseNorm(
        size=5, alpha=1e-4 / 5, k=2
    )
    lrn_across_towers: Annotated[bool, says("lrn reads the maps of all towers")] = False
    spatial: Annotated[ResponseNorm, says("spatial and contrast: normalisation within each map")] = (
        ResponseNorm(size=5, alpha=1e-3 / 5**2, k=1)
    )
    pool_size: Annotated[Size, says("side of the max-pooling windows, in pixels of the maps")] = 3
    pool_stride: Annotated[Size, says("distance between pooling windows, at most pool_size")] = 2
    keep: Annotated[float, Meta(gt=0, le=1), says("probability that dropout keeps a unit")] = 0.5
    # training
    batch_size: Annotated[Several, says("images per update, of all processes together")] = 128
    momentum: Annotated[
        float, Meta(ge=0, lt=1), says("fraction of the previous update that is added to the next")
    ] = 0.9
    decay: Annotated[Rate, says("weight decay; biases have none")] = 0.0005
    rate: Annotated[Above0, says("initial learning rate of weights")] = 0.01
    bias_factor: Annotated[Rate, says("initial learning rate of biases over that of weights")] = 2.0
    schedule: Annotated[
        str | Annotated[tuple[Phase, ...], Meta(min_length=1, max_length=100)],
        says("learning-rate schedule: a name (see train --help) or phases"),
    ] = "145"
    epochs: Annotated[
        Several | None, says("number of epochs, to which the schedule is fitted; by default its own")
    ] = None
    # ours: the paper does not say how many
    patience: Annotated[Several, says("plateau: epochs without a lower error before the rate is divided")] = 5
    anew: Annotated[tuple[str, ...], says("layers that start at random even with --init-from")] = ()

    def __post_init__(self) -> None:
        """Check that the fields agree with each other. ValueError, which `convert` turns into Unfit."""
        names, first, last = [layer.name for layer in self.layers], self.layers[0], self.layers[-1]
        kinds = [isinstance(layer, Full) for layer in self.layers]
        late = [
            name for name, *pair in zip(names[1:], kinds, kinds[1:], strict=False) if pair == [True, False]
        ]
        even = [name for name in ("lrn", "spatial") if getattr(self, name).size % 2 == 0]
        phases = self.schedule if isinstance(self.schedule, tuple) else ()
        anew = sorted(set(self.anew).difference(names))
        frozen = sorted({name for phase in phases for name in phase.frozen}.difference(names))
        choice = f"choose among {', '.join(names)}"
        for fits, what in (
            (
                isinstance(last, Full) and last.units is None,
                f"the last layer must be a Full, a unit a class, unlike {last.name}",
            ),
            (not late, f"a Conv cannot follow a Full, as {', '.join(late)} does"),
            (first.crossing, f"{first.name} reads the image: it must be crossing"),
            (len(set(names)) == len(names), f"two layers have one name: {', '.join(names)}"),
            (not anew, f"anew names {', '.join(anew)}, no layer: {choice}"),
            (
                isinstance(self.schedule, tuple) or self.schedule in SCHEDULES,
                f"schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}",
            ),
            (not frozen, f"schedule: frozen names {', '.join(frozen)}, no layer: {choice}"),
            (
                sum(phase.epochs for phase in phases) <= MOST_EPOCHS,
                f"the phases of schedule have more than {MOST_EPOCHS:,} epochs",
            ),
            (self.crop % self.reduce == 0, f"reduce {self.reduce} does not divide crop {self.crop}"),
            (self.pool_stride <= self.pool_size, f"pool_stride {self.pool_stride} leaves gaps between pools"),
            (not even, f"norms must have odd windows, unlike {' and '.join(even)}"),
        ):
            if not fits:
                raise ValueError(what)
        if (count := sum(shape.parameters for shape in self.shapes())) > MOST:
            largest = max(self.shapes(), key=lambda shape: shape.parameters).layer.name
            raise ValueError(
                f"{count:,} parameters are more than {MOST:,}: choose a smaller width; most are in {largest}"
            )

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
                raise ValueError(
                    f"crop {self.crop} is too small for {layer.name}: choose a larger crop, "
                    "or smaller kernels or strides"
                )
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
    def needed(self) -> int:
        """Return the pixels along the smallest images that all crops fit into."""
        return self.crop + self.offsets - 1

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
            raise ValueError(f"the colour branch of {layer.name} makes {places}: change its kernel or stride")
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
                    raise Unfit(f"`{key}` is missing or incomplete")
        except Unfit as error:
            raise RunError(f"its recipe is not one of this version: {error}") from None
        return recipe


def _windows(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return how many windows cover a side of `size`, and how far the last extends beyond it."""
    count = math.ceil((size - kernel) / stride) + 1
    return count, (count - 1) * stride + kernel - size
