"""Checking a backward pass against the definition of a derivative."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tinyconv import checking, kernels
from tinyconv.checking.arguments import Shape
from tinyconv.initializers import drawn
from tinyconv.layers import Layer
from tinyconv.plan import ops
from tinyconv.plan.arena import Arena
from tinyconv.plan.graph import chain_of
from tinyconv.plan.lowering import lower
from tinyconv.plan.state import State

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
        training: whether the layers are to behave as in training. Dropout and augmentation draw the same every time. At
            inference they do nothing, and batch normalisation goes by its moving statistics (whose layer's own weights
            then count as fixed).

    Returns:
        The largest relative difference found.

    Raises:
        ValueError: if it is above the tolerance; the message names the array, the place, and both values. Or if a
            layer of your own does not fill what it should.
    """
    stack, shape, tolerance, training = _checked(layers, input_shape, batch_size, seed, tolerance, training)
    rng = np.random.default_rng(seed)
    reference = kernels.load("reference")
    lowered, specs, sample = [], {}, shape
    for layer, name in zip(stack, _different_names(stack), strict=True):
        own = [replace(op, name=name) for op in layer.ops(sample)]
        if not training:
            own = [ops.settled(op) for op in own if not isinstance(op, ops.TrainingOnly)]
        fixed = not layer.trainable or any(isinstance(op, ops.BatchNorm) and op.frozen for op in own)
        for spec in layer.weight_specs(sample):
            specs[f"{name}/{spec.name}"] = spec, spec.trainable and not fixed
        lowered.append(_Ops(own))
        sample = layer.output_shape(sample)
    params, moving = (
        Arena({key: spec.shape for key, (spec, learns) in specs.items() if learns is kind}, reference, np.float64)
        for kind in (True, False)
    )
    for key, (spec, learns) in specs.items():
        noise = 0.1 * rng.standard_normal(spec.shape) if spec.trainable else 0
        (params if learns else moving)[key][...] = drawn(repr(key), spec.initializer, spec.shape, rng) + noise
    state = State(reference, params, moving, seed=seed)
    plan = lower(chain_of(lowered, shape), batch_size, state, training=True, input_gradient=True)
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


def _checked(layers, input_shape, batch_size, seed, tolerance, training):  # type: ignore[no-untyped-def]
    """The arguments, or a ValueError."""
    where = "check_gradients"
    stack = [layers] if isinstance(layers, Layer) or not isinstance(layers, Sequence) else list(layers)
    if not stack or not all(isinstance(layer, Layer) for layer in stack):
        raise checking.invalid(where, "layers", "a layer, or a list of layers (not a model)", layers)
    shape = checking.shape(where, "input_shape", input_shape)
    checking.integer(where, "batch_size", batch_size)
    checking.integer(where, "seed", seed, at_least=0)
    tolerance = checking.number(where, "tolerance", tolerance, at_least=0)
    return stack, shape, tolerance, checking.boolean(where, "training", training)


def _different_names(stack: Sequence[Layer]) -> list[str]:
    """A name for each layer's weights: its own, with a number where others have the same."""
    names = [layer.name for layer in stack]
    return [name if names.count(name) == 1 else f"{name}_{position}" for position, name in enumerate(names)]


@dataclass
class _Ops:
    """What a plan asks of a layer."""

    found: list[ops.Op]

    def ops(self, input_shape: Shape) -> list[ops.Op]:
        return self.found


def nudged(value: Callable[[], float], array: np.ndarray) -> np.ndarray:
    """The gradient of ``value()`` with respect to an array that it reads: each number is moved a little both ways."""
    slope = np.empty(array.shape)
    for place in np.ndindex(array.shape):
        before = array[place]
        array[place] = before + STEP
        above = value()
        array[place] = before - STEP
        slope[place] = (above - value()) / (2 * STEP)
        array[place] = before
    return slope


def _compare(
    name: str, array: np.ndarray, derivative: np.ndarray, value: Callable[[], float], tolerance: float
) -> float:
    """The largest difference between ``derivative`` and the slope of ``value()`` as numbers of ``array`` change."""
    slope = nudged(value, array)
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
