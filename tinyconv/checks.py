"""Checking a backward pass against the definition of a derivative."""

from collections.abc import Sequence

import numpy as np

from tinyconv import kernels
from tinyconv.arena import Arena, Shape
from tinyconv.layers import Layer
from tinyconv.plan import lower
from tinyconv.state import State

STEP = 1e-6  # double precision's best compromise: the difference's error grows with its square, rounding with 1 / step


def check_gradients(
    layers: Layer | Sequence[Layer],
    input_shape: Shape,
    batch_size: int = 3,
    seed: int = 0,
    tolerance: float = 1e-6,
    training: bool = True,
) -> float:
    r"""Compare the backward pass of a layer (or of several, in order) with central differences, in float64.

    A random direction d turns the output into one number, :math:`L = \sum d \cdot out`. Its derivative with respect
    to every number of the input and of the trainable weights is computed twice: by the backward pass, and as

    .. math:: \frac{L(\theta + h) - L(\theta - h)}{2 h}

    Args:
        layers: the layer or layers, of tinyconv or your own; their weights are drawn anew.
        input_shape: the shape of one sample. Keep it small: each of its numbers costs two forward passes.
        batch_size: how many samples.
        seed: of the input, the weights and the direction.
        tolerance: the largest difference allowed, relative to the largest derivative of that array (or to 1).
        training: whether the layers are to behave as in training. Dropout draws the same mask every time.

    Returns:
        The largest relative difference found.

    Raises:
        ValueError: if it is above the tolerance; the message names the array, the place, and both values.
    """
    stack = [layers] if isinstance(layers, Layer) else list(layers)
    rng = np.random.default_rng(seed)
    reference = kernels.load("reference")
    specs, shape = [], tuple(input_shape)
    for layer in stack:
        specs += [(f"{layer.name}/{spec.name}", spec) for spec in layer.weight_specs(shape)]
        shape = layer.output_shape(shape)
    params, moving = (
        Arena({name: spec.shape for name, spec in specs if spec.trainable is kind}, reference, np.float64)
        for kind in (True, False)
    )
    for name, spec in specs:
        array = (params if spec.trainable else moving)[name]
        array[...] = spec.initializer(spec.shape, rng) + (
            0.1 * rng.standard_normal(spec.shape) if spec.trainable else 0
        )
    state = State(reference, params, moving, seed=seed)
    plan = lower(stack, tuple(input_shape), batch_size, state, training=training, input_gradient=training)
    start = moving.flat.copy()
    plan.x[...] = rng.standard_normal(plan.x.shape)
    direction = rng.standard_normal(plan.out.shape)
    forward = plan.program("prepare", "forward")

    def value() -> float:
        moving.flat[...] = start
        forward()
        return float((direction * plan.out).sum())

    value()
    plan.dout[...] = direction
    plan.program("backward")()
    derivatives = {"input": (plan.x, plan.dx.copy())}
    derivatives |= {name: (params[name], state.grads[name].copy()) for name in params.shapes}
    return max(_compare(name, *pair, value, tolerance) for name, pair in derivatives.items())


def _compare(name, array, derivative, value, tolerance) -> float:  # type: ignore[no-untyped-def]
    """The largest difference between ``derivative`` and the slope of ``value()`` as numbers of ``array`` change."""
    slope = np.empty_like(derivative)
    for place in np.ndindex(array.shape):
        before = array[place]
        array[place] = before + STEP
        above = value()
        array[place] = before - STEP
        slope[place] = (above - value()) / (2 * STEP)
        array[place] = before
    scale = max(1.0, float(np.abs(slope).max(initial=0)))
    difference = np.abs(derivative - slope) / scale
    worst = float(difference.max(initial=0))
    if not worst <= tolerance:
        at = tuple(
            int(i)
            for i in np.unravel_index(np.nanargmax(np.where(np.isnan(difference), np.inf, difference)), array.shape)
        )
        raise ValueError(
            f"The backward pass disagrees with central differences for {name!r} at {at}. "
            f"Expected {slope[at]:.6g}. Received: {derivative[at]:.6g} (relative difference {worst:.1e}, "
            f"tolerance {tolerance:.1e})."
        )
    return worst
