"""Layers' arguments: their types, their checks, and the arithmetic of windows.

``layer`` is whose arguments they are, for messages.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal, Protocol, TypedDict

import numpy as np

from tinyconv import checking
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import refuse

Pair = tuple[int, int]
Padding = Literal["valid", "same"]
DataFormat = Literal["channels_last"]


class UnnamedOptions(TypedDict, total=False):
    """What every layer takes besides its own arguments and its name: see :class:`tinyconv.layers.Layer`."""

    trainable: bool
    dtype: Literal["float32"] | None
    autocast: bool
    input_shape: Sequence[int] | None
    input_dim: int | None


class LayerOptions(UnnamedOptions, total=False):
    """What every layer takes besides its own arguments: see :class:`tinyconv.layers.Layer`."""

    name: str | None


# Arguments of Keras' layers that tinyconv does not have: the values at which it does the same as Keras.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "data_format": (None, "channels_last"),
    "groups": (1,),
    "activity_regularizer": (None,),
    "kernel_constraint": (None,),
    "bias_constraint": (None,),
    "depthwise_constraint": (None,),
    "pointwise_constraint": (None,),
    "output_padding": (None,),
    "interpolation": ("nearest",),
    "beta_constraint": (None,),
    "gamma_constraint": (None,),
    "beta_regularizer": (None,),
    "gamma_regularizer": (None,),
    "noise_shape": (None,),
    "lora_rank": (None,),
    "lora_alpha": (None,),
    "quantization_config": (None,),
    "renorm": (False,),
    "renorm_clipping": (None,),
    "renorm_momentum": (0.99,),
    "synchronized": (False,),
}


class Named(Protocol):
    """Anything that has a name."""

    @property
    def name(self) -> str: ...


def who(layer: Named) -> str:
    """What messages call a layer."""
    return f"layer {layer.name!r}"


def refuse_unsupported(layer: Named, given: Mapping[str, Any]) -> None:
    """Refuse what only Keras' layer has, among a constructor's arguments (its ``locals()``)."""
    refuse(type(layer).__name__, {name: value for name, value in given.items() if name in NEUTRAL}, NEUTRAL)


def images(layer: Named, input_shape: Shape) -> Shape:
    """The shape of the input, whose samples are images."""
    if len(input_shape) != 3:
        raise ValueError(
            f"Layer {layer.name!r} expected images as its input: samples of shape (height, width, channels). "
            f"Received: samples of shape {input_shape}."
        )
    return input_shape


def windows(
    layer: Named, input_shape: Shape, size: Sequence[int], strides: Pair, padding: str, size_name: str
) -> list[tuple[int, int]]:
    """For height and width: the number of windows, and the number of rows of zeros before the image.

    "valid": as many as fit, none. "same": input / stride, rounded up, and half of the zeros that this takes (rounded
    down: an odd one goes behind), as in TensorFlow.
    """
    images(layer, input_shape)
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


def last_axis(layer: Named, axis: int, input_shape: Shape) -> Shape:
    """The shape of the input, of which ``axis`` is the last axis."""
    if not input_shape:
        raise ValueError(
            f"Layer {layer.name!r}: the input has too few axes. Expected a batch of samples with at least one axis "
            "each. Received: samples of shape ()."
        )
    if axis not in (-1, len(input_shape)):
        raise ValueError(
            f"Layer {layer.name!r}: axis={axis} is not supported by tinyconv. "
            f"Expected the last axis, -1 or {len(input_shape)}, for samples of shape {input_shape}."
        )
    return input_shape


def pair(layer: Named, argument: str, value: Any, at_least: int = 1) -> Pair:
    """A pair of positive integers (or ``at_least`` 0), from one or two."""
    kind = "a positive integer" if at_least else "an integer >= 0"
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    values = (value, value) if isinstance(value, Integral) else value
    if not isinstance(values, Sequence) or isinstance(values, str | bytes) or len(values) != 2:
        raise checking.invalid(who(layer), argument, f"{kind} or a pair of them", value)
    try:
        first, second = (checking.integer("", "", each, at_least=at_least) for each in values)
        return first, second
    except ValueError:
        limit = f"{kind} of at most {checking.LARGEST}, or a pair of them"
        raise checking.invalid(who(layer), argument, limit, value) from None


def shape_of(layer: Named, shape: Sequence[Any], name: str = "shape") -> Shape:
    """The shape of one sample."""
    return checking.shape(who(layer), name, shape)
