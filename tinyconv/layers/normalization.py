"""Batch normalisation."""

from typing import Any

from tinyconv import initializers, ops
from tinyconv.arena import Shape
from tinyconv.initializers import Initializer
from tinyconv.layers.base import Layer, WeightSpec


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
        beta_initializer: str | Initializer = "zeros",
        gamma_initializer: str | Initializer = "ones",
        moving_mean_initializer: str | Initializer = "zeros",
        moving_variance_initializer: str | Initializer = "ones",
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.axis, self.momentum, self.epsilon = axis, float(momentum), float(epsilon)
        self.center, self.scale = bool(center), bool(scale)
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"Layer {self.name!r}: expected 0 <= momentum <= 1. Received: {momentum!r}.")
        if not self.epsilon > 0:
            raise ValueError(f"Layer {self.name!r}: expected a positive epsilon. Received: {epsilon!r}.")
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)

    def output_shape(self, input_shape: Shape) -> Shape:
        if self.axis not in (-1, len(input_shape)):
            raise ValueError(
                f"Layer {self.name!r}: axis={self.axis} is not supported by tinyconv. "
                f"Expected the last axis, -1 or {len(input_shape)}, for samples of shape {input_shape}."
            )
        return input_shape

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        shape = input_shape[-1:]
        specs = [WeightSpec("gamma", shape, self.gamma_initializer)] if self.scale else []
        specs += [WeightSpec("beta", shape, self.beta_initializer)] if self.center else []
        specs.append(WeightSpec("moving_mean", shape, self.moving_mean_initializer, trainable=False))
        specs.append(WeightSpec("moving_variance", shape, self.moving_variance_initializer, trainable=False))
        return specs

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        settings = (self.momentum, self.epsilon, self.center, self.scale)
        return [ops.BatchNorm(self.name, input_shape, self.output_shape(input_shape), *settings)]

    def get_config(self) -> dict[str, Any]:
        parameters = ("beta", "gamma", "moving_mean", "moving_variance")
        names = ("axis", "momentum", "epsilon", "center", "scale", *(f"{name}_initializer" for name in parameters))
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
