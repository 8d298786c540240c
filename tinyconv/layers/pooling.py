"""Pooling layers."""

from collections.abc import Sequence
from typing import Any, Unpack

from tinyconv.checking import boolean, choice
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import refuse
from tinyconv.layers.arguments import NEUTRAL, DataFormat, LayerOptions, Padding, UnnamedOptions, pair, who, windows
from tinyconv.layers.base import Layer
from tinyconv.plan import ops


class _Pooling2D(Layer):
    """What the pooling layers share."""

    op: type[ops.MaxPool2D] | type[ops.AveragePool2D]

    def _set(
        self,
        pool_size: int | Sequence[int],
        strides: int | Sequence[int] | None,
        padding: str,
        data_format: str | None,
    ) -> None:
        refuse(type(self).__name__, {"data_format": data_format}, NEUTRAL)
        self.pool_size = pair(self, "pool_size", pool_size)
        self.strides = self.pool_size if strides is None else pair(self, "strides", strides)
        self.padding = choice(who(self), "padding", padding, ("valid", "same"))

    def output_shape(self, input_shape: Shape) -> Shape:
        (height, _), (width, _) = windows(self, input_shape, self.pool_size, self.strides, self.padding, "pool_size")
        return height, width, input_shape[-1]

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        # a window that reaches over the whole image, wherever it stands, need be no larger
        height, width = (min(size, 2 * length + 2) for size, length in zip(self.pool_size, input_shape, strict=False))
        (_, top), (_, left) = windows(self, input_shape, (height, width), self.strides, self.padding, "pool_size")
        shapes = (input_shape, self.output_shape(input_shape))
        return [self.op(self.name, *shapes, (height, width), self.strides, (top, left))]

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

    def __init__(
        self,
        pool_size: int | Sequence[int] = (2, 2),
        strides: int | Sequence[int] | None = None,
        padding: Padding = "valid",
        data_format: DataFormat | None = None,
        name: str | None = None,
        **options: Unpack[UnnamedOptions],
    ) -> None:
        super().__init__(name=name, **options)
        self._set(pool_size, strides, padding, data_format)


class AveragePooling2D(_Pooling2D):
    """The mean of each window, over its pixels inside the image. Arguments as :class:`MaxPooling2D`.

    The mathematics: ``kernels.reference.average_pool2d_forward``.
    """

    op = ops.AveragePool2D

    def __init__(
        self,
        pool_size: int | Sequence[int],
        strides: int | Sequence[int] | None = None,
        padding: Padding = "valid",
        data_format: DataFormat | None = None,
        name: str | None = None,
        **options: Unpack[UnnamedOptions],
    ) -> None:
        super().__init__(name=name, **options)
        self._set(pool_size, strides, padding, data_format)


class _GlobalPooling2D(Layer):
    """What the global pooling layers share: (batch, height, width, channels) becomes (batch, channels)."""

    op: type[ops.MaxPool2D] | type[ops.AveragePool2D]

    def __init__(
        self, data_format: DataFormat | None = None, keepdims: bool = False, **options: Unpack[LayerOptions]
    ) -> None:
        super().__init__(**options)
        refuse(type(self).__name__, {"data_format": data_format}, NEUTRAL)
        self.keepdims = boolean(who(self), "keepdims", keepdims)

    def output_shape(self, input_shape: Shape) -> Shape:
        windows(self, input_shape, (1, 1), (1, 1), "valid", "pool_size")
        return (1, 1, input_shape[-1]) if self.keepdims else input_shape[-1:]

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        image = input_shape[0], input_shape[1]
        return [self.op(self.name, input_shape, self.output_shape(input_shape), image, image, (0, 0))]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "keepdims": self.keepdims}


class GlobalAveragePooling2D(_GlobalPooling2D):
    """The mean of each channel over the whole image: (batch, height, width, channels) becomes (batch, channels).

    Args:
        keepdims: keep height and width as axes of size 1.
    """

    op = ops.AveragePool2D


class GlobalMaxPooling2D(_GlobalPooling2D):
    """The maximum of each channel over the whole image. Arguments and shapes as :class:`GlobalAveragePooling2D`.

    Of several equal maxima the first gets the gradient, as in every pooling; Keras on TensorFlow shares it among them.
    """

    op = ops.MaxPool2D


# Keras' other names for the same layers
MaxPool2D, AvgPool2D = MaxPooling2D, AveragePooling2D
GlobalMaxPool2D, GlobalAvgPool2D = GlobalMaxPooling2D, GlobalAveragePooling2D
