"""The two networks and the update rule in NumPy float64, from the formulas and with typed numbers.

Independent of what it checks: no torch, no recipe, no shape taken from the package. Numbers are those of
layers-145.cfg / layer-params-145.cfg of the 2012 source, or of the paper's text; only maps and units follow
the parameters given. A tower is the first or the second half of each layer's maps.
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


def halves(x: Node, axis: int = 0) -> list[Node]:
    middle = x.value.shape[axis] // 2
    return [part(x, slice(0, middle), axis), part(x, slice(middle, None), axis)]


def join(pieces: list[Node]) -> Node:
    cut = pieces[0].value.shape[1]
    return Node(
        np.concatenate([p.value for p in pieces], 1), pieces, lambda grad: [grad[:, :cut], grad[:, cut:]]
    )


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


def scale(x: Node, factor: Array | float) -> Node:
    return Node(x.value * factor, [x], lambda grad: [grad * factor])


def pool(x: Node) -> Node:
    """3 x 3 maxima every 2 pixels; as in 2012 every input that equals the maximum gets its whole gradient."""
    windows = sliding_window_view(x.value, (3, 3), (2, 3))[:, :, ::2, ::2]
    value = windows.max((-2, -1))

    def back(grad: Array) -> list[Array]:
        whole, size = np.zeros_like(x.value), value.shape[2]
        for u in range(3):
            for v in range(3):
                at = np.s_[:, :, u : u + 2 * size : 2, v : v + 2 * size : 2]
                whole[at] += grad * (x.value[at] == value)
        return [whole]

    return Node(value, [x], back)


def respond(x: Node, k: float, alpha: float, beta: float, windows: list[tuple[slice, ...]]) -> Node:
    """y = x s^-beta, s = k + alpha * (sum over windows of the squares), each (to, from) of an array.

    dL/dx = g s^-beta - 2 alpha beta x * (sum over the same windows, turned round, of g x s^-(beta + 1)).
    """
    s = np.full_like(x.value, k)
    for to, source in windows:
        s[to] += alpha * x.value[source] ** 2

    def back(grad: Array) -> list[Array]:
        inner = grad * x.value * s ** -(beta + 1)
        total = np.zeros_like(s)
        for to, source in windows:
            total[source] += inner[to]
        return [grad * s**-beta - 2 * alpha * beta * x.value * total]

    return Node(x.value * s**-beta, [x], back)


def shifted(length: int, by: int) -> tuple[slice, slice]:
    """The places whose neighbour `by` further on exists, and those neighbours."""
    return slice(max(0, -by), length - max(0, by)), slice(max(0, by), length + min(0, by))


def lrn(x: Node, alpha: float) -> Node:
    """b_i = a_i / (2 + alpha * sum over j = i - 2 .. i + 2 of a_j ^ 2) ^ 0.75, over maps that exist."""
    maps = x.value.shape[1]
    shifts = [shifted(maps, by) for by in range(-2, 3) if abs(by) < maps]
    return respond(x, 2, alpha, 0.75, [(np.s_[:, to], np.s_[:, source]) for to, source in shifts])


def spatial(x: Node) -> Node:
    """b = a / (1 + 1e-3 / 25 * sum over the 5 x 5 places around of a ^ 2) ^ 0.75, same map (`cnorm2`)."""
    height, width = x.value.shape[2:]
    shifts = [(shifted(height, u), shifted(width, v)) for u in range(-2, 3) for v in range(-2, 3)]
    return respond(
        x, 1, 1e-3 / 25, 0.75, [(np.s_[:, :, r[0], c[0]], np.s_[:, :, r[1], c[1]]) for r, c in shifts]
    )


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
    """The five convolutions of `net`, 'original' or 'paper', up to the pooled maps of both towers."""

    def towers(name: str, inputs: list[Node], **geometry: int) -> list[Node]:
        filters = zip(inputs, halves(p[f"{name}.weight"]), halves(p[f"{name}.bias"]), strict=True)
        return [conv(i, w, b, **geometry) for i, w, b in filters]

    def lrn_paper(pieces: list[Node]) -> list[Node]:
        return halves(lrn(join(pieces), 1e-4), axis=1)  # "adjacent kernel maps" out of all N of the layer

    first = towers("conv1", [x, x], stride=4, hang=3)
    if net == "original":
        first = [relu(pool(lrn(t, 1e-4 / 5))) for t in first]
        second = [relu(t) for t in towers("conv2", first, pad=2)]
        second = [pool(spatial(lrn(t, 1e-4 / 5))) for t in second]
    else:
        first = [pool(t) for t in lrn_paper([relu(t) for t in first])]
        second = [pool(t) for t in lrn_paper([relu(t) for t in towers("conv2", first, pad=2)])]
    third = [relu(t) for t in towers("conv3", [join(second)] * 2, pad=1)]
    fourth = [relu(t) for t in towers("conv4", third, pad=1)]
    fifth = towers("conv5", fourth, pad=1)
    return join([relu(pool(t)) if net == "original" else pool(relu(t)) for t in fifth])


def logits(p: dict[str, Node], images: Array, net: str, masks: list[Array] | None) -> Node:
    x = features(p, Node(images), net)
    for i, name in enumerate(("fc6", "fc7")):
        x = relu(dense(x, p[f"{name}.weight"], p[f"{name}.bias"]))
        x = scale(x, 0.5 if masks is None else masks[i])
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
