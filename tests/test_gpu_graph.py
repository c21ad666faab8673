"""The DALI graphs for a GPU, made without one: DALI refuses wrong arguments, types and edges all the same.

What is expected is the way of the pixels: the operator, and where its output lies. "to gpu" is a copy.
"""

import re
from typing import Any

import pytest
from nvidia.dali import fn, pipeline_def

from pipeline import graph

JPEG = ["ExternalSource cpu", "Reshape cpu", "Image gpu"]  # the reshape waits for the headers
RAW = ["ExternalSource cpu", "Reshape cpu"]
TRAINED = {
    "256": [*JPEG, "Crop gpu", "Flip gpu"],
    "original": [*JPEG, "Resize gpu", "Flip gpu"],
    "raw": [*RAW, "Crop cpu to gpu", "Flip gpu"],  # no more than the crop crosses the bus
}
EVALUATED = {"256": JPEG, "original": [*JPEG, "Resize gpu"], "raw": [*RAW[:1], "Reshape cpu to gpu"]}
LABELS = ["ExternalSource cpu to gpu"]


def ways(make: Any, **options: Any) -> list[list[str]]:
    """Serialise a graph for a GPU; return its outputs' operators, from the source on."""
    pipe = make(
        lambda: None, gpu=True, batch_size=4, num_threads=1, device_id=None, exec_dynamic=True, **options
    )
    assert pipe.serialize()
    return [way(output) for output in pipe._graph_outputs]


def way(node: Any) -> list[str]:
    """Return the operators from the source to a node of the graph, along first inputs."""
    operator = node.source
    name, made = re.sub(r"^_+|_\d+$", "", operator.name), operator.outputs[0].device
    before = way(operator.inputs[0]) if operator.inputs else []
    return [*before, f"{name} {made}" if made == node.device else f"{name} {made} to {node.device}"]


@pytest.mark.parametrize("kind", TRAINED)
def test_training_on_a_gpu(kind: str) -> None:
    images, labels = ways(graph.train_graph, crop=224, kind=kind, floats=False)
    assert (images, labels) == (TRAINED[kind], LABELS)
    noisy, _ = ways(graph.train_graph, crop=224, kind=kind)
    assert noisy == [*TRAINED[kind], "ArithmeticGenericOp gpu"]  # pixels plus noise


@pytest.mark.parametrize("kind", EVALUATED)
def test_evaluation_on_a_gpu(kind: str) -> None:
    images, labels = ways(graph.evaluation_graph, crop=224, kind=kind, views=graph.CENTRE_VIEW)
    assert (images, labels) == ([*EVALUATED[kind], "Crop gpu"], LABELS)
    ten, _ = ways(graph.evaluation_graph, crop=224, kind=kind, views=graph.TEN_VIEWS)
    assert ten == [*EVALUATED[kind], "Crop gpu", "Stack gpu"]


def test_decoding_on_a_gpu() -> None:
    assert ways(graph.decode_graph) == [JPEG, ["ExternalSource cpu"]]


def test_dali_refuses_a_way_back_to_the_cpu() -> None:
    """Without this the other tests would prove little."""

    @pipeline_def
    def back(source: Any, gpu: bool) -> Any:
        images = graph._decode(fn.external_source(source, batch=True), gpu)
        return fn.crop(images, device="cpu", crop=(224, 224))

    with pytest.raises(RuntimeError, match='stored on incompatible device "gpu"'):
        ways(back)
