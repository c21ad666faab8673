"""The training step as one CUDA graph: recorded once, then one launch in place of hundreds, and no Python.

What changes from step to step lies in buffers that are filled before each: the batch, and the keys of its
dropout masks. Rates and divisor are in the recorded kernels: where one changes, the step is recorded anew.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from model.network import Keys

Work = Callable[[Tensor, Tensor, Keys], None]  # a step on images, labels, keys; its results stay in place
Replay = Callable[[], None]
Record = Callable[[Callable[[], None]], Replay]

WARM = (
    3  # steps before the first is recorded; they compile kernels and choose among them, which takes the CPU
)


class Captured:
    """`work` on batches of one size and one device, which `record` records."""

    def __init__(self, work: Work, record: Record) -> None:
        self.work, self.record = work, record
        self.steps = 0
        self.buffers: list[Tensor] = []  # images, labels, keys
        self.constants: Any = None
        self.replay: Replay | None = None

    def __call__(self, images: Tensor, labels: Tensor, keys: Sequence[int], constants: Any) -> None:
        """One step. constants: all else that `work` depends on, to be compared with the last step's."""
        self.steps += 1
        if self.steps <= WARM:
            self.work(images, labels, keys)
            return
        with torch.cuda.device_of(images):  # type: ignore[no-untyped-call]
            self._fill(images, labels, keys)
            if self.replay is None or constants != self.constants:
                self.replay = None  # gives its memory back
                self.replay, self.constants = self.record(self._on_buffers), constants
            self.replay()

    def _fill(self, images: Tensor, labels: Tensor, keys: Sequence[int]) -> None:
        if not self.buffers:
            scalars = [torch.empty((), dtype=torch.int64, device=images.device) for _ in keys]
            self.buffers = [torch.empty_like(images), torch.empty_like(labels), *scalars]
        for_images, for_labels, *for_keys = self.buffers
        for_images.copy_(images)
        for_labels.copy_(labels)
        for buffer, key in zip(for_keys, keys, strict=True):
            buffer.fill_(key)

    def _on_buffers(self) -> None:
        images, labels, *keys = self.buffers
        self.work(images, labels, keys)


def cuda_graph(work: Callable[[], None]) -> Replay:
    """Records `work`, which is not done yet, on the current device; what is returned does it."""
    graph = torch.cuda.CUDAGraph()
    # other threads go on meanwhile: DALI's allocate memory, which would end a recording that watched them
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay
