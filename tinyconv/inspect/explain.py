"""Looking inside a trained network: what every layer computes from an image, and which pixels decide the answer."""

from typing import Any

import numpy as np

from tinyconv.checking import inputs
from tinyconv.checking.arguments import Shape
from tinyconv.kernels import reference
from tinyconv.network import Network
from tinyconv.plan import ops
from tinyconv.plan.lowering import lower
from tinyconv.plan.state import State


def layer_outputs(model: Network, x: Any) -> dict[str, np.ndarray]:
    """The output of every layer for a batch, by the layer's name, as at inference."""
    value = _batch(model, x)
    outputs = {}
    for layer in model.layers:
        outputs[layer.name] = value = layer(value)
    return outputs


def input_gradient(model: Network, x: Any, classes: Any) -> np.ndarray:
    """The derivative of each sample's score for a class with respect to every number of the sample, shaped as ``x``.

    The score is what the last softmax or sigmoid starts from: of a probability near 1 all derivatives are near 0.
    Everything behaves as at inference: nothing is dropped, and batch normalisation uses its moving statistics. The
    gradient is what the layers' own backward passes compute, not an approximation.

    Args:
        x: a batch of samples.
        classes: for each sample, the number of an output.

    Source: Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks" (2014), section 3.
    """
    x = _batch(model, x)
    shape: Shape = model.output_shape[1:]  # type: ignore[assignment]
    numbers = inputs.as_targets(classes, shape, True, len(x), "input_gradient")
    if len(shape) != 1:
        raise ValueError(f"input_gradient expects a model with one row of outputs. Received: outputs of shape {shape}.")
    seed = np.zeros((len(x), *shape), np.float32)
    seed[np.arange(len(x)), numbers] = 1
    model._claim()
    assert model._arenas is not None
    graph = model._graph().at_inference()
    last = graph[graph.outputs[0]]
    if isinstance(last.op, ops.Softmax) or (isinstance(last.op, ops.Activation) and last.op.kind == "sigmoid"):
        graph.outputs[0] = last.reads[0]
    plan = lower(graph, len(x), State(reference, *model._arenas), training=True, input_gradient=True)
    plan.x[...] = x
    plan.program("prepare", "forward")()
    plan.dout[...] = seed  # the derivative of the chosen scores with respect to all of them
    plan.program("backward")()
    return plan.dx.copy()


def _batch(model: Network, x: Any) -> np.ndarray:
    model._need_built()
    return inputs.as_input(x, model.input_shape[1:], f"model {model.name!r}")  # type: ignore[arg-type]
