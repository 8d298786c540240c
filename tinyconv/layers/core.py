"""Input, Flatten, Reshape, Rescaling and Dropout: layers without weights between the others."""

import math
from collections.abc import Sequence
from typing import Any, Literal, Unpack

from tinyconv import checking
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import explained, refuse
from tinyconv.layers.arguments import NEUTRAL, DataFormat, LayerOptions, shape_of, who
from tinyconv.layers.base import Layer
from tinyconv.layers.symbolic import Call, Tensor
from tinyconv.plan import ops

# Input's further arguments in Keras, none of which changes anything here at its default.
KERAS_INPUT: dict[str, tuple[Any, ...]] = {
    "dtype": (None, "float32", "uint8"),
    "sparse": (None, False),
    "ragged": (None, False),
    "input_tensor": (None,),
    "tensor": (None,),
    "optional": (False,),
}


class InputLayer(Layer):
    """Says what samples look like; computes nothing.

    Args:
        shape: the shape of one sample, without the batch axis: (28, 28, 1).
        batch_size: how many samples a batch has, to be shown in shapes. As in Keras, others are welcome all the same.
        dtype: None, "float32" or "uint8"; what comes in becomes float32.
        batch_shape: ``batch_size`` (or None) and ``shape`` in one, (None, 28, 28, 1), instead of these.
    """

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        batch_size: int | None = None,
        dtype: Literal["float32", "uint8"] | None = None,
        sparse: bool | None = None,
        ragged: bool | None = None,
        batch_shape: Sequence[int | None] | None = None,
        input_tensor: None = None,
        optional: bool = False,
        name: str | None = None,
    ) -> None:
        unsupported = {
            "dtype": dtype,
            "sparse": sparse,
            "ragged": ragged,
            "input_tensor": input_tensor,
            "optional": optional,
        }
        refuse("Input", unsupported, KERAS_INPUT)
        super().__init__(name=name)
        if (shape is None) == (batch_shape is None):
            given = {"shape": shape, "batch_shape": batch_shape}
            raise checking.invalid(who(self), "shape", "shape, the sizes of one sample, such as (28, 28, 1)", given)
        if shape is None:
            if not isinstance(batch_shape, list | tuple) or not batch_shape or batch_size is not None:
                expected = "a shape such as (None, 28, 28, 1), and no batch_size beside it"
                raise checking.invalid(who(self), "batch_shape", expected, batch_shape)
            batch_size, shape = batch_shape[0], batch_shape[1:]  # type: ignore[assignment]
        self.batch_size = None if batch_size is None else checking.integer(who(self), "batch_size", batch_size)
        self.shape = shape_of(self, shape)  # type: ignore[arg-type]
        self._input_shape = self.shape  # it is built: there is nothing to make

    @property
    def batch_shape(self) -> tuple[int | None, ...]:
        """The shape of a batch."""
        return (self.batch_size, *self.shape)

    def _only_call(self) -> Call:
        """An input layer reads nothing: what a model is called with is its output."""
        if not self._calls:
            self._calls.append(Call(self, (), self.shape, batch_size=self.batch_size))
        return self._calls[0]

    def _why_frozen(self) -> str | None:
        return "a model may have been built from it"

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return []

    def get_config(self) -> dict[str, Any]:
        return {"batch_shape": self.batch_shape, "dtype": "float32", "sparse": False, "name": self.name}


@explained
def Input(
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    dtype: Literal["float32", "uint8"] | None = None,
    sparse: bool | None = None,
    ragged: bool | None = None,
    batch_shape: Sequence[int | None] | None = None,
    name: str | None = None,
    tensor: None = None,
    optional: bool = False,
) -> Tensor:
    """A value that a model begins with: the first entry of a Sequential, or what layers are called on. See
    :class:`InputLayer` for the arguments."""
    refuse("Input", {"tensor": tensor}, KERAS_INPUT)
    return InputLayer(shape, batch_size, dtype, sparse, ragged, batch_shape, None, optional, name).output


class Flatten(Layer):
    """All axes of a sample become one; no number is moved."""

    def __init__(self, data_format: DataFormat | None = None, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        refuse(type(self).__name__, {"data_format": data_format}, NEUTRAL)

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return [ops.Reshape(self.name, input_shape, self.output_shape(input_shape))]


class Reshape(Layer):
    """The numbers of a sample in another shape, in the same order; no number is moved.

    Args:
        target_shape: the new shape of one sample; one of its sizes may be -1: whatever is left.
    """

    def __init__(self, target_shape: Sequence[int], **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        known = (
            [size for size in target_shape if size != -1] if isinstance(target_shape, list | tuple) else target_shape
        )
        shape_of(self, known, "target_shape")
        if len(target_shape) > len(known) + 1:
            raise checking.invalid(who(self), "target_shape", "at most one -1", target_shape)
        self.target_shape = tuple(int(size) for size in target_shape)

    def output_shape(self, input_shape: Shape) -> Shape:
        size, known = math.prod(input_shape), math.prod(size for size in self.target_shape if size != -1)
        if size % known or (size != known and -1 not in self.target_shape):
            raise ValueError(
                f"Layer {self.name!r}: samples of shape {input_shape}, {size} numbers, do not fit target_shape="
                f"{self.target_shape}. Expected a shape of as many numbers."
            )
        return tuple(size // known if each == -1 else each for each in self.target_shape)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return [ops.Reshape(self.name, input_shape, self.output_shape(input_shape))]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "target_shape": self.target_shape}


class Rescaling(Layer):
    """Every number times ``scale``, plus ``offset``. The mathematics: ``kernels.reference.rescale_forward``.

    Bytes of images become numbers from 0 to 1 by scale=1/255, and from -1 to 1 by scale=1/127.5, offset=-1. (Keras also
    takes arrays, with a number for each channel.)
    """

    def __init__(self, scale: float, offset: float = 0.0, **options: Unpack[LayerOptions]) -> None:
        super().__init__(**options)
        self.scale = checking.number(who(self), "scale", scale)
        self.offset = checking.number(who(self), "offset", offset)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return [ops.Rescale(self.name, input_shape, input_shape, self.scale, self.offset)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "offset": self.offset}


class Dropout(Layer):
    """Random zeros while training, nothing at inference. The mathematics: ``kernels.reference.dropout_forward``.

    Args:
        rate: the share of units to drop, 0 <= rate < 1. (Keras allows 1: a layer that lets nothing through.)
        seed: mixed into the model's seed.
    """

    def __init__(
        self, rate: float, noise_shape: None = None, seed: int | None = None, **options: Unpack[LayerOptions]
    ) -> None:
        super().__init__(**options)
        refuse(type(self).__name__, {"noise_shape": noise_shape}, NEUTRAL)
        self.rate = checking.number(who(self), "rate", rate, at_least=0.0, below=1.0)
        self.seed = checking.seed(who(self), seed)

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        if not self.rate:
            return []
        return [ops.Dropout(self.name, input_shape, input_shape, self._number_of_draws(self.seed), self.rate)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
