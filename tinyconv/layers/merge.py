"""Layers that make one value of several."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, Unpack

import numpy as np

from tinyconv import checking
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import received
from tinyconv.layers.arguments import LayerOptions, who
from tinyconv.layers.base import Layer
from tinyconv.layers.core import Rescaling
from tinyconv.layers.symbolic import OPERATORS, Tensor
from tinyconv.plan import ops


class Merge(Layer):
    """What the layers of several inputs share: these are called on a list of tensors.

    Element by element, they take samples of one shape, or of shapes of which each size is the same or 1: what is 1 is
    repeated, and missing axes stand before the others. So (height, width, channels) goes with (1, 1, channels), and
    with (channels,).
    """

    kind: str

    def __init__(self, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)

    def _joined(self, shapes: Sequence[Shape]) -> Any:
        if len(shapes) < 2:
            raise ValueError(
                f"Layer {self.name!r} joins values. Expected a list of at least two tensors. Received: {len(shapes)}. "
                f"Fix: {type(self).__name__}()([a, b])."
            )
        self._check(shapes)
        return tuple(shapes)

    def _check(self, shapes: Sequence[Shape]) -> None:
        try:
            checking.affordable(who(self), "output of one sample", np.broadcast_shapes(*shapes))
        except ValueError as error:
            if "GiB" in str(error):
                raise
            raise ValueError(
                f"Layer {self.name!r} joins values of one shape, element by element. Expected sizes that are the same, "
                f"or 1. Received: samples of shapes {', '.join(map(str, shapes))}."
            ) from None

    def output_shape(self, input_shape: Any) -> Shape:
        return np.broadcast_shapes(*input_shape)

    def _scale(self, inputs: int) -> float:
        """What the result is multiplied by."""
        return 1.0

    def ops(self, input_shape: Any) -> list[ops.Op]:
        out = self.output_shape(input_shape)
        return [ops.Merge(self.name, input_shape[0], out, self.kind, self._scale(len(input_shape)))]


class Add(Merge):
    """The sum of its inputs, element by element. See ``kernels.reference.add_forward``."""

    kind = "add"


class Subtract(Merge):
    """The first of its two inputs minus the second, element by element. See ``kernels.reference.add_forward``."""

    kind = "subtract"

    def _check(self, shapes: Sequence[Shape]) -> None:
        if len(shapes) != 2:
            raise ValueError(f"Layer {self.name!r} subtracts. Expected two tensors. Received: {len(shapes)}.")
        super()._check(shapes)


class Multiply(Merge):
    """The product of its inputs, element by element. See ``kernels.reference.multiply_forward``."""

    kind = "multiply"


class Maximum(Merge):
    """The largest of its inputs, element by element. See ``kernels.reference.maximum_forward``."""

    kind = "maximum"


class Minimum(Merge):
    """The smallest of its inputs, element by element: -max(-a, -b). See ``kernels.reference.maximum_forward``."""

    kind = "minimum"


class Average(Merge):
    """The mean of its inputs, element by element. See ``kernels.reference.add_forward``."""

    kind = "add"

    def _scale(self, inputs: int) -> float:
        return 1 / inputs


class Concatenate(Merge):
    """Its inputs one behind the other along an axis. See ``kernels.reference.concatenate_forward``.

    Args:
        axis: the axis, the batch's being 0; -1 is the last one, the channels.
    """

    kind = "concatenate"

    def __init__(self, axis: int = -1, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        self.axis = checking.integer(who(self), "axis", axis, at_least=-32, at_most=32)
        if self.axis == 0:
            raise checking.invalid(who(self), "axis", "an axis of a sample: the batch's, 0, stays as it is", axis)

    def _axis(self, shape: Shape) -> int:
        """The axis among those of a sample."""
        axis = self.axis + len(shape) if self.axis < 0 else self.axis - 1
        if not 0 <= axis < len(shape):
            limit = f"an axis of samples of shape {shape}: 1 to {len(shape)}, or -{len(shape)} to -1"
            raise checking.invalid(who(self), "axis", limit, self.axis)
        return axis

    def _check(self, shapes: Sequence[Shape]) -> None:
        axis = self._axis(shapes[0])
        if len({(len(shape), shape[:axis], shape[axis + 1 :]) for shape in shapes}) > 1:
            raise ValueError(
                f"Layer {self.name!r} joins values along axis {self.axis}. Expected shapes that differ only there. "
                f"Received: samples of shapes {', '.join(map(str, shapes))}."
            )

    def output_shape(self, input_shape: Any) -> Shape:
        axis = self._axis(input_shape[0])
        length = sum(shape[axis] for shape in input_shape)
        return (*input_shape[0][:axis], length, *input_shape[0][axis + 1 :])

    def ops(self, input_shape: Any) -> list[ops.Op]:
        shape = self.output_shape(input_shape)
        return [ops.Concatenate(self.name, input_shape[0], shape, self._axis(input_shape[0]))]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


def add(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """``Add(**kwargs)(inputs)``."""
    return Add(**kwargs)(inputs)


def subtract(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """``Subtract(**kwargs)(inputs)``."""
    return Subtract(**kwargs)(inputs)


def multiply(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """``Multiply(**kwargs)(inputs)``."""
    return Multiply(**kwargs)(inputs)


def maximum(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """``Maximum(**kwargs)(inputs)``."""
    return Maximum(**kwargs)(inputs)


def minimum(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """``Minimum(**kwargs)(inputs)``."""
    return Minimum(**kwargs)(inputs)


def average(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """``Average(**kwargs)(inputs)``."""
    return Average(**kwargs)(inputs)


def concatenate(inputs: Sequence[Tensor], axis: int = -1, **kwargs: Any) -> Tensor:
    """``Concatenate(axis, **kwargs)(inputs)``."""
    return Concatenate(axis, **kwargs)(inputs)


def _operator(symbol: str, merge: type[Merge] | None, scale: Any, offset: Any) -> Any:
    """What an operator between a tensor and something does: join two tensors, or, with a number, rescale one."""

    def operate(tensor: Tensor, other: Any) -> Tensor:
        if isinstance(other, Tensor) and merge is not None:
            return merge()([tensor, other])
        if isinstance(other, Real) and not isinstance(other, bool):
            number = checking.number("an operator", symbol, other)
            if number or symbol != "/":
                return Rescaling(scale(number), offset(number))(tensor)
        raise TypeError(
            f"{tensor!r} {symbol} {received(other)} is not supported by tinyconv. Expected a number"
            f"{'' if merge is None else ' or a tensor'}. Fix: a layer, such as Rescaling, or one of your own."
        )

    return operate


OPERATORS |= {
    "+": _operator("+", Add, lambda number: 1.0, lambda number: number),
    "-": _operator("-", Subtract, lambda number: 1.0, lambda number: -number),
    "*": _operator("*", Multiply, lambda number: number, lambda number: 0.0),
    "/": _operator("/", None, lambda number: 1 / number, lambda number: 0.0),
}
