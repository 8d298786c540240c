"""Keras' activation functions, under its names and with its arguments, of arrays.

The mathematics: :mod:`tinyconv.kernels.reference.activation`. Layers take them by name, ``activation="relu"``, or
themselves, ``activation=tinyconv.activations.relu``.

Every function takes an array, or what NumPy makes one of, and returns one of the same shape: float64 of float64, and
float32 of everything else. Of a tensor (what layers called on ``Input(...)`` give) it returns the tensor that a layer
with this activation gives.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from tinyconv.checking import LARGEST, boolean, integer, invalid, number, numbers, unknown
from tinyconv.checking.arguments import FLOAT32
from tinyconv.kernels import reference

Function = Callable[..., Any]


class Formula(NamedTuple):
    """An element-wise activation as kernels take it."""

    kind: str
    options: tuple[float, ...] = ()


def relu_formula(where: str, negative_slope: Any = 0.0, max_value: Any = None, threshold: Any = 0.0) -> Formula:
    """The simplest formula that a ReLU with these arguments has; ``where``: whose they are."""
    slope = number(where, "negative_slope", negative_slope, at_least=0.0)
    most = FLOAT32 if max_value is None else number(where, "max_value", max_value, at_least=0.0)
    threshold = number(where, "threshold", threshold, at_least=0.0)
    if most == FLOAT32 and not threshold:
        return Formula("leaky_relu", (slope,)) if slope else Formula("relu")
    return Formula("bounded_relu", (slope, most, threshold))


# Activations by name, with the default arguments of Keras' functions. Softmax is not element-wise.
FORMULAS = {
    "relu": Formula("relu"),
    "relu6": Formula("bounded_relu", (0.0, 6.0, 0.0)),
    "leaky_relu": Formula("leaky_relu", (0.2,)),
    "elu": Formula("elu", (1.0,)),
    "selu": Formula("selu"),
    "sigmoid": Formula("sigmoid"),
    "hard_sigmoid": Formula("hard_sigmoid"),
    "tanh": Formula("tanh"),
    "softplus": Formula("softplus"),
    "softsign": Formula("softsign"),
    "exponential": Formula("exponential"),
    "gelu": Formula("gelu"),
    "silu": Formula("silu"),
    "hard_silu": Formula("hard_silu"),
    "mish": Formula("mish"),
}


def _computed(x: Any, formula: Formula) -> Any:
    if hasattr(x, "activated"):
        return x.activated(*formula)
    x = _array(x, formula.kind)
    out = np.empty_like(x)
    reference.activation_forward(out.reshape(-1), x.reshape(-1), *formula)
    return out


def _array(x: Any, name: str) -> np.ndarray:
    array = numbers(f"The input of {name}", x)
    return np.array(array, np.float64 if array.dtype == np.float64 else np.float32, order="C")


def linear(x: Any) -> Any:
    """x."""
    return x if hasattr(x, "activated") else _array(x, "linear")


def relu(x: Any, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> Any:
    """x above the threshold, but at most max_value; below it negative_slope * (x - threshold)."""
    return _computed(x, relu_formula("relu", negative_slope, max_value, threshold))


def relu6(x: Any) -> Any:
    """min(max(x, 0), 6)."""
    return _computed(x, FORMULAS["relu6"])


def leaky_relu(x: Any, negative_slope: float = 0.2) -> Any:
    """x where x >= 0, else negative_slope * x."""
    return _computed(x, Formula("leaky_relu", (number("leaky_relu", "negative_slope", negative_slope),)))


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where x > 0, else alpha * (e^x - 1)."""
    return _computed(x, Formula("elu", (number("elu", "alpha", alpha),)))


def selu(x: Any) -> Any:
    """scale * elu(x, alpha), with alpha = 1.6733 and scale = 1.0507."""
    return _computed(x, FORMULAS["selu"])


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return _computed(x, FORMULAS["sigmoid"])


def hard_sigmoid(x: Any) -> Any:
    """x / 6 + 1 / 2, but not below 0 nor above 1."""
    return _computed(x, FORMULAS["hard_sigmoid"])


def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    return _computed(x, FORMULAS["tanh"])


def softplus(x: Any) -> Any:
    """log(1 + e^x)."""
    return _computed(x, FORMULAS["softplus"])


def softsign(x: Any) -> Any:
    """x / (1 + |x|)."""
    return _computed(x, FORMULAS["softsign"])


def exponential(x: Any) -> Any:
    """e^x."""
    return _computed(x, FORMULAS["exponential"])


def gelu(x: Any, approximate: bool = False) -> Any:
    """x Phi(x), with the distribution function Phi of the normal distribution; or an approximation by tanh."""
    approximate = boolean("gelu", "approximate", approximate)
    return _computed(x, Formula("approximate_gelu") if approximate else FORMULAS["gelu"])


def silu(x: Any) -> Any:
    """x times its sigmoid."""
    return _computed(x, FORMULAS["silu"])


def hard_silu(x: Any) -> Any:
    """x times its hard sigmoid."""
    return _computed(x, FORMULAS["hard_silu"])


def mish(x: Any) -> Any:
    """x tanh(softplus(x))."""
    return _computed(x, FORMULAS["mish"])


def softmax(x: Any, axis: int = -1) -> Any:
    """e^x over its sum along the axis."""
    if hasattr(x, "activated") and axis in (-1, x.ndim - 1):
        return x.activated("softmax")
    array = _array(x, "softmax")
    axis = integer("softmax", "axis", axis, at_least=-LARGEST)
    if not -array.ndim <= axis < array.ndim:
        raise invalid("softmax", "axis", f"one of the {array.ndim} axes of x", axis)
    rows = np.ascontiguousarray(np.moveaxis(array, axis, -1))
    out = np.empty_like(rows)
    reference.softmax_forward(out.reshape(-1, rows.shape[-1]), rows.reshape(-1, rows.shape[-1]))
    return np.moveaxis(out, -1, axis)


swish, hard_swish = silu, hard_silu  # Keras' other names

NAMES: dict[str, Function] = {
    "linear": linear,
    "softmax": softmax,
    **{name: globals()[name] for name in FORMULAS},
    "swish": swish,
    "hard_swish": hard_swish,
}
ActivationName = Literal[
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "softmax",
    "softplus",
    "softsign",
    "exponential",
    "gelu",
    "silu",
    "swish",
    "hard_silu",
    "hard_swish",
    "mish",
]
ActivationLike = ActivationName | Function | None


def get(identifier: ActivationLike | str) -> Function:
    """The activation of that name, or the given one; None is ``linear``."""
    return checked("", identifier)


def checked(where: str, identifier: Any) -> Function:
    """The same; ``where``: whose argument it is."""
    if identifier is None:
        return linear
    if isinstance(identifier, str) and identifier in NAMES:
        return NAMES[identifier]
    for function in NAMES.values():
        if identifier is function:
            return function
    fix = " Fix: for a function of your own, a layer of your own: see tinyconv.Layer." if callable(identifier) else ""
    raise ValueError(f"{unknown(where, 'activation', identifier, NAMES)}{fix}")


__all__ = [
    "elu",
    "exponential",
    "gelu",
    "get",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "leaky_relu",
    "linear",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "swish",
    "tanh",
]
