"""Turn an ImageNet root into batches on a device.

    from pipeline import TrainBatches, EvaluationBatches, open_dataset

The files here are those that a batch passes (batches, order, samples, graph; files for predict), the dataset
that it comes from, and what all folders need: to decode an image, to write and read files, processes, errors.

source/  finds the classes and images of an ImageNet root in any of its layouts
prep/    prepares a dataset of them, once and offline
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.batches import EvaluationBatches, TrainBatches
    from pipeline.dataset import open_dataset
    from pipeline.errors import DataError

__all__ = ["DataError", "EvaluationBatches", "TrainBatches", "open_dataset"]

# DALI then reuses its buffers of this size and more. Freeing them and allocating new ones would cost a page
# fault for each page: a tenth of the loader's time. DALI reads this variable when it is imported.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "64k")

_PLACES = {
    "DataError": "pipeline.errors",
    "EvaluationBatches": "pipeline.batches",
    "TrainBatches": "pipeline.batches",
    "open_dataset": "pipeline.dataset",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: batches need torch and DALI, whose import takes seconds."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
