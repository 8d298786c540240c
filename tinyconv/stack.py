"""The stack of layers that a model is: its structure, its shapes, and its weights in two flat arrays."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tinyconv import inputs, random, tables
from tinyconv.arena import Arena
from tinyconv.kernels import memory
from tinyconv.layers import InputLayer, Layer
from tinyconv.messages import suggest

BatchShape = tuple[int | None, ...]


class Stack:
    """Layers, each one's output the next one's input. All trainable weights are views into one flat array, and all
    others (moving statistics) into another."""

    def __init__(self, layers: Iterable[Layer], name: str) -> None:
        self.name = name
        self.seed = random.next_seed()
        self._input: InputLayer | None = None
        self._layers: list[Layer] = []
        self._arenas: tuple[Arena, Arena] | None = None
        try:
            for layer in layers:
                self.add(layer)
        except Exception:
            for layer in self._layers:  # there will be no such model: its layers are free for another
                layer.owner = None
            raise

    def _weights_moved(self) -> None:
        """The weights are other arrays now."""

    def _weights_changed(self) -> None:
        """The weights have other values now."""

    # Structure

    @property
    def layers(self) -> list[Layer]:
        """The layers, without the input."""
        return list(self._layers)

    def add(self, layer: Layer) -> None:
        """Put one more layer on top. Its weights are drawn at once if the input shape is known."""
        if not isinstance(layer, Layer):
            raise TypeError(f"Model {self.name!r}: expected a tinyconv layer. Received: {layer!r}.")
        if isinstance(layer, InputLayer):
            if self._layers or self._input:
                raise ValueError(f"Model {self.name!r}: Input must be the first entry, and there is one already.")
            self._input = layer
            return
        if layer.owner is not None:
            whose = "the model" if layer.owner is self else f"model {layer.owner.name!r}"
            raise ValueError(
                f"Model {self.name!r}: layer {layer.name!r} is in {whose} already. "
                "Fix: make a new one; set_weights can give it the weights of this one."
            )
        self._name(layer)
        if not self._layers and self._input is None and layer.first_input_shape is not None:
            self._input = InputLayer(layer.first_input_shape)
        layer.position, layer.owner = len(self._layers), self
        self._layers.append(layer)
        if self._input is not None:
            try:
                self._assemble()
            except Exception:
                self._layers.pop().owner = None
                raise

    def pop(self) -> Layer:
        """Take the topmost layer off."""
        if not self._layers:
            raise ValueError(f"Model {self.name!r} has no layers to pop.")
        layer = self._layers.pop()
        layer.owner = None
        layer.arrays = {name: array.copy() for name, array in layer.arrays.items()}
        if self.built or self._input is not None:
            self._assemble()
        return layer

    def _name(self, layer: Layer) -> None:
        """Number an automatic name that is taken: conv2d, conv2d_1, conv2d_2."""
        taken = {other.name for other in self._layers}
        if layer.name in taken and layer.named_by_user:
            raise ValueError(f"Model {self.name!r} has a layer called {layer.name!r} already. Fix: another name.")
        name, number = layer.name, 0
        while layer.name in taken:
            number += 1
            layer.name = f"{name}_{number}"

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Make the weights for inputs of that shape, the batch axis (None) included: (None, 28, 28, 1)."""
        if input_shape is not None and self._input is None:
            self._input = InputLayer(tuple(input_shape)[1:])  # type: ignore[arg-type]
        if self._input is None:
            raise ValueError(
                f"Model {self.name!r} does not know its input shape. "
                "Fix: begin with Input(shape=...), or call build((None, ...)) with the shape of a batch."
            )
        self._assemble()

    def _assemble(self) -> None:
        """Draw the weights of new layers, and lay all weights out in the model's two arenas."""
        assert self._input is not None
        shape = self._input.shape
        chain = [str(shape)]
        specs = []
        for layer in self._layers:
            try:
                if layer.input_shape != shape:
                    if layer.built and layer.arrays:
                        raise ValueError(
                            f"Layer {layer.name!r} was built for samples of shape {layer.input_shape}. "
                            f"Received: {shape}. Fix: make a new layer."
                        )
                    seed = [self.seed, layer.position]
                    layer.initialize(shape, np.random.Generator(np.random.Philox(np.random.SeedSequence(seed))))
            except ValueError as error:
                raise ValueError(f"{error} Shapes so far: {' → '.join(chain)}.") from None
            specs += [(layer, spec) for spec in layer.weight_specs(shape)]
            shape = layer.output_shape(shape)
            chain.append(f"{layer.name} {shape}")
        trainable = {f"{layer.name}/{spec.name}": spec.shape for layer, spec in specs if spec.trainable}
        moving = {f"{layer.name}/{spec.name}": spec.shape for layer, spec in specs if not spec.trainable}
        self._arenas = Arena(trainable, memory), Arena(moving, memory)  # type: ignore[arg-type]
        for layer, spec in specs:
            view = self._arenas[0 if spec.trainable else 1][f"{layer.name}/{spec.name}"]
            view[...] = layer.arrays[spec.name]
            layer.arrays[spec.name] = view
        self._weights_moved()

    @property
    def built(self) -> bool:
        """Whether the model has its weights."""
        return self._arenas is not None

    @property
    def input_shape(self) -> BatchShape:
        """The shape of a batch of inputs, (None, ...)."""
        self._need_built()
        assert self._input is not None
        return (None, *self._input.shape)

    @property
    def output_shape(self) -> BatchShape:
        """The shape of a batch of outputs, (None, ...)."""
        shape = self.input_shape[1:]
        for layer in self._layers:
            shape = layer.output_shape(shape)  # type: ignore[arg-type]
        return (None, *shape)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """A layer by its name or its index."""
        if index is not None:
            return self._layers[index]
        for layer in self._layers:
            if layer.name == name:
                return layer
        raise ValueError(f"Unknown layer: {name!r}. {suggest(name, [layer.name for layer in self._layers])}")

    def summary(self, print_fn: Any = print) -> None:
        """Print the layers, their output shapes and numbers of parameters."""
        print_fn(tables.summary(self))

    # Weights

    @property
    def weights(self) -> list[np.ndarray]:
        """All arrays of weights, in Keras' order (read-only; see :meth:`set_weights`)."""
        return [array for layer in self._layers for array in layer.weights]

    def _weights(self, trainable: bool) -> list[np.ndarray]:
        found = []
        for layer in self._layers:
            specs = layer.weight_specs(layer.input_shape) if layer.input_shape else []
            pairs = zip(specs, layer.weights, strict=True)
            found += [array for spec, array in pairs if spec.trainable is trainable]
        return found

    @property
    def trainable_weights(self) -> list[np.ndarray]:
        """The arrays that training changes by their gradients."""
        return self._weights(True)

    @property
    def non_trainable_weights(self) -> list[np.ndarray]:
        """The others: moving statistics."""
        return self._weights(False)

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays of weights, in Keras' order and layout."""
        return [array.copy() for array in self.weights]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Set all weights, in Keras' order and layout: ``keras_model.get_weights()`` fits."""
        self._need_built()
        named = [(f"{layer.name}/{name}", array) for layer in self._layers for name, array in layer.arrays.items()]
        checked = inputs.checked_weights(self.name, named, weights)
        for (_, array), values in zip(named, checked, strict=True):
            array[...] = values
        self._weights_changed()

    def count_params(self) -> int:
        """How many numbers the weights are."""
        return sum(layer.count_params() for layer in self._layers)

    def _need_built(self) -> None:
        if not self.built:
            self.build()
