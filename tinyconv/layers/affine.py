"""The layers that learn filters: convolution and dense."""

from collections.abc import Sequence
from typing import Any, Unpack

from tinyconv import initializers, regularizers
from tinyconv.activations import ActivationLike
from tinyconv.checking import affordable, boolean, choice, integer
from tinyconv.checking.arguments import Shape
from tinyconv.checking.lookup import saved
from tinyconv.checking.messages import refuse
from tinyconv.initializers import InitializerLike
from tinyconv.layers.activation import activation_name, activation_ops
from tinyconv.layers.arguments import NEUTRAL, DataFormat, LayerOptions, Padding, last_axis, pair, who, windows
from tinyconv.layers.base import Layer, WeightSpec
from tinyconv.plan import ops
from tinyconv.regularizers import RegularizerLike


class _Affine(Layer):
    """What Conv2D and Dense share: a kernel, a bias, and an activation."""

    def _set(
        self,
        activation: ActivationLike,
        use_bias: bool,
        kernel_initializer: InitializerLike,
        bias_initializer: InitializerLike,
        kernel_regularizer: RegularizerLike,
        bias_regularizer: RegularizerLike,
    ) -> None:
        self.activation = activation_name(self, activation)
        self.use_bias = boolean(who(self), "use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)

    def _specs(self, kernel_shape: Shape) -> list[WeightSpec]:
        kernel = WeightSpec("kernel", kernel_shape, self.kernel_initializer, regularizer=self.kernel_regularizer)
        bias = WeightSpec("bias", kernel_shape[-1:], self.bias_initializer, regularizer=self.bias_regularizer)
        return [kernel, bias] if self.use_bias else [kernel]

    def get_config(self) -> dict[str, Any]:
        names = ("activation", "use_bias", "kernel_initializer", "bias_initializer")
        regularizer_names = ("kernel_regularizer", "bias_regularizer")
        return {**super().get_config(), **{name: saved(getattr(self, name)) for name in (*names, *regularizer_names)}}


class Conv2D(_Affine):
    """A two-dimensional convolution. The mathematics: ``kernels.reference.conv2d_forward``.

    Input (batch, height, width, channels), output (batch, new height, new width, filters).

    Args:
        filters: the number of filters, and so of output channels.
        kernel_size: height and width of a filter: a pair, or one number for both.
        strides: how far the window moves at a time.
        padding: "valid": windows lie inside the image; "same": zeros around it, so that with stride 1 the output is as
            large as the input (an odd zero goes below and to the right, as in TensorFlow).
        dilation_rate: distance between neighbouring pixels of a window.
        activation: a name such as "relu", a function of :mod:`tinyconv.activations`, or None.
        use_bias: whether to add a number per filter.
        kernel_initializer, bias_initializer: see :mod:`tinyconv.initializers`.
        kernel_regularizer, bias_regularizer: None, "l2" or :class:`tinyconv.regularizers.L2`.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: Padding = "valid",
        data_format: DataFormat | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        groups: int = 1,
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
        unsupported = {
            "data_format": data_format,
            "groups": groups,
            "activity_regularizer": activity_regularizer,
            "kernel_constraint": kernel_constraint,
            "bias_constraint": bias_constraint,
        }
        refuse(type(self).__name__, unsupported, NEUTRAL)
        self._set(activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer)
        self.filters = integer(who(self), "filters", filters)
        self.kernel_size = pair(self, "kernel_size", kernel_size)
        self.strides = pair(self, "strides", strides)
        self.padding = choice(who(self), "padding", padding, ("valid", "same"))
        self.dilation_rate = pair(self, "dilation_rate", dilation_rate)
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                f"Layer {self.name!r}: strides and dilation_rate cannot both be above 1, as in Keras. "
                f"Received: strides={self.strides}, dilation_rate={self.dilation_rate}."
            )

    def _windows(self, input_shape: Shape) -> list[tuple[int, int]]:
        reach = tuple((k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation_rate, strict=True))
        return windows(self, input_shape, reach, self.strides, self.padding, "kernel_size")

    def output_shape(self, input_shape: Shape) -> Shape:
        (height, _), (width, _) = self._windows(input_shape)
        affordable(who(self), "output of one sample", (height, width, self.filters))
        return height, width, self.filters

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        return self._specs((*self.kernel_size, input_shape[-1], self.filters))

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        (_, top), (_, left) = self._windows(input_shape)
        out = self.output_shape(input_shape)
        geometry = (self.kernel_size, self.strides, (top, left), self.dilation_rate)
        conv = ops.Conv2D(self.name, input_shape, out, *geometry, self.use_bias)
        return [conv, *activation_ops(self.name, self.activation, out)]

    def get_config(self) -> dict[str, Any]:
        names = ("filters", "kernel_size", "strides", "padding", "dilation_rate")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class Dense(_Affine):
    """Every output sees every input. The mathematics: ``kernels.reference.dense_forward``.

    Input (batch, ..., K), output (batch, ..., units).

    Args:
        units: the number of outputs.
        activation, use_bias, initializers, regularizers: as in :class:`Conv2D`.
    """

    def __init__(
        self,
        units: int,
        activation: ActivationLike = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: None = None,
        kernel_constraint: None = None,
        bias_constraint: None = None,
        lora_rank: None = None,
        lora_alpha: None = None,
        quantization_config: None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**options)
        unsupported = {
            "activity_regularizer": activity_regularizer,
            "kernel_constraint": kernel_constraint,
            "bias_constraint": bias_constraint,
            "lora_rank": lora_rank,
            "lora_alpha": lora_alpha,
            "quantization_config": quantization_config,
        }
        refuse(type(self).__name__, unsupported, NEUTRAL)
        self._set(activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer)
        self.units = integer(who(self), "units", units)

    def output_shape(self, input_shape: Shape) -> Shape:
        last_axis(self, -1, input_shape)
        affordable(who(self), "output of one sample", (*input_shape[:-1], self.units))
        return (*input_shape[:-1], self.units)

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        return self._specs((input_shape[-1], self.units))

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        out = self.output_shape(input_shape)
        return [ops.Dense(self.name, input_shape, out, self.use_bias), *activation_ops(self.name, self.activation, out)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}
