"""The dense (fully connected) layer: a matrix product and a bias."""

import numpy as np


def dense_workspace(out_shape, x_shape, w_shape):
    """The number of floats of ``work`` that the dense layer needs: none here."""
    return 0


def dense_prepare(work, w):
    """Store in ``work`` what the forward pass needs to know of the weights ``w`` (K, F): nothing here."""


def dense_forward(out, x, w, b, work, relu):
    r"""Multiply, add the bias, and apply ReLU if asked to: :math:`out_{n,f} = b_f + \sum_k x_{n,k} w_{k,f}`.

    Shapes: x (N, K), w (K, F), b (F,), out (N, F), overwritten.
    """
    out[...] = x @ w + b
    if relu:
        out[out < 0] = 0  # a NaN compares false and stays visible


def dense_backward(dx, dw, db, dout, x, w, work):
    r"""The gradients of a dense layer (without its activation).

    x_{n,k} is multiplied by w_{k,f} on its way to out_{n,f}, for every f, so its derivative is
    :math:`dx_{n,k} = \sum_f dout_{n,f} w_{k,f}`; likewise w's and b's, which are sums over the batch. As matrices
    (Goodfellow et al., "Deep Learning", section 6.5.6):

    .. math:: dx = dout \; w^T, \qquad dw = x^T dout, \qquad db_f = \sum_n dout_{n,f}

    Shapes: dx (N, K), dw (K, F), db (F,): overwritten; dout (N, F). A ``dx`` of size zero is not computed.
    """
    db[...] = dout.sum(axis=0)
    dw[...] = x.T @ dout
    if dx.size:
        np.matmul(dout, w.T, out=dx)
