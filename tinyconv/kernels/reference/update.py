"""Optimisers, over all parameters at once: params, grads and moments are flat arrays of the same length."""

import numpy as np

from tinyconv.kernels.reference.dropout import STEP


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
    params -= params * rate * params.dtype.type(weight_decay)
    m += (grads - m) * params.dtype.type(1 - beta_1)
    v += (grads * grads - v) * params.dtype.type(1 - beta_2)
    params -= step_size * m / (np.sqrt(v) + params.dtype.type(epsilon))


def sgd_update(params, velocity, grads, learning_rate, momentum, nesterov):
    r"""One step of gradient descent, with momentum (Sutskever et al., 2013), as Keras has it.

    .. math:: u \leftarrow \mu u - \alpha g, \qquad
              \theta \leftarrow \theta + u \quad\text{or, Nesterov,}\quad \theta + \mu u - \alpha g

    Shapes: params, velocity, grads (P,); params and velocity changed in place. learning_rate: (1,).
    """
    rate = learning_rate[0]
    momentum = params.dtype.type(momentum)
    velocity *= momentum
    velocity -= rate * grads
    params += momentum * velocity - rate * grads if nesterov else velocity


def l2_forward(penalty, params, strength):
    r"""The L2 penalty of all weights, :math:`\sum_i s_i \theta_i^2`, added up in double precision.

    Shapes: params, strength (P,) (0 where a parameter is not regularised); penalty (1,), overwritten.
    """
    penalty[0] = (strength.astype(np.float64) * params * params).sum()


def l2_backward(grads, params, strength):
    """Its gradient, 2 s theta, *accumulated* into grads. Shapes: all (P,)."""
    grads += 2 * strength * params
