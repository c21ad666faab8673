"""Export the network to ONNX: pixels in, probabilities out, any number of images at a time."""

import json
import logging
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import RunError
from model.layers import ResponseNorm
from model.network import AlexNet, Tower

PLACES = (-2, -1)  # of (N, maps, height, width)


class Portable(nn.Module):
    """Map (N, 3, crop, crop) RGB 0..255 to (N, classes) probabilities; the network is on one device."""

    def __init__(self, network: AlexNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        recipe, border = self.network.recipe, self.network.border
        x = images = self.network.downsample(F.pad(images - self.network.mean, (0, border, 0, border)))
        for shape in self.network.shapes:
            (tower,) = self.network.towers_of(shape)
            x = tower.linear(shape, x, images)
            for step in shape.layer.then:
                x = x * recipe.keep if step == "dropout" else self._after(tower, step, x)
        return x.softmax(1)

    def _after(self, tower: Tower, step: str, x: Tensor) -> Tensor:
        """Apply a step; normalisations in operations that ONNX has."""
        recipe = self.network.recipe
        if step == "lrn":
            groups = 1 if recipe.lrn_across_towers else recipe.towers
            apart = x.reshape(-1, groups, x.shape[1] // groups, *x.shape[2:])
            return normalised(apart, apart, recipe.lrn, (-3,)).flatten(1, 2)
        if step == "spatial":
            return normalised(x, x, recipe.spatial, PLACES)
        if step == "contrast":
            count = windows(torch.ones_like(x[:1, :1]), recipe.spatial.size, PLACES)
            return normalised(x, x - windows(x, recipe.spatial.size, PLACES) / count, recipe.spatial, PLACES)
        return tower.after(step, x)


def normalised(x: Tensor, measured: Tensor, norm: ResponseNorm, dims: tuple[int, ...]) -> Tensor:
    """Return x / (k + alpha * sum of squares of `measured` over a window) ** beta."""
    return x * (norm.k + norm.alpha * windows(measured * measured, norm.size, dims)) ** -norm.beta


def windows(x: Tensor, size: int, dims: tuple[int, ...]) -> Tensor:
    """Return sums over centred windows along each of `dims`."""
    for dim in dims:
        reach = size // 2
        padded = F.pad(x, [0, 0] * (-1 - dim) + [reach, reach])
        x = torch.stack([padded.narrow(dim, i, x.shape[dim]) for i in range(size)]).sum(0)
    return x


def need_packages() -> None:
    """Raise RunError if the packages for ONNX are missing."""
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise RunError(f"ONNX needs {' and '.join(missing)}: pip install 'alexnet-dali[export]'")


def to_onnx(network: AlexNet, about: Mapping[str, Any]) -> bytes:
    """Return the content of an ONNX file. Call `need_packages` before."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # hides notes on optional packages
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
    content: bytes = program.model_proto.SerializeToString(deterministic=True)
    return content


def run_onnx(content: bytes, images: Tensor) -> Tensor:
    """Return the probabilities that onnxruntime computes on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {"images": images.numpy()})
    return torch.from_numpy(probabilities)
