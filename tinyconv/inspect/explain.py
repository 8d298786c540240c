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
    """The output of every layer for a batch, as at inference, by the layer's name in the model: "conv2d", or
    "encoder/conv2d" in a model within. Of a layer that is called more than once it is the last call's."""
    model._need_built()
    arrays = model._input_arrays(x)
    model._claim()
    assert model._arenas is not None
    state = State(reference, *model._arenas)
    plan = lower(model._graph(every=True), len(arrays[0]), state, training=False, fuse=False)
    for there, array in zip(plan.xs, arrays, strict=True):
        there[...] = array
    plan.program("prepare", "forward")()
    return {use.path: out.copy() for use, out in zip(model._uses, plan.outs, strict=True)}


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
    need_one_of_each("input_gradient", model)
    (x,) = model._input_arrays(x)
    shape: Shape = model.output_shape[1:]
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


def need_one_of_each(what: str, model: Network) -> None:
    """Refuse a model of several inputs or outputs."""
    model._need_built()
    counts = len(model._inputs), len(model._outputs)
    if counts != (1, 1):
        raise ValueError(
            f"{what} expects a model with one input and one output. Received: model {model.name!r} with {counts[0]} "
            f"inputs and {counts[1]} outputs. Fix: Model(inputs, outputs) of one of them."
        )
