"""Open a trained network as a torch module that knows its classes and how its images are made."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from msgspec import Struct
from PIL import Image, ImageOps
from torch import Tensor

from model import checkpoint
from model.errors import RunError
from model.exchange import weights
from model.network import AlexNet, StateDict
from model.recipe import Recipe
from model.study.layers import outputs
from pipeline.image import BadImage, centre, decode, square
from pipeline.schema import Array, Sha256, Unfit, convert, read_json, read_npz


class Class(Struct):
    """Hold what dataset.json and exported files say of a class, as far as it is needed here."""

    wnid: str
    words: str


class Known(Struct):
    """Hold what is needed of the dataset.json that a run keeps."""

    classes: list[Class]
    files: dict[str, Sha256]


def cut_centre(image: np.ndarray, crop: int) -> Tensor:
    """Return (3, crop, crop) float32 of (side, side, 3). In 2012 that of the mean image is subtracted."""
    return torch.from_numpy(np.float32(centre(image, crop))).permute(2, 0, 1)


class TrainedNetwork(AlexNet):
    """Compute the logits of images, (N, classes), as in evaluation: dropout multiplies by its factor.

    Images are (N, 3, crop, crop) RGB, 0..255, of any type and on any device; the network subtracts the mean.
    classes: the first word for each class; wnids: their folders' names, which no two classes share.
    """

    def __init__(
        self,
        recipe: Recipe,
        state: StateDict,
        mean: np.ndarray,
        classes: Sequence[Class],
        device: torch.device | str,
    ) -> None:
        super().__init__(recipe, [device], seed=0, mean=cut_centre(mean, recipe.crop))
        self.load(state)
        self.side = len(mean)
        self.classes = [category.words.partition(",")[0] for category in classes]
        self.wnids = [category.wnid for category in classes]
        self.eval()

    def preprocess(self, image: str | os.PathLike[str] | Image.Image | np.ndarray) -> Tensor:
        """Return (3, crop, crop) float32, 0..255, of a file, a Pillow image, or (height, width, 3) uint8 RGB.

        As `alexnet-dali predict` does: turned upright, shorter side resized as for training, the centre cut
        out. RunError says why a file cannot be decoded.
        """
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"{image.dtype} {image.shape}: give uint8 (height, width, 3), RGB")
            whole = Image.fromarray(image)
        elif isinstance(image, Image.Image):
            whole = ImageOps.exif_transpose(image).convert("RGB")
        else:
            try:
                whole = decode(Path(image).read_bytes(), upright=True).image
            except BadImage as error:
                raise RunError(f"{image} cannot be decoded: {error}") from None
        return cut_centre(np.asarray(square(whole, self.side)), self.recipe.crop)

    def features(self, images: Tensor, layer: str = "fc7") -> Tensor:
        """Return a layer's activations, (N, units) or (N, maps, height, width), without gradients.

        They are those after ReLU, pooling, normalisation and dropout's factor. RunError names the layers.
        """
        return outputs(self, images, [layer], "float32")[layer].clone()  # autograd takes the copy

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move or convert the network, for `to` and `cuda`; its devices are those of its parameters."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.devices = [next(tower.parameters()).device for tower in self.towers]
        return self


def load(source: str | os.PathLike[str], device: torch.device | str = "cpu") -> TrainedNetwork:
    """Open a run's folder (its last.pt), a .pt in it, or a .safetensors of `alexnet-dali export`.

    Returns the network in evaluation mode on the device. RunError says in a line what is wrong.
    """
    path = Path(source)
    if path.suffix == ".safetensors":
        file = weights.read(path)
        recipe, state, mean = file.recipe, file.state, file.mean.numpy()
        classes = convert(file.about["classes"], list[Class])
    else:
        path = path if path.suffix == ".pt" else path / checkpoint.LAST
        saved = checkpoint.read(path)
        recipe, state = Recipe.from_dict(saved["identity"]["recipe"]), saved["weights"]
        classes, mean = _read_known(path.parent)
    return TrainedNetwork(recipe, state, mean, classes, device)


def _read_known(folder: Path) -> tuple[list[Class], np.ndarray]:
    """Read the classes and the mean image, (side, side, 3), that a run keeps of its dataset."""
    path = folder / "statistics.npz"
    try:
        known = read_json(folder / "dataset.json", Known)
        mean = read_npz(path, {"mean": Array((np.float32,), ("side", "side", 3))})["mean"]
        if hashlib.sha256(path.read_bytes()).hexdigest() != known.files.get(path.name):
            raise Unfit("statistics.npz is another than dataset.json names")
    except FileNotFoundError as error:
        raise RunError(
            f"there is no {error.filename}, which a run of this version keeps: write the run as one file by "
            f"alexnet-dali export --run {folder}, and load that"
        ) from None
    except OSError as error:
        raise RunError(f"cannot read {error.filename}: {error.strerror}") from None
    except Unfit as error:
        raise RunError(f"the dataset.json or statistics.npz of {folder} is damaged: {error}") from None
    return known.classes, mean
