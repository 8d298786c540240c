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


def mean_absolute_error_forward(losses, predictions, targets):
    """The mean over a row's columns of abs(prediction - target). Shapes: (M, C); losses (M,), overwritten."""
    losses[...] = np.abs(predictions - targets).mean(axis=1)


def mean_absolute_error_backward(dpredictions, predictions, targets):
    """The sign of (prediction - target), 0 where they are equal, / (M C). Shapes: (M, C), dpredictions overwritten."""
    dpredictions[...] = np.sign(predictions - targets) / predictions.size


def huber_forward(losses, predictions, targets, delta):
    r"""The mean over a row's columns of Huber's loss (1964) of the error e = prediction - target:

    .. math:: e^2 / 2 \text{ where } |e| \le \delta, \qquad \delta |e| - \delta^2 / 2 \text{ elsewhere}

    A parabola whose arms go on as straight lines, with equal value and slope where they meet: at delta both are
    delta^2 / 2 and delta. So an outlier pulls no harder than an error of delta.

    Shapes: (M, C); losses (M,), overwritten.
    """
    error = np.abs(predictions - targets)
    losses[...] = np.where(error <= delta, error * error / 2, delta * error - delta * delta / 2).mean(axis=1)


def huber_backward(dpredictions, predictions, targets, delta):
    """The error, clipped to [-delta, delta], / (M C). Shapes: all (M, C), dpredictions overwritten."""
    dpredictions[...] = np.clip(predictions - targets, -delta, delta) / predictions.size


def smooth_targets(out, targets, smoothing, level):
    """Targets that are less sure: out = (1 - smoothing) target + smoothing * level (Szegedy et al., 2016, section 7).

    ``level`` is what they would be if nothing were known: 1 / C for C classes, 1 / 2 for yes or no.
    Shapes: (M, C), out overwritten.
    """
    out[...] = targets * (1 - smoothing) + smoothing * level


def weigh(values, weights, factor, normalize):
    r"""Every row multiplied by its weight: of losses (C = 1), and as the chain rule says of their gradients.

    .. math:: v_{m,c} \leftarrow v_{m,c} \, f w_m, \qquad
              \text{or, with normalize,}\quad v_{m,c} \, f w_m \frac{M}{\sum_k w_k}

    The loss of a batch is the mean over its rows. So f = M makes it their sum, and with normalize it is the weighted
    mean (0 if the weights add up to 0). Shapes: values (M, C), changed in place; weights (M,), or of size 0: all are 1.
    """
    factors = factor * weights if weights.size else np.full(len(values), factor, values.dtype)
    if normalize and weights.size:
        total = weights.sum()
        factors = factors * len(weights) / total if total else 0 * factors
    values *= factors[:, None]


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


def count_outcomes(totals, predictions, targets, weights, thresholds, slot, column):
    r"""How often a prediction is above a threshold, where it should be and where it should not.

    For K thresholds, 2 K + 2 numbers are *accumulated* in totals, from totals[slot] on: for each threshold the weight
    of the true positives (prediction > threshold, target not 0), for each that of the false positives (prediction >
    threshold, target 0), then the weight of all positives (target not 0) and of all negatives. What is not above is
    the rest: false negatives = positives - true positives.

    Shapes: totals float64 (T,); predictions, targets (M, C), of which only ``column`` counts, or all: -1; weights (M,),
    or of size 0: all are 1; thresholds (K,).
    """
    chosen = slice(None) if column < 0 else slice(column, column + 1)
    predictions, positive = predictions[:, chosen], targets[:, chosen] != 0
    weights = (weights if weights.size else np.ones(len(targets)))[:, None].astype(np.float64)
    true, false = weights * positive, weights * ~positive
    K = len(thresholds)
    for k, threshold in enumerate(thresholds):
        above = predictions > threshold
        totals[slot + k] += (true * above).sum()
        totals[slot + K + k] += (false * above).sum()
    totals[slot + 2 * K] += true.sum()
    totals[slot + 2 * K + 1] += false.sum()


def accumulate(totals, values, weights, slot, weight):
    r"""A weighted mean's numerator and denominator, *accumulated* in double precision:

    .. math:: t_s \leftarrow t_s + w \sum_m w_m v_m, \qquad t_{s + 1} \leftarrow t_{s + 1} + w \sum_m w_m

    with s the ``slot`` and w the ``weight`` of all. The totals of an epoch are sums over samples, so a ragged last
    batch counts by its size. Shapes: totals float64 (T,); values (M,); weights (M,), or of size 0: all are 1.
    """
    weights = (weights if weights.size else np.ones(len(values))).astype(np.float64)
    totals[slot] += weight * (weights * values).sum()
    totals[slot + 1] += weight * weights.sum()
