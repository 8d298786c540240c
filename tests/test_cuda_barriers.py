"""No kernel has a barrier that only some threads of a block reach; and the checker finds those that are planted."""

import ast
from pathlib import Path

import pytest

from tests.cuda_sim import barriers
from tinyconv.kernels import cuda

FILES = sorted(Path(cuda.__file__).parent.rglob("*.py"))
KERNELS = [(file, kernel) for file in FILES for kernel in barriers.kernels_of(file.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("file", "kernel"), KERNELS, ids=lambda part: getattr(part, "name", ""))
def test_every_thread_of_a_block_reaches_every_barrier(file, kernel):
    assert list(barriers.divergent(kernel)) == []


def test_barriers_are_in_kernels_alone():
    """So that the checker, which does not follow calls, sees them all."""
    for file in FILES:
        source = file.read_text(encoding="utf-8")
        inside = sum("syncthreads" in ast.unparse(node) for node in barriers.kernels_of(source))
        assert bool(inside) == ("cuda.syncthreads()" in source), file


GOOD = """
    t = cuda.threadIdx.x
    tile = cuda.shared.array(8, np.float32)
    start = cuda.blockIdx.x * 8
    half = 4
    while start < x.size:
        if start + t < x.size:
            tile[t] = x[start + t]
        cuda.syncthreads()
        if tile[0] > 0:  # the same for every thread
            cuda.syncthreads()
        start += 8
    for step in range(x.size):
        cuda.syncthreads()
    if t > 3:
        return
    out[t] = tile[t]
"""


def faults(body):
    source = "@cuda.jit\ndef kernel(out, x):\n" + body
    (kernel,) = barriers.kernels_of(source)
    return list(barriers.divergent(kernel))


def test_a_kernel_without_a_fault_passes():
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    if cuda.threadIdx.x < 3:\n        cuda.syncthreads()", "only some threads reach: cuda.threadIdx.x < 3"),
        ("    i = cuda.grid(1)\n    if i < x.size:\n        cuda.syncthreads()", "only some threads reach: i < x.size"),
        ("    i = cuda.grid(1)\n    if i > 3:\n        pass\n    else:\n        cuda.syncthreads()", "reach: i > 3"),
        ("    i = cuda.grid(1)\n    while i < 9:\n        cuda.syncthreads()\n        i += 9", "reach: i < 9"),
        ("    t = cuda.threadIdx.y\n    for k in range(t):\n        cuda.syncthreads()", "reach: range(t)"),
        ("    t = cuda.threadIdx.x\n    a, b = divided(t, 3)\n    if b:\n        cuda.syncthreads()", "reach: b"),
        ("    if x[cuda.threadIdx.x] > 0:\n        cuda.syncthreads()", "reach: x[cuda.threadIdx.x] > 0"),
        ("    n = 0\n    if cuda.threadIdx.x:\n        n = 1\n    while n:\n        cuda.syncthreads()", "reach: n"),
        ("    n = 0\n    n += cuda.laneid\n    if n:\n        cuda.syncthreads()", "reach: n"),
        ("    cuda.threadIdx.x and cuda.syncthreads()", "reach: cuda.threadIdx.x"),
        ("    cuda.syncthreads() if cuda.threadIdx.x else None", "reach: cuda.threadIdx.x"),
        ("    own = cuda.local.array(1, int)\n    if own[0]:\n        cuda.syncthreads()", "reach: own[0]"),
        (
            "    if cuda.grid(1) >= x.size:\n        return\n    cuda.syncthreads()",
            "a return that only some threads take",
        ),
        (
            "    for k in range(3):\n        cuda.syncthreads()\n        if cuda.threadIdx.x == k:\n            break",
            "a break that only some threads take, before a barrier: cuda.threadIdx.x == k",
        ),
        (
            "    for k in range(3):\n        if cuda.threadIdx.x:\n            continue\n        cuda.syncthreads()",
            "a continue that only some threads take",
        ),
        (
            "    for k in range(3):\n        cuda.syncthreads()\n        if cuda.threadIdx.x == k:\n            return",
            "a return that only some threads take, before a barrier",
        ),
        (
            "    for k in range(9):\n        if cuda.laneid:\n            break\n    if k:\n        cuda.syncthreads()",
            "a barrier that only some threads reach: k",
        ),
        ("    if cuda.atomic.add(x, 0, 1):\n        cuda.syncthreads()", "reach: cuda.atomic.add(x, 0, 1)"),
        ("    wait = cuda.syncthreads\n    wait()", "a barrier under another name is not understood here"),
        ("    cuda.syncthreads_or(1)", "cuda.syncthreads_or is not understood here"),
    ],
)
def test_a_planted_fault_is_found(body, message):
    found = faults(body)
    assert any(message in fault for fault in found), found
