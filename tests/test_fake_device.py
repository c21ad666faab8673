"""The network on devices that are not there: torch knows where each tensor would lie; it refuses mixtures."""

import re
import subprocess
import sys
from pathlib import Path

RECIPES = ("original", "paper", "net131")
PROGRAM = """
import sys
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from model import network
from model.recipes import get_recipe

def logits(recipe, *devices):
    net = network.AlexNet(get_recipe(recipe, classes=7, batch_size=2), devices, seed=0)
    images = torch.empty(2, 3, 224, 224, device="card:0")
    return net, net(images, net.masks(0, 0, 2))

def places(tensors):
    return "+".join(sorted({str(tensor.device) for tensor in tensors}))

_setup_privateuseone_for_python_backend("card")  # for all of this process, which therefore is not pytest's
with FakeTensorMode():
    for recipe in sys.argv[1:]:
        net, out = logits(recipe, "card:0")
        torch.nn.functional.cross_entropy(out, torch.zeros(2, dtype=torch.int64, device="card:0")).backward()
        print(recipe, *out.shape, out.device, places(p.grad for p in net.parameters()))
        net, out = logits(recipe, "card:0", "card:1")  # backward: torch cannot
        print(recipe, *out.shape, out.device, *(places(tower.parameters()) for tower in net.towers))
    network.exchange = lambda pieces, devices: [torch.cat(pieces, 1) for _ in devices]  # which copies nothing
    logits("original", "card:0", "card:1")
"""


def test_every_tensor_lies_where_it_should_and_a_missing_copy_is_refused() -> None:
    words = [sys.executable, "-c", PROGRAM, *RECIPES]
    done = subprocess.run(words, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    ends = ("card:0 card:0", "card:0 card:0 card:1")
    assert done.stdout.splitlines() == [f"{name} 2 7 {end}" for name in RECIPES for end in ends], done.stderr
    assert done.returncode == 1
    assert re.search("found .*two .*devices.* card:0.* card:1", done.stderr)
