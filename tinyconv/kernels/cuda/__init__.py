"""The kernels on a GPU, hand-written in numba.cuda: no cuDNN, no cuBLAS.

In :mod:`runtime`, :mod:`device` says how to read a kernel and which rules all of them keep. All arrays live on the
device, and a step is recorded once into a CUDA graph and replayed (:mod:`memory`). :mod:`convolution.product` is the
one tiled product behind convolutions and dense layers; :mod:`conv_pool` is the fast path of convolution, ReLU and
pooling. ``NUMBA_ENABLE_CUDASIM=1`` runs every kernel without a GPU, slowly.
"""

from tinyconv.kernels.cuda.runtime.device import available, compile_watch, cuda, name, require

if cuda is None:  # numba without its CUDA target: say what is missing where the set is loaded
    require()

from tinyconv.kernels.cuda.activation import (
    activation_backward,
    activation_forward,
    softmax_backward,
    softmax_forward,
)
from tinyconv.kernels.cuda.conv import (
    conv2d_backward,
    conv2d_forward,
    conv2d_prepare,
    conv2d_relu_max_pool2d_backward,
    conv2d_relu_max_pool2d_forward,
    conv2d_relu_max_pool2d_prepare,
    conv2d_relu_max_pool2d_workspace,
    conv2d_transpose_backward,
    conv2d_transpose_forward,
    conv2d_transpose_prepare,
    conv2d_workspace,
)
from tinyconv.kernels.cuda.data import advance, gather_one_hot, gather_rows, scatter_rows
from tinyconv.kernels.cuda.dense import dense_backward, dense_forward, dense_prepare, dense_workspace
from tinyconv.kernels.cuda.depthwise import depthwise_conv2d_backward, depthwise_conv2d_forward
from tinyconv.kernels.cuda.dropout import dropout_backward, dropout_forward, dropout_pooled_forward
from tinyconv.kernels.cuda.image import pad2d_backward, pad2d_forward, upsample2d_backward, upsample2d_forward
from tinyconv.kernels.cuda.layer_norm import layer_norm_backward, layer_norm_forward
from tinyconv.kernels.cuda.loss import (
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
from tinyconv.kernels.cuda.merge import (
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
from tinyconv.kernels.cuda.norm_pool import batch_norm_relu_max_pool2d_backward, batch_norm_relu_max_pool2d_forward
from tinyconv.kernels.cuda.normalization import (
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
from tinyconv.kernels.cuda.pool import (
    average_pool2d_backward,
    average_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)
from tinyconv.kernels.cuda.runtime.memory import (
    allocate,
    as_device_array,
    download,
    on_device,
    record,
    synchronize,
    upload,
)
from tinyconv.kernels.cuda.update import (
    adam_update,
    clip_norms,
    clip_values,
    penalty_backward,
    penalty_forward,
    rmsprop_update,
    sgd_update,
)
from tinyconv.kernels.cuda.warp import draw_warps, warp_backward, warp_forward, warp_workspace


def describe() -> str:
    """On what the kernels run, in a few words."""
    return f"CUDA, {name()}"


__all__ = [
    "accumulate",
    "activation_backward",
    "activation_forward",
    "adam_update",
    "add_backward",
    "add_forward",
    "add_to",
    "advance",
    "allocate",
    "as_device_array",
    "available",
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
    "compile_watch",
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
    "download",
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
    "on_device",
    "pad2d_backward",
    "pad2d_forward",
    "penalty_backward",
    "penalty_forward",
    "record",
    "require",
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
    "synchronize",
    "upload",
    "upsample2d_backward",
    "upsample2d_forward",
    "warp_backward",
    "warp_forward",
    "warp_workspace",
    "weigh",
]
