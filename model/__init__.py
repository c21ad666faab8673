"""Turn batches on a device into a trained network.

    from model import load

The files here are those that a batch passes (placement, train, step, network, replicas, lrn, optim; then
evaluate), what configures them (recipe, schedule), what is saved (run, checkpoint) and opened (trained), and
what all rooms need.

baselines/  the systems before 2012 that the paper compares with
exchange/   networks as files of other programs
study/      activations, gradients, ensembles and neighbours of trained networks
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.errors import RunError
    from model.trained import TrainedNetwork, load

__all__ = ["RunError", "TrainedNetwork", "load"]

_PLACES = {"RunError": "model.errors", "TrainedNetwork": "model.trained", "load": "model.trained"}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, as the import of torch takes seconds."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
