"""Blur and subsample images for nets that read coarse colours: `blur` and `nailbed` of the 2012 source."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.layers import Colour


def coarse(images: Tensor, colour: Colour) -> Tensor:
    """Return (N, 3, height, height) images blurred, then every `step`-th pixel: 224 by step 4 gives 56."""
    reach, kept = colour.window // 2, colour.pixels(images.shape[-1])
    distance = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float64)
    bell = (-0.5 * (distance / colour.sigma) ** 2).exp()
    bell = bell / bell.sum()
    kernel = (bell[:, None] * bell).to(images.dtype).expand(3, 1, -1, -1)
    before, after = reach - kept[0], kept[-1] + reach + 1 - images.shape[-1]  # zeros; negative: cropped
    return F.conv2d(F.pad(images, (before, after, before, after)), kernel, stride=colour.step, groups=3)
