"""The mathematics chapter: every kernel of tinyconv, written once in NumPy for people to read.

Each function says what is computed (the formula), why its backward pass is what it is (a few lines of derivation),
the shape of every array, and where the formula comes from. Nothing here is fast. The ``cpu`` and ``cuda`` kernel sets
compute the same results under the same names and the same arguments, and the tests hold them to this one.

The conventions of the contract:

* Outputs come first, then inputs, then parameters. A gradient is ``d`` + the name of what it belongs to: ``dx`` is
  the derivative of the (scalar) loss with respect to ``x``.
* A kernel returns nothing: it overwrites its outputs, unless its docstring says "accumulated".
* An output of size zero is one that nobody needs, and is not computed (``dx`` of a network's first layer, say).
* Images are NHWC, ``(batch, height, width, channels)``; filters are HWIO, ``(height, width, in, out)``; as in Keras.
* ``strides``, ``dilation`` and ``pool_size`` are pairs (vertical, horizontal). ``padding`` is (top, left): how many
  rows and columns of zeros stand before the image; how many stand behind it follows from the shape of the output.
* ``work`` is float scratch that belongs to one layer: ``*_workspace`` says how many floats, ``*_prepare`` puts into
  it whatever the kernel set wants to know about the filters in advance, and forward and backward may use the rest.
* ``counters`` is an int64 array: the optimiser step, the position in the epoch's order of the samples, and the global
  index of this batch's first sample.

All arrays of one call share a float type, float32 or float64 (the gradient checks use float64).
"""

from tinyconv.kernels.memory import allocate, download, record, synchronize, upload  # noqa: F401  (the set's memory)
from tinyconv.kernels.reference.activation import (
    elu_backward,
    elu_forward,
    leaky_relu_backward,
    leaky_relu_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    softmax_backward,
    softmax_forward,
    tanh_backward,
    tanh_forward,
)
from tinyconv.kernels.reference.conv import (
    conv2d_backward,
    conv2d_forward,
    conv2d_prepare,
    conv2d_relu_max_pool2d_backward,
    conv2d_relu_max_pool2d_forward,
    conv2d_relu_max_pool2d_prepare,
    conv2d_relu_max_pool2d_workspace,
    conv2d_workspace,
)
from tinyconv.kernels.reference.data import advance, gather_one_hot, gather_rows, scatter_rows
from tinyconv.kernels.reference.dense import dense_backward, dense_forward, dense_prepare, dense_workspace
from tinyconv.kernels.reference.dropout import dropout_backward, dropout_forward, dropout_pooled_forward
from tinyconv.kernels.reference.loss import (
    accumulate,
    binary_cross_entropy_backward,
    binary_cross_entropy_forward,
    count_binary_correct,
    count_correct,
    count_top_k,
    cross_entropy_backward,
    cross_entropy_forward,
    mean_squared_error_backward,
    mean_squared_error_forward,
    sigmoid_cross_entropy_backward,
    sigmoid_cross_entropy_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from tinyconv.kernels.reference.normalization import (
    batch_norm_backward,
    batch_norm_fold,
    batch_norm_forward,
    batch_norm_inference,
)
from tinyconv.kernels.reference.pool import (
    average_pool2d_backward,
    average_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)
from tinyconv.kernels.reference.update import adam_update, l2_backward, l2_forward, sgd_update


def describe() -> str:
    """On what the kernels run, in a few words."""
    return "NumPy"


__all__ = [
    "accumulate",
    "adam_update",
    "advance",
    "average_pool2d_backward",
    "average_pool2d_forward",
    "batch_norm_backward",
    "batch_norm_fold",
    "batch_norm_forward",
    "batch_norm_inference",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_forward",
    "conv2d_backward",
    "conv2d_forward",
    "conv2d_prepare",
    "conv2d_relu_max_pool2d_backward",
    "conv2d_relu_max_pool2d_forward",
    "conv2d_relu_max_pool2d_prepare",
    "conv2d_relu_max_pool2d_workspace",
    "conv2d_workspace",
    "count_binary_correct",
    "count_correct",
    "count_top_k",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dense_backward",
    "dense_forward",
    "dense_prepare",
    "dense_workspace",
    "dropout_backward",
    "dropout_forward",
    "dropout_pooled_forward",
    "elu_backward",
    "elu_forward",
    "gather_one_hot",
    "gather_rows",
    "l2_backward",
    "l2_forward",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "mean_squared_error_backward",
    "mean_squared_error_forward",
    "relu_backward",
    "relu_forward",
    "scatter_rows",
    "sgd_update",
    "sigmoid_backward",
    "sigmoid_cross_entropy_backward",
    "sigmoid_cross_entropy_forward",
    "sigmoid_forward",
    "softmax_backward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "softmax_forward",
    "tanh_backward",
    "tanh_forward",
]
