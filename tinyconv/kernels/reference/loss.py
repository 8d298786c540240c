"""Losses and metrics, one number per row; and the running totals of an epoch.

Every ``*_forward`` writes one loss per row; the loss of the batch is their mean, and so every ``*_backward`` divides
by the number of rows.
"""

import numpy as np

EPSILON = 1e-7  # Keras' fuzz factor: probabilities are clipped to [EPSILON, 1 - EPSILON] before a logarithm


def softmax_cross_entropy_forward(losses, probs, logits, targets):
    r"""Softmax and categorical cross-entropy in one, from the scores.

    .. math:: loss_m = -\sum_c t_{m,c} \log p_{m,c}, \qquad p = softmax(z),
              \qquad \log p_{m,c} = z_{m,c} - \log \sum_k e^{z_{m,k}}

    The logarithm undoes the exponential exactly, so no probability is ever rounded to zero first.

    Shapes: logits, targets, probs (M, C), losses (M,); losses and probs overwritten.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    probs[...] = e / total
    losses[...] = -(targets * (shifted - np.log(total))).sum(axis=1)


def softmax_cross_entropy_backward(dlogits, probs, targets):
    r"""From :math:`loss = \log\sum_k e^{z_k} \cdot \sum_c t_c - \sum_c t_c z_c` follows
    :math:`dz_c = (p_c \sum_k t_k - t_c) / M`: for targets that sum to one, prediction minus truth.

    Shapes: all (M, C), dlogits overwritten.
    """
    dlogits[...] = (probs * targets.sum(axis=1, keepdims=True) - targets) / len(probs)


def cross_entropy_forward(losses, probs, targets):
    r"""Categorical cross-entropy of given probabilities, as Keras computes it.

    .. math:: loss_m = -\sum_c t_{m,c} \log \mathrm{clip}(q_{m,c}), \qquad q_{m,c} = p_{m,c} / \sum_k p_{m,k}

    Shapes: probs, targets (M, C), losses (M,), overwritten.
    """
    q = probs / probs.sum(axis=1, keepdims=True)
    losses[...] = -(targets * np.log(np.clip(q, EPSILON, 1 - EPSILON))).sum(axis=1)


def cross_entropy_backward(dprobs, probs, targets):
    r"""With g the derivative of a row's loss with respect to q (:math:`-t_c/q_c`, or 0 where q was clipped), the
    quotient rule, :math:`\partial q_k / \partial p_c = (\delta_{kc} - q_k) / \sum_j p_j`, and the mean over the M
    rows give

    .. math:: dp_c = \frac{1}{M} \; \frac{g_c - \sum_k g_k q_k}{\sum_k p_k}

    Shapes: all (M, C), dprobs overwritten.
    """
    total = probs.sum(axis=1, keepdims=True)
    q = probs / total
    g = np.where((q < EPSILON) | (q > 1 - EPSILON), 0, -targets / np.where(q == 0, 1, q))
    dprobs[...] = (g - (g * q).sum(axis=1, keepdims=True)) / total / len(probs)


def sigmoid_cross_entropy_forward(losses, probs, logits, targets):
    r"""Sigmoid and binary cross-entropy in one, from the scores; the mean over a row's columns.

    .. math:: -t \log s(z) - (1 - t) \log(1 - s(z)) = \max(z, 0) - z t + \log(1 + e^{-|z|})

    Shapes: logits, targets, probs (M, C), losses (M,); losses and probs overwritten.
    """
    e = np.exp(-np.abs(logits))
    probs[...] = np.where(logits >= 0, 1, e) / (1 + e)
    losses[...] = (np.maximum(logits, 0) - logits * targets + np.log1p(e)).mean(axis=1)


def sigmoid_cross_entropy_backward(dlogits, probs, targets):
    """dz = (s(z) - t) / (M C): prediction minus truth again. Shapes: all (M, C), dlogits overwritten."""
    dlogits[...] = (probs - targets) / probs.size


def binary_cross_entropy_forward(losses, probs, targets):
    r"""Binary cross-entropy of given probabilities, as Keras computes it; the mean over a row's columns:
    :math:`-t \log q - (1 - t) \log(1 - q)` with q = clip(p).

    Shapes: probs, targets (M, C), losses (M,), overwritten.
    """
    q = np.clip(probs, EPSILON, 1 - EPSILON)
    losses[...] = -(targets * np.log(q) + (1 - targets) * np.log1p(-q)).mean(axis=1)


def binary_cross_entropy_backward(dprobs, probs, targets):
    """dp = (p - t) / (p (1 - p)) / (M C), and 0 where p was clipped. Shapes: all (M, C), dprobs overwritten."""
    clipped = (probs < EPSILON) | (probs > 1 - EPSILON)
    q = np.where(clipped, 0.5, probs)
    dprobs[...] = np.where(clipped, 0, (q - targets) / (q * (1 - q)) / probs.size)


def mean_squared_error_forward(losses, predictions, targets):
    """The mean over a row's columns of (prediction - target)^2. Shapes: (M, C); losses (M,), overwritten."""
    losses[...] = ((predictions - targets) ** 2).mean(axis=1)


def mean_squared_error_backward(dpredictions, predictions, targets):
    """2 (prediction - target) / (M C). Shapes: all (M, C), dpredictions overwritten."""
    dpredictions[...] = 2 * (predictions - targets) / predictions.size


def count_correct(correct, predictions, targets):
    """1 where a row's largest prediction and largest target stand in the same column (the first of equals), else 0.

    Shapes: predictions, targets (M, C), correct (M,), overwritten.
    """
    correct[...] = predictions.argmax(axis=1) == targets.argmax(axis=1)


def count_binary_correct(correct, predictions, targets):
    """The share of a row's columns where (prediction > 0.5) equals the target. Shapes as in count_correct."""
    correct[...] = ((predictions > 0.5) == targets).mean(axis=1)


def count_top_k(correct, predictions, targets, k):
    """1 where fewer than k columns of the row have a larger prediction than the column of the largest target.

    A row whose prediction there is not finite counts as wrong. Shapes as in count_correct.
    """
    truth = np.take_along_axis(predictions, targets.argmax(axis=1)[:, None], axis=1)
    correct[...] = ((predictions > truth).sum(axis=1) < k) & np.isfinite(truth[:, 0])


def accumulate(totals, values, slot, weight):
    """totals[slot] += weight * sum of values, in order, in double precision. totals: float64; values: (M,).

    The totals of an epoch are sums over samples, so a ragged last batch counts by its size.
    """
    totals[slot] += weight * values.sum(dtype=np.float64)
