"""Images in other sizes, row by row of what is written."""

from tinyconv.kernels.cpu.runtime.cutting import copy_row, pieces, share
from tinyconv.kernels.cpu.runtime.literals import ZERO
from tinyconv.kernels.cpu.runtime.tasks import in_tasks, kernel, run


@kernel
def _pad(task, tasks, out, x, top, left):
    N, OH, OW, C = out.shape
    H, W = x.shape[1:3]
    first, last = share(task, tasks, N * OH)
    for row in range(first, last):
        n, i = row // OH, row % OH
        for j in range(OW):
            if (top <= i < top + H) & (left <= j < left + W):
                copy_row(out[n, i, j], x[n, i - top, j - left])
            else:
                out[n, i, j, :] = ZERO


@in_tasks
def pad2d_forward(out, x, corner):
    """Parallel over rows of out."""
    tasks = pieces(out.size)
    run(_pad, tasks, tasks, out, x, *corner)


@kernel
def _crop(task, tasks, dx, dout, top, left):
    N, H, W, C = dx.shape
    first, last = share(task, tasks, N * H)
    for row in range(first, last):
        n, y = row // H, row % H
        for z in range(W):
            copy_row(dx[n, y, z], dout[n, y + top, z + left])


@in_tasks
def pad2d_backward(dx, dout, corner):
    """Parallel over rows of dx."""
    tasks = pieces(dx.size)
    run(_crop, tasks, tasks, dx, dout, *corner)


@kernel
def _repeat(task, tasks, out, x):
    N, OH, OW, C = out.shape
    rows, columns = OH // x.shape[1], OW // x.shape[2]
    first, last = share(task, tasks, N * OH)
    for row in range(first, last):
        n, i = row // OH, row % OH
        for j in range(OW):
            copy_row(out[n, i, j], x[n, i // rows, j // columns])


@in_tasks
def upsample2d_forward(out, x):
    """Parallel over rows of out."""
    tasks = pieces(out.size)
    run(_repeat, tasks, tasks, out, x)


@kernel
def _add_blocks(task, tasks, dx, dout):
    N, H, W, C = dx.shape
    rows, columns = dout.shape[1] // H, dout.shape[2] // W
    first, last = share(task, tasks, N * H)
    for row in range(first, last):
        n, y = row // H, row % H
        for z in range(W):
            d = dx[n, y, z]
            d[:] = ZERO
            for i in range(y * rows, (y + 1) * rows):
                for j in range(z * columns, (z + 1) * columns):
                    g = dout[n, i, j]
                    for c in range(C):
                        d[c] += g[c]


@in_tasks
def upsample2d_backward(dx, dout):
    """Parallel over rows of dx."""
    tasks = pieces(dout.size)
    run(_add_blocks, tasks, tasks, dx, dout)
