"""The network as ONNX: pixels in, probabilities out, any number of images at a time."""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network import AlexNet, Tower
from model.recipe import ResponseNorm, RunError


class Portable(nn.Module):
    """(N, 3, crop, crop) RGB pixels, 0..255 -> (N, classes) probabilities. The network is on one device."""

    def __init__(self, network: AlexNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        recipe, overhang = self.network.recipe, self.network.shapes[0].overhang
        x = F.pad(images - self.network.mean, (0, overhang, 0, overhang))
        for shape in self.network.shapes:
            (tower,) = self.network._holders(shape)
            x = tower.linear(shape, x)
            for step in shape.layer.then:
                x = x * recipe.keep if step == "dropout" else self._after(tower, step, x)
        return x.softmax(1)

    def _after(self, tower: Tower, step: str, x: Tensor) -> Tensor:
        """The norms in operations that ONNX has; all else as ever."""
        recipe = self.network.recipe
        if step == "lrn":
            groups = 1 if recipe.lrn_across_towers else recipe.towers
            apart = x.reshape(-1, groups, x.shape[1] // groups, *x.shape[2:])
            return normalised(apart, recipe.lrn, (-3,)).flatten(1, 2)
        if step == "spatial":
            return normalised(x, recipe.spatial, (-2, -1))
        return tower.after(step, x)


def normalised(x: Tensor, norm: ResponseNorm, dims: tuple[int, ...]) -> Tensor:
    """x / (k + alpha * sum of squares over a window) ** beta."""
    total = x * x
    for dim in dims:
        reach = norm.size // 2
        padded = F.pad(total, [0, 0] * (-1 - dim) + [reach, reach])
        total = torch.stack([padded.narrow(dim, i, x.shape[dim]) for i in range(norm.size)]).sum(0)
    return x * (norm.k + norm.alpha * total) ** -norm.beta


def write_onnx(path: Path, network: AlexNet, about: Mapping[str, Any]) -> None:
    """RunError where the packages for it are missing."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise RunError("ONNX needs more packages: pip install 'alexnet-dali[export]'") from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells what else is not installed
    example = torch.zeros(2, 3, network.recipe.crop, network.recipe.crop)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():  # of the exporter's own deprecations
        program = torch.onnx.export(
            Portable(network).eval(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("images")}},
            verbose=False,
        )
    assert program is not None
    for key, value in about.items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(path, external_data=False)


def run_onnx(path: Path, images: Tensor) -> Tensor:
    """The probabilities that onnxruntime computes on the CPU."""
    try:
        import onnxruntime
    except ImportError:
        raise RunError("the check needs onnxruntime: pip install 'alexnet-dali[export]'") from None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {"images": images.numpy()})
    return torch.from_numpy(probabilities)
