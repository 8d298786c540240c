"""Values that a network will compute: what a layer gives when it is called on other such values.

``Input(shape)`` makes the first ones; each call of a layer makes the next, and remembers on what it was called. From
the last ones a model finds its way back to the first.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinyconv.checking.arguments import Shape

_serial = itertools.count()
OPERATORS: dict[str, Callable[..., "Tensor"]] = {}  # what + and * mean: the layers that they stand for say so


class Tensor:
    """A value that a network will compute (Keras: KerasTensor): it has a shape, and no numbers yet.

    Attributes:
        shape: of a batch, (None, ...); in place of None the batch_size of the Input, if that was given one.
        layer: the layer whose output it is.
    """

    def __init__(self, shape: Shape, call: "Call") -> None:
        self.sample_shape, self.call = shape, call

    @property
    def shape(self) -> tuple[int | None, ...]:
        return (self.call.batch_size, *self.sample_shape)

    @property
    def ndim(self) -> int:
        """The number of axes, the batch's included."""
        return 1 + len(self.sample_shape)

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
    __array_ufunc__ = None  # NumPy leaves operators to us

    # Operators are layers: a + b is layers.add([a, b]), and 0.5 * a is layers.Rescaling(0.5)(a).

    def __add__(self, other: Any) -> "Tensor":
        return OPERATORS["+"](self, other)

    def __sub__(self, other: Any) -> "Tensor":
        return OPERATORS["-"](self, other)

    def __rsub__(self, other: Any) -> "Tensor":
        return OPERATORS["*"](self, -1.0) + other

    def __mul__(self, other: Any) -> "Tensor":
        return OPERATORS["*"](self, other)

    def __truediv__(self, other: Any) -> "Tensor":
        return OPERATORS["/"](self, other)

    def __neg__(self) -> "Tensor":
        return OPERATORS["*"](self, -1.0)

    __radd__, __rmul__ = __add__, __mul__

    def _other(self, *_: Any) -> Any:
        raise TypeError(
            f"{self!r}: this operator is not supported by tinyconv. Expected +, -, * or / by a number. Fix: a layer of "
            "your own, see tinyconv.layers.Layer."
        )

    __pow__ = __rpow__ = __rtruediv__ = __matmul__ = __rmatmul__ = __mod__ = __floordiv__ = __abs__ = _other
    __lt__ = __le__ = __gt__ = __ge__ = _other

    def activated(self, kind: str, options: tuple[float, ...] = ()) -> "Tensor":
        """An activation of this value: what the functions of :mod:`tinyconv.activations` give for it."""
        return OPERATORS["activation"](self, kind, options)


class Call:
    """One call of a layer: what it was called on, and what came of it.

    ``within`` names the models, from the outermost, as whose part the layer was called.
    """

    def __init__(
        self,
        layer: Any,
        inputs: Sequence[Tensor],
        shape: Shape,
        within: tuple[Any, ...] = (),
        batch_size: int | None = None,
    ) -> None:
        self.layer, self.inputs, self.within = layer, tuple(inputs), within
        sizes = [tensor.call.batch_size for tensor in inputs]
        self.batch_size: int | None = next((size for size in sizes if size is not None), batch_size)
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


def in_keras_order(heads: Mapping[int, Any], calls: Sequence[Call], outputs: Sequence[Tensor]) -> list[Any]:
    """The layers of a network in the order that Keras keeps them in, and with them their weights: by their distance
    from the outputs, the farthest first; among equals, by when a walk from the outputs first meets them.

    A model that was called as a layer is one of them, and its call one step. ``heads`` are the input layers that stand
    for the calls which the network begins with, by the id of the call.
    """

    def step(tensor_or_call: Tensor | Call) -> int:
        call = tensor_or_call.call if isinstance(tensor_or_call, Tensor) else tensor_or_call
        return id(call.within[0]) if call.within and id(call) not in heads else id(call)

    entries: dict[int, Any] = {}  # of each step, in the order of creation
    reads: dict[int, dict[int, None]] = {}
    for call in calls:
        here = step(call)
        entries.setdefault(here, heads.get(id(call)) or (call.within[0].model if call.within else call.layer))
        earlier = (step(tensor) for tensor in call.inputs if id(call) not in heads)
        reads.setdefault(here, {}).update(dict.fromkeys(each for each in earlier if each != here))
    met: dict[int, int] = {}  # by the id of an entry
    seen: set[int] = set()
    walk = [step(tensor) for tensor in reversed(outputs)]
    while walk:
        here = walk.pop()
        if here not in seen:
            seen.add(here)
            met.setdefault(id(entries[here]), len(met))
            walk += reversed(reads[here])
    depth_of_step: dict[int, int] = {}
    depth_of_entry: dict[int, int] = {}
    for here in reversed(entries):
        depth = max(depth_of_step.get(here, 0), depth_of_entry.get(id(entries[here]), 0))
        depth_of_entry[id(entries[here])] = depth_of_step[here] = depth
        for before in reads[here]:
            depth_of_step[before] = max(depth + 1, depth_of_step.get(before, 0))
    found = list({id(entry): entry for entry in entries.values()}.values())
    return sorted(found, key=lambda entry: (-depth_of_entry[id(entry)], met.get(id(entry), -1)))
