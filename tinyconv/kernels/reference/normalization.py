"""Batch normalisation. Source: Ioffe and Szegedy, "Batch normalization" (2015), algorithm 1 and section 3."""

import numpy as np

from tinyconv.kernels.reference.activation import relu, relu_gradient


def batch_norm_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon):
    r"""Training: give each channel mean 0 and variance 1 over the batch, then scale by gamma and shift by beta.

    .. math:: out = \gamma \hat x + \beta, \qquad \hat x = (x - \mu) \, \sigma^{-1}, \qquad
              \sigma = \sqrt{\mathrm{var}(x) + \epsilon}

    The moving statistics, used at inference, become momentum * old + (1 - momentum) * new, with the biased variance,
    as Keras has it.

    Shapes: x, out (M, C): the channels, and everything else in one axis; all others (C,). out, mean and inv_std (the
    batch's mu and 1/sigma, for the backward pass) are overwritten, moving_mean and moving_variance changed in place.
    """
    mean[...] = x.mean(axis=0)
    variance = ((x - mean) ** 2).mean(axis=0)
    inv_std[...] = 1 / np.sqrt(variance + epsilon)
    out[...] = (x - mean) * (inv_std * gamma) + beta
    moving_mean[...] = moving_mean * momentum + mean * (1 - momentum)
    moving_variance[...] = moving_variance * momentum + variance * (1 - momentum)


def batch_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std):
    r"""The gradients, channel by channel; sums and means are over the M rows.

    gamma and beta enter linearly: :math:`d\gamma = \sum_m dout_m \hat x_m` and :math:`d\beta = \sum_m dout_m`. For dx,
    write g for :math:`d\hat x = \gamma \, dout` and v for the variance, so that :math:`\sigma = (v + \epsilon)^{1/2}`.
    An input x_i reaches the loss by three paths: through its own :math:`\hat x_i`, through mu, and through v.

    * Its own: :math:`\partial \hat x_i / \partial x_i = 1/\sigma` contributes :math:`g_i / \sigma`.
    * mu has :math:`\partial \hat x_m / \partial \mu = -1/\sigma` for every m, so :math:`d\mu = -\sum_m g_m / \sigma`.
      (It also appears in v, but there :math:`\partial v / \partial \mu = -\frac{2}{M} \sum_m (x_m - \mu) = 0`.) With
      :math:`\partial \mu / \partial x_i = 1/M` that contributes :math:`-\mathrm{mean}(g) / \sigma`.
    * v has :math:`\partial \hat x_m / \partial v = -\frac12 (x_m - \mu) \sigma^{-3} = -\frac12 \hat x_m \sigma^{-2}`,
      so :math:`dv = -\frac12 \sigma^{-2} \sum_m g_m \hat x_m`. With
      :math:`\partial v / \partial x_i = \frac{2}{M} (x_i - \mu) = \frac{2}{M} \sigma \hat x_i` that contributes
      :math:`-\hat x_i \, \mathrm{mean}(g \hat x) / \sigma`.

    The three add up to

    .. math:: dx_i = \sigma^{-1} \left( g_i - \mathrm{mean}(g) - \hat x_i \, \mathrm{mean}(g \hat x) \right)

    where :math:`\mathrm{mean}(g) = \gamma \, d\beta / M` and :math:`\mathrm{mean}(g \hat x) = \gamma \, d\gamma / M`:
    the sums for gamma and beta serve again. (So dx sums to zero and, but for epsilon, is orthogonal to x-hat: to shift
    or stretch a whole channel changes nothing.)

    Shapes: dx, dout, x (M, C), all others (C,); dx, dgamma and dbeta overwritten. A ``dx`` of size zero is not
    computed.
    """
    normal = (x - mean) * inv_std
    dgamma[...] = (dout * normal).sum(axis=0)
    dbeta[...] = dout.sum(axis=0)
    if dx.size:
        dx[...] = gamma * inv_std * (dout - (dbeta + normal * dgamma) / len(x))


def batch_norm_relu_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon):
    """Training, with a ReLU behind it: out = max(0, y), where y is what :func:`batch_norm_forward` gives. See there."""
    batch_norm_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon)
    out[...] = relu(out)


def batch_norm_relu_backward(dx, dgamma, dbeta, dout, x, gamma, beta, mean, inv_std):
    r"""The gradients of :func:`batch_norm_relu_forward`. By the chain rule they are those of
    :func:`batch_norm_backward`, which is handed what the ReLU lets pass:

    .. math:: dy = dout \; [y > 0], \qquad y = (x - \mu) \, \gamma \sigma^{-1} + \beta

    y is computed once more, by the forward pass's own expression, so that both agree to the last bit on where it is 0.
    Why not look at out, which says the same? Two passes over memory are needed, one for the sums and one for dx. Both
    read dout and x, the second writes dx: five arrays. To read out too would make it seven; to mask dout first, in a
    pass of its own, eight.

    Shapes as there; beta (C,).
    """
    y = (x - mean) * (inv_std * gamma) + beta
    batch_norm_backward(dx, dgamma, dbeta, relu_gradient(dout, x, y), x, gamma, mean, inv_std)


def batch_norm_add_relu_forward(
    out, mean, inv_std, moving_mean, moving_variance, x, other, gamma, beta, momentum, epsilon
):
    """Training, as a residual block ends: out = max(0, y + other), where y is what :func:`batch_norm_forward` gives.

    Shapes as there; other (M, C).
    """
    batch_norm_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon)
    out[...] = relu(out + other)


def batch_norm_add_relu_backward(dx, dother, dgamma, dbeta, dout, x, out, gamma, mean, inv_std):
    r"""The gradients of :func:`batch_norm_add_relu_forward`: what the ReLU lets pass goes on to both sides of the sum,

    .. math:: dother = dout \; [out > 0]

    as it is to the other value, and to x by :func:`batch_norm_backward`.

    Shapes as there; out and dother (M, C). dother is overwritten, and may be dout.
    """
    dother[...] = relu_gradient(dout, x, out)
    batch_norm_backward(dx, dgamma, dbeta, dother, x, gamma, mean, inv_std)


def batch_norm_inference(out, x, gamma, beta, moving_mean, moving_variance, epsilon):
    """Inference: the same with the moving statistics, so that a sample's result does not depend on its batch.

    Shapes: x, out (M, C), out overwritten (may be x); all others (C,).
    """
    factor = gamma / np.sqrt(moving_variance + epsilon)
    out[...] = (x - moving_mean) * factor + beta


def batch_norm_inference_backward(dx, dout, gamma, moving_variance, epsilon):
    r"""The gradient of :func:`batch_norm_inference`, as a frozen layer needs it in training.

    The moving statistics are constants here: no x of the batch changes them. So each output depends on its own x alone,
    and on that linearly, :math:`out = x f + \text{const}` with :math:`f = \gamma / \sqrt{\sigma^2 + \epsilon}`, and

    .. math:: dx = dout \, \frac{\partial out}{\partial x} = dout \, f

    Shapes: dx, dout (M, C), dx overwritten (may be dout); gamma, moving_variance (C,).
    """
    dx[...] = dout * (gamma / np.sqrt(moving_variance + epsilon))


def batch_norm_relu_inference(out, x, gamma, beta, moving_mean, moving_variance, epsilon):
    """:func:`batch_norm_inference`, and a ReLU behind it."""
    batch_norm_inference(out, x, gamma, beta, moving_mean, moving_variance, epsilon)
    out[...] = relu(out)


def batch_norm_fold(w_folded, b_folded, w, b, gamma, beta, moving_mean, moving_variance, epsilon):
    r"""At inference a batch normalisation is a factor and a shift per channel, so the layer before it can absorb it:
    :math:`w' = w f, \; b' = (b - \mu) f + \beta` with :math:`f = \gamma / \sqrt{\sigma^2 + \epsilon}`.

    Shapes: w, w_folded (K, F): a dense layer's weights, or a convolution's as (KH * KW * C, F); all others (F,).
    w_folded and b_folded overwritten.
    """
    factor = gamma / np.sqrt(moving_variance + epsilon)
    w_folded[...] = w * factor
    b_folded[...] = (b - moving_mean) * factor + beta
