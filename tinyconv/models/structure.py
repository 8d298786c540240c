"""What a model consists of: layers, which of them read what, and their weights in two flat arrays."""

import copy
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinyconv import checking, random
from tinyconv.checking import console, inputs
from tinyconv.checking.arguments import Shape
from tinyconv.checking.configuration import Configured
from tinyconv.checking.messages import explained, received, refuse
from tinyconv.checking.tables import NARROWEST
from tinyconv.kernels import memory
from tinyconv.layers import InputLayer, Layer, WeightSpec
from tinyconv.layers.augmentation import Augmentation
from tinyconv.layers.symbolic import Tensor
from tinyconv.layers.variables import Variable, Weighted
from tinyconv.models.summary import summary
from tinyconv.plan.arena import Arena
from tinyconv.plan.graph import Graph
from tinyconv.plan.locks import ModelLock, join, locked

BatchShape = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """One call of a model as a layer."""

    model: "Structure"


@dataclass(frozen=True)
class EntryCall:
    """One call of a layer, or of a model that is used as one: the values it reads, and those it gives."""

    entry: Any
    reads: tuple[int, ...]
    gives: tuple[int, ...]


@dataclass(frozen=True)
class Use:
    """One call of a layer in a model: which values it reads, and as part of which models within this one.

    The first values of a model are its inputs; after these, each use in order gives one more.
    """

    layer: Layer
    reads: tuple[int, ...]
    within: tuple[Part, ...] = ()

    @property
    def path(self) -> str:
        """The layer's name in the model, under which its weights are known there: "conv2d", "encoder/conv2d"."""
        return "/".join([*(part.model.name for part in self.within), self.layer.name])

    @property
    def entry(self) -> Any:
        """What the model has among its layers: this layer, or the model that it is a part of."""
        return self.within[0].model if self.within else self.layer


def models_of(use: Use) -> list[Any]:
    """The models within, from the outermost, as a part of which the layer is called."""
    return [part.model for part in use.within]


class Structure(Weighted, Configured):
    """Layers, and what each of them reads.

    All weights that are trained are views into one flat array, all others (moving statistics, and what frozen layers
    have) into another. The layers and these arrays are copied and pickled as one: see :meth:`__getstate__`.

    Models may share layers. Each model has flat arrays of its own, and the model that was used last holds the layers'
    weights: another one first fetches them (:meth:`_claim`). Such models have one lock.
    """

    def __init__(self, name: str, trainable: bool) -> None:
        self._lock = ModelLock()
        self._name: str = name
        self._trainable = checking.boolean(self._who(), "trainable", trainable)
        self._seed = random.next_seed()
        self._layers: list[Any] = []  # layers, and models that are used as layers
        self._named: dict[str, Any] = {}
        self._numbers: dict[str, int] = {}  # by automatic name, the last number given
        self._inputs: list[InputLayer] = []
        self._uses: list[Use] = []
        self._users: weakref.WeakSet[Structure] = weakref.WeakSet()  # models that this one is a part of
        self._first_uses: list[Use] = []  # of each layer, in the order of layers
        self._augments = False  # whether one of them changes images in training
        self._outputs: list[int] = []  # numbers of values
        self._arenas: tuple[Arena, Arena] | None = None
        self._tensors: tuple[list[Tensor], list[Tensor]] | None = None  # inputs and outputs, once traced

    _named_by_user = True

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
            gone = {"_arenas": self.built, "_named": {}, "_tensors": None, "_users": ()}
            return {**self.__dict__, **gone}

    def __copy__(self) -> Any:
        return copy.deepcopy(self)  # a copy has layers of its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _arenas=None)
        self._users = weakref.WeakSet()
        for entry in self._layers:
            self._named[entry.name] = entry
        self._adopt(self._uses)
        if state["_arenas"]:
            self._assemble()

    # Structure

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        name, before = checking.name(self._who(), name), self._name
        users = list(self._users)
        for user in users:
            user._check_name(self, name)
        self._name = name
        for user in users:
            user._renamed_layer(self, before)

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
    def layers(self) -> list[Any]:
        """The layers, in Keras' order. A model that is used as a layer is one of them."""
        return list(self._layers)

    def _register(self, entry: Any) -> None:
        """Give a layer its place among the names."""
        self._number(entry)
        self._named[entry.name] = entry

    def _number(self, layer: Any) -> None:
        """Number an automatic name that is taken: conv2d, conv2d_1, conv2d_2."""
        if self._named.get(layer.name, layer) is layer:
            return
        if layer._named_by_user:
            raise ValueError(f"Model {self.name!r} has a layer called {layer.name!r} already. Fix: another name.")
        name = new = layer.name
        while new in self._named:
            self._numbers[name] = self._numbers.get(name, 0) + 1
            new = f"{name}_{self._numbers[name]}"
        layer.name = new
        layer._named_by_user = False

    def _adopt(self, uses: Sequence[Use]) -> None:
        """Consist of these uses of layers, be one of the users of each, and share a lock with the others."""
        users = {id(user): user for use in uses for user in (*use.layer._users, *models_of(use))}
        join([self._lock, *(user._lock for user in users.values())])
        self._uses = list(uses)
        for use in uses:
            for part in (use.layer, *models_of(use)):
                part._users.add(self)
        place = {id(entry): number for number, entry in enumerate(self._layers)}
        inside = {
            id(use.layer): number
            for entry in self._layers
            if isinstance(entry, Structure)
            for number, use in enumerate(entry._first_uses)
        }
        first = {id(use.layer): use for use in reversed(uses)}.values()
        self._first_uses = sorted(first, key=lambda use: (place[id(use.entry)], inside.get(id(use.layer), 0)))
        self._augments = any(isinstance(use.layer, Augmentation) for use in self._first_uses)

    def _check_name(self, layer: Any, name: str) -> None:
        """Whether one of the layers may have that name; :meth:`_renamed_layer` tells that it has it."""
        self._check_free("a new name of a layer")
        if layer in self._layers and self._named.get(name, layer) is not layer:
            raise ValueError(f"Model {self.name!r} has a layer called {name!r} already. Fix: another name.")

    @locked
    def _renamed_layer(self, layer: Any, before: str) -> None:
        if before in self._named and self._named[before] is layer:
            del self._named[before]
            self._named[layer.name] = layer
        names = {}
        for use in self._uses:
            parts: list[Any] = [*models_of(use), use.layer]
            names_before = [before if part is layer else part.name for part in parts]
            for weight in use.layer._arrays:
                names[f"{'/'.join(names_before)}/{weight}"] = f"{use.path}/{weight}"
        self._renamed({old: new for old, new in names.items() if old != new})
        if self.built:
            self._assemble()

    @property
    def _leaves(self) -> list[tuple[str, Layer]]:
        """Every layer that computes, those of models within too, by its name in this model, in the order of layers."""
        return [(use.path, use.layer) for use in self._first_uses]

    def _is_trained(self, layer: Layer, spec: WeightSpec) -> bool:
        return spec.trainable and self._trainable and layer.trainable

    def _specs(self) -> Iterator[tuple[str, Layer, WeightSpec]]:
        """Every weight of the layers that are built, in Keras' order, by "layer/weight"."""
        for path, layer in self._leaves:
            for spec in layer.weight_specs(layer.input_shape) if layer.input_shape is not None else ():
                yield f"{path}/{spec.name}", layer, spec

    def _draw_weights(self) -> None:
        """Build the layers that have no weights yet, and check that the others' fit what they read."""
        shapes = [layer.shape for layer in self._inputs]
        chain = [str(shape) for shape in shapes]
        positions = {id(layer): number for number, (_, layer) in enumerate(self._leaves)}
        for use in self._uses:
            layer = use.layer
            try:
                shape = layer._joined([shapes[read] for read in use.reads])
                if not layer.built:
                    seed = [self._seed, positions[id(layer)]]
                    layer.initialize(shape, np.random.Generator(np.random.Philox(np.random.SeedSequence(seed))))
                elif layer.input_shape != shape:
                    layer._check_weights_for(shape)
                    if len(layer._users) < 2 and [each.layer for each in self._uses].count(layer) < 2:
                        layer._input_shape = shape
                shapes.append(layer.output_shape(shape))
            except ValueError as error:
                raise ValueError(
                    f"{error} Shapes so far: {console.encodable(' → ', sys.stderr).join(chain)}."
                ) from None
            chain.append(f"{use.path} {shapes[-1]}")

    def _assemble(self) -> None:
        """Draw the weights of new layers, and lay all weights out in the model's two arenas."""
        self._draw_weights()
        trained: dict[str, Shape] = {}
        kept: dict[str, Shape] = {}
        for name, layer, spec in self._specs():
            arena = trained if self._is_trained(layer, spec) else kept
            arena[name] = layer._arrays[spec.name].shape
        self._weights_moved()
        self._arenas = Arena(trained, memory), Arena(kept, memory)  # type: ignore[arg-type]
        for use in self._first_uses:
            use.layer._owner, use.layer._is_fixed = None, not use.layer.trainable
        self._claim()

    def _claim(self) -> None:
        """Hold the weights of all layers: fetch those that another model holds."""
        if self._arenas is None or all(use.layer._owner is self for use in self._first_uses):
            return
        for number, (path, layer) in enumerate(self._leaves):
            if layer._owner is not self:
                for name, array in layer._arrays.items():
                    key = f"{path}/{name}"
                    view = self._arenas[0 if key in self._arenas[0] else 1][key]
                    view[...] = array
                    layer._arrays[name] = view
                layer._owner, layer._position = self, number
        self._weights_changed()

    def _graph(self, every: bool = False) -> Graph:
        """What a plan makes of the layers; with ``every`` the output of each use of a layer is an output of it."""
        graph = Graph()
        values = [
            graph.add_input(layer.name if len(self._inputs) > 1 else "input", layer.shape) for layer in self._inputs
        ]
        shapes = self._value_shapes()
        calls: dict[int, int] = {}
        for use in self._uses:
            number = calls[id(use.layer)] = calls.get(id(use.layer), -1) + 1
            shape = use.layer._joined([shapes[read] for read in use.reads])
            sequence = [replace(op, name=use.path, call=number) for op in use.layer.ops(shape)]
            values.append(graph.add_chain(sequence, *(values[read] for read in use.reads)))
        graph.outputs = values[len(self._inputs) :] if every else [values[number] for number in self._outputs]
        return graph

    # As a part of another model

    def _trace(self) -> None:
        """Call the layers on tensors, so that each of them has its input and its output."""
        if self._tensors is None and self.built:
            values = [Tensor(layer.shape, layer._only_call()) for layer in self._inputs]
            self._tensors = values, self._call_uses(values, ())

    def _call_uses(self, values: Sequence[Tensor], within: tuple[Any, ...]) -> list[Tensor]:
        values = list(values)
        for use in self._uses:
            values.append(use.layer._call_on([values[read] for read in use.reads], (*within, *use.within)))
        return [values[number] for number in self._outputs]

    def _call_on(self, tensors: Sequence[Tensor], within: tuple[Any, ...] = ()) -> Any:
        """The outputs for these inputs, as values that another model will compute with the layers of this one."""
        if not self._inputs and len(tensors) == 1:
            self._build_for(tensors[0].sample_shape)
        if len(tensors) != len(self._inputs):
            raise ValueError(f"Model {self.name!r} takes {len(self._inputs)} inputs. Received: {len(tensors)} tensors.")
        self._need_built()
        for layer, tensor in zip(self._inputs, tensors, strict=True):
            if tensor.sample_shape != layer.shape:
                raise ValueError(
                    f"The input of model {self.name!r} has the wrong shape. Expected {(None, *layer.shape)}. "
                    f"Received: {tensor.shape}."
                )
        outputs = self._call_uses(tensors, (*within, Part(self)))
        return outputs[0] if len(outputs) == 1 else outputs

    def _build_for(self, shape: Shape) -> None:
        """Be ready for samples of that shape."""
        raise NotImplementedError

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors that the model begins with."""
        self._need_built()
        self._trace()
        assert self._tensors is not None
        return list(self._tensors[0])

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors that the model computes."""
        self._need_built()
        self._trace()
        assert self._tensors is not None
        return list(self._tensors[1])

    @property
    def input(self) -> Any:
        """The tensor that the model begins with; of several, the list."""
        return self.inputs[0] if len(self.inputs) == 1 else self.inputs

    @property
    def output(self) -> Any:
        """The tensor that the model computes; of several, the list."""
        return self.outputs[0] if len(self.outputs) == 1 else self.outputs

    # Shapes

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
    def input_shape(self) -> Any:
        """The shape of a batch of inputs, (None, ...); of several inputs, the list of them."""
        if not self._inputs:
            raise AttributeError(
                f"Model {self.name!r} has no input shape yet. "
                "Fix: begin with Input(shape=...), or call build((None, ...)) with the shape of a batch."
            )
        shapes: list[BatchShape] = [layer.batch_shape for layer in self._inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Any:
        """The shape of a batch of outputs, (None, ...); of several outputs, the list of them."""
        assert self.input_shape
        shapes: list[BatchShape] = [(self._batch_size, *shape) for shape in self._output_shapes()]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def _batch_size(self) -> int | None:
        """What shapes show of the size of a batch."""
        return next((layer.batch_size for layer in self._inputs if layer.batch_size is not None), None)

    def _value_shapes(self, uses: Sequence[Use] | None = None) -> list[Shape]:
        """The shape of a sample of every value, of these uses or of the model's, as the layers' arguments say."""
        shapes: list[Shape] = [layer.shape for layer in self._inputs]
        for use in self._uses if uses is None else uses:
            shapes.append(use.layer.output_shape(use.layer._joined([shapes[read] for read in use.reads])))
        return shapes

    def _output_shapes(self) -> list[Shape]:
        shapes = self._value_shapes()
        return [shapes[number] for number in self._outputs]

    def _entry_calls(self) -> list[EntryCall]:
        """The calls of the model's own layers, in order; a model within is one of them, whatever it consists of."""
        first = len(self._inputs)
        grouped: dict[int, list[int]] = {}
        for number, use in enumerate(self._uses, start=first):
            grouped.setdefault(id(use.within[0]) if use.within else -number, []).append(number)
        found = []
        for numbers in grouped.values():
            use = self._uses[numbers[0] - first]
            if not use.within:
                found.append(EntryCall(use.layer, use.reads, tuple(numbers)))
                continue
            inner = use.within[0].model
            inputs = len(inner._inputs)
            reads: dict[int, int] = {}
            for number, its in zip(numbers, inner._uses, strict=True):
                pairs = zip(its.reads, self._uses[number - first].reads, strict=True)
                reads |= {there: here for there, here in pairs if there < inputs}
            gives = tuple(numbers[out - inputs] if out >= inputs else reads[out] for out in inner._outputs)
            found.append(EntryCall(inner, tuple(reads[i] for i in range(inputs)), gives))
        return found

    def _described(self) -> list[tuple[Any, Shape | None, str]]:
        """Each layer, the shape of its output if it is known, and the layers that it reads."""
        shapes = self._value_shapes() if self._inputs else []
        names = [layer.name for layer in self._inputs] + [use.entry.name for use in self._uses]
        found: dict[int, tuple[Any, Shape | None, str]] = {
            id(layer): (layer, layer.shape, "-") for layer in self._inputs
        }
        for number, use in enumerate(self._uses, start=len(self._inputs)):
            read = ", ".join(dict.fromkeys(names[value] for value in use.reads if names[value] != use.entry.name))
            _, _, before = found.get(id(use.entry), (None, None, ""))
            shape = shapes[number] if shapes else None
            found[id(use.entry)] = use.entry, shape, ", ".join(filter(None, [before, read]))
        return [found[id(layer)] for layer in self._layers if id(layer) in found]

    @explained
    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
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
        line_length: int | None = None,
        positions: None = None,
        print_fn: Any = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: Sequence[str] | None = None,
    ) -> None:
        """Print the layers, their output shapes and numbers of parameters.

        Args:
            line_length: the most columns that a line may take; None: those of the terminal.
            positions: must be None.
            print_fn: a function that takes the text instead.
            expand_nested: whether to show the layers of models within, too.
            show_trainable: whether to show which layers are trainable.
            layer_range: the names of the first and the last layer to show, or regular expressions that they match.
        """
        refuse("summary()", {"positions": positions}, {"positions": (None,)})
        if line_length is not None:
            line_length = checking.integer("summary", "line_length", line_length, at_least=NARROWEST)
        if print_fn is not None and not callable(print_fn):
            raise checking.invalid("summary", "print_fn", "a function of a text, or None", print_fn)
        nested = checking.boolean("summary", "expand_nested", expand_nested)
        shown = checking.boolean("summary", "show_trainable", show_trainable)
        text = summary(self, nested, shown, layer_range).text(line_length)
        if print_fn is None:
            console.write(text)
        else:
            print_fn(text)

    def _repr_html_(self) -> str:
        """What a notebook shows of a model."""
        return summary(self).to_html()

    # Weights

    @property
    def weights(self) -> list[Variable]:
        """All weights, in Keras' order, as variables; :meth:`get_weights` gives plain arrays."""
        return [variable for _, layer in self._leaves for variable in layer.weights]

    def _weights(self, trainable: bool) -> list[Variable]:
        pairs = zip(self._specs(), self.weights, strict=True)
        return [variable for (_, layer, spec), variable in pairs if self._is_trained(layer, spec) is trainable]

    @locked
    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays of weights, in Keras' order and layout."""
        return [array.copy() for _, layer in self._leaves for array in layer._arrays.values()]

    @locked
    @explained
    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Set all weights, in Keras' order and layout: ``keras_model.get_weights()`` fits."""
        self._need_built()
        self._claim()
        named = [(f"{path}/{name}", array) for path, layer in self._leaves for name, array in layer._arrays.items()]
        checked = inputs.checked_weights(self.name, named, weights)
        for (_, array), values in zip(named, checked, strict=True):
            array[...] = values
        self._weights_changed()

    def count_params(self) -> int:
        """The number of parameters."""
        return sum(layer.count_params() for _, layer in self._leaves)

    def _need_built(self) -> None:
        if not self.built:
            self.build()

    def build(self, input_shape: Any = None) -> None:
        """Make the weights."""
        raise NotImplementedError
