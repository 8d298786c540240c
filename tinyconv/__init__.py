"""tinyconv: convolutional networks from scratch, on NumPy and Numba.

Two doors: the names of Keras, below, to train networks; and :mod:`tinyconv.kernels.reference`, to read how they work.
"""

from tinyconv import (
    callbacks,
    datasets,
    export,
    initializers,
    kernels,
    layers,
    losses,
    metrics,
    optimizers,
    regularizers,
    saving,
    utils,
)
from tinyconv.layers import Input
from tinyconv.model import Sequential

__all__ = [
    "Input",
    "Sequential",
    "callbacks",
    "datasets",
    "export",
    "initializers",
    "kernels",
    "layers",
    "losses",
    "metrics",
    "optimizers",
    "regularizers",
    "saving",
    "utils",
]

__version__ = "0.1.0"
