"""Images in other sizes: ZeroPadding2D and UpSampling2D."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, Unpack

from tinyconv import checking
from tinyconv.checking import affordable
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import refuse
from tinyconv.layers.arguments import NEUTRAL, DataFormat, LayerOptions, Pair, images, pair, who
from tinyconv.layers.base import Layer
from tinyconv.plan import ops


class ZeroPadding2D(Layer):
    """Rows and columns of zeros around an image. See ``kernels.reference.pad2d_forward``.

    Args:
        padding: a number for all sides; a pair, (above and below, left and right); or a pair of pairs, ((above, below),
            (left, right)).
    """

    def __init__(
        self,
        padding: int | Sequence[int] | Sequence[Sequence[int]] = (1, 1),
        data_format: DataFormat | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**options)
        refuse(type(self).__name__, {"data_format": data_format}, NEUTRAL)
        both = (padding, padding) if isinstance(padding, Integral) else padding
        try:
            sides = both if isinstance(both, list | tuple) else ()
            vertical, horizontal = (pair(self, "padding", side, at_least=0) for side in sides)
        except ValueError:
            expected = "an integer >= 0, a pair of them, or a pair of pairs"
            raise checking.invalid(who(self), "padding", expected, padding) from None
        self.padding: tuple[Pair, Pair] = (vertical, horizontal)

    def output_shape(self, input_shape: Shape) -> Shape:
        height, width, channels = images(self, input_shape)
        shape = height + sum(self.padding[0]), width + sum(self.padding[1]), channels
        affordable(who(self), "output of one sample", shape)
        return shape

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        corner = self.padding[0][0], self.padding[1][0]
        return [ops.Pad2D(self.name, input_shape, self.output_shape(input_shape), corner)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding}


class UpSampling2D(Layer):
    """Every pixel repeated in a block. See ``kernels.reference.upsample2d_forward``.

    Args:
        size: the height and width of a block: a pair, or one number for both.
        interpolation: must be "nearest".
    """

    def __init__(
        self,
        size: int | Sequence[int] = (2, 2),
        data_format: DataFormat | None = None,
        interpolation: Literal["nearest"] = "nearest",
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**options)
        refuse(type(self).__name__, {"data_format": data_format, "interpolation": interpolation}, NEUTRAL)
        self.size = pair(self, "size", size)

    def output_shape(self, input_shape: Shape) -> Shape:
        height, width, channels = images(self, input_shape)
        shape = height * self.size[0], width * self.size[1], channels
        affordable(who(self), "output of one sample", shape)
        return shape

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return [ops.Upsample2D(self.name, input_shape, self.output_shape(input_shape))]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "interpolation": "nearest"}
