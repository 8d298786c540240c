"""tinyconv: convolutional networks from scratch, on NumPy and Numba.

Two ways in: Keras' names, below, to train networks; and :mod:`tinyconv.kernels.reference`, to read how they work.
"""

from typing import TYPE_CHECKING, Any

from tinyconv import (
    activations,
    callbacks,
    datasets,
    distribution,
    export,
    initializers,
    kernels,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    regularizers,
    saving,
    utils,
)
from tinyconv.checking.absent import missing
from tinyconv.datasets import pictures
from tinyconv.initializers import Initializer
from tinyconv.inspect import explain, plots, report
from tinyconv.inspect.gradient_check import check_gradients
from tinyconv.layers import Input, Layer
from tinyconv.losses import Loss
from tinyconv.metrics import Metric
from tinyconv.models.model import Model
from tinyconv.models.sequential import Sequential
from tinyconv.optimizers import Optimizer
from tinyconv.regularizers import Regularizer

__all__ = [
    "Initializer",
    "Input",
    "Layer",
    "Loss",
    "Metric",
    "Model",
    "Optimizer",
    "Regularizer",
    "Sequential",
    "activations",
    "callbacks",
    "check_gradients",
    "datasets",
    "distribution",
    "explain",
    "export",
    "initializers",
    "kernels",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "pictures",
    "plots",
    "regularizers",
    "report",
    "saving",
    "set_threads",
    "utils",
]


def set_threads(count: int) -> None:
    """Set the number of threads of the CPU kernels, at most that of cores. It does not change a bit of the results."""
    from tinyconv.kernels.cpu.runtime import threads  # only now: it loads the threading layer

    threads.set_threads(count)


def _explore(*arguments: Any) -> Any:
    """``Model.explore``: loaded when first called, as its server takes time to import."""
    from tinyconv.inspect.explorer import explore

    return explore(*arguments)


Model._explorer = staticmethod(_explore)


if TYPE_CHECKING:
    __version__: str  # and a type-checker sees that there is no other name
else:

    def __getattr__(name):
        """``tinyconv.__version__``, as pyproject.toml states it: looked up only when asked for."""
        if name == "__version__":
            from importlib.metadata import version

            return version("tinyconv")
        raise missing("", name, __all__)
