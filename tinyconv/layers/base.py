"""The base class of all layers, and of your own."""

import inspect
import re
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from tinyconv import checking, random
from tinyconv.checking import inputs
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import refuse
from tinyconv.initializers import drawn
from tinyconv.kernels.backends import load_backend, resolve_backend
from tinyconv.layers.arguments import shape_of
from tinyconv.layers.own import Own
from tinyconv.layers.symbolic import Call, Tensor, tensors_of
from tinyconv.layers.variables import Variable, Weighted
from tinyconv.plan import ops
from tinyconv.plan.arena import Arena
from tinyconv.plan.graph import chain_of
from tinyconv.plan.locks import ModelLock, locked
from tinyconv.plan.lowering import lower
from tinyconv.plan.state import State

# What Keras' further arguments must be for tinyconv to do the same as Keras.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "dtype": (None, "float32"),
    "activity_regularizer": (None,),
    "autocast": (True,),
}


class Layer(Weighted, Own):
    """Base class of all layers, and of your own.

    A layer is configuration; give it an input shape (:meth:`build`) and it has weights; call it on an array and it
    computes. To write your own, say in NumPy what it computes, and what that means for gradients:

    >>> @keras.saving.register_keras_serializable("mine")  # so that load_model knows it
    ... class Scale(keras.Layer):
    ...     def build(self, input_shape):  # of a batch: (None, ...)
    ...         self.factor = self.add_weight(shape=input_shape[-1:], initializer="ones", name="factor")
    ...
    ...     def call(self, inputs):  # a batch
    ...         return inputs * self.factor
    ...
    ...     def backward(self, dx, dweights, dout, x, out, weights):
    ...         if dx.size:
    ...             dx[...] = dout * weights["factor"]
    ...         dweights["factor"][...] = (dout * x).reshape(-1, x.shape[-1]).sum(axis=0)

    ``call(inputs)``, or ``call(inputs, training)``, returns the output. ``backward`` fills ``dx`` (unless its size is
    0) and every array of ``dweights`` from ``dout``, the loss's derivative with respect to the output ``out``. Keras
    finds these by automatic differentiation, which tinyconv has not; ``tinyconv.check_gradients(layer, input_shape)``
    compares yours with central differences. Without ``backward`` a layer can stand where no gradient passes: at
    inference, or before the first weights. ``compute_output_shape`` is found out by a call on zeros, and ``get_config``
    from the constructor's arguments if they are numbers and texts, unless they are overridden. In place of ``call`` a
    layer may override ``forward(self, out, x, weights)``, which fills ``out``.

    Such a layer takes part in any plan on the CPU, and is saved as Keras saves its own ones. It computes by itself:
    layers within it are refused, since a function that calls layers, or a Model, is what joins them.

    Args:
        activity_regularizer: must be None.
        trainable: whether training changes the weights; see :attr:`trainable`.
        dtype: None or "float32".
        autocast: must be True.
        name: by default the class's name in lower case, with a number where a model has several.
        input_shape: the shape of one sample, for the first layer of a model without an ``Input``.
        input_dim: the same for samples of one axis: its length.
    """

    def __init__(
        self,
        *,
        activity_regularizer: None = None,
        trainable: bool = True,
        dtype: str | None = None,
        autocast: bool = True,
        name: str | None = None,
        input_shape: Sequence[int] | None = None,
        input_dim: int | None = None,
        **unsupported: Any,
    ) -> None:
        keras = {"activity_regularizer": activity_regularizer, "dtype": dtype, "autocast": autocast}
        known = [*self._parameters(), *inspect.signature(Layer).parameters]
        unpacked = ("options", "unsupported", "kwargs")  # **options is not the name of an argument
        names = dict.fromkeys(name for name in known if name not in unpacked)
        refuse(type(self).__name__, {**keras, **unsupported}, NEUTRAL, names)
        self._owner: Owner | None = None  # the model that holds the weights, and has to hear of changes
        self._users: weakref.WeakSet[Owner] = weakref.WeakSet()  # all models that the layer is in
        self._calls: list[Call] = []  # on tensors
        self._name = checking.optional_name(type(self).__name__, name) or default_name(type(self))
        self._named_by_user = name is not None
        self._trainable = checking.boolean(type(self).__name__, "trainable", trainable)
        self._is_fixed = not trainable  # whether a plan made now leaves the weights alone
        self._position = 0
        if input_dim is not None:
            input_shape = (checking.integer(type(self).__name__, "input_dim", input_dim),)
        self._first_input_shape = None if input_shape is None else shape_of(self, input_shape, "input_shape")
        self._input_shape: Shape | None = None
        self._arrays: dict[str, np.ndarray] = {}
        self._variables: dict[str, Variable] = {}  # those that have been asked for
        self._begin_own()

    def _why_frozen(self) -> str | None:
        return "its weights have been built from it" if self.built else None

    def _who(self) -> str:
        return f"layer {self._name!r} ({type(self).__name__})"

    @property
    def name(self) -> str:
        """The layer's name, unique in its model. It can be set, also later: weights are saved under the new one."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        name = checking.name(self._who(), name)
        with self._lock:
            users = list(self._users)
            for user in users:
                user._check_name(self, name)
            before, self._name = self._name, name
            for user in users:
                user._renamed_layer(self, before)
            self._named_by_user = True

    @property
    def trainable(self) -> bool:
        """Whether training changes the weights (and, of a batch normalisation, the moving statistics: a frozen one
        normalises by them in training too). Like Keras, a model looks when it is first trained after ``compile``:
        compile again after a change."""
        return self._trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        self._trainable = checking.boolean(self._who(), "trainable", trainable)
        if self._owner is None:
            self._is_fixed = not trainable

    @property
    def input_shape(self) -> Shape | None:
        """The shape of one input sample; None before the layer is built."""
        return self._input_shape

    @property
    def position(self) -> int:
        """The layer's number in its model; it tells what its layers draw in training apart."""
        return self._position

    def _number_of_draws(self, seed: int | None) -> int:
        """The number under which the layer draws in training: its position, mixed with a seed of its own."""
        return self.position if seed is None else (self.position ^ (seed << 8)) & 0x7FFFFFFF

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The weights by name, once built (read-only; see :meth:`set_weights`)."""
        return MappingProxyType({name: read_only(array) for name, array in self._arrays.items()})

    @property
    def _lock(self) -> ModelLock:
        return self._owner._lock if self._owner is not None else _UNOWNED

    def __getstate__(self) -> dict[str, Any]:
        """A copy is in no model, and has weights of its own."""
        with self._lock:
            arrays = {name: array.copy() for name, array in self._arrays.items()}
        return {**self.__dict__, "_owner": None, "_users": (), "_calls": [], "_arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._users = weakref.WeakSet()

    # What a layer is

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        """The operations the layer consists of. By default the layer's own ``forward`` and ``backward``."""
        names = tuple(spec.name for spec in self.weight_specs(input_shape))
        return [ops.Custom(self.name, input_shape, self.output_shape(input_shape), self, names)]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of a batch of outputs, (None, ...), for batches of that shape; of several inputs, of a list of
        shapes."""
        several = len(input_shape) > 0 and isinstance(input_shape[0], list | tuple)
        shapes = [tuple(shape) for shape in input_shape] if several else [tuple(input_shape)]
        return (shapes[0][0], *self.output_shape(self._joined([shape[1:] for shape in shapes])))

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a layer like this one."""
        return {"name": self.name, "trainable": self.trainable, **self._own_config()}

    # Weights

    @property
    def built(self) -> bool:
        """Whether the layer has its weights."""
        return self._input_shape is not None

    @built.setter
    def built(self, built: bool) -> None:
        """Keras' layers say so at the end of their ``build``; what has been built here is known."""
        if self._adding is None:
            raise AttributeError(f"'built' of {self._who()} can be read, not set. Fix: build((None, ...)).")

    @locked
    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights for inputs of that shape, the batch axis (None) included as in Keras."""
        if self._adding is not None:
            return  # super().build(...) of a layer of one's own
        if not isinstance(input_shape, Sequence) or isinstance(input_shape, str | bytes) or not len(input_shape):
            expected = "the shape of a batch such as (None, 28, 28, 1)"
            raise checking.invalid(f"layer {self.name!r}", "input_shape", expected, input_shape)
        shape = shape_of(self, input_shape[1:], "input_shape")
        if not self.built:
            self.initialize(shape, np.random.default_rng(random.next_seed()))
        elif shape != self._input_shape:
            raise ValueError(
                f"Layer {self.name!r} was built for samples of shape {self._input_shape}. Received: {shape}. "
                "Fix: make a new layer."
            )

    def initialize(self, input_shape: Shape, rng: np.random.Generator) -> None:
        """Draw the weights for samples of that shape."""
        self.output_shape(input_shape)
        self._arrays = {
            spec.name: drawn(repr(f"{self.name}/{spec.name}"), spec.initializer, spec.shape, rng)
            for spec in self.weight_specs(input_shape)
        }
        self._input_shape = input_shape

    def _variable(self, name: str) -> Variable:
        if name not in self._variables:
            self._variables[name] = Variable(self, name)
        return self._variables[name]

    @property
    def weights(self) -> list[Variable]:
        """The layer's arrays as variables, in Keras' order; :meth:`get_weights` gives plain arrays."""
        return [self._variable(name) for name in self._arrays]

    def _is_trained(self, weight: str) -> bool:
        specs = self.weight_specs(self._input_shape) if self._input_shape is not None else []
        return self._trainable and any(spec.trainable for spec in specs if spec.name == weight)

    def _weights(self, trainable: bool) -> list[Variable]:
        return [variable for variable in self.weights if variable.trainable is trainable]

    @locked
    def get_weights(self) -> list[np.ndarray]:
        """Copies of the layer's arrays, in Keras' order."""
        return [array.copy() for array in self._arrays.values()]

    @locked
    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Set all of the layer's arrays, in Keras' order and shapes."""
        checked = inputs.checked_weights(self.name, list(self._arrays.items()), weights)
        for array, values in zip(self._arrays.values(), checked, strict=True):
            array[...] = values
        self._weights_changed()

    def _weights_changed(self) -> None:
        if self._owner is not None:
            self._owner._weights_changed()

    def count_params(self) -> int:
        """The number of parameters."""
        return sum(array.size for array in self._arrays.values())

    # Computing

    def __call__(self, x: Any, training: bool = False, backend: str = "reference") -> Any:
        """The layer's output for a batch of inputs, (batch, ...); or, called on a tensor, the tensor that a model will
        compute. Builds the layer first if need be."""
        tensors = tensors_of(x)
        return self._compute(x, training, backend) if tensors is None else self._call_on(tensors)

    def _call_on(self, tensors: Sequence[Tensor], within: tuple[Any, ...] = ()) -> Tensor:
        """The output for these inputs, as a value that a model will compute; ``within``: of which models as a part."""
        shape: Any = self._joined([tensor.sample_shape for tensor in tensors])
        if not self.built:
            self.initialize(shape, np.random.default_rng(random.next_seed()))
        self._check_weights_for(shape)
        self._calls.append(Call(self, tensors, self.output_shape(shape), within))
        return self._calls[-1].output

    def _check_weights_for(self, input_shape: Any) -> None:
        """Whether the weights are right for samples of that shape: a convolution's for images of any size."""
        specs = self.weight_specs(input_shape)
        if [spec.shape for spec in specs] != [array.shape for array in self._arrays.values()]:
            raise ValueError(
                f"Layer {self.name!r} was built for samples of shape {self._input_shape}. Received: {input_shape}. "
                "Fix: make a new layer."
            )

    def _joined(self, shapes: Sequence[Shape]) -> Any:
        """What the layer takes as the shape of its input, of those of its inputs: it has one."""
        if len(shapes) != 1:
            raise ValueError(f"Layer {self.name!r} takes one input. Received: {len(shapes)} tensors.")
        return shapes[0]

    def _only_call(self) -> Call:
        for user in list(self._users) if not self._calls else ():
            user._trace()
        calls = [call for call in self._calls if not call.within]
        if len(calls) != 1:
            problem = f"has been called on tensors {len(calls)} times"
            raise AttributeError(f"Layer {self.name!r} {problem}. Expected one call, whose input and output are meant.")
        return calls[0]

    @property
    def input(self) -> Any:
        """The tensor (or the list of them) that the layer was called on."""
        found = self._only_call().inputs
        return found[0] if len(found) == 1 else list(found)

    @property
    def output(self) -> Tensor:
        """The tensor that came of the call: with it and a model's input, ``Model(model.input, layer.output)`` is a
        model that ends here, and has the same weights."""
        return self._only_call().output

    @locked
    def _compute(self, x: Any, training: bool, backend: str) -> np.ndarray:
        x = inputs.as_batch(x, f"layer {self.name!r}")
        training = checking.boolean(self._who(), "training", training)
        if not self.built:
            self.build((None, *x.shape[1:]))
        assert self._input_shape is not None
        x = inputs.as_input(x, self._input_shape, f"layer {self.name!r}")
        kernel_set = load_backend(resolve_backend(backend))
        specs = self.weight_specs(self._input_shape)
        params, moving = (
            Arena({f"{self.name}/{spec.name}": spec.shape for spec in specs if spec.trainable is kind}, kernel_set)
            for kind in (True, False)
        )
        for arena in (params, moving):
            for key in arena.shapes:
                kernel_set.upload(arena[key], self._arrays[key.rpartition("/")[2]])
        state = State(kernel_set, params, moving, seed=random.next_seed() if training else 0)
        plan = lower(chain_of([self], self._input_shape), len(x), state, training=training)
        kernel_set.upload(plan.x, x)
        plan.program("prepare", "forward")()
        for key in moving.shapes:  # training may have moved the statistics
            kernel_set.download(self._arrays[key.rpartition("/")[2]], moving[key])
            self._weights_changed()
        return state.read(plan.out)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Owner(Protocol):
    """What a layer needs of the model that it is in."""

    @property
    def _lock(self) -> ModelLock: ...
    def _weights_changed(self) -> None: ...
    def _check_name(self, layer: Layer, name: str) -> None: ...
    def _renamed_layer(self, layer: Layer, before: str) -> None: ...
    def _trace(self) -> None: ...
    def _who(self) -> str: ...


_UNOWNED = ModelLock()  # of all layers that are in no model


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written through."""
    view = array.view()
    view.flags.writeable = False
    return view


def default_name(layer_type: type) -> str:
    """Keras' automatic name: Conv2D -> conv2d, MaxPooling2D -> max_pooling2d."""
    return snake_case(layer_type.__name__)


def snake_case(name: str) -> str:
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
