"""Turn an ImageNet root into batches on a device.

    from pipeline import TrainBatches, EvaluationBatches, open_dataset

Flat is what a batch meets (batches, order, graph; files for predict), the dataset that it comes from, and
what more than one room needs: how one image is decoded, how files are written and read, processes, errors.

source/  an ImageNet root in any of its shapes: its classes and images
prep/    once and offline: a prepared dataset of them
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.batches import EvaluationBatches, TrainBatches
    from pipeline.dataset import open_dataset
    from pipeline.errors import DataError

__all__ = ["DataError", "EvaluationBatches", "TrainBatches", "open_dataset"]

# DALI uses its buffers of this size and more again, rather than give them back and take fresh ones, which
# cost a fault a page: a tenth of the loader's time. It reads this when it is imported.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "64k")

_PLACES = {
    "DataError": "pipeline.errors",
    "EvaluationBatches": "pipeline.batches",
    "TrainBatches": "pipeline.batches",
    "open_dataset": "pipeline.dataset",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only now: batches need torch and DALI, which take seconds."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
