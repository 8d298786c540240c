"""The base class of all layers, and of your own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyconv import inputs, kernels, ops, random
from tinyconv.arena import Arena, Shape
from tinyconv.initializers import Initializer, drawn
from tinyconv.layers.arguments import shape_of
from tinyconv.messages import refuse
from tinyconv.plan import lower
from tinyconv.regularizers import L2
from tinyconv.state import State

# What Keras' further arguments must be for tinyconv to do the same as Keras.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "trainable": (True,),
    "dtype": (None, "float32"),
    "data_format": (None, "channels_last"),
    "groups": (1,),
    "activity_regularizer": (None,),
    "kernel_constraint": (None,),
    "bias_constraint": (None,),
    "beta_constraint": (None,),
    "gamma_constraint": (None,),
    "beta_regularizer": (None,),
    "gamma_regularizer": (None,),
    "noise_shape": (None,),
    "lora_rank": (None,),
    "lora_alpha": (None,),
    "quantization_config": (None,),
    "renorm": (False,),
    "synchronized": (False,),
}


@dataclass(frozen=True)
class WeightSpec:
    """One array of weights that a layer wants."""

    name: str
    shape: Shape
    initializer: Initializer
    trainable: bool = True
    regularizer: L2 | None = None


class Layer:
    """Base class of all layers, and of your own.

    A layer is configuration; give it an input shape (:meth:`build`) and it has weights; call it on an array and it
    computes. To write your own, override three methods:

    * ``forward(self, out, x, weights)`` fills ``out`` (batch, ...) from ``x``, with NumPy;
    * ``backward(self, dx, dweights, dout, x, out, weights)`` fills ``dx`` (unless its size is 0) and every array of
      ``dweights`` from ``dout``, the loss's derivative with respect to ``out``;
    * ``output_shape(self, input_shape)``, unless it is the input's; and ``weight_specs`` if it has weights.

    It then takes part in any plan on the CPU, and ``tinyconv.check_gradients(layer, input_shape)`` compares its
    backward pass with central differences.

    Args:
        name: by default the class's name in lower case, with a number where a model has several.
        input_shape: the shape of one sample, for the first layer of a model without an ``Input``.
    """

    def __init__(self, name: str | None = None, input_shape: Sequence[int] | None = None, **unsupported: Any) -> None:
        refuse(type(self).__name__, unsupported, NEUTRAL)
        self.name = name or default_name(type(self))
        self.named_by_user = name is not None
        self.position = 0  # in its model; numbers the dropouts' random masks
        self.first_input_shape = None if input_shape is None else shape_of(self, input_shape)
        self.input_shape: Shape | None = None
        self.arrays: dict[str, np.ndarray] = {}  # the weights, once built
        self.owner: Any = None  # the model that holds them, and has to hear of changes

    # What a layer is

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of one output sample for input samples of that shape. Raises ValueError if they do not fit."""
        return input_shape

    def weight_specs(self, input_shape: Shape) -> list[WeightSpec]:
        """The arrays of weights that the layer wants for such inputs, in Keras' order."""
        return []

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        """The operations the layer consists of. By default the layer's own ``forward`` and ``backward``."""
        names = tuple(spec.name for spec in self.weight_specs(input_shape))
        return [ops.Custom(self.name, input_shape, self.output_shape(input_shape), self, names)]

    def forward(self, out: np.ndarray, x: np.ndarray, weights: dict[str, np.ndarray]) -> None:
        """For a layer of your own: fill ``out`` from ``x``."""
        raise TypeError(f"{type(self).__name__} does not say what it computes: override forward(out, x, weights).")

    def backward(
        self,
        dx: np.ndarray,
        dweights: dict[str, np.ndarray],
        dout: np.ndarray,
        x: np.ndarray,
        out: np.ndarray,
        weights: dict[str, np.ndarray],
    ) -> None:
        """For a layer of your own: fill ``dx`` and ``dweights`` from ``dout``."""
        raise TypeError(
            f"{type(self).__name__} cannot be trained: override backward(dx, dweights, dout, x, out, weights)."
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a layer like this one."""
        return {"name": self.name}

    # Weights

    @property
    def built(self) -> bool:
        return self.input_shape is not None

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights for inputs of that shape, the batch axis (None) included as in Keras."""
        if not self.built:
            self.initialize(shape_of(self, input_shape[1:]), np.random.default_rng(random.next_seed()))

    def initialize(self, input_shape: Shape, rng: np.random.Generator) -> None:
        """Draw the weights for samples of that shape."""
        self.output_shape(input_shape)
        self.arrays = {
            spec.name: drawn(repr(f"{self.name}/{spec.name}"), spec.initializer, spec.shape, rng)
            for spec in self.weight_specs(input_shape)
        }
        self.input_shape = input_shape

    @property
    def weights(self) -> list[np.ndarray]:
        """The layer's arrays, in Keras' order; to change them use :meth:`set_weights`."""
        views = [array.view() for array in self.arrays.values()]
        for view in views:
            view.flags.writeable = False
        return views

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the layer's arrays, in Keras' order."""
        return [array.copy() for array in self.arrays.values()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Set all of the layer's arrays, in Keras' order and shapes."""
        checked = inputs.checked_weights(self.name, list(self.arrays.items()), weights)
        for array, values in zip(self.arrays.values(), checked, strict=True):
            array[...] = values
        self._weights_changed()

    def _weights_changed(self) -> None:
        if self.owner is not None:
            self.owner._weights_changed()

    def count_params(self) -> int:
        """How many numbers the layer's weights are."""
        return sum(array.size for array in self.arrays.values())

    # Computing

    def __call__(self, x: Any, training: bool = False, backend: str = "reference") -> np.ndarray:
        """The layer's output for a batch of inputs, (batch, ...). Builds the layer first if need be."""
        x = inputs.as_batch(x, f"layer {self.name!r}")
        if not self.built:
            self.build((None, *x.shape[1:]))
        assert self.input_shape is not None
        x = inputs.as_input(x, self.input_shape, f"layer {self.name!r}")
        kernel_set = kernels.load(backend)
        specs = self.weight_specs(self.input_shape)
        params, moving = (
            Arena({f"{self.name}/{spec.name}": spec.shape for spec in specs if spec.trainable is kind}, kernel_set)
            for kind in (True, False)
        )
        for arena in (params, moving):
            for key in arena.shapes:
                kernel_set.upload(arena[key], self.arrays[key.split("/")[-1]])
        state = State(kernel_set, params, moving, seed=random.next_seed() if training else 0)
        plan = lower([self], self.input_shape, len(x), state, training=training)
        kernel_set.upload(plan.x, x)
        plan.program("prepare", "forward")()
        for key in moving.shapes:  # training may have moved the statistics
            kernel_set.download(self.arrays[key.split("/")[-1]], moving[key])
            self._weights_changed()
        return state.read(plan.out)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def default_name(layer_type: type[Layer]) -> str:
    """Keras' automatic name: Conv2D -> conv2d, MaxPooling2D -> max_pooling2d."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", layer_type.__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
