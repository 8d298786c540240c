"""Pooling layers."""

from collections.abc import Sequence
from typing import Any

from tinyconv import ops
from tinyconv.arena import Shape
from tinyconv.layers.arguments import padding_name, pair, windows
from tinyconv.layers.base import Layer


class _Pooling2D(Layer):
    """What the pooling layers share."""

    op: type[ops.MaxPool2D] | type[ops.AveragePool2D]

    def __init__(
        self,
        pool_size: int | Sequence[int] = (2, 2),
        strides: int | Sequence[int] | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(data_format=data_format, **rest)
        self.pool_size = pair(self, "pool_size", pool_size)
        self.strides = self.pool_size if strides is None else pair(self, "strides", strides)
        self.padding = padding_name(self, padding)

    def output_shape(self, input_shape: Shape) -> Shape:
        (height, _), (width, _) = windows(self, input_shape, self.pool_size, self.strides, self.padding, "pool_size")
        return height, width, input_shape[-1]

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        (_, top), (_, left) = windows(self, input_shape, self.pool_size, self.strides, self.padding, "pool_size")
        shapes = (input_shape, self.output_shape(input_shape))
        return [self.op(self.name, *shapes, self.pool_size, self.strides, (top, left))]

    def get_config(self) -> dict[str, Any]:
        names = ("pool_size", "strides", "padding")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class MaxPooling2D(_Pooling2D):
    """The maximum of each window. The mathematics: ``kernels.reference.max_pool2d_forward``.

    Args:
        pool_size: height and width of a window.
        strides: how far the window moves; None: by its own size.
        padding: "valid" or "same" (windows reach over the edge; what lies outside takes no part).
    """

    op = ops.MaxPool2D


class AveragePooling2D(_Pooling2D):
    """The mean of each window, over its pixels inside the image. Arguments as :class:`MaxPooling2D`.

    The mathematics: ``kernels.reference.average_pool2d_forward``.
    """

    op = ops.AveragePool2D


class GlobalAveragePooling2D(Layer):
    """The mean of each channel over the whole image: (batch, height, width, channels) becomes (batch, channels).

    Args:
        keepdims: keep height and width as axes of size 1.
    """

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **rest: Any) -> None:
        super().__init__(data_format=data_format, **rest)
        self.keepdims = bool(keepdims)

    def output_shape(self, input_shape: Shape) -> Shape:
        windows(self, input_shape, (1, 1), (1, 1), "valid", "pool_size")
        return (1, 1, input_shape[-1]) if self.keepdims else input_shape[-1:]

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        image = input_shape[0], input_shape[1]
        return [ops.AveragePool2D(self.name, input_shape, self.output_shape(input_shape), image, image, (0, 0))]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "keepdims": self.keepdims}


# Keras' other names for the same layers
MaxPool2D, AvgPool2D, GlobalAvgPool2D = MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D
