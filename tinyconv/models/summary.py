"""The table that ``model.summary()`` prints."""

from typing import Protocol

import numpy as np

from tinyconv.checking.tables import Table, size
from tinyconv.layers import InputLayer, Layer


class Described(Protocol):
    """What the table shows of a model."""

    _input: InputLayer | None

    @property
    def name(self) -> str: ...
    @property
    def built(self) -> bool: ...
    @property
    def layers(self) -> list[Layer]: ...
    @property
    def trainable_weights(self) -> list[np.ndarray]: ...
    @property
    def non_trainable_weights(self) -> list[np.ndarray]: ...
    def count_params(self) -> int: ...


def summary(model: Described) -> Table:
    """Layers, output shapes and numbers of parameters, as Keras' summary."""
    rows, shape = [], model._input.shape if model._input is not None else None
    for layer in model.layers:
        shape = None if shape is None else layer.output_shape(shape)
        count = f"{layer.count_params():,}" if layer.built else "?"
        rows.append((f"{layer.name} ({type(layer).__name__})", "?" if shape is None else str((None, *shape)), count))
    if model.built:
        counts = {
            "Total params": model.count_params(),
            "Trainable params": sum(array.size for array in model.trainable_weights),
            "Non-trainable params": sum(array.size for array in model.non_trainable_weights),
        }
        notes = [f"{name}: {count:,} ({size(4 * count)})" for name, count in counts.items()]
    else:
        notes = ["The model has no weights yet: its input shape is not known. Fix: begin with Input(shape=...)."]
    return Table(f'Model: "{model.name}"', ("Layer (type)", "Output Shape", "Param #"), rows, notes, right=(2,))
