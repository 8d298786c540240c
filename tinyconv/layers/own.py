"""What makes a class of the user's own a layer: how it says which weights it has, what it computes, and its gradients.

See :class:`tinyconv.layers.Layer`, whose docstring shows one.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv import checking, initializers, regularizers
from tinyconv.checking.arguments import Shape
from tinyconv.checking.configuration import Configured
from tinyconv.checking.messages import received, refuse
from tinyconv.initializers import InitializerLike
from tinyconv.layers.variables import Variable, WeightSpec
from tinyconv.regularizers import RegularizerLike

# What Keras' further arguments of add_weight must be for tinyconv to do the same as Keras.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "dtype": (None, "float32"),
    "autocast": (True,),
    "constraint": (None,),
    "aggregation": (None, "none"),
    "overwrite_with_gradient": (False,),
}
PLAIN = (bool, int, float, str, type(None))  # what a constructor's arguments are saved as by themselves


class Own(Configured):
    """The part of a layer that a class of the user's own speaks to."""

    _family = "Layer"

    if TYPE_CHECKING:
        name: str
        built: bool

        def build(self, input_shape: Any) -> None: ...
        def compute_output_shape(self, input_shape: Any) -> Any: ...
        def _variable(self, name: str) -> Variable: ...

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if "build" in cls.__dict__ and _is_own(cls):
            cls.build = _asked(cls.__dict__["build"])  # type: ignore[method-assign]

    def _begin_own(self) -> None:
        self._bound: dict[str, np.ndarray] | None = None  # the arrays that ``call`` computes with, while it does
        self._is_training = False  # whether it does so in training
        self._added: list[WeightSpec] = []  # what add_weight was asked for in the constructor
        self._adding: list[WeightSpec] | None = None  # and, while build() runs, there too
        self._found: dict[Any, Any] = {}  # once built: what has been found out, by what and by input shape

    def __setattr__(self, name: str, value: Any) -> None:
        if _is_own(type(self)):
            for each in value if isinstance(value, list | tuple) else (value,):
                if isinstance(each, Own) or (hasattr(each, "_entry_calls") and not name.startswith("_")):
                    raise TypeError(
                        f"{type(self).__name__}.{name}: layers within a layer of one's own are not supported by "
                        f"tinyconv. Expected call(inputs) to compute with NumPy. Received: {received(each)}. Fix: a "
                        "function that calls layers on a tensor and returns a tensor, or a Model as the layer."
                    )
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # a type-checker would believe that every attribute exists

        def __getattr__(self, name):
            if "_found" not in self.__dict__ and not name.startswith("__"):
                raise TypeError(
                    f"{type(self).__name__} is not a whole layer. Expected its __init__ to call "
                    "super().__init__(**kwargs) first."
                )
            return super().__getattr__(name)

    # Which weights there are

    def add_weight(
        self,
        shape: Sequence[int] | None = None,
        initializer: InitializerLike | None = None,
        dtype: str | None = None,
        trainable: bool = True,
        autocast: bool = True,
        regularizer: RegularizerLike = None,
        constraint: None = None,
        aggregation: str | None = "none",
        overwrite_with_gradient: bool = False,
        name: str | None = None,
    ) -> Variable:
        """For a layer of your own, in ``build`` or in the constructor: ask for an array of weights.

        Args:
            shape: its shape; None: one number.
            initializer: see :mod:`tinyconv.initializers`; None: "glorot_uniform".
            trainable: whether training changes it by its gradient; if not, ``call`` may assign to it.
            regularizer: None, or see :mod:`tinyconv.regularizers`.
            name: its key in ``weights`` and ``dweights`` of ``backward``; by default "variable", "variable_1" ...
        """
        keras = {"dtype": dtype, "autocast": autocast, "constraint": constraint, "aggregation": aggregation}
        refuse("add_weight()", {**keras, "overwrite_with_gradient": overwrite_with_gradient}, NEUTRAL)
        specs = self._added if self._adding is None else self._adding
        if self._adding is None and self.built:
            raise ValueError(f"{self._who()} has its weights already. Expected add_weight in build() or __init__().")
        taken = {spec.name for spec in specs}
        if name is None:
            options = ("variable", *(f"variable_{number}" for number in range(1, len(taken) + 1)))
            name = next(option for option in options if option not in taken)
        if name in taken:
            raise ValueError(f"{self._who()} has a weight called {name!r} already. Expected another name.")
        made = initializers.get("glorot_uniform" if initializer is None else initializer)
        specs.append(WeightSpec(name, shape or (), made, trainable, regularizers.get(regularizer)))  # type: ignore[arg-type]
        return self._variable(name)

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        """The arrays of weights that the layer needs for such inputs, in Keras' order."""
        return self._once("specs", input_shape, self._ask)

    def _ask(self, input_shape: Shape) -> list[WeightSpec]:
        """What ``add_weight`` is asked for, trained weights first."""
        self._adding = self._added[:]
        try:
            if hasattr(type(self).build, "is_own"):
                self.build((None, *input_shape))
            found = self._adding
        finally:
            self._adding = None
        return sorted(found, key=lambda spec: not spec.trainable)

    def _once(self, what: str, input_shape: Any, find: Callable[[Any], Any]) -> Any:
        """Find something out, once: from when the layer is built on, it stays what it is."""
        if not self.built:
            return find(input_shape)
        if (what, input_shape) not in self._found:
            self._found[what, input_shape] = find(input_shape)
        return self._found[what, input_shape]

    # What it computes

    def call(self, inputs: np.ndarray) -> np.ndarray:
        """For a layer of your own: the output for a batch, with NumPy."""
        raise TypeError(f"{type(self).__name__} does not say what it computes. Expected it to override call(inputs).")

    def forward(self, out: np.ndarray, x: np.ndarray, weights: dict[str, np.ndarray]) -> None:
        """For a layer of your own, in place of ``call``: fill ``out`` from ``x``."""
        self._bound = weights
        try:
            result = self._called(x)
        finally:
            self._bound = None
        if np.shape(result) != out.shape:
            raise ValueError(
                f"{self._who()}: {type(self).__name__}.call returned a wrong shape. Expected {out.shape}. "
                f"Received: {np.shape(result)}. Fix: compute_output_shape(input_shape) says which shape it is."
            )
        out[...] = result

    def _called(self, x: np.ndarray) -> Any:
        takes_training = "training" in inspect.signature(self.call).parameters
        return self.call(x, training=self._is_training) if takes_training else self.call(x)  # type: ignore[call-arg]

    def backward(
        self,
        dx: np.ndarray,
        dweights: dict[str, np.ndarray],
        dout: np.ndarray,
        x: np.ndarray,
        out: np.ndarray,
        weights: dict[str, np.ndarray],
    ) -> None:
        """For a layer of your own: fill ``dx`` and ``dweights`` from ``dout``."""
        raise TypeError(
            f"{type(self).__name__} cannot be trained, and nothing before it: tinyconv does not differentiate what is "
            "written in NumPy. Expected it to override backward(dx, dweights, dout, x, out, weights)."
        )

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of one output sample for input samples of that shape. Raises ValueError if they do not fit."""
        kind = type(self)
        if not _is_own(kind):
            return input_shape
        own_shape = next(each for each in kind.__mro__ if "compute_output_shape" in each.__dict__)
        if _is_own(own_shape):
            given = self.compute_output_shape((None, *input_shape))
            return checking.shape(self._who(), "compute_output_shape", tuple(given)[1:])
        if kind.call is Own.call:
            return input_shape
        return self._once("shape", input_shape, self._tried)

    def _tried(self, input_shape: Shape) -> Shape:
        """The shape that ``call`` gives for zeros."""
        self._bound = {spec.name: np.zeros(spec.shape, np.float32) for spec in self.weight_specs(input_shape)}
        try:
            with np.errstate(all="ignore"):
                found = np.shape(self._called(np.zeros((2, *input_shape), np.float32)))
        except Exception as error:
            raise ValueError(
                f"{self._who()}: {type(self).__name__}.call failed on zeros of shape {(2, *input_shape)}, on which it "
                f"was called to find out the shape of its output. Received: {type(error).__name__}: {error}. "
                "Fix: override compute_output_shape(input_shape)."
            ) from error
        finally:
            self._bound = None
        if not found or found[0] != 2:
            raise ValueError(
                f"{self._who()}: {type(self).__name__}.call returned a wrong shape. Expected (2, ...), for a batch of "
                f"2. Received: {found}."
            )
        return found[1:]

    # As it is saved

    def _own_config(self) -> dict[str, Any]:
        """The constructor's arguments, for a class that does not say itself what they are."""
        kind, base = type(self), _base(type(self))
        if not _is_own(kind) or kind.get_config is not base.get_config:  # type: ignore[attr-defined]
            return {}
        args, kwargs = self.__dict__["_arguments"]
        signature = inspect.signature(kind)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        found = dict(bound.arguments)
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                found |= found.pop(parameter.name)
        for name in inspect.signature(base).parameters:  # of which the base class takes care
            found.pop(name, None)
        strange = next((name for name, value in found.items() if not isinstance(value, PLAIN)), None)
        if strange is not None:
            raise ValueError(
                f"{self._who()} cannot be saved or copied: its argument {strange!r} is no number and no text. Expected "
                f"{type(self).__name__} to override get_config(), and from_config(config) if need be. "
                f"Received: {received(found[strange])}."
            )
        return found


def _is_own(kind: type) -> bool:
    """Whether a class is the user's."""
    return kind.__module__.partition(".")[0] != "tinyconv"


def _base(kind: type) -> type:
    """The class of tinyconv's own that a class of the user's is derived from."""
    return next(each for each in kind.__mro__ if not _is_own(each))


def _asked(build: Callable[..., None]) -> Callable[..., None]:
    """A ``build`` of the user's own: it runs when the layer is asked which weights it needs; called by anybody else, it
    makes the weights, as ``build`` of any layer does."""

    @functools.wraps(build)
    def asked(self: Any, input_shape: Any) -> None:
        if self._adding is None:
            _base(type(self)).build(self, input_shape)  # type: ignore[attr-defined]
        else:
            build(self, input_shape)

    asked.is_own = True  # type: ignore[attr-defined]
    return asked
