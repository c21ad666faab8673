"""tools.start: the losses it reports are the network's, its first signals those of an untrained one."""

import pytest
import torch
import torch.nn.functional as F

from model.network import AlexNet
from model.recipes import get_recipe
from tools.start import draw, start


def test_start(tmp_path):
    recipe = get_recipe("paper", width=1 / 16, classes=4)
    fresh, network = (AlexNet(recipe, ["cpu"], seed=0) for _ in range(2))
    draw_images = torch.Generator().manual_seed(0)
    images, labels = torch.randn(4, 3, 224, 224, generator=draw_images) * 60, torch.arange(4)
    losses, before, after = start(network, [(images, labels)] * 9, 58, steps=3, precision="float32")
    assert len(losses) == 3
    with torch.no_grad():
        expected = F.cross_entropy(fresh(images / 58, fresh.masks(0, 0, 4)), labels)
    assert losses[0] == pytest.approx(expected.item())
    for name, found in fresh.signals(images / 58).items():
        assert before[name] == pytest.approx(found, rel=1e-3, abs=1e-6)  # 3e-5 beside a bias of 1 in float32
    assert after != before
    draw({"paper": {"losses": losses, "before": before, "after": after}}, 4, tmp_path / "start.png", "drawn")
    assert (tmp_path / "start.png").stat().st_size > 1000
