"""Images in other sizes: with a border of zeros, and with every pixel repeated."""


def pad2d_forward(out, x, corner):
    """Put the image on a larger one of zeros, with ``corner`` = (top, left) rows and columns before it.

    Shapes: x (N, H, W, C), out (N, OH, OW, C), overwritten, with top + H <= OH and left + W <= OW.
    """
    out[...] = 0
    out[_inside(x.shape, corner)] = x


def pad2d_backward(dx, dout, corner):
    """The gradient of a copy; the zeros are constants. Shapes as in the forward; dx overwritten."""
    dx[...] = dout[_inside(dx.shape, corner)]


def _inside(shape, corner):
    (top, left), (H, W) = corner, shape[1:3]
    return slice(None), slice(top, top + H), slice(left, left + W)


def upsample2d_forward(out, x):
    """Repeat every pixel in a block of as many rows and columns as out is times larger: its nearest neighbour.

    Shapes: x (N, H, W, C), out (N, H * rows, W * columns, C), overwritten.
    """
    rows, columns = out.shape[1] // x.shape[1], out.shape[2] // x.shape[2]
    out[...] = x.repeat(rows, axis=1).repeat(columns, axis=2)


def upsample2d_backward(dx, dout):
    """A pixel has a block of readers, and gets the sum of their gradients. Shapes as in the forward; dx overwritten."""
    N, H, W, C = dx.shape
    dx[...] = dout.reshape(N, H, dout.shape[1] // H, W, dout.shape[2] // W, C).sum(axis=(2, 4))
