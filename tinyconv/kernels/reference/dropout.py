"""Dropout, and the counter-based random numbers behind it.

An ordinary random generator is a state that every draw changes: the numbers depend on who draws first, so threads
and machines would get in each other's way. A *counter-based* generator is a pure function instead: it scrambles
(key, counter) so well that counting up gives random numbers. Whoever needs the number of unit 17 of sample 5 at step
1000 computes it, on any thread, block or machine, forward and again backward, and gets the same one.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011); Srivastava et al., "Dropout" (2014).
"""

import numpy as np

STEP, CURSOR, FIRST_SAMPLE = 0, 1, 2  # what stands where in ``counters``

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)  # these and the next are Philox's
WEYL = 0x9E3779B9, 0xBB67AE85
_MASK = np.uint64(0xFFFFFFFF)


def philox(c0, c1, c2, c3, seed):
    """Philox4x32-10: four random 32-bit integers for each counter (c0, c1, c2, c3) under a 64-bit ``seed``.

    Ten rounds; each multiplies two of the words, whose high halves are mixed (xor) with the others and the round's
    key. Returns four uint64 arrays with values below 2**32.
    """
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) & _MASK for c in np.broadcast_arrays(c0, c1, c2, c3))
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            p1 & _MASK,
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            p0 & _MASK,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def keep_mask(shape, counters, seed, layer, rate):
    """Which units live: a bool array of ``shape`` (N, units).

    Unit u of sample n draws word u % 4 of the counter (u // 4, sample, step, layer), and lives if that integer is at
    least rate * 2**32.
    """
    N, units = shape
    block = np.arange((units + 3) // 4)[None, :]
    sample = counters[FIRST_SAMPLE] + np.arange(N)[:, None]
    words = philox(block, sample, np.int64(counters[STEP]), np.int64(layer), seed)
    bits = np.stack(words, axis=-1).reshape(N, -1)[:, :units]
    return bits >= np.uint64(keep_threshold(rate))


def keep_threshold(rate):
    """The smallest 32-bit integer that keeps a unit alive: rate * 2**32, rounded."""
    return round(rate * 2**32)


def dropout_forward(out, x, counters, seed, layer, rate):
    """Set a random share ``rate`` of the units to zero and multiply the others by 1 / (1 - rate).

    The scaling ("inverted dropout") keeps every unit's expectation, so inference needs no dropout at all.

    Shapes: x and out (N, units), out overwritten (may be x); counters int64 (3,). ``seed`` is the model's 64-bit
    seed, ``layer`` the number of this dropout in it. 0 <= rate < 1.
    """
    out[...] = np.where(keep_mask(x.shape, counters, seed, layer, rate), x * x.dtype.type(1 / (1 - rate)), 0)


def dropout_backward(dx, dout, counters, seed, layer, rate):
    """The same mask and the same scale, on the gradient: dropout is linear once its mask is drawn. dx may be dout."""
    dropout_forward(dx, dout, counters, seed, layer, rate)


def dropout_pooled_forward(out, argmax, counters, seed, layer, rate):
    """Dropout fused behind :func:`conv2d_relu_max_pool2d_forward`, in place.

    A dropped unit's winner is set to -1, "nothing flows back", so that the backward pass of the pooling is already
    that of the dropout too, but for its constant factor 1 / (1 - rate).

    Shapes: out (N, units) and argmax (N, units), int8: both changed in place.
    """
    keep = keep_mask(out.shape, counters, seed, layer, rate)
    out[...] = np.where(keep, out * out.dtype.type(1 / (1 - rate)), 0)
    argmax[~keep] = -1
