"""Save a network as one safetensors file with our names or those of other programs, and read it back.

The metadata hold recipe, classes, step and dataset. With other programs' names the dropout factor is
multiplied into the next layer's weights, as their dropout has no factor in evaluation.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor

from model.errors import RunError
from model.layers import Conv
from model.network import AlexNet, StateDict, check_sizes
from model.recipe import Recipe
from pipeline.atomic import writing
from pipeline.schema import Count, Fingerprint, Unfit, convert, need_file, parse

FORMAT = "alexnet-dali 1"
MEAN = "mean_image"  # (side, side, 3), RGB, 0..255


class About(Struct):
    """Hold the metadata other than format and naming, each stored as JSON."""

    recipe: dict[str, Any]
    classes: list[dict[str, Any]]
    step: Count
    dataset: Fingerprint
    run: str = ""


@dataclass(frozen=True)
class Weights:
    """Hold the content of a file."""

    recipe: Recipe
    state: StateDict  # canonical: see AlexNet.state
    mean: Tensor
    about: dict[str, Any]  # classes, step, run, dataset


def save(path: Path, weights: Weights, naming: str) -> None:
    """Write a file, with a naming of NAMINGS."""
    from safetensors.torch import save as serialized

    tensors = NAMINGS[naming][0](weights.state, weights.recipe) | {MEAN: weights.mean}
    about = {"recipe": weights.recipe.to_dict(), **weights.about}
    metadata = {"format": FORMAT, "naming": naming} | {key: json.dumps(value) for key, value in about.items()}
    content = serialized({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    end = 8 + int.from_bytes(content[:8], "little")  # of the header, whose metadata the library shuffles
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    with writing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(content)[end:])


def read(path: Path) -> Weights:
    """Read a file of `save`, also with float32 converted to other float types; RunError for all others."""
    from safetensors import SafetensorError, safe_open

    try:
        need_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if "format" not in metadata:
            raise Unfit(f"it says no format and holds {sorted(tensors)[:2]}")
        said, naming = metadata.pop("format"), metadata.pop("naming", "none")
        if said != FORMAT or naming not in NAMINGS:
            raise Unfit(f"it has format {said!r} and names of {naming}; this version reads {FORMAT!r}")
        about = {key: parse(value, Any) for key, value in metadata.items()}
        convert(about, About)
        recipe = Recipe.from_dict(about.pop("recipe"))
        state, mean = _checked(tensors, NAMINGS[naming][0], recipe)
        return Weights(recipe, NAMINGS[naming][1](state, recipe), mean, about)
    except FileNotFoundError:
        raise RunError(f"there is no file {path}; make it with alexnet-dali export") from None
    except (SafetensorError, OSError, Unfit, RunError) as error:
        raise RunError(f"{path} was not written by alexnet-dali export, or is damaged: {error}") from None


def _checked(tensors: StateDict, names: "Naming", recipe: Recipe) -> tuple[StateDict, Tensor]:
    """Return state (still renamed) and mean image in float32; errors unless they fit the recipe."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.float().isfinite().all():
            raise Unfit(f"{name} holds {tensor.dtype}, or NaN or infinite numbers")
    whole = {name: tensor.float() for name, tensor in tensors.items()}
    meta = {f"{s.layer.name}.{kind}": torch.empty(size, device="meta")
            for s in recipe.shapes() for kind, size in s.tensors.items()}  # fmt: skip
    sizes = {name: tuple(tensor.shape) for name, tensor in names(meta, recipe).items()}
    side = max(recipe.crop, *whole[MEAN].shape[:1]) if MEAN in whole else recipe.crop
    check_sizes(whole, {**sizes, MEAN: (side, side, 3)})
    return whole, whole.pop(MEAN)


def load_matching(network: AlexNet, state: StateDict) -> list[str]:
    """Load the layers of `state` that fit; return the others' names, which keep their random initialisation.

    A layer fits if all its tensors have the same shapes and the recipe does not retrain it (`anew`). RunError
    if none does.
    """
    taken, drawn = network.state(), []
    for shape in network.shapes:
        sizes = {f"{shape.layer.name}.{kind}": size for kind, size in shape.tensors.items()}
        fits = all(key in state and tuple(state[key].shape) == size for key, size in sizes.items())
        if fits and shape.layer.name not in network.recipe.anew:
            taken |= {key: state[key] for key in sizes}
        else:
            drawn.append(shape.layer.name)
    if len(drawn) == len(network.shapes):
        raise RunError(
            f"no layer fits recipe {network.recipe.name} at --width {network.recipe.width:g}: "
            "give the --recipe and the --width of the saved network"
        )
    network.load(taken)
    return drawn


def _folded(state: StateDict, recipe: Recipe, factor: float) -> StateDict:
    """Multiply the weights of each layer after a dropout by `factor`."""
    behind = [b.name for a, b in zip(recipe.layers, recipe.layers[1:], strict=False) if "dropout" in a.then]
    return {
        name: tensor * factor if name.removesuffix(".weight") in behind else tensor
        for name, tensor in state.items()
    }


def _caffe(state: StateDict, recipe: Recipe) -> StateDict:
    return _folded(_turned(state, recipe), recipe, recipe.keep)


def _from_caffe(state: StateDict, recipe: Recipe) -> StateDict:
    return _folded(_turned(state, recipe), recipe, 1 / recipe.keep)


def _turned(state: StateDict, recipe: Recipe) -> StateDict:
    """Reverse the colours of kernels that read the image: Caffe reads BGR."""
    first = f"{recipe.layers[0].name}.weight"
    return {name: x.flip(1) if name == first or name.endswith(".colour") else x for name, x in state.items()}


def _torchvision_names(recipe: Recipe) -> dict[str, str]:
    """Map our layers' names to those in torchvision's AlexNet, which has the same eight layers."""
    places = [f"features.{n}" for n in (0, 3, 6, 8, 10)] + [f"classifier.{n}" for n in (1, 4, 6)]
    kinds = [isinstance(layer, Conv) for layer in recipe.layers]
    if kinds != [True] * 5 + [False] * 3 or any(layer.colour for layer in recipe.layers):
        raise RunError(
            "torchvision's names are for five convolutions and three full layers, which read nothing else: "
            f"recipe {recipe.name} has others; export it as safetensors or onnx"
        )
    return {layer.name: place for layer, place in zip(recipe.layers, places, strict=True)}


def _torchvision(state: StateDict, recipe: Recipe) -> StateDict:
    """Merge both towers into ungrouped convolutions, with zero weights for the other tower's maps."""
    folded = _folded(state, recipe, recipe.keep)
    result: StateDict = {}
    for name, place in _torchvision_names(recipe).items():
        weight, layer = folded[f"{name}.weight"], _layer(recipe, name)
        if not layer.crossing:
            parts = weight.chunk(recipe.towers)
            whole = weight.new_zeros(len(weight), recipe.towers * weight.shape[1], *weight.shape[2:])
            for into, part in zip(_blocks(whole, recipe.towers), parts, strict=True):
                into.copy_(part)
            weight = whole
        result |= {f"{place}.weight": weight, f"{place}.bias": folded[f"{name}.bias"]}
    return result


def _from_torchvision(state: StateDict, recipe: Recipe) -> StateDict:
    result: StateDict = {}
    for name, place in _torchvision_names(recipe).items():
        weight = state[f"{place}.weight"]
        if not _layer(recipe, name).crossing:
            grouped = torch.cat(_blocks(weight, recipe.towers))
            if grouped.count_nonzero() != weight.count_nonzero():
                raise RunError(f"{place} mixes the towers, which {name} of this recipe keeps apart")
            weight = grouped
        result |= {f"{name}.weight": weight, f"{name}.bias": state[f"{place}.bias"]}
    return _folded(result, recipe, 1 / recipe.keep)


def _layer(recipe: Recipe, name: str) -> Any:
    return next(layer for layer in recipe.layers if layer.name == name)


def _blocks(weight: Tensor, towers: int) -> list[Tensor]:
    """Return views of the weights by which each tower reads its own maps."""
    rows, columns = weight.shape[0] // towers, weight.shape[1] // towers
    return [weight[t * rows : (t + 1) * rows, t * columns : (t + 1) * columns] for t in range(towers)]


Naming = Callable[[StateDict, Recipe], StateDict]
NAMINGS: dict[str, tuple[Naming, Naming]] = {  # to other programs' names, and back
    "safetensors": (lambda state, recipe: state, lambda state, recipe: state),
    "caffe": (_caffe, _from_caffe),
    "torchvision": (_torchvision, _from_torchvision),
}
