"""The register tile and its vectors, one operation at a time, against NumPy.

Every function of ``registers`` is its own NumPy twin when Python calls it (see ``instructions.py``). So each kernel
here also runs as plain Python, and must do the same.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from tinyconv.kernels.cpu import registers
from tinyconv.kernels.cpu.registers import pooled_stores as p
from tinyconv.kernels.cpu.registers import tile as t
from tinyconv.kernels.cpu.registers import vector as v
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.runtime.jit import jit

R, V = 4, 2
COLUMNS = V * LANES


def run(kernel, *arguments):
    """Run a kernel, and again as plain Python on copies of its arrays, which must end up the same."""
    copies = [argument.copy() if isinstance(argument, np.ndarray) else argument for argument in arguments]
    with np.errstate(invalid="ignore"):
        result, twins = kernel(*arguments), kernel.py_func(*copies)
    assert result == twins
    for ours, theirs in zip(arguments, copies, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    return result


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
    run(_inner_loop, out, x, w, first, step, count)
    columns = first + step * np.arange(count)
    np.testing.assert_allclose(out, x[:, columns] @ w[:count], rtol=1e-5, atol=1e-5)


@jit
def _rows(out, x, w, steps, w_steps, counts):
    tile = t.tile_load(w, 0, COLUMNS, R, V)
    reads = t.pixel_offsets(0, R - 1, R, 0, 1, R)
    t.tile_store(t.tile_add_rows(tile, x, reads, 2, steps, w, COLUMNS, w_steps, counts), out, 0, COLUMNS)


@pytest.mark.parametrize("counts", [(4,), (3, 4), (1, 1), (3, 0), (0, 3), (2, 3, 2)])
def test_rows_of_products_are_one_sum(counts):
    rng, steps, w_steps = np.random.default_rng(6), (25, 7, 2)[-len(counts) :], (6, 3)[3 - len(counts) :]
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in [(90,), (16, COLUMNS)])
    out = np.full((R, COLUMNS), 7, np.float32)
    run(_rows, out, x, w, steps, tuple(COLUMNS * step for step in w_steps), counts)
    axes = np.indices(counts).reshape(len(counts), -1)
    numbers = x[2 + np.dot(steps, axes) + np.arange(R)[:, None]]
    weights = w[1 + np.dot((*w_steps, 1), axes)]
    np.testing.assert_allclose(out, w[:R] + numbers @ weights, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(R, COLUMNS), (1, 1), (R - 1, LANES + 1), (2, LANES), (3, 0)])
def test_the_tile_is_a_matrix_product_and_stores_only_what_it_is_asked_to(rows, columns):
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in [(R, 9), (9, COLUMNS), (COLUMNS,)])
    x[1, 3] = np.nan
    out = np.full((R + 2, COLUMNS), 7, np.float32)
    run(_product, out, x, w, b, rows, columns)
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
    run(_blocks, out, a, np.float32(0.5))
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
    run(_offsets, out, 5, 11, width, 1000, 7)
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
    run(_winner, best, winner, a, b)
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
    run(_arithmetic, out, a, index)
    np.testing.assert_allclose(out, np.where(index == 3, (2 * a * a + a - 1) * a, a), rtol=1e-5, atol=1e-6)
    a[::3] = 0
    a[1] = np.nan
    found = np.zeros(LANES, np.int64)
    np.testing.assert_array_equal(found[: run(_nonzero, found, a)], np.flatnonzero(a))


@jit
def _ragged(out, a, count):
    v.prefetch(a, 3)
    v.vector_store(v.vector_load_first(a, 1, count), out, 0)
    v.vector_store_first(v.vector_load(a, 1), out, LANES, count)


@jit
def _ragged_winners(out, narrow, winners, count):
    v.vector_store(v.vector_load_first(winners, 1, count), out, 0)
    v.vector_store_first(v.vector_load(winners, 1), narrow, LANES, count)


@pytest.mark.parametrize("count", [-1, 0, 3, LANES, LANES + 1])
def test_the_first_numbers_of_a_vector(count):
    winners, wide = np.arange(-3, 2 * LANES - 3, dtype=np.int8), np.ones(LANES, np.int32)
    narrow = np.ones((2, LANES), np.int8)
    run(_ragged_winners, wide, narrow, winners, count)
    for written, rest in ((wide, 0), (narrow[1], 1)):
        np.testing.assert_array_equal(written, np.where(np.arange(LANES) < count, winners[1 : 1 + LANES], rest))
    assert (narrow[0] == 1).all()
    a, out = np.arange(2 * LANES, dtype=np.float32), np.ones((2, LANES), np.float32)
    run(_ragged, out, a, count)
    for written, rest in zip(out, (0, 1), strict=True):
        np.testing.assert_array_equal(written, np.where(np.arange(LANES) < count, a[1 : 1 + LANES], rest))


@jit
def _pool(out, winners, x, factors, right, down, columns):
    corners = p.window_corners((0, 2 * right), right, down)
    tile = t.tile_zeros(8, 1)
    writes = t.pixel_offsets(0, 1, 2, 0, LANES, 2)
    t.tile_prefetch_at(out, writes, 0, 1)
    for k in range(LANES):
        tile = t.tile_multiply_add(tile, x, corners, k, factors, k * LANES)
    p.tile_store_pooled(tile, out, winners, writes, 0, columns)
    a, b = v.vector_load(x, 0), v.vector_load(x, right)
    c, d = v.vector_load(x, down), v.vector_load(x, down + right)
    p.vectors_store_pooled(a, b, c, d, out, winners, 2 * LANES)


@pytest.mark.parametrize("columns", [LANES, LANES - 1, 1])
@pytest.mark.parametrize("wanted", [True, False])
def test_windows_are_pooled_in_registers(columns, wanted):
    """Two windows of a tile, all lanes alike, and one of four vectors, of which the first two are equal."""
    x = np.random.default_rng(4).standard_normal((2, 4, LANES)).astype(np.float32)
    x[0, 1] = x[0, 0]
    out, winners = np.full((3, LANES), 7, np.float32), np.full((3, LANES) if wanted else (0, 0), 7, np.int8)
    factors = np.repeat(np.arange(LANES, dtype=np.float32)[:, None], LANES, 1)
    run(_pool, out, winners, x, factors, LANES, 4 * LANES, columns)
    windows = x.reshape(2, 2, 2, LANES).transpose(1, 0, 2, 3).reshape(2, 4, LANES)  # two side by side
    sums = np.maximum((windows @ np.arange(LANES, dtype=np.float32)).max(1), 0)
    np.testing.assert_allclose(out[:2, :columns], np.repeat(sums[:, None], columns, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out[2], np.maximum(windows[0].max(0), 0))
    assert (out[:2, columns:] == 7).all()
    if wanted:
        np.testing.assert_array_equal(winners[2], np.where(out[2] > 0, windows[0].argmax(0), -1))
        assert (winners[:2, columns:] == 7).all()
        assert (winners != 1).all()  # of equals the first wins


@jit
def _patch(out, image, winner, gradient):
    patch = p.patch_load(image, 5, 9)
    v.vector_store(patch, out, 9 * LANES)
    tile = p.tile_add_chosen(t.tile_zeros(9, 1), patch, v.vector_load(winner, 0), v.vector_load(gradient, 0))
    t.tile_store(tile, out, 0, LANES)


@pytest.mark.skipif(LANES != 16, reason="a 4 x 4 patch is one register where that has 16 lanes")
def test_a_patch_of_an_image_in_a_register():
    rng = np.random.default_rng(6)
    image, gradient = rng.standard_normal(50).astype(np.float32), rng.standard_normal(16).astype(np.float32)
    winner, out = rng.integers(0, 4, 16, np.int8), np.empty((10, 16), np.float32)
    run(_patch, out, image, winner, gradient)
    patch = np.stack([image[5 + 9 * i :][:4] for i in range(4)])
    np.testing.assert_array_equal(out[9], patch.ravel())
    for tap in range(9):
        seen = [patch[tap // 3 + w // 2, tap % 3 + w % 2] for w in winner]
        np.testing.assert_allclose(out[tap], gradient * seen, rtol=1e-6)


@jit
def _apart(out):
    t.stay_apart()
    out[0] = 1


def test_every_intrinsic_has_a_twin_that_is_tested():
    run(_apart, np.zeros(1))
    sources = [path.read_text(encoding="utf-8") for path in Path(registers.__file__).parent.glob("*.py")]
    names = {name for source in sources for name in re.findall(r"^@in_registers\((\w+)\)", source, re.MULTILINE)}
    kernels = [value.py_func for value in globals().values() if hasattr(value, "py_func")]
    assert len(names) > 20
    assert names <= {name for kernel in kernels for name in kernel.__code__.co_names}
    assert not any("@intrinsic" in source for source in sources)
