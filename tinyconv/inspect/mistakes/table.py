"""The mistakes."""

from tinyconv.inspect.mistakes.patch import Mistake

_CONV_DX = "        _scatter(dx, dout, w, strides, padding, dilation)"
_CONV_DW = "    windows = patches(x, dout.shape, w.shape, strides, padding, dilation)"
_CONV_SUM = "    dw[...] = np.tensordot(windows, dout, axes=((0, 1, 2), (0, 1, 2)))"
_BIAS = "    db[...] = dout.sum(axis=(0, 1, 2))"
_POOL = "        dx[there] += np.where(argmax[here] == position, dout[here], 0)"
_SHARE = "    share = dout / _window_sizes(dout.shape, dx.shape, pool_size, strides, padding)"
_RELU = "    return np.where(out <= 0, 0, dout)"
_NORM = "        dx[...] = gamma * inv_std * (dout - (dbeta + normal * dgamma) / len(x))"
_SOFTMAX = "    dx[...] = out * (dout - (dout * out).sum(axis=1, keepdims=True))"
_MASK = "    dropout_forward(dx, dout, counters, seed, layer, rate)"


def _conv(name: str, says: str, right: str, wrong: str, network: str = "cnn") -> Mistake:
    return Mistake(name, says, "conv2d_backward", right, wrong, network)


CONVOLUTIONS = [
    _conv(
        "filters-not-turned",
        "dX slides the filters as they are over the gradient, not turned by 180 degrees",
        _CONV_DX,
        "        _scatter(dx, dout, w[::-1, ::-1], strides, padding, dilation)",
    ),
    _conv(
        "channels-swapped",
        "dX takes filter c of channel f for filter f of channel c",
        _CONV_DX,
        "        _scatter(dx, dout, w.swapaxes(2, 3) if w.shape[2] == w.shape[3] else w, strides, padding, dilation)",
    ),
    _conv(
        "one-row-off",
        "dX lies one row too low",
        _CONV_DX,
        f"{_CONV_DX}\n        dx[...] = np.roll(dx, 1, axis=1)",
    ),
    _conv(
        "padding-forgotten-in-dx",
        "dX takes no notice of the zeros before the image",
        _CONV_DX,
        "        _scatter(dx, dout, w, strides, (0, 0), dilation)",
        "strided",
    ),
    _conv(
        "padding-forgotten-in-dw",
        "dW takes no notice of the zeros before the image",
        _CONV_DW,
        "    windows = patches(x, dout.shape, w.shape, strides, (0, 0), dilation)",
    ),
    _conv(
        "strides-forgotten-in-dx",
        "dX sends each gradient to where it would come from with strides of 1",
        _CONV_DX,
        "        _scatter(dx, dout, w, (1, 1), padding, dilation)",
        "strided",
    ),
    _conv(
        "dilation-forgotten",
        "dX takes the filter's taps to be neighbours",
        _CONV_DX,
        "        _scatter(dx, dout, w, strides, padding, (1, 1))",
        "strided",
    ),
    _conv(
        "turned-in-dw",
        "dW comes out turned by 180 degrees",
        _CONV_SUM,
        f"{_CONV_SUM}[::-1, ::-1]",
    ),
    _conv(
        "rows-for-columns",
        "dW has rows and columns exchanged",
        _CONV_SUM,
        f"{_CONV_SUM}.swapaxes(0, 1)",
    ),
    _conv(
        "mean-over-places",
        "dW is the mean over the output's places, where it should be the sum",
        _CONV_SUM,
        f"{_CONV_SUM} / (dout.shape[1] * dout.shape[2])",
    ),
    _conv("bias-gradient-missing", "the bias has no gradient", _BIAS, "    db[...] = 0"),
    _conv(
        "bias-mean",
        "the bias's gradient is the mean over the output's places, where it should be the sum",
        _BIAS,
        "    db[...] = dout.mean(axis=(1, 2)).sum(axis=0)",
    ),
    Mistake(
        "transposed-turned",
        "a transposed convolution's dX has the filters turned",
        "conv2d_transpose_backward",
        "        dx[...] = np.tensordot(windows, w, axes=3)",
        "        dx[...] = np.tensordot(windows, w[::-1, ::-1], axes=3)",
        "decoding",
    ),
]

DENSE = [
    Mistake(
        "weights-not-transposed",
        "dX is multiplied by the weights, not by their transpose",
        "dense_backward",
        "        np.matmul(dout, w.T, out=dx)",
        "        np.matmul(dout, w if len(w) == len(w.T) else w.T, out=dx)",
        "dense",
    ),
    Mistake(
        "dw-transposed",
        "dW comes out transposed",
        "dense_backward",
        "    dw[...] = x.T @ dout",
        "    dw[...] = dout.T @ x if len(dw) == len(dw.T) else x.T @ dout",
        "dense",
    ),
    Mistake(
        "divided-twice",
        "dW is divided by the batch size, as the loss's gradient has been already",
        "dense_backward",
        "    dw[...] = x.T @ dout",
        "    dw[...] = x.T @ dout / len(x)",
        "dense",
    ),
    Mistake(
        "dense-bias-missing",
        "the biases have no gradient",
        "dense_backward",
        "    db[...] = dout.sum(axis=0)",
        "    db[...] = 0",
        "dense",
    ),
]

POOLS = [
    Mistake(
        "pool-pays-all",
        "all pixels of a pooling window get its gradient, not the winner alone",
        "max_pool2d_backward",
        _POOL,
        "        dx[there] += dout[here]",
    ),
    Mistake(
        "pool-by-columns",
        "the winner's place is read column by column, and was written row by row",
        "max_pool2d_backward",
        _POOL,
        "        turned = position % pool_size[1] * pool_size[0] + position // pool_size[1]\n"
        "        dx[there] += np.where(argmax[here] == turned, dout[here], 0)",
    ),
    Mistake(
        "pool-first-wins",
        "the window's first pixel gets the gradient, whoever won",
        "max_pool2d_backward",
        _POOL,
        "        dx[there] += dout[here] if position == 0 else 0",
    ),
    Mistake(
        "pool-overwrites",
        "where windows overlap, the last one overwrites what the others sent",
        "max_pool2d_backward",
        _POOL,
        "        dx[there] = np.where(argmax[here] == position, dout[here], 0)",
        "overlapping",
    ),
    Mistake(
        "average-not-divided",
        "every pixel of an average gets its whole gradient",
        "average_pool2d_backward",
        _SHARE,
        "    share = dout",
        "overlapping",
    ),
    Mistake(
        "average-counts-outside",
        "an average's gradient is divided by the window's size, at the edge too",
        "average_pool2d_backward",
        _SHARE,
        "    share = dout / (pool_size[0] * pool_size[1])",
        "overlapping",
    ),
]


def _activation(name: str, says: str, helper: str, right: str, wrong: str, network: str) -> Mistake:
    return Mistake(name, says, "activation_backward", right, wrong, network, helper)


ACTIVATIONS = [
    _activation(
        "relu-mask-forgotten",
        "the gradient passes ReLU everywhere",
        "relu_gradient",
        _RELU,
        "    return 1 * dout",
        "cnn",
    ),
    _activation(
        "relu-mask-of-gradient",
        "ReLU lets pass what is positive in the gradient, not in the output",
        "relu_gradient",
        _RELU,
        "    return np.where(dout <= 0, 0, dout)",
        "cnn",
    ),
    _activation(
        "leak-forgotten",
        "a leaky ReLU's gradient does not leak",
        "leaky_relu_gradient",
        "    return np.where(x > 0, dout, negative_slope * dout)",
        "    return np.where(x > 0, dout, 0)",
        "leaky",
    ),
    _activation(
        "sigmoid-of-input",
        "the sigmoid's derivative is taken from its input, x (1 - x)",
        "sigmoid_gradient",
        "    return dout * out * (1 - out)",
        "    return dout * x * (1 - x)",
        "sigmoid",
    ),
    _activation(
        "tanh-not-squared",
        "the derivative of tanh has lost its square",
        "tanh_gradient",
        "    return dout * (1 - out * out)",
        "    return dout * (1 - out)",
        "tanh",
    ),
    _activation(
        "product-rule-forgotten",
        "in x s(x) only the first factor is differentiated",
        "silu_gradient",
        "    return dout * (s + out * (1 - s))",
        "    return dout * s",
        "swish",
    ),
    Mistake(
        "softmax-diagonal",
        "softmax's derivative is p (1 - p), without the other classes",
        "softmax_backward",
        _SOFTMAX,
        "    dx[...] = out * (1 - out) * dout",
        "squares",
    ),
]

LOSSES = [
    Mistake(
        "mean-forgotten",
        "the loss is a mean, but its gradient is not divided by N",
        "softmax_cross_entropy_backward",
        " / len(probs)",
        "",
        "dense",
        also="cross_entropy_backward",
    ),
    Mistake(
        "truth-minus-prediction",
        "the loss's gradient has the wrong sign",
        "softmax_cross_entropy_backward",
        " / len(probs)",
        " / -len(probs)",
        "dense",
        also="cross_entropy_backward",
    ),
    Mistake(
        "quotient-rule-forgotten",
        "probabilities are made to sum to one, but their gradient takes the sum for a constant",
        "cross_entropy_backward",
        "    dprobs[...] = (g - (g * q).sum(axis=1, keepdims=True)) / total / len(probs)",
        "    dprobs[...] = g / total / len(probs)",
        "shares",
    ),
    Mistake(
        "columns-not-counted",
        "a mean over rows and columns is divided by the rows only",
        "sigmoid_cross_entropy_backward",
        " / probs.size",
        " / len(probs)",
        "votes",
        also="binary_cross_entropy_backward",
    ),
    Mistake(
        "two-forgotten",
        "the square's derivative has lost its 2",
        "mean_squared_error_backward",
        "    dpredictions[...] = 2 * (predictions - targets) / predictions.size",
        "    dpredictions[...] = (predictions - targets) / predictions.size",
        "squares",
    ),
    Mistake(
        "huber-not-clipped",
        "Huber's loss has the gradient of a square, however large the error",
        "huber_backward",
        "    dpredictions[...] = np.clip(predictions - targets, -delta, delta) / predictions.size",
        "    dpredictions[...] = (predictions - targets) / predictions.size",
        "distances",
    ),
    Mistake(
        "penalty-without-two",
        "the gradient of an L2 penalty has lost its 2",
        "penalty_backward",
        "    grads += strength * (2 * params if power == 2 else np.sign(params))",
        "    grads += strength * (params if power == 2 else np.sign(params))",
        "decayed",
    ),
]

NORMS = [
    Mistake(
        "statistics-as-constants",
        "dX takes mean and variance for constants, as moving statistics are",
        "batch_norm_backward",
        _NORM,
        "        dx[...] = gamma * inv_std * dout",
        "normalised",
    ),
    Mistake(
        "mean-path-forgotten",
        "dX leaves out the path by way of the batch's mean",
        "batch_norm_backward",
        _NORM,
        "        dx[...] = gamma * inv_std * (dout - normal * dgamma / len(x))",
        "normalised",
    ),
    Mistake(
        "variance-path-forgotten",
        "dX leaves out the path by way of the batch's variance",
        "batch_norm_backward",
        _NORM,
        "        dx[...] = gamma * inv_std * (dout - dbeta / len(x))",
        "normalised",
    ),
    Mistake(
        "dgamma-of-raw-input",
        "dgamma multiplies by x before it was normalised",
        "batch_norm_backward",
        "    dgamma[...] = (dout * normal).sum(axis=0)",
        "    dgamma[...] = (dout * x).sum(axis=0)",
        "normalised",
    ),
    Mistake(
        "means-over-the-batch",
        "layer normalisation's dX takes means over the batch, as batch normalisation's does",
        "layer_norm_backward",
        "        means = g.mean(axis=1, keepdims=True), (g * normal).mean(axis=1, keepdims=True)",
        "        means = g.mean(axis=0, keepdims=True), (g * normal).mean(axis=0, keepdims=True)",
        "normalised",
    ),
]

DROPOUTS = [
    Mistake(
        "mask-not-scaled",
        "dropout's gradient has the mask, but not the factor 1 / (1 - rate)",
        "dropout_backward",
        _MASK,
        "    dx[...] = np.where(keep_mask(dout.shape, counters, seed, layer, rate), dout, 0)",
    ),
    Mistake(
        "mask-forgotten",
        "dropout's gradient passes the dropped units too",
        "dropout_backward",
        _MASK,
        "    dx[...] = dout",
    ),
    Mistake(
        "mask-drawn-again",
        "dropout's backward pass draws a new mask",
        "dropout_backward",
        _MASK,
        "    dropout_forward(dx, dout, counters + 1, seed, layer, rate)",
    ),
]

MERGES = [
    Mistake(
        "last-reader-only",
        "a value with several readers gets the gradient of the last, not their sum",
        "add_to",
        "    out += x",
        "    out[...] = x",
        "branched",
    ),
    Mistake(
        "own-factor",
        "in a product each factor's gradient is multiplied by itself, not by the other",
        "multiply_backward",
        "        da[...] = dout * b",
        "        da[...] = dout * a",
        "branched",
    ),
    Mistake(
        "maximum-pays-both",
        "the smaller one of a maximum gets the gradient too",
        "maximum_backward",
        "        db[...] = np.where(a >= b, 0, dout)",
        "        db[...] = dout",
        "branched",
    ),
    Mistake(
        "offset-forgotten",
        "each part of a concatenation gets the gradient of the first",
        "concatenate_backward",
        "    dx[...] = dout[:, offset : offset + dx.shape[1]]",
        "    dx[...] = dout[:, : dx.shape[1]]",
        "branched",
    ),
    Mistake(
        "repeats-averaged",
        "a repeated pixel gets the mean of its readers' gradients, not the sum",
        "upsample2d_backward",
        ".sum(axis=(2, 4))",
        ".mean(axis=(2, 4))",
        "decoding",
    ),
]

# Controls: they spoil training and leave every gradient right.
UNSEEN = [
    Mistake(
        "adam-uncorrected",
        "Adam's moments, which begin at 0, are not corrected",
        "adam_update",
        "    step_size = rate * params.dtype.type(np.sqrt(1 - beta_2**t) / (1 - beta_1**t))",
        "    step_size = rate",
        seen=False,
    ),
    Mistake(
        "rate-times-100",
        "the learning rate is a hundred times too high",
        "adam_update",
        "    rate = learning_rate[0]",
        "    rate = 100 * learning_rate[0]",
        seen=False,
    ),
    Mistake(
        "adam-not-squared",
        "Adam's second moment averages the magnitudes of gradients, not their squares",
        "adam_update",
        "    v += (grads * grads - v) * params.dtype.type(1 - beta_2)",
        "    v += (np.abs(grads) - v) * params.dtype.type(1 - beta_2)",
        seen=False,
    ),
    Mistake(
        "gradients-not-cleared",
        "a convolution adds to the gradients of the batches before",
        "conv2d_backward",
        _CONV_SUM,
        "    dw[...] += np.tensordot(windows, dout, axes=((0, 1, 2), (0, 1, 2)))",
        seen=False,
    ),
    Mistake(
        "statistics-not-moved",
        "batch normalisation's moving variance stays at 1, and inference goes by it",
        "batch_norm_forward",
        "    moving_variance[...] = moving_variance * momentum + variance * (1 - momentum)",
        "    moving_variance[...] = 1",
        "normalised",
        seen=False,
    ),
]

MISTAKES: dict[str, Mistake] = {
    mistake.name: mistake
    for family in (CONVOLUTIONS, DENSE, POOLS, ACTIVATIONS, LOSSES, NORMS, DROPOUTS, MERGES, UNSEEN)
    for mistake in family
}
