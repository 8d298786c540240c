"""The CPU kernel set: the reference's functions on vector registers and all cores, in Numba.

What is computed, and why, is explained in ``tinyconv.kernels.reference``; the docstrings here say only what differs:
the order of the loops, what is cut into pieces, and what runs in parallel. Arrays are C-contiguous and float32.
"""

from tinyconv.kernels.cpu import environment  # noqa: F401  (first)
from tinyconv.kernels.cpu.activation import (
    activation_backward,
    activation_forward,
    softmax_backward,
    softmax_forward,
)
from tinyconv.kernels.cpu.conv import (
    conv2d_backward,
    conv2d_forward,
    conv2d_prepare,
    conv2d_transpose_backward,
    conv2d_transpose_forward,
    conv2d_transpose_prepare,
    conv2d_workspace,
)
from tinyconv.kernels.cpu.conv_pool import (
    conv2d_relu_max_pool2d_backward,
    conv2d_relu_max_pool2d_forward,
    conv2d_relu_max_pool2d_prepare,
    conv2d_relu_max_pool2d_workspace,
)
from tinyconv.kernels.cpu.data import advance, gather_one_hot, gather_rows, scatter_rows
from tinyconv.kernels.cpu.dense import dense_backward, dense_forward, dense_prepare, dense_workspace
from tinyconv.kernels.cpu.depthwise import depthwise_conv2d_backward, depthwise_conv2d_forward
from tinyconv.kernels.cpu.dropout import dropout_backward, dropout_forward, dropout_pooled_forward
from tinyconv.kernels.cpu.image import pad2d_backward, pad2d_forward, upsample2d_backward, upsample2d_forward
from tinyconv.kernels.cpu.layer_norm import layer_norm_backward, layer_norm_forward
from tinyconv.kernels.cpu.loss import (
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
from tinyconv.kernels.cpu.merge import (
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
from tinyconv.kernels.cpu.norm_pool import batch_norm_relu_max_pool2d_backward, batch_norm_relu_max_pool2d_forward
from tinyconv.kernels.cpu.normalization import (
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
from tinyconv.kernels.cpu.pool import (
    average_pool2d_backward,
    average_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)
from tinyconv.kernels.cpu.registers.host import LANES, target  # noqa: F401  (so that machines can be compared)
from tinyconv.kernels.cpu.runtime.jit import cache_folder, compile_watch  # noqa: F401  (so that compiling can be announced)
from tinyconv.kernels.cpu.runtime.tasks import compile_programs, compiling_only, record  # noqa: F401
from tinyconv.kernels.cpu.runtime.threads import default_threads, get_threads, threading_layer  # noqa: F401
from tinyconv.kernels.cpu.update import (
    adam_update,
    clip_norms,
    clip_values,
    penalty_backward,
    penalty_forward,
    rmsprop_update,
    sgd_update,
)
from tinyconv.kernels.cpu.warp import draw_warps, warp_backward, warp_forward, warp_workspace
from tinyconv.kernels.memory import allocate, download, synchronize, upload  # noqa: F401  (the set's memory)


def describe() -> str:
    """What the kernels run on, in a few words."""
    threads = get_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''} ({threading_layer()}), vectors of {LANES} floats"


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
