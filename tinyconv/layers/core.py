"""Input, Flatten and Dropout: layers without weights between the others."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from tinyconv import ops
from tinyconv.arena import Shape
from tinyconv.layers.arguments import shape_of
from tinyconv.layers.base import Layer
from tinyconv.messages import refuse

# Input's further arguments in Keras, none of which changes anything here at its default.
KERAS_INPUT: dict[str, tuple[Any, ...]] = {
    "dtype": (None, "float32"),
    "batch_size": (None,),
    "batch_shape": (None,),
    "sparse": (None, False),
    "ragged": (None, False),
    "tensor": (None,),
    "optional": (False,),
}


class InputLayer(Layer):
    """Says what samples look like; computes nothing.

    Args:
        shape: the shape of one sample, without the batch axis: (28, 28, 1).
    """

    def __init__(self, shape: Sequence[int], name: str | None = None, **unsupported: Any) -> None:
        refuse("Input", unsupported, KERAS_INPUT)
        super().__init__(name=name)
        self.shape = shape_of(self, shape)

    def _why_frozen(self) -> str | None:
        return "a model may have been built from it"

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return []

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shape": self.shape}


def Input(shape: Sequence[int], name: str | None = None, **unsupported: Any) -> InputLayer:
    """What samples look like: the first entry of a Sequential. See :class:`InputLayer`."""
    return InputLayer(shape, name, **unsupported)


class Flatten(Layer):
    """All axes of a sample become one; no number is moved."""

    def __init__(self, data_format: str | None = None, **rest: Any) -> None:
        super().__init__(data_format=data_format, **rest)

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return [ops.Reshape(self.name, input_shape, self.output_shape(input_shape))]


class Dropout(Layer):
    """Random zeros while training, nothing at inference. The mathematics: ``kernels.reference.dropout_forward``.

    Args:
        rate: the share of units to drop, 0 <= rate < 1. (Keras allows 1: a layer that lets nothing through.)
        seed: mixed into the model's seed.
    """

    def __init__(self, rate: float, noise_shape: None = None, seed: int | None = None, **rest: Any) -> None:
        super().__init__(noise_shape=noise_shape, **rest)
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= rate < 1:
            raise ValueError(
                f"Layer {self.name!r}: invalid rate. Expected a number of at least 0 and less than 1. "
                f"Received: {rate!r}."
            )
        self.rate: float = float(rate)
        self.seed: int | None = seed

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        if not self.rate:
            return []
        index = self.position if self.seed is None else (self.position ^ (self.seed << 8)) & 0x7FFFFFFF
        return [ops.Dropout(self.name, input_shape, input_shape, self.rate, index)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
