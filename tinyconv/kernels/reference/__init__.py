r"""The mathematics chapter: every kernel of tinyconv, written once in NumPy for people to read.

Each function says what is computed (the formula), why its backward pass is what it is (a few lines of derivation),
the shape of every array, and where the formula comes from. Nothing here is fast. The ``cpu`` and ``cuda`` kernel sets
compute the same results under the same names and the same arguments, and the tests hold them to this one.

Backpropagation
---------------
A network is a chain of functions, the last of which is the loss, one number: L = f3(f2(f1(x))). Training needs the
derivative of L with respect to every weight. The chain rule says how it travels. If ``out`` is computed from ``x``, and
an element of ``x`` is changed a little, every element of ``out`` changes, and through each of them the loss:

.. math:: dx_i = \frac{\partial L}{\partial x_i}
               = \sum_j \frac{\partial L}{\partial out_j} \frac{\partial out_j}{\partial x_i}
               = \sum_j dout_j \frac{\partial out_j}{\partial x_i}

All that a function must know of the rest of the network is in ``dout``. So it is enough that each comes with a
``backward`` that makes ``dx`` of ``dout``, and the gradient of its own weights, dw, by the same rule: they compose, as
the dx of one is the dout of the function before it. The chain is walked once forward, keeping what the derivatives will
need, and once backward, from the derivative of L with respect to itself, which is 1. That gives all gradients for about
twice the work of the forward pass, where a difference for each weight would take one forward pass for each.
(Where a value has several readers, it gets the sum of their gradients: the sum over j again.)

With numbers: one input x = 2, a dense layer with w = 3 and b = -1, ReLU, and a squared error against the target 4.

>>> import numpy as np
>>> from tinyconv.kernels import reference as kernels
>>> x, w, b, target = np.array([[2.0]]), np.array([[3.0]]), np.array([-1.0]), np.array([[4.0]])
>>> h, y, loss = np.empty((1, 1)), np.empty((1, 1)), np.empty(1)
>>> kernels.dense_forward(h, x, w, b, None, relu=False)  # h = 3 * 2 - 1
>>> kernels.activation_forward(y, h, "relu", ())  # y = max(0, h)
>>> kernels.mean_squared_error_forward(loss, y, target)  # L = (y - 4)^2
>>> h.item(), y.item(), loss.item()
(5.0, 5.0, 1.0)

Backward, each step knows only its own derivative and the gradient that it is handed:

>>> dy, dh, dx, dw, db = (np.empty_like(array) for array in (y, h, x, w, b))
>>> kernels.mean_squared_error_backward(dy, y, target)  # dL/dy = 2 (y - 4)
>>> kernels.activation_backward(dh, dy, h, y, "relu", ())  # dy where y > 0
>>> kernels.dense_backward(dx, dw, db, dh, x, w, None)  # dh * w, dh * x, dh
>>> dy.item(), dh.item(), dx.item(), dw.item(), db.item()
(2.0, 2.0, 6.0, 4.0, 2.0)

The check is to move w a little and look at the loss, L(w) = (2 w - 1 - 4)^2. That is how the tests check every layer:

>>> round(((2 * 3.001 - 5) ** 2 - (2 * 2.999 - 5) ** 2) / 0.002, 6)
4.0

A step of training is then w - rate * dw, and the modules tell the rest: ``dense``, ``activation``, ``loss``, ``conv``,
``depthwise``, ``pool``, ``conv_pool``, ``image``, ``normalization``, ``norm_pool``, ``layer_norm``, ``dropout``,
``warp``, ``merge`` where paths meet, and ``update`` for better steps than this one.

The contract
------------

* Outputs come first, then inputs, then parameters. A gradient is ``d`` + the name of what it belongs to: ``dx`` is
  the derivative of the (scalar) loss with respect to ``x``.
* A kernel returns nothing: it overwrites its outputs, unless its docstring says "accumulated".
* An output of size zero is not needed by anyone, and is not computed (``dx`` of a network's first layer, say).
* Images are NHWC, ``(batch, height, width, channels)``; filters are HWIO, ``(height, width, in, out)``; as in Keras.
* ``strides``, ``dilation`` and ``pool_size`` are pairs (vertical, horizontal). ``padding`` is (top, left): how many
  rows and columns of zeros stand before the image; how many stand behind it follows from the shape of the output.
* ``work`` is scratch memory (floats) of a layer: ``*_workspace`` gives its size, and ``*_prepare`` stores in it what
  the kernel set's forward pass needs to know about the filters in advance. It lasts for any number of forward passes;
  a backward pass may overwrite it, but for the fused step's (``conv_pool``), which needs it too.
* ``counters`` is an int64 array: the optimiser step, the position in the epoch's order of the samples, and the global
  index of this batch's first sample.

All arrays of one call share a float type, float32 or float64 (the gradient checks use float64).
"""

from tinyconv.kernels.memory import allocate, download, record, synchronize, upload  # noqa: F401  (the set's memory)
from tinyconv.kernels.reference.activation import (
    activation_backward,
    activation_forward,
    softmax_backward,
    softmax_forward,
)
from tinyconv.kernels.reference.conv import (
    conv2d_backward,
    conv2d_forward,
    conv2d_prepare,
    conv2d_transpose_backward,
    conv2d_transpose_forward,
    conv2d_transpose_prepare,
    conv2d_workspace,
)
from tinyconv.kernels.reference.conv_pool import (
    conv2d_relu_max_pool2d_backward,
    conv2d_relu_max_pool2d_forward,
    conv2d_relu_max_pool2d_prepare,
    conv2d_relu_max_pool2d_workspace,
)
from tinyconv.kernels.reference.data import advance, gather_one_hot, gather_rows, scatter_rows
from tinyconv.kernels.reference.dense import dense_backward, dense_forward, dense_prepare, dense_workspace
from tinyconv.kernels.reference.depthwise import depthwise_conv2d_backward, depthwise_conv2d_forward
from tinyconv.kernels.reference.dropout import dropout_backward, dropout_forward, dropout_pooled_forward
from tinyconv.kernels.reference.image import pad2d_backward, pad2d_forward, upsample2d_backward, upsample2d_forward
from tinyconv.kernels.reference.layer_norm import layer_norm_backward, layer_norm_forward
from tinyconv.kernels.reference.loss import (
    accumulate,
    binary_cross_entropy_backward,
    binary_cross_entropy_forward,
    count_binary_correct,
    count_correct,
    count_outcomes,
    count_top_k,
    cross_entropy_backward,
    cross_entropy_forward,
    huber_backward,
    huber_forward,
    mean_absolute_error_backward,
    mean_absolute_error_forward,
    mean_squared_error_backward,
    mean_squared_error_forward,
    sigmoid_cross_entropy_backward,
    sigmoid_cross_entropy_forward,
    smooth_targets,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
    weigh,
)
from tinyconv.kernels.reference.merge import (
    add_backward,
    add_forward,
    add_to,
    concatenate_backward,
    concatenate_forward,
    maximum_backward,
    maximum_forward,
    multiply_backward,
    multiply_forward,
    rescale_backward,
    rescale_forward,
)
from tinyconv.kernels.reference.norm_pool import batch_norm_relu_max_pool2d_backward, batch_norm_relu_max_pool2d_forward
from tinyconv.kernels.reference.normalization import (
    batch_norm_add_relu_backward,
    batch_norm_add_relu_forward,
    batch_norm_backward,
    batch_norm_fold,
    batch_norm_forward,
    batch_norm_inference,
    batch_norm_inference_backward,
    batch_norm_relu_backward,
    batch_norm_relu_forward,
    batch_norm_relu_inference,
)
from tinyconv.kernels.reference.pool import (
    average_pool2d_backward,
    average_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)
from tinyconv.kernels.reference.update import (
    adam_update,
    clip_norms,
    clip_values,
    penalty_backward,
    penalty_forward,
    rmsprop_update,
    sgd_update,
)
from tinyconv.kernels.reference.warp import draw_warps, warp_backward, warp_forward, warp_workspace


def describe() -> str:
    """What the kernels run on, in a few words."""
    return "NumPy"


__all__ = [
    "accumulate",
    "activation_backward",
    "activation_forward",
    "adam_update",
    "add_backward",
    "add_forward",
    "add_to",
    "advance",
    "average_pool2d_backward",
    "average_pool2d_forward",
    "batch_norm_add_relu_backward",
    "batch_norm_add_relu_forward",
    "batch_norm_backward",
    "batch_norm_fold",
    "batch_norm_forward",
    "batch_norm_inference",
    "batch_norm_inference_backward",
    "batch_norm_relu_backward",
    "batch_norm_relu_forward",
    "batch_norm_relu_inference",
    "batch_norm_relu_max_pool2d_backward",
    "batch_norm_relu_max_pool2d_forward",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_forward",
    "clip_norms",
    "clip_values",
    "concatenate_backward",
    "concatenate_forward",
    "conv2d_backward",
    "conv2d_forward",
    "conv2d_prepare",
    "conv2d_relu_max_pool2d_backward",
    "conv2d_relu_max_pool2d_forward",
    "conv2d_relu_max_pool2d_prepare",
    "conv2d_relu_max_pool2d_workspace",
    "conv2d_transpose_backward",
    "conv2d_transpose_forward",
    "conv2d_transpose_prepare",
    "conv2d_workspace",
    "count_binary_correct",
    "count_correct",
    "count_outcomes",
    "count_top_k",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dense_backward",
    "dense_forward",
    "dense_prepare",
    "dense_workspace",
    "depthwise_conv2d_backward",
    "depthwise_conv2d_forward",
    "draw_warps",
    "dropout_backward",
    "dropout_forward",
    "dropout_pooled_forward",
    "gather_one_hot",
    "gather_rows",
    "huber_backward",
    "huber_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "maximum_backward",
    "maximum_forward",
    "mean_absolute_error_backward",
    "mean_absolute_error_forward",
    "mean_squared_error_backward",
    "mean_squared_error_forward",
    "multiply_backward",
    "multiply_forward",
    "pad2d_backward",
    "pad2d_forward",
    "penalty_backward",
    "penalty_forward",
    "rescale_backward",
    "rescale_forward",
    "rmsprop_update",
    "scatter_rows",
    "sgd_update",
    "sigmoid_cross_entropy_backward",
    "sigmoid_cross_entropy_forward",
    "smooth_targets",
    "softmax_backward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "softmax_forward",
    "upsample2d_backward",
    "upsample2d_forward",
    "warp_backward",
    "warp_forward",
    "warp_workspace",
    "weigh",
]
