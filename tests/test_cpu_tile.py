"""The register tile and its vectors, one operation at a time, against NumPy."""

import numpy as np
import pytest

from tinyconv.kernels.cpu.registers import tile as t
from tinyconv.kernels.cpu.registers import vector as v
from tinyconv.kernels.cpu.registers.tile import LANES
from tinyconv.kernels.cpu.runtime.jit import jit

R, V = 4, 2
COLUMNS = V * LANES


@jit
def _product(out, x, w, b, rows, columns):
    tile = t.tile_load(b, 0, 0, R, V)
    offsets = t.pixel_offsets(0, rows - 1, R, 0, x.shape[1], R)
    for k in range(x.shape[1]):
        tile = t.tile_multiply_add(tile, x, offsets, k, w, k * COLUMNS)
    writes = t.pixel_offsets(0, rows - 1, R, 0, COLUMNS, R)
    t.tile_store_at(t.tile_relu(tile), out, writes, COLUMNS, columns)


@jit
def _inner_loop(out, x, w, first, step, count):
    tile = t.tile_zeros(R, V)
    reads = t.pixel_offsets(0, R - 1, R, 0, x.shape[1], R)
    t.tile_store(t.tile_add_products(tile, x, reads, first, step, w, 0, count), out, 0, COLUMNS)


@pytest.mark.parametrize(("first", "step", "count"), [(0, 1, 9), (1, 2, 4), (8, -1, 9), (0, 1, 1), (0, 1, 0)])
def test_the_inner_loop_is_a_matrix_product(first, step, count):
    rng = np.random.default_rng(5)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in [(R, 9), (9, COLUMNS)])
    out = np.full((R, COLUMNS), 7, np.float32)
    _inner_loop(out, x, w, first, step, count)
    columns = first + step * np.arange(count)
    np.testing.assert_allclose(out, x[:, columns] @ w[:count], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(R, COLUMNS), (1, 1), (R - 1, LANES + 1), (2, LANES), (3, 0)])
def test_the_tile_is_a_matrix_product_and_stores_only_what_it_is_asked_to(rows, columns):
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in [(R, 9), (9, COLUMNS), (COLUMNS,)])
    x[1, 3] = np.nan
    out = np.full((R + 2, COLUMNS), 7, np.float32)
    _product(out, x, w, b, rows, columns)
    expected = np.full_like(out, 7)
    product = x @ w + b
    expected[1 : 1 + rows, :columns] = np.where(product < 0, 0, product)[:rows, :columns]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@jit
def _blocks(out, a, factor):
    tile = t.tile_load(a, 1, COLUMNS + 3, R, V)
    tile = t.tile_add_scaled(tile, factor, a, 2, 5)
    t.tile_store(tile, out, 0, COLUMNS)
    t.tile_store(t.tile_zeros(1, 1), out, R * COLUMNS, 0)


def test_blocks_of_an_array_are_loaded_scaled_and_stored():
    a = np.random.default_rng(1).standard_normal(R * (COLUMNS + 3) + 1).astype(np.float32)
    out = np.ones(R * COLUMNS + 2 * LANES, np.float32)
    _blocks(out, a, np.float32(0.5))
    expected = np.stack(
        [a[1 + i * (COLUMNS + 3) :][:COLUMNS] + np.float32(0.5) * a[2 + i * 5 :][:COLUMNS] for i in range(R)]
    )
    np.testing.assert_allclose(out[: R * COLUMNS].reshape(R, COLUMNS), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(out[R * COLUMNS :], [*[0] * LANES, *[1] * LANES])


@jit
def _offsets(out, first, last, width, row_stride, column_stride):
    offsets = t.pixel_offsets(first, last, width, row_stride, column_stride, 9)
    for i in range(9):
        out[i] = offsets[i]


@pytest.mark.parametrize("width", [1, 3, 4, 100])
def test_pixel_offsets_wrap_at_the_end_of_a_row_and_stop_at_the_last_pixel(width):
    out = np.empty(9, np.int64)
    _offsets(out, 5, 11, width, 1000, 7)
    pixels = np.minimum(np.arange(5, 14), 11)
    np.testing.assert_array_equal(out, pixels // width * 1000 + pixels % width * 7)


@jit
def _winner(best, winner, a, b):
    one, other = v.vector_load(a, 0), v.vector_load(b, 0)
    wins = (other > one) | ((other != other) & (one <= one))
    v.vector_store(v.select(wins, other, one), best, 0)
    index = v.select(wins, v.vector_fill(1), v.vector_fill(0))
    v.vector_store(v.select(other < v.vector_fill(np.float32(0)), v.vector_fill(-1), index), winner, 0)


def test_vectors_compare_and_select_as_numpy_does_and_store_bytes():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, LANES)).astype(np.float32)
    a[0] = b[1] = a[2] = b[2] = np.nan
    best, winner = np.empty(LANES, np.float32), np.full(LANES + 1, 9, np.int8)
    _winner(best, winner, a, b)
    np.testing.assert_array_equal(best, np.maximum(a, b))
    wins = (b > a) | (np.isnan(b) & ~np.isnan(a))
    np.testing.assert_array_equal(winner, [*np.where(b < 0, -1, wins), 9])


@jit
def _arithmetic(out, a, index):
    x = v.vector_load(a, 0)
    y = v.vector_multiply_add(x, x + x, x - v.vector_fill(np.float32(1))) * x
    v.vector_store(v.select(v.vector_load(index, 0) == v.vector_fill(3), y, x), out, 0)


@jit
def _nonzero(found, a):
    count = 0
    bits = v.vector_bits(v.vector_load(a, 0) != v.vector_fill(np.float32(0)))
    while bits:
        found[count] = v.trailing_zeros(bits)
        count += 1
        bits &= bits - 1
    return count


def test_vector_arithmetic_and_the_walk_over_non_zero_lanes():
    a = np.random.default_rng(3).standard_normal(LANES).astype(np.float32)
    index = (np.arange(LANES) % 4).astype(np.int8)
    out = np.empty_like(a)
    _arithmetic(out, a, index)
    np.testing.assert_allclose(out, np.where(index == 3, (2 * a * a + a - 1) * a, a), rtol=1e-5, atol=1e-6)
    a[::3] = 0
    a[1] = np.nan
    found = np.empty(LANES, np.int64)
    np.testing.assert_array_equal(found[: _nonzero(found, a)], np.flatnonzero(a))
