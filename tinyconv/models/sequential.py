"""Sequential: a stack of layers."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tinyconv import checking
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import explained, received
from tinyconv.layers import InputLayer, Layer
from tinyconv.layers.symbolic import Tensor
from tinyconv.models.model import Model
from tinyconv.models.structure import Part, Structure, Use
from tinyconv.plan.locks import locked


class Sequential(Model):
    """A stack of layers: each one's output is the next one's input.

    Args:
        layers: the layers, beginning with ``Input(shape=...)``; more can be added with :meth:`add`. A model with one
            input and one output can be one of them.
        trainable: whether training changes its weights.
        name: shown in the summary.

    >>> model = Sequential([Input((28, 28, 1)), layers.Conv2D(32, 3, activation="relu"), ...])
    >>> model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    >>> history = model.fit(x_train, y_train, batch_size=128, epochs=15, validation_split=0.1)
    """

    def __init__(self, layers: Iterable[Any] | None = None, trainable: bool = True, name: str | None = None) -> None:
        if isinstance(layers, str | bytes | np.ndarray) or (layers is not None and not isinstance(layers, Iterable)):
            one = isinstance(layers, Layer)
            fix = f"a list, [{layers!r}]" if one else ""
            raise checking.invalid("Sequential", "layers", "a list of layers", layers, fix)
        self._begin(name, trainable)
        try:
            for layer in layers or ():
                self._stack(layer)
            self._settle()
        except Exception:
            for layer in self._layers:  # there will be no such model: its layers are free for another
                self._let_go(layer)
            raise

    @locked
    @explained
    def add(self, layer: Any, rebuild: bool = True) -> None:
        """Add a layer on top. Its weights are drawn at once if the input shape is known and ``rebuild``."""
        self._check_free("add()")
        rebuild = checking.boolean(f"{self._who()}.add", "rebuild", rebuild)
        self._stack(layer)
        if rebuild and self._layers:
            try:
                self._settle()
            except Exception:
                self._let_go(self._layers.pop())
                self._settle()
                raise

    def _stack(self, layer: Any) -> None:
        """Put a layer on top, without weights."""
        if isinstance(layer, Tensor) and isinstance(layer.layer, InputLayer):
            layer = layer.layer
        if not isinstance(layer, Layer | Model):
            kind = f" Fix: {layer.__name__}(...), an object of that class." if isinstance(layer, type) else ""
            raise TypeError(f"Model {self.name!r}: expected a tinyconv layer. Received: {received(layer)}.{kind}")
        if isinstance(layer, InputLayer):
            if self._layers or self._inputs:
                raise ValueError(f"Model {self.name!r}: Input must be the first entry, and there is one already.")
            self._inputs = [layer]
            return
        if any(layer is entry for entry in self._layers):
            raise ValueError(
                f"Model {self.name!r}: layer {layer.name!r} is in the model already. "
                "Fix: make a new one; set_weights can give it the weights of this one."
            )
        if isinstance(layer, Model) and layer._inputs and (len(layer._inputs), len(layer._outputs)) != (1, 1):
            raise ValueError(
                f"Model {self.name!r} is a stack. Expected a model with one input and one output in it. "
                f"Received: {layer!r}. Fix: call it on tensors, and make a Model of them."
            )
        self._register(layer)
        if not self._layers and not self._inputs:
            first = layer._inputs[0].shape if isinstance(layer, Model) and layer._inputs else None
            shape = first or (layer._first_input_shape if isinstance(layer, Layer) else None)
            self._inputs = [InputLayer(shape)] if shape is not None else []
        self._layers.append(layer)

    def _settle(self) -> None:
        """Find out what reads what, and lay the weights out, if the shape of the input is known."""
        uses: list[Use] = []
        value = 0
        for entry in self._layers:
            if isinstance(entry, Model):
                if self._inputs:
                    entry._build_for(self._value_shapes(uses)[-1])
                numbers, part = [value], Part(entry)
                for use in entry._uses:
                    uses.append(Use(use.layer, tuple(numbers[read] for read in use.reads), (part, *use.within)))
                    numbers.append(len(uses))
                value = numbers[entry._outputs[0]] if entry._outputs else value
            else:
                uses.append(Use(entry, (value,)))
                value = len(uses)
        self._outputs, self._tensors = [value], None
        self._adopt(uses)
        if self._inputs and self._layers:
            self._assemble()

    def _build_for(self, shape: Shape) -> None:
        if self._inputs and self._inputs[0].shape != shape:
            raise ValueError(
                f"Model {self.name!r} was built for samples of shape {self._inputs[0].shape}. Received: {shape}."
            )
        if not self.built:
            self.build((None, *shape))

    def _let_go(self, entry: Any) -> None:
        """The layer is not in this model any more, and has weights of its own if it is in no other."""
        with self._lock:
            self._named.pop(entry.name, None)
            entry._users.discard(self)
            for layer in [layer for _, layer in entry._leaves] if isinstance(entry, Structure) else [entry]:
                layer._users.discard(self)
                if layer._owner is self:
                    layer._arrays = {name: array.copy() for name, array in layer._arrays.items()}
                    layer._owner = None

    @locked
    @explained
    def pop(self, rebuild: bool = True) -> Any:
        """Take the topmost layer off."""
        self._check_free("pop()")
        rebuild = checking.boolean(f"{self._who()}.pop", "rebuild", rebuild)
        if not self._layers:
            raise ValueError(f"Model {self.name!r} has no layers to pop.")
        self._claim()
        layer = self._layers.pop()
        self._let_go(layer)
        if rebuild:
            self._settle()
        return layer

    @locked
    @explained
    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Make the weights for inputs of that shape, the batch axis (None) included: (None, 28, 28, 1)."""
        self._check_free("build()")
        if input_shape is not None:
            if not isinstance(input_shape, Sequence) or isinstance(input_shape, str | bytes) or not len(input_shape):
                raise checking.invalid(
                    f"{self._who()}.build",
                    "input_shape",
                    "the shape of a batch, such as (None, 28, 28, 1)",
                    input_shape,
                )
            given = InputLayer(tuple(input_shape)[1:])  # type: ignore[arg-type]
            if self._inputs and given.shape != self._inputs[0].shape:
                raise ValueError(
                    f"Model {self.name!r} cannot be built for another input_shape than that of its Input. "
                    f"Expected {(None, *self._inputs[0].shape)}. Received: {received(tuple(input_shape))}."
                )
            self._inputs = self._inputs or [given]
        if not self._inputs:
            raise ValueError(
                f"Model {self.name!r} does not know its input shape. "
                "Fix: begin with Input(shape=...), or call build((None, ...)) with the shape of a batch."
            )
        if not self.built or any(not layer.built for layer in self._layers):
            self._settle()
