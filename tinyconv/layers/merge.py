"""Layers that make one value of several."""

from collections.abc import Sequence
from typing import Any, Unpack

from tinyconv import checking
from tinyconv.checking.arguments import Shape
from tinyconv.layers.arguments import LayerOptions, who
from tinyconv.layers.base import Layer
from tinyconv.plan import ops


class Merge(Layer):
    """What the layers of several inputs share: these are called on a list of tensors."""

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
        if len(set(shapes)) > 1:
            raise ValueError(
                f"Layer {self.name!r} joins values of one shape, element by element. "
                f"Received: samples of shapes {', '.join(map(str, shapes))}."
            )

    def output_shape(self, input_shape: Any) -> Shape:
        return input_shape[0]

    def ops(self, input_shape: Any) -> list[ops.Op]:
        return [ops.Merge(self.name, input_shape[0], input_shape[0], self.kind)]


class Add(Merge):
    """The sum of its inputs, element by element. See ``kernels.reference.add_forward``."""

    kind = "add"


class Multiply(Merge):
    """The product of its inputs, element by element. See ``kernels.reference.multiply_forward``."""

    kind = "multiply"


class Maximum(Merge):
    """The largest of its inputs, element by element. See ``kernels.reference.maximum_forward``."""

    kind = "maximum"


class Average(Merge):
    """The mean of its inputs, element by element. See ``kernels.reference.add_forward``."""

    kind = "add"

    def ops(self, input_shape: Any) -> list[ops.Op]:
        return [ops.Merge(self.name, input_shape[0], input_shape[0], self.kind, 1 / len(input_shape))]


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
