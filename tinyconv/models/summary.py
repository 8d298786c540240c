"""The table that ``model.summary()`` prints."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from tinyconv.checking import invalid
from tinyconv.checking.arguments import Shape
from tinyconv.checking.tables import Table, size
from tinyconv.layers import InputLayer
from tinyconv.layers.variables import Variable

Entry = tuple[Any, Shape | None, str]  # a layer, the shape of its output, and what it reads


class Described(Protocol):
    """What the table shows of a model."""

    @property
    def name(self) -> str: ...
    @property
    def built(self) -> bool: ...
    @property
    def layers(self) -> list[Any]: ...
    @property
    def trainable_weights(self) -> list[Variable]: ...
    @property
    def non_trainable_weights(self) -> list[Variable]: ...
    def count_params(self) -> int: ...
    def _described(self) -> list[Entry]: ...


def summary(
    model: Described, nested: bool = False, trainable: bool = False, layer_range: Sequence[str] | None = None
) -> Table:
    """Layers, output shapes and numbers of parameters, as Keras' summary; the arguments are those of
    ``model.summary``."""
    connected = any(isinstance(layer, InputLayer) for layer in model.layers)  # a stack does not list its input
    rows = [row for entry in _between(model, layer_range) for row in _rows(entry, nested)]
    if model.built:
        counts = {
            "Total params": model.count_params(),
            "Trainable params": sum(variable.size for variable in model.trainable_weights),
            "Non-trainable params": sum(variable.size for variable in model.non_trainable_weights),
        }
        notes = [f"{name}: {count:,} ({size(4 * count)})" for name, count in counts.items()]
    else:
        notes = ["The model has no weights yet: its input shape is not known. Fix: begin with Input(shape=...)."]
    columns = ["Layer (type)", "Output Shape", "Param #", "Connected to", "Trainable"]
    shown = [0, 1, 2, *([3] if connected else []), *([4] if trainable else [])]
    rows = [tuple(row[column] for column in shown) for row in rows]
    return Table(f'Model: "{model.name}"', [columns[column] for column in shown], rows, notes, right=(2,))


def _rows(entry: Entry, nested: bool, depth: int = 0) -> Iterator[tuple[str, ...]]:
    """What the table says of a layer and, if it is a model, of its layers."""
    layer, shape, reads = entry
    count = f"{layer.count_params():,}" if layer.built or shape is not None else "?"
    name = f"{'   ' * depth}{'└ ' if depth else ''}{layer.name} ({type(layer).__name__})"
    trainable = ("yes" if layer.trainable else "no") if layer.weights else "-"
    batch_size = getattr(layer, "batch_size", None)
    yield name, "?" if shape is None else str((batch_size, *shape)), count, reads, trainable
    if nested and hasattr(layer, "_described"):
        for inner in layer._described():
            yield from _rows(inner, True, depth + 1)


def _between(model: Described, layer_range: Sequence[str] | None) -> list[Entry]:
    """The layers from the first that matches to the last, or the other way round, as in Keras."""
    described = model._described()
    if layer_range is None:
        return described
    several = isinstance(layer_range, list | tuple) and len(layer_range) == 2
    if not several or not all(isinstance(name, str) for name in layer_range):
        raise invalid("summary", "layer_range", "the names of two layers, the first and the last", layer_range)
    try:
        found = [[n for n, entry in enumerate(described) if re.match(each, entry[0].name)] for each in layer_range]
    except re.error:
        found = [[]]
    if not all(found):
        names = [layer.name for layer, _, _ in described]
        raise invalid("summary", "layer_range", f"two of the layers {names}, or what matches them", layer_range)
    first, last = min(found[0]), max(found[1])
    if first > last:
        first, last = min(found[1]), max(found[0])
    return described[first : last + 1]
