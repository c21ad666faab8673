"""Record the training step as one CUDA graph, so that one launch replaces hundreds, and no Python runs.

The batch and the keys of its dropout masks change at each step: they are copied into fixed buffers first.
Learning rates and divisor are part of the recorded kernels: when one changes, the step is recorded again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from model.network import Keys

Work = Callable[[Tensor, Tensor, Keys], None]  # a step on images, labels, keys; its results stay in place
Replay = Callable[[], None]
Record = Callable[[Callable[[], None]], Replay]

WARM = 3  # steps before one is recorded: in them kernels are compiled, and the fastest are selected


class Captured:
    """Run `work` on batches of one size on one device, recorded by `record` and then replayed."""

    def __init__(self, work: Work, record: Record) -> None:
        self.work, self.record = work, record
        self.steps = 0
        self.buffers: list[Tensor] = []  # images, labels, keys
        self.constants: Any = None
        self.replay: Replay | None = None

    def __call__(self, images: Tensor, labels: Tensor, keys: Sequence[int], constants: Any) -> None:
        """Run one step. constants: everything else that `work` depends on; recorded again when it changes."""
        self.steps += 1
        if self.steps <= WARM:
            self.work(images, labels, keys)
            return
        with torch.cuda.device_of(images):  # type: ignore[no-untyped-call]
            self._fill(images, labels, keys)
            if self.replay is None or constants != self.constants:
                self.replay = None  # free its memory first
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
    """Record `work` on the current device without executing it; return what executes it."""
    graph = torch.cuda.CUDAGraph()
    # DALI's threads allocate memory meanwhile, which would invalidate a recording in the global mode
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay
