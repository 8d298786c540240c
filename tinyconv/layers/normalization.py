"""Batch and layer normalisation."""

from collections.abc import Sequence
from typing import Any, Unpack

from tinyconv import initializers
from tinyconv.checking import LARGEST, boolean, integer, number
from tinyconv.checking.arguments import Shape
from tinyconv.checking.lookup import saved
from tinyconv.checking.messages import refuse
from tinyconv.initializers import InitializerLike
from tinyconv.layers.arguments import NEUTRAL, LayerOptions, last_axis, who
from tinyconv.layers.base import Layer, WeightSpec
from tinyconv.plan import ops


class BatchNormalization(Layer):
    """Each channel with mean 0 and variance 1 over the batch. See ``kernels.reference.batch_norm_forward``.

    At inference the moving statistics take the batch's place, and the plan folds them into the layer before.

    Args:
        axis: must be the last.
        momentum: how much of the moving statistics is kept at each training step.
        epsilon: added to the variance.
        center, scale: whether to shift by beta, to scale by gamma.
    """

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
        unsupported = {
            "beta_regularizer": beta_regularizer,
            "gamma_regularizer": gamma_regularizer,
            "beta_constraint": beta_constraint,
            "gamma_constraint": gamma_constraint,
            "renorm": renorm,
            "renorm_clipping": renorm_clipping,
            "renorm_momentum": renorm_momentum,
            "synchronized": synchronized,
        }
        refuse(type(self).__name__, unsupported, NEUTRAL)
        self.axis = integer(who(self), "axis", axis, at_least=-LARGEST)
        self.momentum = number(who(self), "momentum", momentum, at_least=0.0, at_most=1.0)
        self.epsilon = number(who(self), "epsilon", epsilon, above=0.0)
        self.center = boolean(who(self), "center", center)
        self.scale = boolean(who(self), "scale", scale)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)

    def output_shape(self, input_shape: Shape) -> Shape:
        return last_axis(self, self.axis, input_shape)

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        shape = input_shape[-1:]
        specs = [WeightSpec("gamma", shape, self.gamma_initializer)] if self.scale else []
        specs += [WeightSpec("beta", shape, self.beta_initializer)] if self.center else []
        specs.append(WeightSpec("moving_mean", shape, self.moving_mean_initializer, trainable=False))
        specs.append(WeightSpec("moving_variance", shape, self.moving_variance_initializer, trainable=False))
        return specs

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        settings = (self.momentum, self.epsilon, self.center, self.scale)
        return [ops.BatchNorm(self.name, input_shape, self.output_shape(input_shape), *settings, frozen=self._is_fixed)]

    def get_config(self) -> dict[str, Any]:
        parameters = ("beta", "gamma", "moving_mean", "moving_variance")
        names = ("axis", "momentum", "epsilon", "center", "scale", *(f"{name}_initializer" for name in parameters))
        return {**super().get_config(), **{name: saved(getattr(self, name)) for name in names}}


class LayerNormalization(Layer):
    """Each sample with mean 0 and variance 1 over its last axis. See ``kernels.reference.layer_norm_forward``.

    Args:
        axis: the last axis, or a list of the last axes, counted with the batch axis as in Keras: [1, 2, 3] of images.
        epsilon: added to the variance.
        center, scale: whether to shift by beta, to scale by gamma; both have the shape of these axes.
    """

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
        unsupported = {
            "beta_regularizer": beta_regularizer,
            "gamma_regularizer": gamma_regularizer,
            "beta_constraint": beta_constraint,
            "gamma_constraint": gamma_constraint,
        }
        refuse(type(self).__name__, unsupported, NEUTRAL)
        several = isinstance(axis, list | tuple) and len(axis) > 0
        found = [integer(who(self), "axis", each, at_least=-LARGEST) for each in (axis if several else [axis])]  # type: ignore[union-attr]
        self.axis: int | list[int] = found if several else found[0]
        self.epsilon = number(who(self), "epsilon", epsilon, above=0.0)
        self.center = boolean(who(self), "center", center)
        self.scale = boolean(who(self), "scale", scale)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)

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
        shape = input_shape[-self._axes(input_shape) :]
        specs = [WeightSpec("gamma", shape, self.gamma_initializer)] if self.scale else []
        return [*specs, WeightSpec("beta", shape, self.beta_initializer)] if self.center else specs

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        settings = self._axes(input_shape), self.epsilon, self.center, self.scale
        return [ops.LayerNorm(self.name, input_shape, input_shape, *settings)]

    def get_config(self) -> dict[str, Any]:
        names = ("axis", "epsilon", "center", "scale", "beta_initializer", "gamma_initializer")
        return {**super().get_config(), **{name: saved(getattr(self, name)) for name in names}}
