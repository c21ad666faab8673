"""Define what layers a recipe may have, and the ranges of their numbers; `says` explains each field."""

import math
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

LARGEST = 1024  # pixels along a prepared image, which crops are cut from, at most
Size = Annotated[int, Meta(ge=1, le=LARGEST)]
Several = Annotated[int, Meta(ge=1, le=2**20)]  # maps, units, classes, images, epochs
FEW = Meta(max_length=20)
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]  # excludes NaN
Rate = Annotated[float, Meta(ge=0, le=1e6)]
Above0 = Annotated[float, Meta(gt=0, le=1e6)]
Name = Annotated[str, Meta(pattern="^[A-Za-z0-9-]+$", max_length=40)]  # no dot: ".weight" follows


def says(explanation: str) -> Meta:
    """Return the explanation of a field, which `train --show-recipe` and the reports print."""
    return Meta(description=explanation)


class Colour(Struct, frozen=True, forbid_unknown_fields=True):
    """Describe a second input of a convolution, added to the first: coarse colours, alike for both towers.

    The image, padded with zeros, is blurred by a Gaussian of standard deviation `sigma` pixels, truncated
    to `window` x `window`; every `step`-th pixel is kept, and kernels run over these.
    """

    sigma: Annotated[Above0, says("standard deviation of the blur, in pixels")]
    window: Annotated[Size, says("side of the blur's window, in pixels")]
    step: Annotated[Size, says("distance between the pixels that are kept, in pixels")]
    kernel: Annotated[Size, says("side of the kernels, in kept pixels")]
    stride: Annotated[Size, says("distance between windows, in kept pixels")]
    std: Annotated[Rate, says("standard deviation of the initial weights")] = 0.01

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

    name: Annotated[Name, says("name of the layer")]
    maps: Annotated[Several, says("number of output maps, of all towers at width 1")]
    kernel: Annotated[Size, says("side of the kernels, in pixels of the layer's input")]
    stride: Annotated[Size, says("distance between windows, in pixels of the layer's input")] = 1
    pad: Annotated[int, Meta(ge=0, le=LARGEST), says("zeros added at each edge, in pixels")] = 0
    crossing: Annotated[bool, says("reads the image or the maps of all towers, not only its own tower's")] = (
        False
    )
    std: Annotated[Rate, says("standard deviation of the initial weights")] = 0.01
    bias: Annotated[Number, says("initial value of the biases")] = 0.0
    then: Annotated[
        tuple[Literal["relu", "tanh", "pool", "lrn", "spatial", "contrast"], ...],
        FEW,
        says("what follows, in this order: relu, tanh, pool, lrn, spatial, contrast"),
    ] = ("relu",)
    colour: Annotated[Colour | None, says("second input: the image in coarse colours")] = None


class Full(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="Full"):
    """Describe a fully connected layer over both towers at width 1; it reads the units of all towers."""

    crossing: ClassVar[bool] = True
    colour: ClassVar[None] = None
    name: Annotated[Name, says("name of the layer")]
    units: Annotated[
        Several | None, says("number of units, of all towers at width 1; without it one per class")
    ] = None
    std: Annotated[Rate, says("standard deviation of the initial weights")] = 0.01
    bias: Annotated[Number, says("initial value of the biases")] = 0.0
    then: Annotated[
        tuple[Literal["relu", "tanh", "dropout"], ...],
        FEW,
        says("what follows, in this order: relu, tanh, dropout"),
    ] = ()


Layer = Conv | Full


class ResponseNorm(Struct, frozen=True, forbid_unknown_fields=True):
    """Hold the numbers of x / (k + alpha * sum of squares over a window) ** beta."""

    size: Annotated[Size, says("size of the window, in maps or pixels; odd")]
    alpha: Annotated[Rate, says("factor of the sum of squares")]
    k: Annotated[Above0, says("constant that is added to the sum")]
    beta: Annotated[Number, says("exponent")] = 0.75
