"""The coarse colours that some nets read beside the image: the 2012 source's layers `blur` and `nailbed`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.recipe import Colour


def coarse(images: Tensor, colour: Colour) -> Tensor:
    """(N, 3, height, height) blurred, of which every `step`-th pixel is kept: (N, 3, 56, 56) of 224 by 4."""
    reach, kept = colour.window // 2, colour.pixels(images.shape[-1])
    distance = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float64)
    bell = (-0.5 * (distance / colour.sigma) ** 2).exp()
    bell = bell / bell.sum()
    kernel = (bell[:, None] * bell).to(images.dtype).expand(3, 1, -1, -1)
    before, after = reach - kept[0], kept[-1] + reach + 1 - images.shape[-1]  # zeros; negative: left out
    return F.conv2d(F.pad(images, (before, after, before, after)), kernel, stride=colour.step, groups=3)
