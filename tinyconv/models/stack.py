"""The stack of layers that a model is: its structure, its shapes, and its weights in two flat arrays."""

import copy
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tinyconv import checking, random
from tinyconv.checking import console, inputs
from tinyconv.checking.arguments import Shape
from tinyconv.checking.configuration import Configured
from tinyconv.checking.messages import explained, received, refuse
from tinyconv.kernels import memory
from tinyconv.layers import InputLayer, Layer, WeightSpec
from tinyconv.models.summary import summary
from tinyconv.plan.arena import Arena
from tinyconv.plan.graph import Graph, chain_of
from tinyconv.plan.locks import ModelLock, locked

BatchShape = tuple[int | None, ...]


class Stack(Configured):
    """Layers, each one's output the next one's input.

    All weights that are trained are views into one flat array, all others (moving statistics, and what frozen layers
    have) into another. The layers and these arrays are copied and pickled as one: see :meth:`__getstate__`.
    """

    def __init__(self, layers: Iterable[Layer], name: str, trainable: bool) -> None:
        self._lock = ModelLock()
        self._name: str = name
        self._trainable = checking.boolean(self._who(), "trainable", trainable)
        self._seed = random.next_seed()
        self._input: InputLayer | None = None
        self._layers: list[Layer] = []
        self._named: dict[str, Layer] = {}
        self._numbers: dict[str, int] = {}  # by automatic name, the last number given
        self._arenas: tuple[Arena, Arena] | None = None
        try:
            for layer in layers:
                self._stack(layer)
            if self._input is not None:
                self._assemble()
        except Exception:
            for layer in self._layers:  # there will be no such model: its layers are free for another
                self._let_go(layer)
            raise

    def _who(self) -> str:
        return f"model {self._name!r}"

    def _check_free(self, what: str) -> None:
        """Refuse a change of structure while a run depends on it."""

    def _weights_moved(self) -> None:
        """The weights are different arrays now."""

    def _weights_changed(self) -> None:
        """The weights have new values now."""

    def _renamed(self, names: dict[str, str]) -> None:
        """Weights have been renamed."""

    # Copies

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the arenas: the layers bring their weights, and :meth:`__setstate__` lays them out anew."""
        with self._lock:
            return {**self.__dict__, "_arenas": None, "_named": {}}

    def __copy__(self) -> "Stack":
        return copy.deepcopy(self)  # two models cannot share layers

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for layer in self._layers:
            layer._owner = self
            self._named[layer.name] = layer
        if self._input is not None:
            self._assemble()

    # Structure

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = checking.name(self._who(), name)

    @property
    def seed(self) -> int:
        """Where the model's random numbers come from: initial weights, orders, dropout's masks."""
        return self._seed

    @seed.setter
    @locked
    def seed(self, seed: int) -> None:
        self._check_free("seed")
        self._seed = checking.integer(self._who(), "seed", seed, at_least=0, at_most=2**63 - 1)
        self._weights_moved()

    @property
    def trainable(self) -> bool:
        """Whether training changes weights. Setting it sets it for every layer, as in Keras; see
        :attr:`tinyconv.layers.Layer.trainable`."""
        return self._trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        self._trainable = checking.boolean(self._who(), "trainable", trainable)
        for layer in self._layers:
            layer.trainable = self._trainable

    @property
    def layers(self) -> list[Layer]:
        """The layers, without the input."""
        return list(self._layers)

    @locked
    @explained
    def add(self, layer: Layer, rebuild: bool = True) -> None:
        """Add a layer on top. Its weights are drawn at once if the input shape is known and ``rebuild``."""
        self._check_free("add()")
        rebuild = checking.boolean(f"{self._who()}.add", "rebuild", rebuild)
        self._stack(layer)
        if self._input is not None and rebuild and self._layers:
            try:
                self._assemble()
            except Exception:
                self._let_go(self._layers.pop())
                raise

    def _stack(self, layer: Layer) -> None:
        """Put a layer on top, without weights."""
        if not isinstance(layer, Layer):
            kind = f" Fix: {layer.__name__}(...), an object of that class." if isinstance(layer, type) else ""
            raise TypeError(f"Model {self.name!r}: expected a tinyconv layer. Received: {received(layer)}.{kind}")
        if isinstance(layer, InputLayer):
            if self._layers or self._input:
                raise ValueError(f"Model {self.name!r}: Input must be the first entry, and there is one already.")
            self._input = layer
            return
        if layer._owner is not None:
            whose = "the model" if layer._owner is self else f"{layer._owner._who()}"
            raise ValueError(
                f"Model {self.name!r}: layer {layer.name!r} is in {whose} already. "
                "Fix: make a new one; set_weights can give it the weights of this one."
            )
        self._number(layer)
        if not self._layers and self._input is None and layer._first_input_shape is not None:
            self._input = InputLayer(layer._first_input_shape)
        layer._position, layer._owner = len(self._layers), self
        self._layers.append(layer)
        self._named[layer.name] = layer

    def _let_go(self, layer: Layer) -> None:
        """The layer is in no model any more, and has weights of its own."""
        with self._lock:
            layer._arrays = {name: array.copy() for name, array in layer._arrays.items()}
            layer._owner = None
            self._named.pop(layer.name, None)

    @locked
    @explained
    def pop(self, rebuild: bool = True) -> Layer:
        """Take the topmost layer off."""
        self._check_free("pop()")
        rebuild = checking.boolean(f"{self._who()}.pop", "rebuild", rebuild)
        if not self._layers:
            raise ValueError(f"Model {self.name!r} has no layers to pop.")
        layer = self._layers.pop()
        if self._input is not None and rebuild:
            self._assemble()
        self._let_go(layer)
        return layer

    def _number(self, layer: Layer) -> None:
        """Number an automatic name that is taken: conv2d, conv2d_1, conv2d_2."""
        if layer.name in self._named and layer._named_by_user:
            raise ValueError(f"Model {self.name!r} has a layer called {layer.name!r} already. Fix: another name.")
        name = layer.name
        while layer.name in self._named:
            self._numbers[name] = self._numbers.get(name, 0) + 1
            layer._name = f"{name}_{self._numbers[name]}"

    @locked
    def _rename(self, layer: Layer, name: str) -> None:
        """Give one of the layers another name, under which its weights are known from then on."""
        self._check_free("a new name of a layer")
        if self._named.get(name, layer) is not layer:
            raise ValueError(f"Model {self.name!r} has a layer called {name!r} already. Fix: another name.")
        names = {f"{layer.name}/{weight}": f"{name}/{weight}" for weight in layer._arrays}
        self._renamed(names)
        del self._named[layer.name]
        layer._name = name
        self._named[name] = layer
        if self.built:
            self._assemble()

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
            if self._input is not None and given.shape != self._input.shape:
                raise ValueError(
                    f"Model {self.name!r} cannot be built for another input_shape than that of its Input. "
                    f"Expected {(None, *self._input.shape)}. Received: {received(tuple(input_shape))}."
                )
            self._input = self._input or given
        if self._input is None:
            raise ValueError(
                f"Model {self.name!r} does not know its input shape. "
                "Fix: begin with Input(shape=...), or call build((None, ...)) with the shape of a batch."
            )
        if not self.built or any(not layer.built for layer in self._layers):
            self._assemble()

    def _is_trained(self, layer: Layer, spec: WeightSpec) -> bool:
        return spec.trainable and self._trainable and layer.trainable

    def _specs(self) -> Iterator[tuple[str, Layer, WeightSpec]]:
        """Every weight of the layers that are built, in Keras' order, by "layer/weight"."""
        for layer in self._layers:
            for spec in layer.weight_specs(layer.input_shape) if layer.input_shape is not None else ():
                yield f"{layer.name}/{spec.name}", layer, spec

    def _assemble(self) -> None:
        """Draw the weights of new layers, and lay all weights out in the model's two arenas."""
        assert self._input is not None
        shape = self._input.shape
        chain = [str(shape)]
        specs = []
        for layer in self._layers:
            try:
                if layer.input_shape != shape:
                    if layer.built and layer._arrays:
                        raise ValueError(
                            f"Layer {layer.name!r} was built for samples of shape {layer.input_shape}. "
                            f"Received: {shape}. Fix: make a new layer."
                        )
                    seed = [self._seed, layer.position]
                    layer.initialize(shape, np.random.Generator(np.random.Philox(np.random.SeedSequence(seed))))
            except ValueError as error:
                raise ValueError(
                    f"{error} Shapes so far: {console.encodable(' → ', sys.stderr).join(chain)}."
                ) from None
            specs += [(layer, spec) for spec in layer.weight_specs(shape)]
            shape = layer.output_shape(shape)
            chain.append(f"{layer.name} {shape}")
        trained: dict[str, Shape] = {}
        kept: dict[str, Shape] = {}
        for layer, spec in specs:
            arena = trained if self._is_trained(layer, spec) else kept
            arena[f"{layer.name}/{spec.name}"] = layer._arrays[spec.name].shape
        self._weights_moved()
        arenas = Arena(trained, memory), Arena(kept, memory)  # type: ignore[arg-type]
        for layer, spec in specs:
            name = f"{layer.name}/{spec.name}"
            view = arenas[0 if name in trained else 1][name]
            view[...] = layer._arrays[spec.name]
            layer._arrays[spec.name] = view
            layer._is_fixed = not layer.trainable
        self._arenas = arenas

    def _graph(self) -> Graph:
        """What a plan makes of the layers."""
        assert self._input is not None
        return chain_of(self._layers, self._input.shape)

    @property
    def _is_stale(self) -> bool:
        """Whether ``trainable`` has changed since the weights were laid out."""
        assert self._arenas is not None
        return any(
            (name in self._arenas[0]) != self._is_trained(layer, spec) or layer._is_fixed == layer.trainable
            for name, layer, spec in self._specs()
        )

    @property
    def built(self) -> bool:
        """Whether the model has its weights."""
        return self._arenas is not None

    @property
    def input_shape(self) -> BatchShape:
        """The shape of a batch of inputs, (None, ...)."""
        if self._input is None:
            raise AttributeError(
                f"Model {self.name!r} has no input shape yet. "
                "Fix: begin with Input(shape=...), or call build((None, ...)) with the shape of a batch."
            )
        return (None, *self._input.shape)

    @property
    def output_shape(self) -> BatchShape:
        """The shape of a batch of outputs, (None, ...)."""
        shape = self.input_shape[1:]
        for layer in self._layers:
            shape = layer.output_shape(shape)  # type: ignore[arg-type]
        return (None, *shape)

    @explained
    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """A layer by its name or its index."""
        if (name is None) == (index is None):
            raise ValueError(
                "get_layer takes a name or an index. Expected one of the two. "
                f"Received: name={received(name)}, index={received(index)}."
            )
        if index is not None:
            count = len(self._layers)
            index = checking.integer("get_layer", "index", index, at_least=-count, at_most=count - 1)
            return self._layers[index]
        if isinstance(name, str) and name in self._named:
            return self._named[name]
        raise checking.unknown("", "layer", name, [layer.name for layer in self._layers])

    @explained
    def summary(
        self,
        line_length: None = None,
        positions: None = None,
        print_fn: Any = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: None = None,
    ) -> None:
        """Print the layers, their output shapes and numbers of parameters; ``print_fn`` takes the text instead."""
        given = {"line_length": line_length, "positions": positions, "expand_nested": expand_nested}
        given |= {"show_trainable": show_trainable, "layer_range": layer_range}
        refuse("summary()", given, dict.fromkeys(given, (None, False)))
        if print_fn is not None and not callable(print_fn):
            raise checking.invalid("summary", "print_fn", "a function of a text, or None", print_fn)
        text = str(summary(self))
        if print_fn is None:
            console.write(text)
        else:
            print_fn(text)

    def _repr_html_(self) -> str:
        """What a notebook shows of a model."""
        return summary(self).to_html()

    # Weights

    @property
    def weights(self) -> list[np.ndarray]:
        """All arrays of weights, in Keras' order (read-only; see :meth:`set_weights`)."""
        return [array for layer in self._layers for array in layer.weights]

    def _weights(self, trainable: bool) -> list[np.ndarray]:
        pairs = zip(self._specs(), self.weights, strict=True)
        return [array for (_, layer, spec), array in pairs if self._is_trained(layer, spec) is trainable]

    @property
    def trainable_weights(self) -> list[np.ndarray]:
        """The arrays that training changes by their gradients."""
        return self._weights(True)

    @property
    def non_trainable_weights(self) -> list[np.ndarray]:
        """The others: moving statistics, and the weights of frozen layers."""
        return self._weights(False)

    @locked
    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays of weights, in Keras' order and layout."""
        return [array.copy() for array in self.weights]

    @locked
    @explained
    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Set all weights, in Keras' order and layout: ``keras_model.get_weights()`` fits."""
        self._need_built()
        named = [(f"{layer.name}/{name}", array) for layer in self._layers for name, array in layer._arrays.items()]
        checked = inputs.checked_weights(self.name, named, weights)
        for (_, array), values in zip(named, checked, strict=True):
            array[...] = values
        self._weights_changed()

    def count_params(self) -> int:
        """The number of parameters."""
        return sum(layer.count_params() for layer in self._layers)

    def _need_built(self) -> None:
        if not self.built:
            self.build()
