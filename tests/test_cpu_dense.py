"""The CPU's dense layer, held to the reference in float64: any shape, between canaries, on one thread and on two."""

import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import examples, normal, seeds
from tinyconv.kernels import reference
from tinyconv.kernels.cpu import dense
from tinyconv.kernels.memory import allocate

CANARY = np.float32(-77)
sizes = st.one_of(st.integers(1, 20), st.integers(1, 300))


def between_canaries(*shape, fill=np.nan):
    """An array, and what lies before and after it."""
    size = int(np.prod(shape))
    raw = allocate((size + 64,), np.float32)
    raw[...] = CANARY
    array = raw[32 : 32 + size].reshape(shape)
    array[...] = fill
    return array, (raw[:32], raw[32 + size :])


def multiply(x, w, b, dout, relu=False, need_dx=True):
    """out, dx, dw and db of the CPU kernels; fails if they write anywhere else."""
    size = dense.dense_workspace(dout.shape, x.shape, w.shape)
    dx_shape = x.shape if need_dx else (0, 0)
    arrays, zones = zip(
        *(between_canaries(*shape) for shape in ((size,), dout.shape, dx_shape, w.shape, b.shape)), strict=True
    )
    work, out, dx, dw, db = arrays
    dense.dense_prepare(work, w)
    dense.dense_forward(out, x, w, b, work, relu)
    dense.dense_backward(dx, dw, db, dout, x, w, work)
    assert all((zone == CANARY).all() for pair in zones for zone in pair)
    return out, dx, dw, db


def expect(x, w, b, dout, relu=False):
    """The same of the reference, in float64."""
    x, w, b, dout = (array.astype(np.float64) for array in (x, w, b, dout))
    out, dx, dw, db = np.empty_like(dout), np.empty_like(x), np.empty_like(w), np.empty_like(b)
    reference.dense_forward(out, x, w, b, None, relu)
    reference.dense_backward(dx, dw, db, dout, x, w, None)
    return out, dx, dw, db


def inputs(N, K, F, seed):
    rng = np.random.default_rng(seed)
    return [normal(rng, *shape, dtype=np.float32) for shape in ((N, K), (K, F), (F,), (N, F))]


def check(N, K, F, seed, relu=False):
    """The CPU's results are the reference's, but for the rounding of so many additions."""
    arrays = inputs(N, K, F, seed)
    for result, truth, length in zip(multiply(*arrays, relu), expect(*arrays, relu), (K + 1, F, N, N), strict=True):
        np.testing.assert_allclose(result, truth, rtol=0, atol=8 * np.finfo(np.float32).eps * length)


@examples(60)
@given(sizes, sizes, sizes, st.booleans(), seeds)
def test_any_dense_layer_is_the_references(N, K, F, relu, seed):
    check(N, K, F, seed, relu)


@pytest.mark.parametrize("shape", [(128, 1600, 10), (3, 700, 700), (2000, 70, 130)])
def test_large_layers_in_groups_and_blocks(shape):
    check(*shape, 0)


@pytest.mark.parametrize("shape", [(1, 1600, 10), (37, 90, 10), (64, 200, 300)])
def test_one_thread_and_two_give_the_same_bits(shape):
    arrays = inputs(*shape, 1)
    threads, results = numba.get_num_threads(), []
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            results.append([result.tobytes() for result in multiply(*arrays)])
    finally:
        numba.set_num_threads(threads)
    assert all(result == results[0] for result in results)


def test_a_sample_does_not_depend_on_its_batch():
    x, w, b, dout = inputs(21, 100, 40, 2)
    whole, alone = multiply(x, w, b, dout), multiply(x[5:6], w, b, dout[5:6])
    assert alone[0].tobytes() == whole[0][5:6].tobytes()
    assert alone[1].tobytes() == whole[1][5:6].tobytes()


def test_a_nan_stays_visible_also_behind_relu():
    x, w, b, dout = inputs(5, 6, 17, 3)
    x[2, 3] = dout[1, 16] = np.nan
    for result, truth in zip(multiply(x, w, b, dout, True), expect(x, w, b, dout, True), strict=True):
        np.testing.assert_array_equal(np.isnan(result), np.isnan(truth))
        assert np.isnan(truth).any()


def test_a_dx_that_nobody_needs_is_not_computed():
    arrays = inputs(5, 6, 17, 4)
    without, whole = multiply(*arrays, need_dx=False), multiply(*arrays)
    assert [without[i].tobytes() for i in (0, 2, 3)] == [whole[i].tobytes() for i in (0, 2, 3)]


def test_a_call_allocates_no_arrays():
    x, w, b, dout = inputs(64, 100, 80, 5)
    size = dense.dense_workspace(dout.shape, x.shape, w.shape)
    work, out, dx, dw, db = (np.empty(shape, np.float32) for shape in (size, dout.shape, x.shape, w.shape, b.shape))

    def step():
        dense.dense_prepare(work, w)
        dense.dense_forward(out, x, w, b, work, True)
        dense.dense_backward(dx, dw, db, dout, x, w, work)

    step()
    tracemalloc.start()
    try:
        step()
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024  # the smallest of the large arrays has more
    finally:
        tracemalloc.stop()
