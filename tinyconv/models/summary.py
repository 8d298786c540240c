"""The table that ``model.summary()`` prints."""

from typing import Any, Protocol

import numpy as np

from tinyconv.checking.arguments import Shape
from tinyconv.checking.tables import Table, size
from tinyconv.layers import InputLayer


class Described(Protocol):
    """What the table shows of a model."""

    @property
    def name(self) -> str: ...
    @property
    def built(self) -> bool: ...
    @property
    def layers(self) -> list[Any]: ...
    @property
    def trainable_weights(self) -> list[np.ndarray]: ...
    @property
    def non_trainable_weights(self) -> list[np.ndarray]: ...
    def count_params(self) -> int: ...
    def _described(self) -> list[tuple[Any, Shape | None, str]]: ...


def summary(model: Described) -> Table:
    """Layers, output shapes and numbers of parameters, as Keras' summary."""
    rows = []
    connected = any(isinstance(layer, InputLayer) for layer in model.layers)  # a stack does not list its input
    for layer, shape, reads in model._described():
        count = f"{layer.count_params():,}" if layer.built or shape is not None else "?"
        row = f"{layer.name} ({type(layer).__name__})", "?" if shape is None else str((None, *shape)), count
        rows.append((*row, reads) if connected else row)
    if model.built:
        counts = {
            "Total params": model.count_params(),
            "Trainable params": sum(array.size for array in model.trainable_weights),
            "Non-trainable params": sum(array.size for array in model.non_trainable_weights),
        }
        notes = [f"{name}: {count:,} ({size(4 * count)})" for name, count in counts.items()]
    else:
        notes = ["The model has no weights yet: its input shape is not known. Fix: begin with Input(shape=...)."]
    columns = ("Layer (type)", "Output Shape", "Param #", *(("Connected to",) if connected else ()))
    return Table(f'Model: "{model.name}"', columns, rows, notes, right=(2,))
