"""The networks and the update rule in NumPy float64, from the formulas and with typed numbers.

Independent of what it checks: no torch, no recipe, no shape taken from the package. Numbers are those of
layers-145.cfg / layer-params-145.cfg of the 2012 source and of the files of the other nets, or of the paper's
text; only maps and units follow the parameters given. A tower is the first or the second half of each layer's
maps. `net` is a recipe's name.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray


class Node:
    """A value and how its gradient reaches the values it was made from."""

    def __init__(
        self, value: Array, parents: Iterable["Node"] = (), back: Callable[[Array], Iterable[Array]] = tuple
    ):
        self.value, self.parents, self.back = value, tuple(parents), back
        self.grad = np.zeros_like(value)


def backpropagate(loss: Node) -> None:
    order: list[Node] = []

    def visit(node: Node) -> None:
        if node not in order:
            for parent in node.parents:
                visit(parent)
            order.append(node)

    visit(loss)
    loss.grad = np.ones_like(loss.value)
    for node in reversed(order):
        if node.parents:
            for parent, grad in zip(node.parents, node.back(node.grad), strict=True):
                parent.grad += grad


def part(x: Node, which: slice, axis: int) -> Node:
    index = (slice(None),) * axis + (which,)

    def back(grad: Array) -> list[Array]:
        whole = np.zeros_like(x.value)
        whole[index] = grad
        return [whole]

    return Node(x.value[index], [x], back)


def split(x: Node, count: int, axis: int = 0) -> list[Node]:
    size = x.value.shape[axis] // count
    return [part(x, slice(i * size, (i + 1) * size), axis) for i in range(count)]


def join(pieces: list[Node]) -> Node:
    return Node(
        np.concatenate([p.value for p in pieces], 1), pieces, lambda grad: np.split(grad, len(pieces), 1)
    )


def add(x: Node, y: Node) -> Node:
    return Node(x.value + y.value, [x, y], lambda grad: [grad, grad])


def conv(x: Node, weight: Node, bias: Node, stride: int = 1, pad: int = 0, hang: int = 0) -> Node:
    """y[n,o,i,j] = b[o] + sum of w[o,c,u,v] x[n,c,s i + u - pad, s j + v - pad], zero outside the image."""
    padded = np.pad(x.value, ((0, 0), (0, 0), (pad, pad + hang), (pad, pad + hang)))
    count, k = weight.value.shape[0], weight.value.shape[2]
    windows = sliding_window_view(padded, (k, k), (2, 3))[:, :, ::stride, ::stride]
    n, c, rows, columns = windows.shape[:4]
    table = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * rows * columns, c * k * k)
    flat = weight.value.reshape(count, -1)
    value = (table @ flat.T + bias.value).reshape(n, rows, columns, count).transpose(0, 3, 1, 2)

    def back(grad: Array) -> list[Array]:
        g = grad.transpose(0, 2, 3, 1).reshape(-1, count)
        spread = (g @ flat).reshape(n, rows, columns, c, k, k)
        whole = np.zeros_like(padded)
        for u in range(k):
            for v in range(k):
                whole[:, :, u : u + stride * rows : stride, v : v + stride * columns : stride] += spread[
                    :, :, :, :, u, v
                ].transpose(0, 3, 1, 2)
        height, width = x.value.shape[2:]
        inner = whole[:, :, pad : pad + height, pad : pad + width]
        return [inner, (g.T @ table).reshape(weight.value.shape), g.sum(0)]

    return Node(value, [x, weight, bias], back)


def dense(x: Node, weight: Node, bias: Node) -> Node:
    flat = x.value.reshape(len(x.value), -1)
    return Node(
        flat @ weight.value.T + bias.value,
        [x, weight, bias],
        lambda g: [(g @ weight.value).reshape(x.value.shape), g.T @ flat, g.sum(0)],
    )


def relu(x: Node) -> Node:
    return Node(np.maximum(x.value, 0), [x], lambda grad: [grad * (x.value > 0)])


def tanh(x: Node) -> Node:
    y = np.tanh(x.value)
    return Node(y, [x], lambda grad: [grad * (1 - y**2)])


def scale(x: Node, factor: Array | float) -> Node:
    return Node(x.value * factor, [x], lambda grad: [grad * factor])


def pool(x: Node, size: int = 3) -> Node:
    """size x size maxima every 2 pixels, the last ones over as much as there is; as in 2012 every input that
    equals the maximum gets its whole gradient.
    """
    side = x.value.shape[2]
    count = -(-(side - size) // 2) + 1
    hang = 2 * (count - 1) + size - side
    padded = np.pad(x.value, ((0, 0), (0, 0), (0, hang), (0, hang)), constant_values=-np.inf)
    value = sliding_window_view(padded, (size, size), (2, 3))[:, :, ::2, ::2].max((-2, -1))

    def back(grad: Array) -> list[Array]:
        whole = np.zeros_like(padded)
        for u in range(size):
            for v in range(size):
                at = np.s_[:, :, u : u + 2 * count : 2, v : v + 2 * count : 2]
                whole[at] += grad * (padded[at] == value)
        return [whole[:, :, :side, :side]]

    return Node(value, [x], back)


def mapped(x: Node, matrix: Array) -> Node:
    """M x M^T of each colour's square: rows and columns by the same linear map."""
    return Node(matrix @ x.value @ matrix.T, [x], lambda grad: [matrix.T @ grad @ matrix])


def coarse(x: Node) -> Node:
    """`blur0`, `nails0`: exp(-d^2 / (2 4^2)) for d = -4 .. 4, of sum 1, over what there is around the pixels
    2, 6, .. 222.
    """
    distance = np.arange(224)[None] - (2 + 4 * np.arange(56))[:, None]
    bell = np.where(abs(distance) <= 4, np.exp(-(distance**2) / 32), 0)
    return mapped(x, bell / np.exp(-(np.arange(-4, 5) ** 2) / 32).sum())


def averaged(x: Node) -> Node:
    """224 x 224 to 32 x 32: means over 7 x 7."""
    return mapped(x, np.repeat(np.eye(32), 7, axis=1) / 7)


def respond(
    x: Node, k: float, alpha: float, beta: float, windows: list[tuple[slice, ...]], mean: Array | float = 0
) -> Node:
    """y = x s^-beta, s = k + alpha * (sum over windows of m^2), each (to, from) of an array; m = x - mean.

    dL/dx = g s^-beta - 2 alpha beta m * (sum over the same windows, turned round, of g x s^-(beta + 1)); the
    mean is a constant.
    """
    s, m = np.full_like(x.value, k), x.value - mean
    for to, source in windows:
        s[to] += alpha * m[source] ** 2

    def back(grad: Array) -> list[Array]:
        inner = grad * x.value * s ** -(beta + 1)
        total = np.zeros_like(s)
        for to, source in windows:
            total[source] += inner[to]
        return [grad * s**-beta - 2 * alpha * beta * m * total]

    return Node(x.value * s**-beta, [x], back)


def shifted(length: int, by: int) -> tuple[slice, slice]:
    """The places whose neighbour `by` further on exists, and those neighbours."""
    return slice(max(0, -by), length - max(0, by)), slice(max(0, by), length + min(0, by))


def lrn(x: Node, alpha: float, k: float = 2) -> Node:
    """b_i = a_i / (k + alpha * sum over j = i - 2 .. i + 2 of a_j ^ 2) ^ 0.75, over maps that exist."""
    maps = x.value.shape[1]
    shifts = [shifted(maps, by) for by in range(-2, 3) if abs(by) < maps]
    return respond(x, k, alpha, 0.75, [(np.s_[:, to], np.s_[:, source]) for to, source in shifts])


def spatial(x: Node) -> Node:
    """b = a / (1 + 1e-3 / 25 * sum over the 5 x 5 places around of a ^ 2) ^ 0.75, same map (`cnorm2`)."""
    return respond(x, 1, 1e-3 / 25, 0.75, around(x))


def contrast(x: Node) -> Node:
    """The same with the mean over the 5 x 5 places around, as far as there are, taken off before squaring."""
    total, count = np.zeros_like(x.value), np.zeros_like(x.value)
    for to, source in around(x):
        total[to] += x.value[source]
        count[to] += 1
    return respond(x, 1, 1e-3 / 25, 0.75, around(x), total / count)


def around(x: Node) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    height, width = x.value.shape[2:]
    shifts = [(shifted(height, u), shifted(width, v)) for u in range(-2, 3) for v in range(-2, 3)]
    return [(np.s_[:, :, r[0], c[0]], np.s_[:, :, r[1], c[1]]) for r, c in shifts]


def cross_entropy(logits: Node, labels: Array) -> Node:
    """The mean over images of -log p(label)."""
    rows = np.arange(len(labels))
    top = logits.value - logits.value.max(1, keepdims=True)
    log_p = top - np.log(np.exp(top).sum(1, keepdims=True))
    target = np.zeros_like(log_p)
    target[rows, labels] = 1
    return Node(
        -log_p[rows, labels].mean(keepdims=True),
        [logits],
        lambda g: [g * (np.exp(log_p) - target) / len(labels)],
    )


def features(p: dict[str, Node], x: Node, net: str) -> Node:
    """The convolutions of `net` up to the maps, of both towers, that fc6 reads."""
    count, size = (1 if net == "half" else 2), (2 if net == "no-overlap" else 3)
    tight = net == "no-overlap"

    def towers(name: str, inputs: list[Node], **geometry: int) -> list[Node]:
        filters = zip(inputs, split(p[f"{name}.weight"], count), split(p[f"{name}.bias"], count), strict=True)
        return [conv(i, w, b, **geometry) for i, w, b in filters]

    def lrn_paper(pieces: list[Node]) -> list[Node]:
        return split(lrn(join(pieces), 1e-4), 2, axis=1)  # "adjacent kernel maps" out of all N of the layer

    def maps(t: Node) -> Node:
        return t if net == "no-lrn" else lrn(t, 1e-4 / 5, k=1 if net == "net131" else 2)

    def places(t: Node) -> Node:
        return t if net == "no-lrn" else contrast(t) if net in ("net131", "net135") else spatial(t)

    first = towers("conv1", [x] * count, stride=4, hang=3)
    if net == "paper":
        first = [pool(t) for t in lrn_paper([relu(t) for t in first])]
        second = [pool(t) for t in lrn_paper([relu(t) for t in towers("conv2", first, pad=2)])]
    else:
        first = [relu(pool(maps(t), size)) for t in first]
        second = towers("conv2", first, pad=1 if tight else 2)
        if net in ("net131", "net135", "net137", "net141"):
            kernels, seen = split(p["conv2.colour"], 2), coarse(x)
            none = Node(np.zeros(len(kernels[0].value)))
            second = [
                add(t, conv(seen, w, none, stride=2, hang=1)) for t, w in zip(second, kernels, strict=True)
            ]
        second = [pool(places(maps(relu(t))), size) for t in second]
    third = [relu(t) for t in towers("conv3", [join(second)] * count, pad=1)]
    fourth = [relu(t) for t in towers("conv4", third, pad=1)]
    fifth = towers("conv5", fourth, pad=0 if tight else 1)
    last = [pool(relu(t)) if net == "paper" else relu(pool(t, size)) for t in fifth]
    if net in ("net141", "net146", "net146-2009", "net146-2011"):
        last = [relu(t) for t in towers("conv6", [join(last)] * count, pad=1)]
    return join(last)


def logits(p: dict[str, Node], images: Array, net: str, masks: list[Array] | None) -> Node:
    if net in ("relu4", "tanh4"):
        x = averaged(Node(images)) if images.shape[-1] == 224 else Node(images)
        for name in ("conv1", "conv2", "conv3"):
            x = conv(x, p[f"{name}.weight"], p[f"{name}.bias"], pad=2)
            x = pool(relu(x) if net == "relu4" else tanh(x))
        return dense(x, p["fc4.weight"], p["fc4.bias"])
    x = features(p, Node(images), net)
    for i, name in enumerate(("fc6", "fc7")):
        x = relu(dense(x, p[f"{name}.weight"], p[f"{name}.bias"]))
        x = scale(x, 0.5 if masks is None else masks[i])
    if net == "net146-2011":
        x = dense(x, p["bottleneck.weight"], p["bottleneck.bias"])
    return dense(x, p["fc8.weight"], p["fc8.bias"])


def forward(state: dict[str, Array], images: Array, net: str) -> Array:
    """Evaluation: the logits."""
    return logits({name: Node(value) for name, value in state.items()}, images, net, None).value


def train(
    state: dict[str, Array], images: Array, labels: Array, net: str, masks: list[Array]
) -> tuple[Array, dict[str, Array]]:
    """Training: the logits and the gradient of the mean loss for every parameter."""
    p = {name: Node(value) for name, value in state.items()}
    out = logits(p, images, net, masks)
    backpropagate(cross_entropy(out, labels))
    return out.value, {name: node.grad for name, node in p.items()}


def update(
    state: dict[str, Array],
    velocity: dict[str, Array],
    grads: dict[str, Array],
    weight_rate: dict[str, float],
    bias_rate: dict[str, float],
) -> None:
    """velocity = 0.9 velocity - rate grad - 0.0005 rate weight (not for a bias); rate 0 does nothing."""
    for name in state:
        layer, kind = name.split(".")
        rate = weight_rate[layer] if kind == "weight" else bias_rate[layer]
        if rate == 0:
            continue
        decay = 0.0005 if kind == "weight" else 0.0
        velocity[name] = 0.9 * velocity[name] - rate * grads[name] - decay * rate * state[name]
        state[name] = state[name] + velocity[name]
