"""The network against the NumPy reference and against itself on other placements.

What is proved: logits and every gradient of each recipe equal an independent float64 implementation, narrow
and, for some, at full width; a placement changes nothing; masks, states and initial weights are the same on
all of them.
"""

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F

from model.colour import coarse
from model.errors import RunError
from model.network import AlexNet
from model.optim import Momentum
from model.recipes import RECIPES, get_recipe
from model.schedule import learning_rates

ONE, TWO = ["cpu"], ["cpu", "cpu"]
AVERAGED = {"crop": 224, "offsets": 33, "reduce": 7}  # as the first relu4
NARROW = {"width": 1 / 16, "classes": 7}


def sample(recipe, count=3, seed=0):
    draw = np.random.default_rng(seed)
    images = draw.normal(scale=60, size=(count, 3, recipe.crop, recipe.crop)).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(draw.integers(recipe.classes, size=count))


def gradients(network, images, labels, step=0):
    """Logits, and the gradients in canonical form, of a training pass."""
    network.zero_grad()
    logits = network(images, network.masks(step, 0, len(images)))
    F.cross_entropy(logits, labels).backward()
    return logits.detach(), {
        f"{layer}.{kind}": torch.cat([piece.grad.cpu() for piece in pieces])
        for layer, kind, pieces in network.pieces()
    }


def distance(ours, theirs):
    """Relative, in the Euclidean norm."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def against_reference(recipe, devices, dtype, count):
    """The largest relative distance of logits and gradients from NumPy float64."""
    network = AlexNet(recipe, devices, seed=1).to(dtype)
    images, labels = sample(recipe, count)
    images = images.to(dtype)
    state = {name: tensor.double().numpy() for name, tensor in network.state().items()}
    evaluated = reference.forward(state, images.double().numpy(), recipe.name)
    masks = [torch.cat(pieces, 1).double().numpy() for pieces in network.masks(0, 0, count)]
    trained, grads = reference.train(state, images.double().numpy(), labels.numpy(), recipe.name, masks)
    with torch.no_grad():
        worst = {"evaluated": distance(network(images), evaluated)}
    logits, ours = gradients(network, images, labels)
    worst["trained"] = distance(logits, trained)
    assert ours.keys() == grads.keys()
    return worst | {name: distance(ours[name], grads[name]) for name in grads}


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("divisor", [1.0, 1.1])
def test_what_conv1_reads(kind, divisor):
    """(images - mean) / divisor, and three rows and columns of zeros; the same for any order in memory."""
    draw = np.random.default_rng(0)
    images, mean = draw.integers(256, size=(2, 3, 224, 224)), draw.uniform(90, 140, (3, 224, 224))
    network = AlexNet(get_recipe("original", **NARROW), ONE, 0, torch.from_numpy(mean))
    given = torch.from_numpy(images).to(kind)
    taken = network.subtract_mean(given, divisor)
    assert taken.shape == (2, 3, 227, 227) and taken.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(taken[:, :, :224, :224].numpy() - (images - mean) / divisor).max() < 1e-10
    assert not taken[:, :, 224:].any() and not taken[:, :, :, 224:].any()
    beside = given.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(network.subtract_mean(beside, divisor), taken)


TWO_TOWERS = [name for name, recipe in RECIPES.items() if recipe.towers == 2]


@pytest.mark.parametrize(
    ("name", "devices"), [(name, ONE) for name in RECIPES] + [(name, TWO) for name in TWO_TOWERS]
)
def test_narrow_network_is_the_reference(name, devices):
    worst = against_reference(get_recipe(name, **NARROW), devices, torch.float64, 2)
    assert max(worst.values()) < 1e-10, worst


@pytest.mark.parametrize("name", ["original", "paper"])
def test_narrow_float32_is_close_to_the_reference(name):
    worst = against_reference(get_recipe(name, **NARROW), ONE, torch.float32, 3)
    assert max(worst.values()) < 1e-4, worst


@pytest.mark.parametrize(
    "recipe", [*map(get_recipe, ("original", "paper", "net131", "tanh4")), get_recipe("relu4", **AVERAGED)]
)
def test_full_width_network_is_the_reference(recipe):
    worst = against_reference(recipe, ONE, torch.float64, 2)
    assert max(worst.values()) < 1e-10, worst


@pytest.mark.parametrize("name", ["original", "paper", "net131", "net141", "net146-2011"])
def test_placements_agree(name):
    recipe = get_recipe(name, **NARROW)
    fused, towers = (AlexNet(recipe, devices, seed=3).double() for devices in (ONE, TWO))
    assert all(torch.equal(tensor, towers.state()[key]) for key, tensor in fused.state().items())
    images, labels = sample(recipe)
    images = images.double()
    with torch.no_grad():
        assert distance(towers(images), fused(images)) < 1e-12
    (_, ours), (_, theirs) = gradients(towers, images, labels), gradients(fused, images, labels)
    assert max(distance(ours[key], theirs[key]) for key in ours) < 1e-12


@pytest.mark.parametrize("name", ["original", "net131"])
def test_images_may_lie_on_each_device(name):
    """A copy that is another image shows that each tower reads its own."""
    network = AlexNet(get_recipe(name, **NARROW), TWO, seed=3)
    images, labels = sample(network.recipe)
    logits, expected = gradients(network, images, labels)
    network.zero_grad()
    again = network([images, images.clone()], network.masks(0, 0, len(images)))
    F.cross_entropy(again, labels).backward()
    assert torch.equal(again, logits)
    for layer, kind, pieces in network.pieces():
        assert torch.equal(torch.cat([piece.grad for piece in pieces]), expected[f"{layer}.{kind}"])
    shape = network.shapes[0]
    first, second = (next(network.run_layers([images, other]))[2] for other in (images, -images))
    assert shape.layer.name == "conv1" and torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def steps(network, count, first=0, optimiser=None):
    """`count` updates on batches of 3 that depend on the step only."""
    optimiser = optimiser or Momentum(network, network.recipe)
    optimiser.set_rates(learning_rates(network.recipe, 1))
    for step in range(first, first + count):
        images, labels = sample(network.recipe, seed=step)
        gradients(network, images.to(network.mean.dtype), labels, step)
        optimiser.step()
    return optimiser


@pytest.mark.parametrize("name", ["original", "net131"])
def test_five_training_steps_agree(name):
    recipe = get_recipe(name, **NARROW)
    fused, towers = (AlexNet(recipe, devices, seed=3).double() for devices in (ONE, TWO))
    for network in (fused, towers):
        steps(network, 5)
    assert max(distance(towers.state()[key], tensor) for key, tensor in fused.state().items()) < 1e-12


def test_training_moves_between_placements_and_back():
    recipe = get_recipe("original", **NARROW)
    straight = AlexNet(recipe, ONE, seed=3).double()
    optimiser = steps(straight, 2)
    moved = AlexNet(recipe, TWO, seed=3).double()
    moved.load(straight.state())
    velocities = Momentum(moved, recipe)
    velocities.load(optimiser.state())
    back = AlexNet(recipe, ONE, seed=3).double()
    back.load(moved.state())
    again = Momentum(back, recipe)
    again.load(velocities.state())
    steps(straight, 2, 2, optimiser)
    steps(back, 2, 2, again)
    assert all(torch.equal(tensor, back.state()[key]) for key, tensor in straight.state().items())
    steps(moved, 2, 2, velocities)
    assert max(distance(moved.state()[key], tensor) for key, tensor in straight.state().items()) < 1e-12


def test_a_repeat_is_bit_identical():
    first, second = (AlexNet(get_recipe("paper", **NARROW), TWO, seed=3) for _ in range(2))
    steps(first, 2)
    steps(second, 2)
    assert all(torch.equal(tensor, second.state()[key]) for key, tensor in first.state().items())


def test_filters_in_a_gpu_s_order():
    """The maps of a filter side by side: the same training, and the same state in the same order."""
    usual, beside = (AlexNet(get_recipe("net137", **NARROW), ONE, seed=3).double() for _ in range(2))
    for _, _, (piece,) in beside.pieces():
        if piece.dim() == 4:
            piece.data = piece.data.contiguous(memory_format=torch.channels_last)
    optimisers = [steps(network, 2) for network in (usual, beside)]
    for ours, theirs in ((usual, beside), optimisers):
        ours, theirs = ours.state(), theirs.state()
        assert all(tensor.is_contiguous() for tensor in theirs.values())
        assert max(distance(theirs[key], tensor) for key, tensor in ours.items()) < 1e-12


def test_masks_depend_on_seed_step_row_and_unit_only():
    recipe = get_recipe("original", **NARROW)
    fused, towers = (AlexNet(recipe, devices, seed=3) for devices in (ONE, TWO))
    whole = fused.masks(9, 0, 128)
    assert [len(pieces) for pieces in whole] == [1, 1]
    for layer, (whole_mask,) in enumerate(whole):
        split = [network.masks(9, start, count)[layer] for network, start, count in
                 ((towers, 0, 50), (fused, 50, 77), (towers, 127, 1))]  # fmt: skip
        assert torch.equal(torch.cat([torch.cat(pieces, 1) for pieces in split]), whole_mask)
    assert not torch.equal(whole[0][0], whole[1][0])
    assert not torch.equal(whole[0][0], fused.masks(10, 0, 128)[0][0])
    assert not torch.equal(whole[0][0], AlexNet(recipe, ONE, seed=4).masks(9, 0, 128)[0][0])


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_masks_are_fair_and_independent(keep):
    network = AlexNet(get_recipe(width=0.25, classes=2, keep=keep), ONE, seed=0)
    masks = torch.stack([network.masks(step, 0, 64)[i][0].double() for step in range(8) for i in (0, 1)])
    deviation = np.sqrt(keep * (1 - keep))
    z = (masks.mean() - keep) / deviation * masks.numel() ** 0.5
    assert abs(z) < 4
    centred = (masks - keep) / deviation
    for other in (
        centred.roll(1, 0),
        centred.roll(2, 0),
        centred.roll(1, 1),
        centred.roll(1, 2),
        centred.roll(4, 2),
    ):
        assert (
            abs((centred * other).mean()) * masks.numel() ** 0.5 < 4
        )  # of another layer, step, row, unit, word
    units = masks.mean((0, 1))  # each unit is kept in its share of rows
    assert abs(units - keep).max() < 5 * deviation / (16 * 64) ** 0.5


def test_masks_are_those_of_splitmix64():
    """One mask from plain integers, which pins it for good: a resumed run must draw what the old one drew."""
    import hashlib

    recipe = get_recipe("original", width=1 / 64, classes=2)
    network, units, wrap = AlexNet(recipe, ONE, seed=7), recipe.scaled(4096), 2**64
    key = int.from_bytes(hashlib.blake2b(b"7 5 6", digest_size=8).digest(), "little")  # seed, step, layer
    bits = []
    for word in range(units // 4 * 2, units // 4 * 4):  # rows 2 and 3
        z = (word * 0x9E3779B97F4A7C15 + key) % wrap
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % wrap
        z = (z ^ z >> 27) * 0x94D049BB133111EB % wrap
        z ^= z >> 31
        bits += [(z >> 16 * lane + 15) & 1 == 1 for lane in range(4)]
    assert network.masks(5, 2, 2)[1][0].flatten().tolist() == bits


def test_initial_weights_are_the_recipes():
    state = AlexNet(get_recipe("original"), ONE, seed=0).state()
    deviations = {name: state[f"{name}.weight"].std().item() for name in
                  ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")}  # fmt: skip
    assert list(deviations.values()) == pytest.approx([0.01] * 2 + [0.03] * 3 + [0.01] * 3, rel=0.01)
    biases = {name: state[f"{name}.bias"].unique().tolist() for name in deviations}
    assert biases == {
        name: [1.0 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0] for name in biases
    }


def test_a_state_that_does_not_fit_is_refused_by_name():
    network = AlexNet(get_recipe(**NARROW), ONE, seed=0)
    state = network.state()
    with pytest.raises(RunError, match=r"saved fc8.weight is \(9, 256\), the recipe's is \(7, 256\)"):
        network.load(state | {"fc8.weight": torch.zeros(9, 256)})
    with pytest.raises(RunError, match=r"no conv3.bias"):
        network.load({key: tensor for key, tensor in state.items() if key != "conv3.bias"})
    with pytest.raises(RunError, match=r"conv6.weight"):
        network.load(state | {"conv6.weight": torch.zeros(1)})
    with pytest.raises(RunError, match="not on 3"):
        AlexNet(network.recipe, ["cpu"] * 3, seed=0)
    with pytest.raises(RunError, match="1 tower goes on one device, not on 2"):
        AlexNet(get_recipe("half", **NARROW), TWO, seed=0)
    with pytest.raises(RunError, match=r"no conv2.colour"):
        branched = AlexNet(get_recipe("net137", **NARROW), ONE, seed=0)
        branched.load({key: tensor for key, tensor in branched.state().items() if key != "conv2.colour"})


def test_the_coarse_colours_are_the_reference_s():
    """On a float64 image, with the place of each pixel in it: 2, 6, .. 222, and zeros beyond the edge."""
    images, _ = sample(get_recipe("net137"), 2)
    found = coarse(images.double(), get_recipe("net137").layers[1].colour)
    assert found.shape == (2, 3, 56, 56)
    np.testing.assert_allclose(
        found, reference.coarse(reference.Node(images.double().numpy())).value, rtol=1e-12
    )
    bell = np.exp(-(np.arange(-4, 5) ** 2) / 32)
    around = images[0, 1, :7, 218:].double().numpy() * np.outer(bell[2:], bell[:6])
    assert found[0, 1, 0, 55].item() == pytest.approx(around.sum() / bell.sum() ** 2)


def test_the_colour_branch_is_drawn_and_both_its_inputs_train():
    network = AlexNet(get_recipe("net137"), TWO, seed=0)
    state = network.state()
    assert list(state)[2:5] == ["conv2.weight", "conv2.colour", "conv2.bias"]
    assert state["conv2.colour"].shape == (256, 3, 5, 5)
    assert state["conv2.colour"].std().item() == pytest.approx(0.01, rel=0.02)
    narrow = AlexNet(get_recipe("net137", **NARROW), TWO, seed=3)
    before, optimiser = narrow.state(), steps(narrow, 1)
    moved = {key: (tensor - before[key]).norm().item() for key, tensor in narrow.state().items()}
    assert min(moved.values()) > 0
    assert optimiser.state()["conv2.colour"].shape == (16, 3, 5, 5)


@pytest.mark.parametrize("name", ["original", "net131"])
def test_bfloat16_is_close_to_float32(name):
    network = AlexNet(get_recipe(name, **NARROW), ONE, seed=0)
    images, _ = sample(network.recipe)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = network(images)
    with torch.no_grad():
        assert distance(rough.float(), network(images)) < 0.05


def test_signals_are_the_deviations_of_linear_outputs():
    network = AlexNet(get_recipe(**NARROW), TWO, seed=0)
    images, _ = sample(network.recipe, 8)
    signals = network.signals(images)
    assert list(signals) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    whole = network.state()
    first = F.conv2d(F.pad(images, (0, 3, 0, 3)), whole["conv1.weight"], whole["conv1.bias"], 4)
    assert signals["conv1"] == pytest.approx((first.var(0).mean().sqrt().item(), 0))
    with torch.no_grad():
        assert signals["fc8"] == pytest.approx((network(images).var(0).mean().sqrt().item(), 0), rel=1e-4)
    assert signals["conv5"][1] == 1


def test_narrow_copies_start_with_the_full_networks_signal():
    images, _ = sample(get_recipe(), 4)
    full = AlexNet(get_recipe(classes=200), ONE, seed=0).signals(images)
    narrow = AlexNet(get_recipe(classes=200, width=0.25), ONE, seed=0).signals(images)
    for name in full:
        assert narrow[name][0] == pytest.approx(full[name][0], rel=0.35), name


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["original", "paper", "net131"])
def test_gpu_placements_agree(name):
    recipe = get_recipe(name, classes=50, width=0.5)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    networks = [AlexNet(recipe, devices, seed=3) for devices in (ONE, ["cuda:0"], ["cuda:0", "cuda:0"])]
    images, labels = sample(recipe, 8)
    results = [gradients(n, images.to(n.devices[0]), labels.to(n.devices[0])) for n in networks]
    for logits, grads in results[1:]:
        assert distance(logits.cpu(), results[0][0]) < 1e-4
        assert np.median([distance(grads[key], results[0][1][key]) for key in grads]) < 1e-3
    cpu, gpu = (n.masks(5, 2, 6) for n in networks[:2])
    assert all(torch.equal(a[0], b[0].cpu()) for a, b in zip(cpu, gpu, strict=True))


@pytest.mark.gpu
def test_gpu_bfloat16_is_close_to_float32():
    network = AlexNet(get_recipe(), ["cuda:0"], seed=3)
    images, _ = sample(network.recipe, 8)
    with torch.no_grad():
        exact = network(images.cuda())
        with torch.autocast("cuda", torch.bfloat16):
            assert distance(network(images.cuda()).float().cpu(), exact.cpu()) < 0.05


@pytest.mark.gpu
def test_gpu_layers_convolve_maps_that_lie_side_by_side():
    network = AlexNet(get_recipe(**NARROW), ["cuda:0"], seed=3)
    images, _ = sample(network.recipe)
    for shape, part, (x,) in network.run_layers(network.subtract_mean(images.cuda())):
        beside = x.dim() == 2 or x.is_contiguous(memory_format=torch.channels_last)
        assert beside or part != "linear", shape.layer.name
    for name, _, (piece,) in network.pieces():
        assert piece.dim() < 4 or piece.is_contiguous(memory_format=torch.channels_last), name
