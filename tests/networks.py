"""Run a stack of layers through a plan, forward and backward, as the parity tests need it."""

import numpy as np

from tinyconv import kernels, layers
from tinyconv.plan.arena import Arena
from tinyconv.plan.graph import chain_of
from tinyconv.plan.lowering import lower
from tinyconv.plan.state import State


class Probe(layers.Layer):
    """The end of a stack: hands on what it gets, and says what the loss's derivative is."""

    def __init__(self, dout):
        super().__init__()
        self.dout = dout

    def forward(self, out, x, weights):
        out[...] = x

    def backward(self, dx, dweights, dout, x, out, weights):
        dx[...] = self.dout


def make(stack):
    """Layers from (class name, arguments), with names that differ."""
    return [
        getattr(layers, name)(**arguments, name=f"{name.lower()}_{position}")
        for position, (name, arguments) in enumerate(stack)
    ]


def run(stack, weights, x, dout, backend, training=True, fuse=True, input_gradient=True):
    """The output, the gradient for ``x``, the gradients of the trained weights and the untrained weights after it.

    ``weights`` are all arrays of all layers in Keras' order, layer by layer.
    """
    built, shape, specs = make(stack), x.shape[1:], []
    for layer in built:
        specs += [(f"{layer.name}/{spec.name}", spec) for spec in layer.weight_specs(shape)]
        shape = layer.output_shape(shape)
    kernel_set = kernels.load(backend)
    params, moving = (
        Arena({name: spec.shape for name, spec in specs if spec.trainable is kind}, kernel_set)
        for kind in (True, False)
    )
    for (name, spec), array in zip(specs, weights, strict=True):
        kernel_set.upload((params if spec.trainable else moving)[name], np.asarray(array, np.float32))
    state = State(kernel_set, params, moving)
    plan = lower(
        chain_of([*built, Probe(dout)], x.shape[1:]),
        len(x),
        state,
        training=training,
        fuse=fuse,
        input_gradient=training and input_gradient,
    )
    kernel_set.upload(plan.x, x)
    plan.program("prepare", "forward", *(["backward"] if training else []))()
    gradients = [state.read(state.grads[name]) for name, spec in specs if spec.trainable]
    statistics = [state.read(moving[name]) for name, spec in specs if not spec.trainable]
    return state.read(plan.out), state.read(plan.dx), gradients, statistics
