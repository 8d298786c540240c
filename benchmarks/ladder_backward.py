"""Why code is fast: the gradients of one convolution on eight rungs, from plain Python to the sparse step.

    python benchmarks/ladder_backward.py             prints the table
    python benchmarks/ladder_backward.py --record    writes it, and a picture, into benchmarks/results

The sequel to ``ladder.py``, whose convolution it is: 3 x 3, valid, before ReLU and a 2 x 2 max-pool. Every rung
computes the same three gradients, and all are checked before any is timed. Read the file from top to bottom.

The arrays: dx like the images x (N, H, W, C), dw like the filters w (KH, KW, C, F), db (F,). The gradient of the output
is ``dout`` (N, OH, OW, F), as far as the pooling looks at it: not zero where a window's maximum was, for a third of the
windows (as early in training, with dropout). Only the last rung does not need it spread out like that.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit, prange

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ladder
from benchmarks.ladder import Ladder, R, Rung, V, aligned, convolve_tiles
from tinyconv import kernels
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import pixel_offsets, tile_multiply_add, tile_store_at, tile_zeros
from tinyconv.kernels.cpu.runtime.jit import jit

PARTS = 16  # of the batch, in which dw is summed


def python_loops(dx, dw, db, dout, x, w):
    """The definition, spelt out: each output hands its gradient to everything that it was computed from.

    out[n, i, j, f] is a sum of products x * w. So the gradient of each x is the output's times the w that it was
    multiplied with, and the other way round; and where something took part in many outputs, it collects from all.
    """
    N, OH, OW, F = dout.shape
    KH, KW, C, F = w.shape
    dx[...] = 0
    dw[...] = 0
    db[...] = 0
    for n in range(N):
        for i in range(OH):
            for j in range(OW):
                for f in range(F):
                    gradient = dout[n, i, j, f]
                    db[f] += gradient
                    for k in range(KH):
                        for l in range(KW):
                            for c in range(C):
                                dw[k, l, c, f] += gradient * x[n, i + k, j + l, c]
                                dx[n, i + k, j + l, c] += gradient * w[k, l, c, f]


def numpy_products(dx, dw, db, dout, x, w):
    """The same in whole arrays. A tap (k, l) of the filters met a shifted image: two matrix products for each tap."""
    N, OH, OW, F = dout.shape
    KH, KW, C, F = w.shape
    dx[...] = 0
    db[...] = dout.sum(axis=(0, 1, 2))
    for k in range(KH):
        for l in range(KW):
            met = slice(None), slice(k, k + OH), slice(l, l + OW)
            dw[k, l] = x[met].reshape(-1, C).T @ dout.reshape(-1, F)
            dx[met] += dout @ w[k, l].T


numba_loops = njit(nogil=True)(python_loops)
numba_loops.__doc__ = """The first rung again, word for word, compiled to machine code.

The innermost loop walks over channels: neighbours in dx and x, but F numbers apart in dw and w.
"""


def rows_of_filters(dx, dw, db, dout, x, turned, n):
    """One image, with the loops turned inside out. For dw the innermost one runs over filters, and for dx over
    channels, of filters stored as (KH, KW, F, C): neighbours in the loop are neighbours in memory, in every array."""
    N, OH, OW, F = dout.shape
    KH, KW, F, C = turned.shape
    dx[n] = 0
    for i in range(OH):
        for j in range(OW):
            for f in range(F):
                db[f] += dout[n, i, j, f]
            for k in range(KH):
                for l in range(KW):
                    for c in range(C):
                        for f in range(F):
                            dw[k, l, c, f] += x[n, i + k, j + l, c] * dout[n, i, j, f]
                    for f in range(F):
                        for c in range(C):
                            dx[n, i + k, j + l, c] += dout[n, i, j, f] * turned[k, l, f, c]


_rows_of_filters = njit(nogil=True, fastmath={"contract"})(rows_of_filters)


@njit(nogil=True)
def numba_vectors(dx, dw, db, dout, x, w):
    """See rows_of_filters."""
    turned = np.ascontiguousarray(w.transpose(0, 1, 3, 2))
    dw[...] = 0
    db[...] = 0
    for n in range(x.shape[0]):
        _rows_of_filters(dx, dw, db, dout, x, turned, n)


@njit(nogil=True, parallel=True)
def numba_parallel(dx, dw, db, dout, x, w):
    """The same on all cores. Each image has a dx of its own, but all share one dw: two threads that add to it at once
    lose numbers. So the batch is cut into parts, each with a dw of its own, and these are added at the end, in order.
    There are as many parts on any number of threads: so the bits are always the same."""
    turned = np.ascontiguousarray(w.transpose(0, 1, 3, 2))
    N, (KH, KW, C, F) = x.shape[0], w.shape
    dws, dbs = np.zeros((PARTS, KH, KW, C, F), dw.dtype), np.zeros((PARTS, F), db.dtype)
    for index in prange(PARTS):
        part = np.int64(index)
        for n in range(part * N // PARTS, (part + 1) * N // PARTS):
            _rows_of_filters(dx, dws[part], dbs[part], dout, x, turned, n)
    dw[...] = 0
    db[...] = 0
    for part in range(PARTS):
        dw += dws[part]
        db += dbs[part]


@jit(parallel=True)
def filter_gradient_tiles(dws, dout, x):
    """dws (PARTS, KH, KW, C, F): the partial sums of dw. A tile is R channels of one tap times V vectors of filters,
    and its sums run over the pixels of a part of the batch."""
    N, OH, OW, F = dout.shape
    N, H, W, C = x.shape
    parts, KH, KW, C, F = dws.shape
    flat_x, flat_dout, flat_dws = x.reshape(-1), dout.reshape(-1), dws.reshape(-1)
    for index in prange(parts):
        part = np.int64(index)
        for k in range(KH):
            for l in range(KW):
                for c in range(0, C, R):
                    for f in range(0, F, V * LANES):
                        reads = pixel_offsets(c, C - 1, C, 0, 1, R)
                        tile = tile_zeros(R, V)
                        for n in range(part * N // parts, (part + 1) * N // parts):
                            for i in range(OH):
                                for j in range(OW):
                                    pixel, place = ((n * H + i + k) * W + j + l) * C, ((n * OH + i) * OW + j) * F + f
                                    tile = tile_multiply_add(tile, flat_x, reads, pixel, flat_dout, place)
                        writes = pixel_offsets(c, C - 1, C, 0, F, R)
                        tile_store_at(tile, flat_dws, writes, ((part * KH + k) * KW + l) * C * F + f, F - f)


def register_tile(dx, dw, db, dout, x, w, padded, dws):
    """Keep the sums in registers, as in the forward pass.

    dx needs nothing new. In dx[y] = sum over k of dout[y - k] w[k], put k for K - 1 - k: that is a convolution of dout,
    with two rows and columns of zeros around it, with the filters turned by 180 degrees. For dw the tile holds a piece
    of dw, and the sum runs over pixels. tinyconv's own kernels also cut the images so that the cache holds what they
    read again: tinyconv/kernels/cpu/convolution/filter_gradient.py.
    """
    N, OH, OW, F = dout.shape
    KH, KW, C, F = w.shape
    padded[:N, KH - 1 : KH - 1 + OH, KW - 1 : KW - 1 + OW] = dout
    turned = np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))
    convolve_tiles(dx, padded[:N], turned, np.zeros(C, w.dtype), False)
    filter_gradient_tiles(dws, dout, x)
    dw[...] = dws.sum(axis=0)
    db[...] = dout.sum(axis=(0, 1, 2))


def winograd(dx, dw, db, dout, x, w, work):
    """What tinyconv trains with where nothing is pooled. dx is a convolution, so Winograd's transform saves more than
    half of its multiplications too; for dw the same transform goes backwards, and saves as many
    (tinyconv/kernels/cpu/convolution/winograd_gradient.py)."""
    cpu = kernels.load("cpu")
    geometry = (1, 1), (0, 0), (1, 1)
    cpu.conv2d_prepare(work, w, dout.shape, x.shape, *geometry)
    cpu.conv2d_backward(dx, dw, db, dout, x, w, work, *geometry)


def sparse_step(dx, dw, db, dpooled, argmax, x, w, work):
    """What tinyconv trains with before a pooling. Of four outputs at most one has a gradient, and here one of twelve:
    so visit only the winners. See tinyconv/kernels/cpu/convolution/pooled_winners.py, whose first function says it in
    a few lines of NumPy."""
    cpu = kernels.load("cpu")
    cpu.conv2d_relu_max_pool2d_prepare(work, w)
    cpu.conv2d_relu_max_pool2d_backward(dx, dw, db, dpooled, argmax, x, w, work, (0, 0), 1.0)


def spread(dpooled, argmax):
    """dout: the gradient of each window at its winner, and zeros elsewhere."""
    N, PH, PW, F = dpooled.shape
    dout = np.zeros((N, PH, 2, PW, 2, F), dpooled.dtype)
    for position in range(4):
        dout[:, :, position // 2, :, position % 2] = np.where(argmax == position, dpooled, 0)
    return dout.reshape(N, 2 * PH, 2 * PW, F)


def rungs(images: int, dpooled, argmax) -> list[Rung]:
    """All rungs, from the slowest to the fastest. Each call takes (dx, dw, db, dout, x, w)."""
    s = ladder.CONVOLUTION._replace(N=images)
    cpu = kernels.load("cpu")
    OH = s.out_size // 2 * 2
    x, w, dout, pooled = s.shapes["x"], s.shapes["w"], (images, OH, OH, s.F), dpooled.shape
    size = max(
        cpu.conv2d_workspace(dout, x, w, (1, 1), (0, 0), (1, 1)),
        cpu.conv2d_relu_max_pool2d_workspace(pooled, x, w, (0, 0)),
    )
    work = cpu.allocate((size,), np.float32)
    padded = np.zeros((images, s.size + s.K - 1, s.size + s.K - 1, s.F), np.float32)
    dws = np.zeros((PARTS, *w), np.float32)
    return [
        Rung("Python", "the definition, as plain loops", 1, python_loops),
        Rung("NumPy", "whole arrays: two matrix products per tap, by BLAS", images, numpy_products),
        Rung("Numba", "begin again: the plain loops, compiled", images, numba_loops),
        Rung("Numba, loops turned", "innermost over neighbours: vector instructions", images, numba_vectors),
        Rung("Numba, parallel", "all cores: a dw for each part of the batch", images, numba_parallel),
        Rung("register tile", "sums stay in registers", images, lambda *a: register_tile(*a, padded, dws)),
        Rung("Winograd's method", "16 multiplications for 36", images, lambda *a: winograd(*a, work)),
        Rung(
            "sparse step",
            "only winners, behind the pooling",
            images,
            lambda dx, dw, db, dout, x, w: sparse_step(dx, dw, db, dpooled, argmax, x, w, work),
        ),
    ]


def backward(images: int) -> Ladder:
    """The ladder of this file."""
    s = ladder.CONVOLUTION._replace(N=images)
    reference, given, rng = kernels.load("reference"), s.arrays(), np.random.default_rng(2)
    x, w = aligned(given["x"]), aligned(given["w"])
    pooled = (images, s.out_size // 2, s.out_size // 2, s.F)
    argmax, out = np.empty(pooled, np.int8), np.empty(pooled, np.float32)
    reference.conv2d_relu_max_pool2d_forward(out, argmax, x, w, given["b"], None, (0, 0))
    dpooled = aligned(rng.standard_normal(pooled, np.float32) * (rng.random(pooled) < 1 / 3))
    dout = aligned(spread(dpooled, argmax))
    dx, dw, db = aligned(x), aligned(w), np.empty(s.F, np.float32)
    exact = [array.astype(np.float64) for array in (x, w)]

    def call(rung: Rung) -> Callable[[], None]:
        n = rung.images
        return functools.partial(rung.run, dx[:n], dw, db, dout[:n], x[:n], w)

    def check(rung: Rung) -> None:
        n = rung.images
        expected = [np.empty_like(array, np.float64) for array in (dx[:n], dw, db)]
        arrays = dpooled[:n].astype(np.float64), argmax[:n], exact[0][:n], exact[1]
        reference.conv2d_relu_max_pool2d_backward(*expected, *arrays, None, (0, 0), 1.0)
        for array in (dx, dw, db):
            array[...] = np.nan
        call(rung)()
        for ours, theirs in zip((dx[:n], dw, db), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())

    return Ladder(
        name="ladder_backward",
        title="The ladder backward: the gradients of one convolution, eight ways",
        heading="The gradients of one convolution, from plain Python to the sparse step",
        caption=f"dX, dW and db of {s.name}, before ReLU and a 2x2 max-pool",
        about=f"dX, dW and db of {s.name}, before ReLU and a 2x2 max-pool, with a gradient in a third of the windows. "
        "Every rung gives the same result. Made by `python benchmarks/ladder_backward.py --record`, whose source is "
        "the explanation. GFLOP/s count the multiplications and additions of the definition; Winograd's transform "
        "needs fewer, and the sparse step leaves out those with zero.",
        flops=2 * ladder.pooled_flops(),
        rungs=rungs(images, dpooled, argmax),
        call=call,
        check=check,
    )


if __name__ == "__main__":
    ladder.main(make=backward, description=__doc__.splitlines()[0])
