"""Values that a network will compute: what a layer gives when it is called on other such values.

``Input(shape)`` makes the first ones; each call of a layer makes the next, and remembers on what it was called. From
the last ones a model finds its way back to the first.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from tinyconv.checking.arguments import Shape

_serial = itertools.count()


class Tensor:
    """A value that a network will compute (Keras: KerasTensor): it has a shape, and no numbers yet.

    Attributes:
        shape: of a batch, (None, ...).
        layer: the layer whose output it is.
    """

    def __init__(self, shape: Shape, call: "Call") -> None:
        self.sample_shape, self.call = shape, call

    @property
    def shape(self) -> tuple[int | None, ...]:
        return (None, *self.sample_shape)

    @property
    def layer(self) -> Any:
        return self.call.layer

    @property
    def name(self) -> str:
        return str(self.call.layer.name)

    dtype = "float32"

    def __repr__(self) -> str:
        return f"<Tensor shape={self.shape}, the output of layer {self.name!r}>"

    def _no_numbers(self, *_: Any) -> Any:
        raise TypeError(
            f"{self!r} has no numbers: it is a value that a model will compute. Expected it as the input of a layer. "
            "Fix: make a Model of it, and call predict."
        )

    __array__ = __bool__ = __len__ = __iter__ = __float__ = __getitem__ = _no_numbers


class Call:
    """One call of a layer: what it was called on, and what came of it.

    ``within`` names the models, from the outermost, as whose part the layer was called.
    """

    def __init__(self, layer: Any, inputs: Sequence[Tensor], shape: Shape, within: tuple[Any, ...] = ()) -> None:
        self.layer, self.inputs, self.within = layer, tuple(inputs), within
        self.serial = next(_serial)
        self.output = Tensor(shape, self)


def tensors_of(x: Any) -> list[Tensor] | None:
    """The tensors that something consists of: one, or a list of them; None if it is made of numbers."""
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, list | tuple) and any(isinstance(each, Tensor) for each in x):
        strangers = [each for each in x if not isinstance(each, Tensor)]
        if strangers:
            raise TypeError(
                f"Tensors and numbers cannot be mixed. Expected a list of tensors. Received: {strangers[0]!r} in it."
            )
        return list(x)
    return None


def calls_before(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Call]:
    """Every call between ``inputs`` and ``outputs``, each after those that it depends on, in the order of creation."""
    found: dict[int, Call] = {}
    waiting = [tensor.call for tensor in outputs]
    ends = {tensor.call.serial for tensor in inputs}
    while waiting:
        call = waiting.pop()
        if call.serial not in found:
            found[call.serial] = call
            if call.serial not in ends:
                waiting += [tensor.call for tensor in call.inputs]
    return [found[serial] for serial in sorted(found)]


def in_keras_order(calls: Sequence[Call], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Any]:
    """The layers of a network in the order that Keras keeps them in, and with them their weights: by their distance
    from the outputs, the farthest first; among equals, by when a walk from the outputs first meets them."""
    met: dict[int, int] = {}  # by the id of a layer
    walk = [tensor.call for tensor in reversed(outputs)]
    ends = {tensor.call.serial for tensor in inputs}
    seen: set[int] = set()
    while walk:
        call = walk.pop()
        if call.serial not in seen:
            seen.add(call.serial)
            met.setdefault(id(call.layer), len(met))
            if call.serial not in ends:
                walk += [tensor.call for tensor in reversed(call.inputs)]
    depth_of_call: dict[int, int] = {}
    depth_of_layer: dict[int, int] = {}
    for call in reversed(calls):
        depth = max(depth_of_call.get(call.serial, 0), depth_of_layer.get(id(call.layer), 0))
        depth_of_layer[id(call.layer)] = depth_of_call[call.serial] = depth
        for tensor in call.inputs if call.serial not in ends else ():
            serial = tensor.call.serial
            depth_of_call[serial] = max(depth + 1, depth_of_call.get(serial, 0))
    layers = list({id(call.layer): call.layer for call in calls}.values())
    return sorted(layers, key=lambda layer: (-depth_of_layer[id(layer)], met.get(id(layer), -1)))
