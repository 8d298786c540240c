"""A layer's weights: what it asks for, and, once there are numbers, the objects that show them."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tinyconv import checking
from tinyconv.checking import inputs
from tinyconv.checking.arguments import Shape
from tinyconv.initializers import Initializer
from tinyconv.plan.locks import ModelLock
from tinyconv.regularizers import Regularizer


@dataclass(frozen=True)
class WeightSpec:
    """One array of weights that a layer needs."""

    name: str
    shape: Shape
    initializer: Initializer
    trainable: bool = True
    regularizer: Regularizer | None = None

    def __post_init__(self) -> None:
        who = "WeightSpec"
        checking.name(who, self.name)
        object.__setattr__(self, "shape", checking.shape(who, "shape", self.shape))
        checking.boolean(who, "trainable", self.trainable)
        if not isinstance(self.initializer, Initializer):
            raise checking.invalid(who, "initializer", "an object of tinyconv.initializers", self.initializer)
        if not isinstance(self.regularizer, Regularizer | None):
            raise checking.invalid(who, "regularizer", "None or an object of tinyconv.regularizers", self.regularizer)


class Holder(Protocol):
    """What a variable needs of the layer whose weights it shows."""

    _arrays: dict[str, np.ndarray]
    _bound: dict[str, np.ndarray] | None

    @property
    def name(self) -> str: ...
    @property
    def _lock(self) -> ModelLock: ...
    def _weights_changed(self) -> None: ...
    def _is_trained(self, weight: str) -> bool: ...


class Variable(np.lib.mixins.NDArrayOperatorsMixin):
    """One array of a layer's weights, to read and to assign; whatever training or a file does to them is seen here.

    >>> layer.kernel.shape, layer.kernel.dtype, layer.kernel.path
    ((3, 3, 1, 32), 'float32', 'conv2d/kernel')
    >>> layer.bias.assign(np.zeros(32))
    >>> np.abs(layer.kernel).max()

    NumPy's functions and operators take it as the array that it is at that moment (``numpy()`` gives a copy). To write,
    ``assign``: in place, ``kernel[...] = x``, is refused.
    """

    def __init__(self, layer: Holder, name: str) -> None:
        self._layer, self._name = layer, name

    @property
    def name(self) -> str:
        """What the weight is called in its layer: "kernel"."""
        return self._name

    @property
    def path(self) -> str:
        """The layer's name and the weight's: "conv2d/kernel"."""
        return f"{self._layer.name}/{self._name}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._array.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._array.size

    dtype = "float32"

    @property
    def trainable(self) -> bool:
        """Whether training changes it by its gradient, as far as its layer says; see
        :attr:`tinyconv.layers.Layer.trainable`."""
        return self._layer._is_trained(self._name)

    @property
    def _array(self) -> np.ndarray:
        """The numbers themselves; while a layer of one's own computes, those that it computes with."""
        bound = self._layer._bound
        return (self._layer._arrays if bound is None else bound)[self._name]

    def numpy(self) -> np.ndarray:
        """A copy of the numbers as they are now."""
        if self._layer._bound is not None:  # the layer computes, and whoever runs it holds the lock
            return self._array
        with self._layer._lock:
            return self._array.copy()

    @property
    def value(self) -> np.ndarray:
        """The same as :meth:`numpy`."""
        return self.numpy()

    def assign(self, value: Any) -> "Variable":
        """Set all numbers, from an array of the same shape."""
        with self._layer._lock:
            array = self._array
            (checked,) = inputs.checked_weights(self._layer.name, [(self._name, array)], [value])
            array[...] = checked
            if self._layer._bound is None:
                self._layer._weights_changed()
        return self

    def assign_add(self, value: Any) -> "Variable":
        """Add to the numbers."""
        with self._layer._lock:
            return self.assign(self._array + value)

    def assign_sub(self, value: Any) -> "Variable":
        """Subtract from the numbers."""
        with self._layer._lock:
            return self.assign(self._array - value)

    # As NumPy sees it

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"Weight {self.path!r} can only be copied. Expected copy=True or None. Received: False.")
        return self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *given: Any, **options: Any) -> Any:
        if any(isinstance(out, Variable) for out in options.get("out", ())):
            raise TypeError(
                f"Weight {self.path!r} cannot be changed in place. Expected assign(...). "
                f"Received: {ufunc.__name__} into it. Fix: assign, assign_add or assign_sub."
            )
        arrays = [each.numpy() if isinstance(each, Variable) else each for each in given]
        return getattr(ufunc, method)(*arrays, **options)

    __hash__ = object.__hash__  # as in Keras: a variable is a key, though == compares its numbers

    def __getitem__(self, index: Any) -> Any:
        return self.numpy()[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            f"Weight {self.path!r} cannot be changed in place: this weight is read-only. Expected assign(...). "
            "Fix: values = v.numpy(), change these, v.assign(values)."
        )

    def __len__(self) -> int:
        return len(self._array)

    def __float__(self) -> float:
        return float(self.numpy())

    def __repr__(self) -> str:
        return f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}>"


class Weighted:
    """The names under which layers and models show their weights, as in Keras."""

    @property
    def weights(self) -> list[Variable]:
        """All weights, in Keras' order."""
        raise NotImplementedError

    def _weights(self, trainable: bool) -> list[Variable]:
        """Those that training changes by their gradients, or the others."""
        raise NotImplementedError

    @property
    def trainable_weights(self) -> list[Variable]:
        """The weights that training changes by their gradients."""
        return self._weights(True)

    @property
    def non_trainable_weights(self) -> list[Variable]:
        """The others: moving statistics, and what is frozen."""
        return self._weights(False)

    @property
    def variables(self) -> list[Variable]:
        """The same as ``weights``. (Keras counts the states of random generators among them.)"""
        return self.weights

    @property
    def trainable_variables(self) -> list[Variable]:
        """The same as ``trainable_weights``."""
        return self.trainable_weights

    @property
    def non_trainable_variables(self) -> list[Variable]:
        """The same as ``non_trainable_weights``."""
        return self.non_trainable_weights


def weight(name: str, what: str) -> property:
    """The attribute of a layer that is its weight of that name: None where it has none, an AttributeError before there
    are weights."""

    def get(layer: Any) -> Variable | None:
        if not layer.built:
            raise AttributeError(
                f"{layer._who()} has no {name!r} yet. Fix: build((None, ...)) with the shape of a batch, or a model "
                "that begins with Input(shape=...)."
            )
        return layer._variable(name) if name in layer._arrays else None

    return property(get, doc=f"{what}; None if the layer has none.")
