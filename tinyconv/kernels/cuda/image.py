"""Images in other sizes: one thread for each element that is written."""

from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, divided, float32, inlined, launch


def pad2d_forward(out, x, corner):
    """See reference."""
    launch(_pad, blocks_for(out.size), THREADS, out, x, *corner)


def pad2d_backward(dx, dout, corner):
    """See reference."""
    launch(_crop, blocks_for(dx.size), THREADS, dx, dout, *corner)


def upsample2d_forward(out, x):
    """See reference."""
    launch(_repeat, blocks_for(out.size), THREADS, out, x, out.shape[1] // x.shape[1], out.shape[2] // x.shape[2])


def upsample2d_backward(dx, dout):
    """See reference."""
    launch(
        _add_blocks, blocks_for(dx.size), THREADS, dx, dout, dout.shape[1] // dx.shape[1], dout.shape[2] // dx.shape[2]
    )


@inlined
def place(element, shape):
    """Element (n, y, x, c) of an array of images."""
    pixel, c = divided(element, shape[3])
    row, x = divided(pixel, shape[2])
    n, y = divided(row, shape[1])
    return n, y, x, c


@cuda.jit
def _pad(out, x, top, left):
    element = cuda.grid(1)
    if element < out.size:
        n, i, j, c = place(element, out.shape)
        y = i - top
        z = j - left
        inside = (y >= 0) & (y < x.shape[1]) & (z >= 0) & (z < x.shape[2])
        value = x[n, y if inside else 0, z if inside else 0, c]
        out[n, i, j, c] = value if inside else float32(0)


@cuda.jit
def _crop(dx, dout, top, left):
    element = cuda.grid(1)
    if element < dx.size:
        n, y, z, c = place(element, dx.shape)
        dx[n, y, z, c] = dout[n, y + top, z + left, c]


@cuda.jit
def _repeat(out, x, rows, columns):
    element = cuda.grid(1)
    if element < out.size:
        n, i, j, c = place(element, out.shape)
        y, _ = divided(i, rows)
        z, _ = divided(j, columns)
        out[n, i, j, c] = x[n, y, z, c]


@cuda.jit
def _add_blocks(dx, dout, rows, columns):
    element = cuda.grid(1)
    if element < dx.size:
        n, y, z, c = place(element, dx.shape)
        total = float32(0)
        for i in range(y * rows, (y + 1) * rows):
            for j in range(z * columns, (z + 1) * columns):
                total += dout[n, i, j, c]
        dx[n, y, z, c] = total
