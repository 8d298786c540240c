"""Convolutions of other kinds: depthwise, separable, and transposed."""

from collections.abc import Sequence
from typing import Unpack

from tinyconv.activations import ActivationLike
from tinyconv.checking import affordable
from tinyconv.checking.arguments import Shape
from tinyconv.initializers import InitializerLike
from tinyconv.layers.activation import activation_ops
from tinyconv.layers.affine import Convolution
from tinyconv.layers.arguments import DataFormat, LayerOptions, Padding, images, who
from tinyconv.layers.variables import WeightSpec, weight
from tinyconv.plan import ops
from tinyconv.regularizers import RegularizerLike


class DepthwiseConv2D(Convolution):
    """A convolution of every channel by itself. The mathematics: ``kernels.reference.depthwise_conv2d_forward``.

    Input (batch, height, width, channels), output (batch, new height, new width, channels * depth_multiplier).

    Args:
        depth_multiplier: the number of filters of each channel.
        kernel_size, strides, padding, dilation_rate, activation, use_bias: as in :class:`Conv2D`.
        depthwise_initializer, bias_initializer: see :mod:`tinyconv.initializers`.
        depthwise_regularizer, bias_regularizer: see :mod:`tinyconv.regularizers`.
    """

    kernel = weight("kernel", "The filters, (rows, columns, channels, depth_multiplier)")
    filters_names = ("depthwise",)
    size_names = ("depth_multiplier",)
    depth_multiplier: int

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: Padding = "valid",
        depth_multiplier: int = 1,
        data_format: DataFormat | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        activation: ActivationLike = None,
        use_bias: bool = True,
        depthwise_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        depthwise_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: None = None,
        depthwise_constraint: None = None,
        bias_constraint: None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**options)
        self._set(locals())

    def output_shape(self, input_shape: Shape) -> Shape:
        return self._image(input_shape, input_shape[-1] * self.depth_multiplier if input_shape else 1)

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        channels = input_shape[-1]
        kernel = self._spec("kernel", (*self.kernel_size, channels, self.depth_multiplier), of="depthwise")
        return [kernel, *self._bias(channels * self.depth_multiplier)]

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        out = self.output_shape(input_shape)
        conv = ops.DepthwiseConv2D(self.name, input_shape, out, *self._geometry(input_shape), self.use_bias)
        return [conv, *activation_ops(self.name, self.activation, out)]


class SeparableConv2D(Convolution):
    """A depthwise convolution, then a 1 x 1 convolution that mixes the channels, with bias and activation.

    It sees what a :class:`Conv2D` of that kernel_size sees, with far fewer weights and multiplications. The
    mathematics: ``kernels.reference.depthwise_conv2d_forward`` and ``conv2d_forward``.

    Args:
        filters, kernel_size, strides, padding, dilation_rate, activation, use_bias: as in :class:`Conv2D`.
        depth_multiplier: the number of filters of each channel, of the depthwise convolution.
        depthwise_initializer, pointwise_initializer, bias_initializer: see :mod:`tinyconv.initializers`.
        depthwise_regularizer, pointwise_regularizer, bias_regularizer: see :mod:`tinyconv.regularizers`.
    """

    depthwise_kernel = weight("depthwise_kernel", "The depthwise filters, (rows, columns, channels, depth_multiplier)")
    pointwise_kernel = weight("pointwise_kernel", "What mixes the channels, (1, 1, channels, filters)")
    filters_names = ("depthwise", "pointwise")
    size_names = ("filters", "depth_multiplier")
    depth_multiplier: int

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: Padding = "valid",
        data_format: DataFormat | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        depth_multiplier: int = 1,
        activation: ActivationLike = None,
        use_bias: bool = True,
        depthwise_initializer: InitializerLike = "glorot_uniform",
        pointwise_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        depthwise_regularizer: RegularizerLike = None,
        pointwise_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: None = None,
        depthwise_constraint: None = None,
        pointwise_constraint: None = None,
        bias_constraint: None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**options)
        self._set(locals())

    def output_shape(self, input_shape: Shape) -> Shape:
        return self._image(input_shape, self.filters)

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        channels, inner = input_shape[-1], input_shape[-1] * self.depth_multiplier
        depthwise = (*self.kernel_size, channels, self.depth_multiplier)
        return [
            self._spec("depthwise_kernel", depthwise, of="depthwise"),
            self._spec("pointwise_kernel", (1, 1, inner, self.filters), of="pointwise"),
            *self._bias(self.filters),
        ]

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        out, geometry = self.output_shape(input_shape), self._geometry(input_shape)
        inner = (*out[:2], input_shape[-1] * self.depth_multiplier)
        names = ("depthwise_kernel", "depthwise_bias"), ("pointwise_kernel", "bias")
        depthwise = ops.DepthwiseConv2D(self.name, input_shape, inner, *geometry, False, weights=names[0])
        one = ((1, 1), (1, 1), (0, 0), (1, 1))
        pointwise = ops.Conv2D(self.name, inner, out, *one, self.use_bias, weights=names[1])
        return [depthwise, pointwise, *activation_ops(self.name, self.activation, out)]


class Conv2DTranspose(Convolution):
    """A convolution the other way round: it makes images larger. See ``kernels.reference.conv2d_transpose_forward``.

    Input (batch, height, width, channels), output (batch, height * strides, width * strides, filters) with "same"
    padding; with "valid" padding, larger by as much as a window is larger than its stride.

    Args:
        filters, kernel_size, activation, use_bias, initializers, regularizers: as in :class:`Conv2D`.
        strides: how far apart the windows are that neighbouring input pixels are spread over.
        padding: what is cut off the output: "valid", nothing; "same", as much as makes it ``strides`` times as large.
        output_padding: must be None.
        dilation_rate: distance between neighbouring pixels of a window.
    """

    kernel = weight("kernel", "The filters, (rows, columns, filters, channels)")

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: Padding = "valid",
        output_padding: None = None,
        data_format: DataFormat | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        activation: ActivationLike = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: None = None,
        kernel_constraint: None = None,
        bias_constraint: None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**options)
        self._set(locals())

    def output_shape(self, input_shape: Shape) -> Shape:
        images(self, input_shape)
        height, width = (
            size * stride if self.padding == "same" else (size - 1) * stride + max(reach, stride)
            for size, stride, reach in zip(input_shape[:2], self.strides, self._reach, strict=True)
        )
        affordable(who(self), "output of one sample", (height, width, self.filters))
        return height, width, self.filters

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        kernel = self._spec("kernel", (*self.kernel_size, self.filters, input_shape[-1]))
        return [kernel, *self._bias(self.filters)]

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        out = self.output_shape(input_shape)
        conv = ops.Conv2DTranspose(self.name, input_shape, out, *self._geometry(out), self.use_bias)
        return [conv, *activation_ops(self.name, self.activation, out)]
