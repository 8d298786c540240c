"""Batch and layer normalisation."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from tinyconv import initializers
from tinyconv.checking import LARGEST, boolean, integer, number
from tinyconv.checking.arguments import Shape
from tinyconv.checking.lookup import saved
from tinyconv.initializers import Initializer, InitializerLike
from tinyconv.layers.arguments import LayerOptions, last_axis, refuse_unsupported, who
from tinyconv.layers.base import Layer
from tinyconv.layers.variables import WeightSpec, weight
from tinyconv.plan import ops


class Normalization(Layer):
    """What both share: a variance that is kept above 0, a scale gamma, and a shift beta."""

    statistics: tuple[str, ...] = ()  # further weights, which training does not learn from gradients
    beta_initializer: Initializer
    gamma_initializer: Initializer

    def _set(self, given: Mapping[str, Any]) -> None:
        """Take a constructor's arguments (its ``locals()``), as far as both share them."""
        refuse_unsupported(self, given)
        self.epsilon = number(who(self), "epsilon", given["epsilon"], above=0.0)
        self.center = boolean(who(self), "center", given["center"])
        self.scale = boolean(who(self), "scale", given["scale"])
        for name in ("beta", "gamma", *self.statistics):
            setattr(self, f"{name}_initializer", initializers.get(given[f"{name}_initializer"]))

    def _specs(self, shape: Shape) -> list[WeightSpec]:
        learned = [("gamma", self.scale), ("beta", self.center), *((name, True) for name in self.statistics)]
        return [
            WeightSpec(name, shape, getattr(self, f"{name}_initializer"), trainable=name not in self.statistics)
            for name, present in learned
            if present
        ]

    def get_config(self) -> dict[str, Any]:
        weights = ("beta", "gamma", *self.statistics)
        names = ("axis", "epsilon", "center", "scale", *(f"{weight}_initializer" for weight in weights))
        return {**super().get_config(), **{name: saved(getattr(self, name)) for name in names}}


class BatchNormalization(Normalization):
    """Each channel with mean 0 and variance 1 over the batch. See ``kernels.reference.batch_norm_forward``.

    At inference the moving statistics take the batch's place, and the plan folds them into the layer before.

    Args:
        axis: must be the last.
        momentum: how much of the moving statistics is kept at each training step.
        epsilon: added to the variance.
        center, scale: whether to shift by beta, to scale by gamma.
    """

    gamma = weight("gamma", "What each channel is multiplied by")
    beta = weight("beta", "What is then added to it")
    moving_mean = weight("moving_mean", "The mean of each channel that inference uses")
    moving_variance = weight("moving_variance", "The variance of each channel that inference uses")
    statistics = ("moving_mean", "moving_variance")

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer: InitializerLike = "zeros",
        gamma_initializer: InitializerLike = "ones",
        moving_mean_initializer: InitializerLike = "zeros",
        moving_variance_initializer: InitializerLike = "ones",
        beta_regularizer: None = None,
        gamma_regularizer: None = None,
        beta_constraint: None = None,
        gamma_constraint: None = None,
        renorm: bool = False,
        renorm_clipping: None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**options)
        self._set(locals())
        self.axis = integer(who(self), "axis", axis, at_least=-LARGEST)
        self.momentum = number(who(self), "momentum", momentum, at_least=0.0, at_most=1.0)

    def output_shape(self, input_shape: Shape) -> Shape:
        return last_axis(self, self.axis, input_shape)

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        return self._specs(input_shape[-1:])

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        settings = (self.momentum, self.epsilon, self.center, self.scale)
        return [ops.BatchNorm(self.name, input_shape, self.output_shape(input_shape), *settings, frozen=self._is_fixed)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum}


class LayerNormalization(Normalization):
    """Each sample with mean 0 and variance 1 over its last axis. See ``kernels.reference.layer_norm_forward``.

    Args:
        axis: the last axis, or a list of the last axes, counted with the batch axis as in Keras: [1, 2, 3] of images.
        epsilon: added to the variance.
        center, scale: whether to shift by beta, to scale by gamma; both have the shape of these axes.
    """

    gamma = weight("gamma", "What each number of a sample is multiplied by")
    beta = weight("beta", "What is then added to it")

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer: InitializerLike = "zeros",
        gamma_initializer: InitializerLike = "ones",
        beta_regularizer: None = None,
        gamma_regularizer: None = None,
        beta_constraint: None = None,
        gamma_constraint: None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**options)
        self._set(locals())
        several = isinstance(axis, list | tuple) and len(axis) > 0
        found = [integer(who(self), "axis", each, at_least=-LARGEST) for each in (axis if several else [axis])]  # type: ignore[union-attr]
        self.axis: int | list[int] = found if several else found[0]

    def _axes(self, input_shape: Shape) -> int:
        """The number of axes."""
        axes = self.axis if isinstance(self.axis, list) else [self.axis]
        if len(axes) == 1:
            last_axis(self, axes[0], input_shape)
        rank = len(input_shape) + 1
        if sorted(axis % rank for axis in axes) != list(range(rank - len(axes), rank)) or len(axes) == rank:
            raise ValueError(
                f"Layer {self.name!r}: axis={self.axis} is not supported by tinyconv. "
                f"Expected the last axis or the last axes, for samples of shape {input_shape}."
            )
        return len(axes)

    def output_shape(self, input_shape: Shape) -> Shape:
        self._axes(input_shape)
        return input_shape

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        return self._specs(input_shape[-self._axes(input_shape) :])

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        settings = self._axes(input_shape), self.epsilon, self.center, self.scale
        return [ops.LayerNorm(self.name, input_shape, input_shape, *settings)]
