"""Kernels with a race, which must be found, and the same without it, which must pass."""

import numpy as np
import pytest

from tests.cuda_sim.compare import on_device
from tinyconv.kernels.cuda.runtime.device import cuda, float32, launch


@cuda.jit
def turned(out, x):
    tile = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    tile[t] = x[t]
    cuda.syncthreads()
    out[t] = tile[7 - t]


@cuda.jit
def turned_at_once(out, x):
    tile = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    tile[t] = x[t]
    out[t] = tile[7 - t]


@cuda.jit
def overwritten_too_early(out, x):
    tile = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    for step in range(2):
        tile[t] = x[t] + float32(step)
        cuda.syncthreads()
        out[t] = tile[7 - t]  # the next round's first line may come before this


@cuda.jit
def shifted_in_place(out, x):
    tile = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    tile[t] = x[t]
    cuda.syncthreads()
    if t > 0:
        tile[t] += tile[t - 1]
    cuda.syncthreads()
    out[t] = tile[t]


@cuda.jit
def one_place_for_all(out, x):
    tile = cuda.shared.array(1, np.float32)
    tile[0] = x[0]
    cuda.syncthreads()
    out[cuda.threadIdx.x] = tile[0]


@cuda.jit
def never_written(out, x):
    tile = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    if t < 4:
        tile[t] = x[t]
    cuda.syncthreads()
    out[t] = tile[t]


@cuda.jit
def written_by_the_first_block_alone(out, x):
    tile = cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    if cuda.blockIdx.x == 0:
        tile[t] = x[t]
    cuda.syncthreads()
    out[cuda.blockIdx.x * 4 + t] = tile[t]


@cuda.jit
def sum_of_all_blocks(out, x):
    if cuda.threadIdx.x == 0:
        out[0] += x[cuda.blockIdx.x]


@cuda.jit
def neighbours_result(out, x):
    t = cuda.threadIdx.x
    out[t] = x[t]
    out[t] += out[max(t - 1, 0)]


@cuda.jit
def one_thread_fails(out, x):
    t = cuda.threadIdx.x
    if t == 3:
        out[8] = x[t]
    cuda.syncthreads()


def run(kernel, blocks=1, threads=8):
    launch(kernel, blocks, threads, on_device(np.zeros(8, np.float32)), on_device(np.arange(8, dtype=np.float32)))


def test_a_kernel_without_a_race_passes():
    run(turned)


def test_a_thread_that_fails_while_others_wait_ends_the_launch():
    with pytest.raises(IndexError, match=r"tid=\[3, 0, 0\]"):
        run(one_thread_fails)
    run(turned)


@pytest.mark.parametrize(
    ("kernel", "blocks", "threads", "fault"),
    [
        (turned_at_once, 1, 8, "in another thread, and no barrier between"),
        (overwritten_too_early, 1, 8, "in another thread, and no barrier between"),
        (shifted_in_place, 1, 8, "in another thread, and no barrier between"),
        (one_place_for_all, 1, 8, "writes what line"),
        (never_written, 1, 8, "reads shared memory to which nothing was written"),
        (written_by_the_first_block_alone, 2, 4, "reads shared memory to which nothing was written"),
        (sum_of_all_blocks, 2, 1, "in another block, and no barrier between"),
        (neighbours_result, 1, 8, "in another thread, and no barrier between"),
    ],
)
def test_a_planted_race_is_found(kernel, blocks, threads, fault):
    with pytest.raises(RuntimeError, match=fault):
        run(kernel, blocks, threads)
