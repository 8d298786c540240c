"""Checks of layers' arguments, and the arithmetic of windows. ``layer`` is whose arguments they are, for messages."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Protocol

from tinyconv.arena import Shape
from tinyconv.messages import suggest

Pair = tuple[int, int]


class Named(Protocol):
    """Whatever has a name."""

    name: str


def windows(
    layer: Named, input_shape: Shape, size: Sequence[int], strides: Pair, padding: str, size_name: str
) -> list[tuple[int, int]]:
    """For height and width: how many windows there are, and how many rows of zeros stand before the image.

    "valid": as many as fit, none. "same": input / stride, rounded up, and half of the zeros that this takes (rounded
    down: an odd one goes behind), as in TensorFlow.
    """
    if len(input_shape) != 3:
        raise ValueError(
            f"Layer {layer.name!r} expected images: samples of shape (height, width, channels). "
            f"Received: samples of shape {input_shape}."
        )
    found = []
    for length, reach, stride in zip(input_shape[:2], size, strides, strict=True):
        if padding == "same":
            count = -(-length // stride)
            found.append((count, max((count - 1) * stride + reach - length, 0) // 2))
        else:
            found.append(((length - reach) // stride + 1, 0))
    if min(count for count, _ in found) < 1:
        raise ValueError(
            f"Layer {layer.name!r} does not fit: its windows cover {size[0]} x {size[1]} pixels. Expected images of at "
            f"least that size. Received: {input_shape[0]} x {input_shape[1]}. "
            f"Fix: a smaller {size_name}, padding='same', or fewer layers that shrink the image before it."
        )
    return found


def positive(layer: Named, argument: str, value: Any) -> int:
    """A positive integer."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"Layer {layer.name!r}: invalid {argument}. Expected a positive integer. Received: {value!r}.")
    return int(value)


def pair(layer: Named, argument: str, value: Any) -> Pair:
    """A pair of positive integers, from one or two."""
    values = (value, value) if isinstance(value, Integral) else value
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 2:
        raise ValueError(
            f"Layer {layer.name!r}: invalid {argument}. Expected a positive integer or a pair of them. "
            f"Received: {value!r}."
        )
    return positive(layer, argument, values[0]), positive(layer, argument, values[1])


def padding_name(layer: Named, padding: Any) -> str:
    """ "valid" or "same", in lower case."""
    if not isinstance(padding, str) or padding.lower() not in ("valid", "same"):
        raise ValueError(f"Layer {layer.name!r}: unknown padding: {padding!r}. {suggest(padding, ['valid', 'same'])}")
    return padding.lower()


def shape_of(layer: Named, shape: Sequence[Any]) -> Shape:
    """The shape of one sample."""
    sizes = list(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else None
    if sizes is None or not all(isinstance(size, Integral) and int(size) > 0 for size in sizes):
        raise ValueError(
            f"Layer {layer.name!r}: invalid shape. Expected the sizes of one sample, positive integers, without the "
            f"batch axis, such as (28, 28, 1). Received: {shape!r}."
        )
    return tuple(int(size) for size in sizes)
