"""The layers that learn filters: convolution and dense."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from tinyconv import initializers, regularizers
from tinyconv.activations import ActivationLike
from tinyconv.checking import affordable, boolean, choice, integer
from tinyconv.checking.arguments import Shape
from tinyconv.checking.lookup import saved
from tinyconv.initializers import Initializer, InitializerLike
from tinyconv.layers.activation import activation_name, activation_ops
from tinyconv.layers.arguments import (
    DataFormat,
    LayerOptions,
    Padding,
    last_axis,
    pair,
    refuse_unsupported,
    who,
    windows,
)
from tinyconv.layers.base import Layer
from tinyconv.layers.variables import WeightSpec, weight
from tinyconv.plan import ops
from tinyconv.regularizers import Regularizer, RegularizerLike


class Affine(Layer):
    """What convolutions and dense layers share: a bias, and an activation."""

    filters_names: tuple[str, ...] = ("kernel",)  # what the initialisers and regularisers of its filters begin with
    kernel_initializer: Initializer
    bias_initializer: Initializer
    kernel_regularizer: Regularizer | None
    bias_regularizer: Regularizer | None
    bias = weight("bias", "What is added to each output")

    @property
    def _weight_arguments(self) -> list[str]:
        """The names of the arguments that are about its weights: first the initialisers, then the regularisers."""
        weights = (*self.filters_names, "bias")
        return [f"{weight}_{what}" for what in ("initializer", "regularizer") for weight in weights]

    def _set(self, given: Mapping[str, Any]) -> None:
        """Take a constructor's arguments (its ``locals()``), as far as such layers share them."""
        refuse_unsupported(self, given)
        self.activation = activation_name(self, given["activation"])
        self.use_bias = boolean(who(self), "use_bias", given["use_bias"])
        for name in self._weight_arguments:
            setattr(self, name, (initializers if name.endswith("_initializer") else regularizers).get(given[name]))

    def _spec(self, name: str, shape: Shape, of: str = "") -> WeightSpec:
        """An array of weights; its initialiser and regulariser are called after it, or after ``of``."""
        initializer, regularizer = (getattr(self, f"{of or name}_{what}") for what in ("initializer", "regularizer"))
        return WeightSpec(name, shape, initializer, regularizer=regularizer)

    def _bias(self, size: int) -> list[WeightSpec]:
        return [self._spec("bias", (size,))] if self.use_bias else []

    def get_config(self) -> dict[str, Any]:
        names = ("activation", "use_bias", *self._weight_arguments)
        return {**super().get_config(), **{name: saved(getattr(self, name)) for name in names}}


class Convolution(Affine):
    """What convolutions share: a window that moves."""

    size_names: tuple[str, ...] = ("filters",)
    filters: int

    def _set(self, given: Mapping[str, Any]) -> None:
        super()._set(given)
        for name in self.size_names:
            setattr(self, name, integer(who(self), name, given[name]))
        self.kernel_size = pair(self, "kernel_size", given["kernel_size"])
        self.strides = pair(self, "strides", given["strides"])
        self.padding = choice(who(self), "padding", given["padding"], ("valid", "same"))
        self.dilation_rate = pair(self, "dilation_rate", given["dilation_rate"])
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                f"Layer {self.name!r}: strides and dilation_rate cannot both be above 1, as in Keras. "
                f"Received: strides={self.strides}, dilation_rate={self.dilation_rate}."
            )

    @property
    def _reach(self) -> tuple[int, int]:
        """The rows and columns that a window reaches over."""
        (height, width), (rows, columns) = self.kernel_size, self.dilation_rate
        return (height - 1) * rows + 1, (width - 1) * columns + 1

    def _windows(self, input_shape: Shape) -> list[tuple[int, int]]:
        return windows(self, input_shape, self._reach, self.strides, self.padding, "kernel_size")

    def _image(self, input_shape: Shape, channels: int) -> Shape:
        """The shape of an output with so many channels."""
        (height, _), (width, _) = self._windows(input_shape)
        affordable(who(self), "output of one sample", (height, width, channels))
        return height, width, channels

    def _geometry(self, image: Shape) -> tuple[ops.Pair, ops.Pair, ops.Pair, ops.Pair]:
        """What the ops want to know of the windows that slide over such an image."""
        (_, top), (_, left) = self._windows(image)
        return self.kernel_size, self.strides, (top, left), self.dilation_rate

    def get_config(self) -> dict[str, Any]:
        names = (*self.size_names, "kernel_size", "strides", "padding", "dilation_rate")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class Conv2D(Convolution):
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
        kernel_regularizer, bias_regularizer: None, or see :mod:`tinyconv.regularizers`.
    """

    kernel = weight("kernel", "The filters, (rows, columns, channels, filters)")

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
        self._set(locals())

    def output_shape(self, input_shape: Shape) -> Shape:
        return self._image(input_shape, self.filters)

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        kernel = self._spec("kernel", (*self.kernel_size, input_shape[-1], self.filters))
        return [kernel, *self._bias(self.filters)]

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        out = self.output_shape(input_shape)
        conv = ops.Conv2D(self.name, input_shape, out, *self._geometry(input_shape), self.use_bias)
        return [conv, *activation_ops(self.name, self.activation, out)]


class Dense(Affine):
    """Every output sees every input. The mathematics: ``kernels.reference.dense_forward``.

    Input (batch, ..., K), output (batch, ..., units).

    Args:
        units: the number of outputs.
        activation, use_bias, initializers, regularizers: as in :class:`Conv2D`.
    """

    kernel = weight("kernel", "The weights, (inputs, units)")

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
        self._set(locals())
        self.units = integer(who(self), "units", units)

    def output_shape(self, input_shape: Shape) -> Shape:
        last_axis(self, -1, input_shape)
        affordable(who(self), "output of one sample", (*input_shape[:-1], self.units))
        return (*input_shape[:-1], self.units)

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        return [self._spec("kernel", (input_shape[-1], self.units)), *self._bias(self.units)]

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        out = self.output_shape(input_shape)
        return [ops.Dense(self.name, input_shape, out, self.use_bias), *activation_ops(self.name, self.activation, out)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}
