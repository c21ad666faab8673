"""Train a step as a user would write it: torch's own layers, eager, and torch.optim.SGD unchanged.

For tools/compare/peers.py. Images come with their mean subtracted.
"""

from collections import OrderedDict
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import Full, ResponseNorm
from model.recipe import Recipe
from tools.compare.loaders import Batch, Job


class TowerNorm(nn.Module):
    """Apply torch's LocalResponseNorm within each tower's maps."""

    def __init__(self, norm: ResponseNorm, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.norm = nn.LocalResponseNorm(norm.size, norm.alpha * norm.size, norm.beta, norm.k)

    def forward(self, x: Tensor) -> Tensor:
        rows, maps, height, width = x.shape
        normed: Tensor = self.norm(x.reshape(rows * self.groups, maps // self.groups, height, width))
        return normed.view(x.shape)


class PlaceNorm(nn.Module):
    """Normalise over size x size places of a map: torch has only pooling to build it from."""

    def __init__(self, norm: ResponseNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        size, norm = self.norm.size, self.norm
        sums = F.avg_pool2d(x * x, size, stride=1, padding=size // 2) * size**2
        return x / (norm.k + norm.alpha * sums) ** norm.beta


def network(recipe: Recipe) -> nn.Sequential:
    """Build the recipe's network for one device, names of the parameters as in AlexNet.state().

    No dropout, which costs a user no more than a hundredth of the step: what is left out is in its favour.
    ValueError for the recipes that read colour maps or small images, or normalise contrast.
    """
    if recipe.reduce > 1 or any(getattr(layer, "colour", None) for layer in recipe.layers):
        raise ValueError(f"no plain network for {recipe.name}")
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for shape in recipe.shapes():
        layer, (out, read, *_) = shape.layer, shape.weight
        if isinstance(layer, Full):
            modules[f"{layer.name} flat"] = nn.Flatten()
            modules[layer.name] = nn.Linear(read, out)
        else:
            groups = 1 if layer.crossing else recipe.towers
            if shape.overhang:
                modules[f"{layer.name} edge"] = nn.ZeroPad2d((0, shape.overhang, 0, shape.overhang))
            modules[layer.name] = nn.Conv2d(
                read * groups, out, layer.kernel, layer.stride, layer.pad, groups=groups
            )
        for step in layer.then:
            if step != "dropout":
                modules[f"{layer.name} {step}"] = follow(recipe, step)
    return nn.Sequential(modules)


def follow(recipe: Recipe, step: str) -> nn.Module:
    """Return the module of a step that follows a layer."""
    match step:
        case "relu":
            return nn.ReLU(inplace=True)
        case "pool":
            return nn.MaxPool2d(recipe.pool_size, recipe.pool_stride, ceil_mode=True)
        case "lrn":
            return TowerNorm(recipe.lrn, 1 if recipe.lrn_across_towers else recipe.towers)
        case "spatial":
            return PlaceNorm(recipe.spatial)
    raise ValueError(f"no plain {step}")


def optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Build the recipe's update rule at its first learning rate; torch chooses the kernels by itself."""
    weights = [parameter for name, parameter in net.named_parameters() if name.endswith("weight")]
    biases = [parameter for name, parameter in net.named_parameters() if name.endswith("bias")]
    groups = [
        {"params": weights, "lr": recipe.rate, "weight_decay": recipe.decay},
        {"params": biases, "lr": recipe.rate * recipe.bias_factor, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, momentum=recipe.momentum)


def update(net: nn.Module, rule: torch.optim.SGD, images: Tensor, labels: Tensor, half: bool) -> Tensor:
    """Train one step; return the logits."""
    rule.zero_grad()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        logits: Tensor = net(images)
        loss = F.cross_entropy(logits, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    rule.step()
    return logits.detach()


def steps(job: Job) -> Iterator[Batch]:
    """Yield (logits, labels) of one step after the other, on noise for images."""
    recipe, device = job.recipe, job.device
    net = network(recipe).to(device)
    rule = optimiser(net, recipe)
    images = 60 * torch.randn(recipe.batch_size, 3, recipe.crop, recipe.crop, device=device)
    labels = torch.randint(recipe.classes, (recipe.batch_size,), device=device)
    if job.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    while True:
        yield update(net, rule, images, labels, job.precision == "bfloat16"), labels
