"""Every CUDA kernel compiles for sm_90 without a GPU: no float64, no spills, shared memory within its limit.

Runs where the extra ``cuda`` is installed (numba-cuda and a CUDA 13 toolkit from PyPI); a driver or a GPU it does not
need. The kernels are called on NumPy arrays, and instead of being launched, what would have been launched is compiled
for the types of its arguments.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("numba_cuda") is None,
        reason="numba-cuda is not installed (pip install 'tinyconv[cuda]'; no GPU is needed)",
    ),
    pytest.mark.skipif(os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0", reason="the simulator compiles nothing"),
]

FAMILIES = ("activation", "conv", "data", "dropout", "fused", "loss", "normalization", "pool", "product", "update")
IN_DOUBLE_PRECISION = {"_accumulate", "_l2_forward"}  # by their definition
SHARED_LIMIT = 48 * 1024


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def calls():
    """One call of every kernel of the contract: the MNIST network's convolutions, small arrays for the others."""
    counters, order, one = zeros(3, dtype=np.int64), zeros(8, dtype=np.int64), zeros(1)
    row, rows, channels = zeros(8), zeros(8, 4), zeros(4)
    image, pooled = zeros(2, 4, 4, 3), zeros(2, 2, 2, 3)
    winners, pooling = zeros(2, 2, 2, 3, dtype=np.int32), ((2, 2), (2, 2), (0, 0))
    for name in ("relu", "sigmoid", "tanh"):
        yield f"{name}_forward", row, row
        yield f"{name}_backward", row, row, row
    for name in ("leaky_relu", "elu"):
        yield f"{name}_forward", row, row, 0.1
        yield f"{name}_backward", row, row, row, 0.1
    yield "softmax_forward", rows, rows
    yield "softmax_backward", rows, rows, rows
    for name in ("softmax_cross_entropy", "sigmoid_cross_entropy"):
        yield f"{name}_forward", row, rows, rows, rows
        yield f"{name}_backward", rows, rows, rows
    for name in ("cross_entropy", "binary_cross_entropy", "mean_squared_error"):
        yield f"{name}_forward", row, rows, rows
        yield f"{name}_backward", rows, rows, rows
    yield "count_correct", row, rows, rows
    yield "count_binary_correct", row, rows, rows
    yield "count_top_k", row, rows, rows, 5
    yield "accumulate", zeros(4, dtype=np.float64), row, 1, 1.0
    yield "dropout_forward", rows, rows, counters, 7, 1, 0.5
    yield "dropout_backward", rows, rows, counters, 7, 1, 0.5
    yield "dropout_pooled_forward", rows, zeros(8, 4, dtype=np.int8), counters, 7, 1, 0.5
    yield "gather_rows", rows, rows, order, counters
    yield "gather_one_hot", rows, order, order, counters
    yield "scatter_rows", rows, rows, counters
    yield "advance", counters, 1, 8
    yield "max_pool2d_forward", pooled, winners, image, *pooling
    yield "max_pool2d_backward", image, pooled, winners, *pooling
    yield "average_pool2d_forward", pooled, image, *pooling
    yield "average_pool2d_backward", image, pooled, *pooling
    yield "batch_norm_forward", rows, *(channels,) * 4, rows, channels, channels, 0.9, 1e-3
    yield "batch_norm_backward", rows, channels, channels, rows, rows, channels, channels, channels
    yield "batch_norm_inference", rows, rows, *(channels,) * 4, 1e-3
    yield "batch_norm_fold", rows, channels, rows, *(channels,) * 5, 1e-3
    yield "adam_update", row, row, row, row, counters, one, 0.9, 0.999, 1e-7, 0.0
    yield "sgd_update", row, row, row, one, 0.9, True
    yield "l2_forward", one, row, row
    yield "l2_backward", row, row, row
    yield from convolutions()


def convolutions():
    """The products and the fused step, at the sizes of the MNIST network (batch 128)."""
    from tinyconv.kernels import cuda

    nothing, geometry = zeros(0), ((1, 1), (0, 0), (1, 1))
    for H, C, F in ((28, 1, 32), (13, 32, 64)):
        x, w, b = zeros(128, H, H, C), zeros(3, 3, C, F), zeros(F)
        out = zeros(128, H - 2, H - 2, F)
        work = zeros(cuda.conv2d_workspace(out.shape, x.shape, w.shape, *geometry))
        yield "conv2d_prepare", work, w, out.shape, x.shape, *geometry
        yield "conv2d_forward", out, x, w, b, work, *geometry, True
        yield "conv2d_backward", x, w, b, out, x, w, work, *geometry
        P = (H - 2) // 2
        out, argmax = zeros(128, P, P, F), zeros(128, P, P, F, dtype=np.int8)
        work = zeros(cuda.conv2d_relu_max_pool2d_workspace(out.shape, x.shape, w.shape, (0, 0)))
        yield "conv2d_relu_max_pool2d_prepare", work, w
        yield "conv2d_relu_max_pool2d_forward", out, argmax, x, w, b, work, (0, 0)
        dx = x if C > 1 else nothing
        yield "conv2d_relu_max_pool2d_backward", dx, w, b, out, argmax, x, w, work, (0, 0), 2.0
    x, w, b, out = zeros(128, 1600), zeros(1600, 10), zeros(10), zeros(128, 10)
    work = zeros(cuda.dense_workspace(out.shape, x.shape, w.shape))
    yield "dense_prepare", work, w
    yield "dense_forward", out, x, w, b, work, False
    yield "dense_backward", x, w, b, out, x, w, work


def launches(monkeypatch):
    """(kernel, signature, blocks, threads) of everything that the calls would launch, once for each signature."""
    from numba import typeof, types

    from tinyconv.kernels import contract, cuda

    found, called = {}, set()

    def note(kernel, blocks, threads, *arguments):
        signature = types.void(*map(typeof, arguments))
        found.setdefault((kernel, signature), (blocks, threads))

    for family in FAMILIES:
        module = importlib.import_module(f"tinyconv.kernels.cuda.{family}")
        if hasattr(module, "launch"):
            monkeypatch.setattr(module, "launch", note)
    for name, *arguments in calls():
        getattr(cuda, name)(*arguments)
        called.add(name)
    assert {name for name in contract() if not name.endswith("workspace")} <= called
    return [(*key, *value) for key, value in found.items()]


def assembled(ptx):
    """The assembler's report on a kernel: registers, stack, spills and shared memory."""
    from cuda.bindings import nvjitlink

    link = nvjitlink.create(3, ["-arch=sm_90", "-Xptxas=-v", "-verbose"])
    text = ptx.encode()
    nvjitlink.add_data(link, nvjitlink.InputType.PTX, text, len(text), "kernel")
    nvjitlink.complete(link)
    report = bytearray(nvjitlink.get_info_log_size(link))
    nvjitlink.get_info_log(link, report)
    cubin = bytearray(nvjitlink.get_linked_cubin_size(link))
    nvjitlink.get_linked_cubin(link, cubin)
    nvjitlink.destroy(link)
    return report.decode(), bytes(cubin)


def number(pattern, report):
    found = re.search(pattern, report)
    return int(found.group(1)) if found else 0


def test_every_kernel_compiles_for_an_h100(monkeypatch, capsys):
    from numba import cuda as numba_cuda
    from numba.cuda import dispatcher

    # Functions that kernels call are compiled for the current device, which there need not be.
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=(9, 0)))
    lines, problems = [], []
    folder = os.environ.get("TINYCONV_KEEP_CUBINS")  # for whoever wants to disassemble them
    for kernel, signature, blocks, threads in launches(monkeypatch):
        name = kernel.py_func.__name__
        ptx, _ = numba_cuda.compile_ptx(kernel.py_func, signature, cc=(9, 0))
        report, cubin = assembled(ptx)
        registers = number(r"Used (\d+) registers", report)
        stack = number(r"(\d+) bytes stack frame", report)
        spills = number(r"(\d+) bytes spill stores", report) + number(r"(\d+) bytes spill loads", report)
        shared = number(r"(\d+) bytes smem", report)
        size = int(np.prod(threads))
        lines.append(f"{name:40} {registers:4} registers {shared:6} B shared   {blocks} x {threads}")
        if stack or spills:
            problems.append(f"{name}: {stack} bytes of stack, {spills} of spills")
        if re.search(r"\.f64\b", ptx) and name not in IN_DOUBLE_PRECISION:
            problems.append(f"{name}: float64 instructions")
        if shared > SHARED_LIMIT:
            problems.append(f"{name}: {shared} bytes of static shared memory")
        if registers * size > 65_536 or size > 1024:
            problems.append(f"{name}: {registers} registers times {size} threads do not fit on a multiprocessor")
        if folder:
            Path(folder, f"{name}_{len(lines)}.cubin").write_bytes(cubin)
            Path(folder, f"{name}_{len(lines)}.ptx").write_text(ptx)
    with capsys.disabled():
        print("\n" + "\n".join(sorted(lines)), file=sys.stderr)
    assert not problems, "\n".join(problems)
