"""Merges: one pass over the arrays, of which each task has a stretch."""

import functools

import numpy as np

from tinyconv.kernels.cpu.runtime.cutting import copy_row, pieces, share, share_in_lines
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.literals import ZERO
from tinyconv.kernels.cpu.runtime.tasks import floats, in_tasks, kernel, run


@functools.cache
def _pairs(formula):
    """The kernel that computes ``formula(a, b)`` of one element each."""

    @kernel
    def merge_pairs(task, tasks, out, a, b):
        first, last = share_in_lines(task, tasks, out.size)
        o, v, w = out[first:last], a[first:last], b[first:last]
        for i in range(o.size):
            o[i] = formula(v[i], w[i])

    return merge_pairs


def _run(function, out, *arguments):
    """Run an element-wise kernel, if its output is wanted."""
    if out.size:
        tasks = pieces(out.size)
        run(function, tasks, tasks, out, *arguments)


@jit
def _add(a, b):
    return a + b


@jit
def _multiply(a, b):
    return a * b


@jit
def _maximum(a, b):
    return a if (a >= b) | (a != a) else b


@in_tasks
def add_to(out, x):
    _run(_pairs(_add), out, out, x)


@in_tasks
def add_forward(out, a, b):
    _run(_pairs(_add), out, a, b)


@in_tasks
def add_backward(da, db, dout):
    """A pass for each gradient that is wanted, as in the others."""
    rescale_backward(da, dout, 1.0)
    rescale_backward(db, dout, 1.0)


@in_tasks
def multiply_forward(out, a, b):
    _run(_pairs(_multiply), out, a, b)


@in_tasks
def multiply_backward(da, db, dout, a, b):
    _run(_pairs(_multiply), da, dout, b)
    _run(_pairs(_multiply), db, dout, a)


@in_tasks
def maximum_forward(out, a, b):
    _run(_pairs(_maximum), out, a, b)


@kernel
def _maximum_gradient(task, tasks, dx, dout, a, b, of_a):
    first, last = share_in_lines(task, tasks, dx.size)
    d, g, v, w = dx[first:last], dout[first:last], a[first:last], b[first:last]
    for i in range(d.size):
        d[i] = g[i] if (v[i] >= w[i]) == (of_a == 1) else ZERO


@in_tasks
def maximum_backward(da, db, dout, a, b):
    _run(_maximum_gradient, da, dout, a, b, 1)
    _run(_maximum_gradient, db, dout, a, b, 0)


@kernel
def _copy_columns(task, tasks, out, x, to, source, columns):
    """``columns`` columns of x, from number ``source`` on, into those of out from number ``to`` on."""
    first, last = share(task, tasks, len(out))
    for m in range(first, last):
        copy_row(out[m, to : to + columns], x[m, source : source + columns])


@in_tasks
def concatenate_forward(out, x, offset):
    """Parallel over rows."""
    tasks = pieces(x.size)
    run(_copy_columns, tasks, tasks, out, x, offset, 0, x.shape[1])


@in_tasks
def concatenate_backward(dx, dout, offset):
    """Parallel over rows."""
    tasks = pieces(dx.size)
    run(_copy_columns, tasks, tasks, dx, dout, 0, offset, dx.shape[1])


@kernel
def _rescale(task, tasks, out, x, options):
    scale, shift = np.float32(options[0]), np.float32(options[1])
    first, last = share_in_lines(task, tasks, out.size)
    o, v = out[first:last], x[first:last]
    for i in range(o.size):
        o[i] = v[i] * scale + shift


@in_tasks
def rescale_forward(out, x, scale, shift):
    _run(_rescale, out, x, floats(scale, shift))


@in_tasks
def rescale_backward(dx, dout, scale):
    rescale_forward(dx, dout, scale, 0.0)
