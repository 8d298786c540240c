"""Depthwise convolution: every channel has filters of its own, and sees no other channel.

In the formulae n counts images, (i, j) places of the output, (u, v) pixels of the image, (k, l) taps of a filter, c
channels and d the filters of a channel; the pairs s, e and p are strides, dilation and padding.
"""

import numpy as np

from tinyconv.kernels.reference.conv import padded, patches, tap


def depthwise_conv2d_forward(out, x, w, b, strides, padding, dilation):
    r"""Convolve each channel c with its D filters, and add the bias.

    .. math:: out_{n,i,j,cD+d} = b_{cD+d} + \sum_{k,l} x_{n,u,v,c} \; w_{k,l,c,d}
              \quad\text{with}\quad u = i s_0 + k e_0 - p_0,\; v = j s_1 + l e_1 - p_1

    It is a convolution (:func:`conv2d_forward`) whose filters are zero but in one channel. A 1 x 1 convolution behind
    it, which mixes the channels, makes it a separable one, with far fewer multiplications than a full convolution.

    Shapes: x (N, H, W, C), w (KH, KW, C, D), b (C * D,), out (N, OH, OW, C * D), overwritten.

    Source: Sifre, "Rigid-motion scattering for image classification" (2014); Chollet, "Xception" (2017).
    """
    windows = patches(x, out.shape, w.shape, strides, padding, dilation)
    out[...] = np.einsum("nijklc,klcd->nijcd", windows, w).reshape(out.shape) + b


def depthwise_conv2d_backward(dx, dw, db, dout, x, w, strides, padding, dilation):
    r"""As of every convolution (:func:`conv2d_backward`), but no sum is over channels: with dout as (N, OH, OW, C, D),

    .. math::
        db_{c,d} &= \sum_{n,i,j} dout_{n,i,j,c,d} \\
        dw_{k,l,c,d} &= \sum_{n,i,j} x_{n,u,v,c} \; dout_{n,i,j,c,d}
            \quad\text{with}\quad u = i s_0 + k e_0 - p_0,\; v = j s_1 + l e_1 - p_1 \\
        dx_{n,u,v,c} &= \sum_{k,l,d} dout_{n,i,j,c,d} \; w_{k,l,c,d}
            \quad\text{over all } i, j \text{ with } i s_0 + k e_0 - p_0 = u,\; j s_1 + l e_1 - p_1 = v

    Shapes: dx (N, H, W, C), dw (KH, KW, C, D), db (C * D,): overwritten; the others as in the forward. A ``dx`` of size
    zero is not computed.
    """
    KH, KW, C, D = w.shape
    gradient = dout.reshape(*dout.shape[:3], C, D)
    db[...] = dout.sum(axis=(0, 1, 2))
    windows = patches(x, dout.shape, w.shape, strides, padding, dilation)
    dw[...] = np.einsum("nijklc,nijcd->klcd", windows, gradient)
    if dx.size == 0:
        return
    canvas, inside = padded(np.zeros_like(x), dout.shape, w.shape, strides, padding, dilation)
    for k in range(KH):
        for l in range(KW):
            canvas[tap(k, l, dout.shape[1:3], strides, dilation)] += np.einsum("nijcd,cd->nijc", gradient, w[k, l])
    dx[...] = canvas[inside]
