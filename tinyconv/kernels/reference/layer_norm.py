"""Layer normalisation. Source: Ba, Kiros and Hinton, "Layer normalization" (2016)."""

import numpy as np


def layer_norm_forward(out, mean, inv_std, x, gamma, beta, epsilon):
    r"""Give each row mean 0 and variance 1 over its columns, then scale by gamma and shift by beta.

    .. math:: out_{m,c} = \gamma_c \hat x_{m,c} + \beta_c, \qquad
              \hat x_m = (x_m - \mu_m) \, \sigma_m^{-1}, \qquad \sigma_m = \sqrt{\mathrm{var}(x_m) + \epsilon}

    A batch normalisation turned by 90 degrees: no sample sees another, and inference is the same as training.

    Shapes: x, out (M, C); gamma, beta (C,); mean and inv_std (M,), each row's mu and 1/sigma, for the backward pass.
    out, mean and inv_std are overwritten.
    """
    mean[...] = x.mean(axis=1)
    centred = x - mean[:, None]
    inv_std[...] = 1 / np.sqrt((centred**2).mean(axis=1) + epsilon)
    out[...] = centred * inv_std[:, None] * gamma + beta


def layer_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std):
    r"""gamma and beta enter linearly, :math:`d\gamma = \sum_m dout_m \hat x_m` and :math:`d\beta = \sum_m dout_m`.

    With g for :math:`d\hat x = \gamma \, dout` an x reaches the loss by the three paths of :func:`batch_norm_backward`,
    with means over the row instead of over the batch, and so

    .. math:: dx_m = \sigma_m^{-1} \left( g_m - \mathrm{mean}_c(g_m) - \hat x_m \, \mathrm{mean}_c(g_m \hat x_m) \right)

    (gamma differs within a row, so the means are of g here, and the sums for gamma and beta do not serve again.)

    Shapes as in the forward; dx (M, C), dgamma and dbeta (C,) overwritten. A ``dx`` of size zero is not computed.
    """
    normal = (x - mean[:, None]) * inv_std[:, None]
    dgamma[...] = (dout * normal).sum(axis=0)
    dbeta[...] = dout.sum(axis=0)
    if dx.size:
        g = dout * gamma
        means = g.mean(axis=1, keepdims=True), (g * normal).mean(axis=1, keepdims=True)
        dx[...] = inv_std[:, None] * (g - means[0] - normal * means[1])
