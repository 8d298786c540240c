"""Optimisers, over all parameters at once: params, grads and moments are flat arrays of the same length."""

import numpy as np

from tinyconv.kernels.reference.dropout import STEP


def clip_values(grads, limit):
    """Every gradient brought into [-limit, limit]; a NaN stays one. Shapes: grads (P,), changed in place."""
    np.clip(grads, -limit, limit, out=grads)


def clip_norms(grads, sums, parts, limit):
    r"""Gradients whose L2 norm is above ``limit`` scaled down to it (Pascanu et al., 2013).

    .. math:: g \leftarrow g \; \frac{c}{\max(\lVert g \rVert, c)}

    A row of ``parts`` is (begin, end, norm): grads[begin:end] is scaled by the norm of that number, to which all parts
    of that number contribute: those of one weight, or those of all weights. The squares are added up in double
    precision. A norm that is not finite makes NaN of all that it belongs to, so that it does not go unseen.

    Shapes: grads (P,), changed in place; sums float64 (S,), overwritten with each part's sum of squares;
    parts int64 (S, 3).
    """
    for s, (begin, end, _) in enumerate(parts):
        sums[s] = (grads[begin:end].astype(np.float64) ** 2).sum()
    norms = np.sqrt(np.bincount(parts[:, 2], sums))
    scales = np.where(np.isfinite(norms), limit / np.maximum(norms, limit), np.nan)
    for begin, end, norm in parts:
        grads[begin:end] *= grads.dtype.type(scales[norm])


def adam_update(params, m, v, grads, counters, learning_rate, beta_1, beta_2, epsilon, weight_decay):
    r"""One step of Adam (Kingma and Ba, 2015, the efficient form at the end of section 2), as Keras has it.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \theta &\leftarrow \theta - \alpha_t \frac{m}{\sqrt{v} + \hat\epsilon}, \qquad
        \alpha_t = \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}

    Why alpha_t: m and v begin at 0, so they are too small in the first steps. Unrolled,

    .. math:: m_t = (1 - \beta_1) \sum_{i=1}^{t} \beta_1^{t-i} g_i

    and if all gradients have the same expectation, :math:`\mathrm{E}[m_t] = \mathrm{E}[g] (1 - \beta_1)
    \sum_{i=0}^{t-1} \beta_1^i = \mathrm{E}[g] (1 - \beta_1^t)`, by the geometric series; likewise
    :math:`\mathrm{E}[v_t] = \mathrm{E}[g^2] (1 - \beta_2^t)`. So :math:`\hat m = m / (1 - \beta_1^t)` and
    :math:`\hat v = v / (1 - \beta_2^t)` have the right expectations, and

    .. math:: \alpha \frac{\hat m}{\sqrt{\hat v} + \epsilon}
              = \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \; \frac{m}{\sqrt v + \epsilon \sqrt{1 - \beta_2^t}}
              = \alpha_t \frac{m}{\sqrt v + \hat\epsilon}

    where :math:`\hat\epsilon`, ``epsilon`` here, is constant instead. In the first step m / sqrt(v) is
    (1 - beta_1) g / (sqrt(1 - beta_2) |g|), and alpha_t makes of it just alpha times the sign of g.

    t counts from 1: it is counters[STEP] + 1. A ``weight_decay`` above 0 first shrinks the parameters by
    learning_rate * weight_decay (AdamW: Loshchilov and Hutter, 2019).

    Shapes: params, m, v, grads (P,); params, m and v changed in place. learning_rate: (1,), same type as params.
    """
    t = int(counters[STEP]) + 1
    rate = learning_rate[0]
    step_size = rate * params.dtype.type(np.sqrt(1 - beta_2**t) / (1 - beta_1**t))
    _decay(params, rate, weight_decay)
    m += (grads - m) * params.dtype.type(1 - beta_1)
    v += (grads * grads - v) * params.dtype.type(1 - beta_2)
    params -= step_size * m / (np.sqrt(v) + params.dtype.type(epsilon))


def rmsprop_update(params, mean_squares, velocity, means, grads, learning_rate, rho, momentum, epsilon, weight_decay):
    r"""One step of RMSprop (Tieleman and Hinton, 2012: lecture 6e of their course), as Keras has it.

    .. math::
        v &\leftarrow \rho v + (1 - \rho) g^2, \qquad a \leftarrow \rho a + (1 - \rho) g \\
        u &\leftarrow \mu u + \frac{\alpha g}{\sqrt{v - a^2 + \epsilon}}, \qquad \theta \leftarrow \theta - u

    v is a moving mean of the squared gradient, so that the step of a parameter does not depend on the scale of its
    gradients. v begins at 0 and is not corrected as Adam's is: the first steps are up to 1 / sqrt(1 - rho) times as
    long. With a, the moving mean of the gradient ("centered": Graves, 2013), v - a^2 is its variance, and a parameter
    whose gradient hardly changes takes longer steps. (Rounding could make it negative; then it counts as 0.)

    Shapes: params, mean_squares (v), grads (P,); velocity (u) and means (a) (P,), or of size 0: mu = 0, and a = 0. All
    but grads are changed in place. learning_rate: (1,). weight_decay: see :func:`adam_update`.
    """
    rate, rho, rest = learning_rate[0], params.dtype.type(rho), params.dtype.type(1 - rho)
    _decay(params, rate, weight_decay)
    mean_squares *= rho
    mean_squares += rest * grads * grads
    variances = mean_squares
    if means.size:
        means *= rho
        means += rest * grads
        variances = np.maximum(mean_squares - means * means, 0)
    step = rate * grads / np.sqrt(variances + params.dtype.type(epsilon))
    if velocity.size:
        velocity *= params.dtype.type(momentum)
        velocity += step
        step = velocity
    params -= step


def sgd_update(params, velocity, grads, learning_rate, momentum, nesterov, weight_decay):
    r"""One step of gradient descent, with momentum (Sutskever et al., 2013), as Keras has it.

    .. math:: u \leftarrow \mu u - \alpha g, \qquad
              \theta \leftarrow \theta + u \quad\text{or, Nesterov,}\quad \theta + \mu u - \alpha g

    Shapes: params, grads (P,); velocity (u) (P,), or of size 0: mu = 0. params and velocity changed in place.
    learning_rate: (1,). weight_decay: see :func:`adam_update`.
    """
    rate = learning_rate[0]
    _decay(params, rate, weight_decay)
    step = -rate * grads
    if velocity.size:
        momentum = params.dtype.type(momentum)
        velocity *= momentum
        velocity += step
        step = momentum * velocity + step if nesterov else velocity
    params += step


def _decay(params, rate, weight_decay):
    params -= params * rate * params.dtype.type(weight_decay)


def penalty_forward(penalty, params, strength, power):
    r"""A penalty on large weights, :math:`\sum_i s_i |\theta_i|^p`, added up in double precision.

    ``power`` is p: 2 for L2, or 1 for L1, which drives weights that matter little to 0.

    Shapes: params, strength (P,) (0 where a parameter is not regularised); penalty (1,), overwritten.
    """
    penalty[0] = (strength.astype(np.float64) * np.abs(params) ** power).sum()


def penalty_backward(grads, params, strength, power):
    """Its gradient, 2 s theta, or s times the sign of theta (0 at 0), *accumulated* into grads. Shapes: all (P,)."""
    grads += strength * (2 * params if power == 2 else np.sign(params))
