"""Activations as layers, and as the ``activation`` of other layers."""

from typing import Any, Literal, Unpack

from tinyconv.checking import LARGEST, integer, number, unknown
from tinyconv.checking.arguments import Shape
from tinyconv.layers.arguments import LayerOptions, Named, last_axis, who
from tinyconv.layers.base import Layer
from tinyconv.plan import ops

ActivationName = Literal["linear", "relu", "sigmoid", "tanh", "softmax", "leaky_relu", "elu"]
ACTIVATIONS: dict[str, dict[str, float]] = {
    "linear": {},
    "relu": {},
    "sigmoid": {},
    "tanh": {},
    "softmax": {},
    "leaky_relu": {"negative_slope": 0.2},
    "elu": {"alpha": 1.0},
}


def activation_name(layer: Named, activation: str | None) -> str:
    """The activation's name, checked; None means "linear"."""
    if activation is None:
        return "linear"
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise unknown(who(layer), "activation", activation, ACTIVATIONS)
    return activation


def activation_ops(name: str, activation: str, shape: Shape, **options: float) -> list[ops.Op]:
    """The ops of an activation, by name; ``options`` replace the name's defaults."""
    if activation == "linear":
        return []
    if activation == "softmax":
        return [ops.Softmax(name, shape, shape)]
    return [ops.Activation(name, shape, shape, activation, {**ACTIVATIONS[activation], **options})]


class Activation(Layer):
    """An activation by name: "linear", "relu", "sigmoid", "tanh", "softmax", "leaky_relu" or "elu".

    The mathematics: ``kernels.reference.activation``.
    """

    def __init__(self, activation: ActivationName | None, **options: Unpack[LayerOptions]) -> None:
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


class LeakyReLU(Layer):
    """x where x is positive, else ``negative_slope`` times x. See ``kernels.reference.leaky_relu_forward``."""

    def __init__(self, negative_slope: float = 0.3, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        self.negative_slope = number(who(self), "negative_slope", negative_slope, at_least=0.0)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return activation_ops(self.name, "leaky_relu", input_shape, negative_slope=self.negative_slope)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "negative_slope": self.negative_slope}


class ELU(Layer):
    """x where x is positive, else ``alpha`` * (exp(x) - 1). See ``kernels.reference.elu_forward``."""

    def __init__(self, alpha: float = 1.0, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        self.alpha = number(who(self), "alpha", alpha, above=0.0)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return activation_ops(self.name, "elu", input_shape, alpha=self.alpha)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}
