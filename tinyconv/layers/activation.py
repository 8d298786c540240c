"""Activations as layers, and as the ``activation`` of other layers."""

from typing import Any, Unpack

from tinyconv import activations
from tinyconv.activations import ActivationLike, Formula, relu_formula
from tinyconv.checking import LARGEST, integer, number
from tinyconv.checking.arguments import FLOAT32, Shape
from tinyconv.layers.arguments import LayerOptions, Named, last_axis, who
from tinyconv.layers.base import Layer
from tinyconv.layers.symbolic import OPERATORS, Tensor
from tinyconv.plan import ops


def activation_name(layer: Named, activation: ActivationLike) -> str:
    """The name of an activation, checked; None means "linear"."""
    return activations.checked(who(layer), activation).__name__


def activation_ops(name: str, activation: str | Formula, shape: Shape) -> list[ops.Op]:
    """The ops of an activation, by its name or its formula."""
    if activation == "linear":
        return []
    if activation == "softmax":
        return [ops.Softmax(name, shape, shape)]
    formula = activation if isinstance(activation, Formula) else activations.FORMULAS[activation]
    return [ops.Activation(name, shape, shape, *formula)]


class Activation(Layer):
    """An activation by name, such as "relu", or a function of :mod:`tinyconv.activations`.

    The mathematics: ``kernels.reference.activation``.
    """

    def __init__(self, activation: ActivationLike, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        self.activation = activation_name(self, activation)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return activation_ops(self.name, self.activation, input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "activation": self.activation}


class Softmax(Layer):
    """Each row of scores as probabilities. The mathematics: ``kernels.reference.softmax_forward``.

    Args:
        axis: must be the last.
    """

    def __init__(self, axis: int = -1, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        self.axis = integer(who(self), "axis", axis, at_least=-LARGEST)

    def output_shape(self, input_shape: Shape) -> Shape:
        return last_axis(self, self.axis, input_shape)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return activation_ops(self.name, "softmax", self.output_shape(input_shape))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


class ReLU(Layer):
    """x between the threshold and max_value. The mathematics: ``kernels.reference.activation``.

    Args:
        max_value: what larger values become; None: nothing does.
        negative_slope: below the threshold, the result is negative_slope * (x - threshold).
        threshold: at least 0.
    """

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**options)
        relu_formula(who(self), negative_slope, max_value, threshold)  # checks them
        self.max_value = None if max_value is None else float(max_value)
        self.negative_slope, self.threshold = float(negative_slope), float(threshold)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        formula = relu_formula(who(self), self.negative_slope, self.max_value, self.threshold)
        return activation_ops(self.name, formula, input_shape)

    def get_config(self) -> dict[str, Any]:
        names = ("max_value", "negative_slope", "threshold")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class LeakyReLU(Layer):
    """x where x is positive, else ``negative_slope`` times x. See ``kernels.reference.activation``."""

    def __init__(self, negative_slope: float = 0.3, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        self.negative_slope = number(who(self), "negative_slope", negative_slope, at_least=0.0)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return activation_ops(self.name, Formula("leaky_relu", (self.negative_slope,)), input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "negative_slope": self.negative_slope}


class ELU(Layer):
    """x where x is positive, else ``alpha`` * (exp(x) - 1). See ``kernels.reference.activation``."""

    def __init__(self, alpha: float = 1.0, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        self.alpha = number(who(self), "alpha", alpha, above=0.0)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return activation_ops(self.name, Formula("elu", (self.alpha,)), input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}


def _activated(tensor: Tensor, kind: str, options: tuple[float, ...]) -> Tensor:
    """What a function of :mod:`tinyconv.activations` gives for a tensor: the output of the layer that it stands for."""
    names = {formula: name for name, formula in activations.FORMULAS.items()}
    layer: Layer
    if kind == "softmax" or (kind, options) in names:
        layer = Activation(names.get(Formula(kind, options), kind))  # type: ignore[arg-type]
    elif kind == "bounded_relu":
        slope, most, threshold = options
        layer = ReLU(most if most < FLOAT32 else None, slope, threshold)
    elif kind in ("leaky_relu", "elu"):
        layer = LeakyReLU(*options) if kind == "leaky_relu" else ELU(*options)
    else:
        raise ValueError(
            f"{kind} of a tensor is not supported by tinyconv. Fix: the layer Activation with another one."
        )
    return layer(tensor)


OPERATORS["activation"] = _activated
