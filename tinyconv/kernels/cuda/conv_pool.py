"""Convolution, ReLU and 2 x 2 max-pooling as one step: a thread's register tile is the pooling window.

Forward, a thread holds the four outputs of one window (a *cell*) for eight filters, 32 sums: for every tap it reads
four pixels and eight weights (two loads of four), and does 32 multiply-adds. It then keeps the largest of four.

Backward, only the winners carry a gradient, and most of those are zero (ReLU, dropout). So the non-zero ones are
listed first, and each costs only the taps of its own filter:

* **dw**: a block owns one filter and some images, a thread one tap. The block lists the filter's winners, and each
  thread adds value times pixel for its tap. Where a filter has few taps (the first layer: 9), a thread instead owns
  one filter and holds all of its taps in registers.
* **dx**: a list for each cell, written by one small kernel. Then a warp owns one row of dx, a thread one channel of
  it, and walks from left to right; what its last window has begun to add up is in registers until it has passed.
"""

from functools import cache

import numpy as np

from tinyconv.kernels.cuda.convolution.product import add_parts
from tinyconv.kernels.cuda.runtime.device import VECTOR, blocks_for, cuda, divided, float32, index, launch

WIDE = 8  # filters of one thread forward
GROUPS = 4  # at most so many groups of eight filters in a block
FLOATS = 8192  # shared floats of a forward block, at most: 32 KB
FEW_TAPS = 32  # so many taps, at most, are held in registers
LIST = 128  # threads that list a cell's winners
BATCH = 4  # winners that dx takes at a time
WARP = 32
_BLOCKS = 512  # how many blocks, about, share dw


def conv2d_relu_max_pool2d_workspace(out_shape, x_shape, w_shape, padding):
    """Scratch of the backward pass: parts of dw and db, the turned filters, the lists' lengths, places and values."""
    (N, PH, PW, F), (KH, KW, C, F) = out_shape, w_shape
    taps, cells = KH * KW * C, N * PH * PW
    return _parts(N, taps, F)[0] * (taps + 1) * F + taps * F + cells + 2 * cells * F


def conv2d_relu_max_pool2d_prepare(work, w):
    """Nothing to prepare: the filters are turned where dx is wanted, in the backward pass."""


def conv2d_relu_max_pool2d_forward(out, argmax, x, w, b, work, padding):
    """See reference. A block computes some cells of one image for up to 32 filters; a thread one cell for eight."""
    N, PH, PW, F = out.shape
    N, H, W, C = x.shape
    KH, KW, C, F = w.shape
    groups, high, wide, deep = _forward_tile(KH, KW, C, F, PH, PW)
    grid = N * blocks_for(PH, high) * blocks_for(PW, wide), blocks_for(F, groups * WIDE)
    kernel, shape = _forward(KH, KW, groups, high, wide, deep), (H, W, C, PH, PW, F)
    arguments = out, argmax, x.reshape(x.size), w.reshape(w.size), b, shape, *map(int, padding), argmax.size > 0
    launch(kernel, grid, (groups, high * wide), *arguments)


def conv2d_relu_max_pool2d_backward(dx, dw, db, dout, argmax, x, w, work, padding, scale):
    """See reference. dw and db in parts (by images), added in order; then, if wanted, the lists and dx."""
    N, PH, PW, F = dout.shape
    N, H, W, C = x.shape
    KH, KW, C, F = w.shape
    taps, cells, scale = KH * KW * C, N * PH * PW, float32(scale)
    top, left = map(int, padding)
    parts, images = _parts(N, taps, F)
    work, sums = _split(work, parts * (taps + 1) * F)
    if taps <= FEW_TAPS:
        grid = blocks_for(F, WARP), parts
        launch(
            _few_taps(KH, KW, C), grid, (WARP, 8), sums, dout, argmax, x.reshape(x.size), H, W, images, top, left, scale
        )
    else:
        tiles, threads = _tap_tiles(taps)
        kernel, shape = _many_taps(threads, _reaches_out(x, w, dout, padding)), (H, W, C, KW, taps)
        launch(
            kernel, (F, parts, tiles), threads, sums, dout, argmax, x.reshape(x.size), shape, images, top, left, scale
        )
    add_parts(dw.reshape(dw.size), db, sums, parts, db, False, False)
    if dx.size == 0:
        return
    work, turned = _split(work, taps * F)
    work, lengths = _split(work, cells)
    work, places = _split(work, cells * F)
    work, values = _split(work, cells * F)
    launch(_turn, (KH * KW, blocks_for(C * F, LIST)), LIST, turned, w)
    launch(_list_winners, cells, LIST, lengths, places, values, dout, argmax, scale)
    arguments = dx, turned, lengths, places, values, PH, PW, F, KH, top, left
    launch(_dx(KW), (N * blocks_for(H, 4), blocks_for(C, WARP)), (WARP, 4), *arguments)


def _reaches_out(x, w, dout, padding):
    """Whether any window reaches beyond the image."""
    ends = (2 * dout.shape[i] + w.shape[i - 1] - 1 - padding[i - 1] > x.shape[i] for i in (1, 2))
    return any(padding) or any(ends)


def _split(work, size):
    return work[size:], work[:size]


def _forward_tile(KH, KW, C, F, PH, PW):
    """How many groups of filters, rows and columns of cells, and channels at once a forward block takes.

    Of the tiles of at most 256 threads, the one that cuts an image into the fewest blocks, and then has the fewest
    threads; as many channels as fit into shared memory.
    """
    groups = min(GROUPS, blocks_for(F, WIDE))
    while groups > 1 and KH * KW * groups * WIDE > FLOATS // 2:
        groups //= 2
    cells = 256 // groups

    def cost(tile):
        high, wide = tile
        return blocks_for(PH, high) * blocks_for(PW, wide), high * wide

    def floats(tile):
        high, wide = tile
        return (2 * high + KH - 1) * (2 * wide + KW - 1) + KH * KW * groups * WIDE

    tiles = [(high, min(cells // high, PW)) for high in range(1, min(cells, PH) + 1)]
    high, wide = min([tile for tile in tiles if floats(tile) <= FLOATS] or [(1, 1)], key=cost)
    deep = max(1, min(C, FLOATS // floats((high, wide))))
    return groups, high, wide, blocks_for(C, blocks_for(C, deep))


def _parts(N, taps, F):
    """Into how many parts of how many images dw is cut."""
    across = blocks_for(F, WARP) if taps <= FEW_TAPS else F * _tap_tiles(taps)[0]
    images = blocks_for(N, max(1, min(N, _BLOCKS // across)))
    return blocks_for(N, images), images


def _tap_tiles(taps):
    """Into how many tiles the taps are cut, and how many threads (whole warps) each has."""
    tiles = blocks_for(taps, 512)
    return tiles, blocks_for(blocks_for(taps, tiles), WARP) * WARP


@cache
def _forward(KH, KW, groups, high, wide, deep):
    """The forward kernel for filters and a tile of this size: the sizes are constants, so its loops unroll."""
    rows, columns, filters = 2 * high + KH - 1, 2 * wide + KW - 1, groups * WIDE
    pixels, weights = deep * rows * columns, deep * KH * KW * filters
    threads = groups * high * wide
    together = 4 if deep % 4 == 0 else 1  # channels that one thread copies at a time

    @cuda.jit
    def conv2d_relu_max_pool2d_kernel(out, argmax, x, w, b, shape, top, left, keep):
        patch = cuda.shared.array(pixels, np.float32, VECTOR)  # (channel, row, column)
        taps = cuda.shared.array(weights, np.float32, VECTOR)  # (channel, k, l, filter)
        sums = cuda.local.array((4, WIDE), np.float32)
        H, W, C, PH, PW, F = shape
        down, across = (PH + high - 1) // high, (PW + wide - 1) // wide
        ni, j0 = divided(cuda.blockIdx.x, across)
        n, i0 = divided(ni, down)
        i0 *= high
        j0 *= wide
        f0 = cuda.blockIdx.y * filters
        group = cuda.threadIdx.x
        cell = cuda.threadIdx.y
        t = cell * groups + group
        for position in range(4):
            for q in range(WIDE):
                sums[position, q] = float32(0)

        c0 = 0
        while c0 < C:
            at = t
            while at < pixels // together:  # neighbouring threads copy neighbouring channels
                place, c = divided(at, deep // together)
                y, column = divided(place, columns)
                y += 2 * i0 - top
                column += 2 * j0 - left
                c *= together
                inside = (y >= 0) & (y < H) & (column >= 0) & (column < W)
                first = ((n * H + y) * W + column) * C + c0 + c
                for q in range(together):
                    there = inside & (c0 + c + q < C)
                    value = x[index(first + q if there else 0)]
                    patch[index((c + q) * (rows * columns) + place)] = value if there else float32(0)
                at += threads
            at = t
            while at < weights // 4:  # neighbouring threads copy neighbouring filters
                place, f = divided(at, filters // 4)
                c, tap = divided(place, KH * KW)
                f = f0 + 4 * f
                first = (tap * C + c0 + c) * F + f
                for q in range(4):
                    there = (f + q < F) & (c0 + c < C)
                    value = w[index(first + q if there else 0)]
                    taps[index(4 * at + q)] = value if there else float32(0)
                at += threads
            cuda.syncthreads()

            i, j = divided(cell, wide)
            pixel = i * (2 * columns) + j * 2
            tap = group * WIDE
            c = 0
            while c < deep:
                k = 0
                while k < KH:
                    l = 0
                    while l < KW:
                        for position in range(4):
                            value = patch[index(pixel + l + position // 2 * columns + position % 2)]
                            for q in range(WIDE):
                                sums[position, q] += value * taps[index(tap + l * filters + q)]
                        l += 1
                    pixel += columns
                    tap += KW * filters
                    k += 1
                pixel += (rows - KH) * columns
                c += 1
            cuda.syncthreads()
            c0 += deep

        i, j = divided(cell, wide)
        i += i0
        j += j0
        for q in range(WIDE):
            f = f0 + group * WIDE + q
            if i < PH and j < PW and f < F:
                best = sums[0, q] + b[f]
                winner = 0
                for position in range(1, 4):
                    value = sums[position, q] + b[f]
                    if value > best or (value != value and best == best):
                        best = value
                        winner = position
                if best <= float32(0):
                    best = float32(0)
                    winner = -1
                out[n, i, j, f] = best
                if keep:
                    argmax[n, i, j, f] = np.int8(winner)

    return conv2d_relu_max_pool2d_kernel


@cache
def _few_taps(KH, KW, C):
    """dw of filters with few taps: a lane owns a filter; eight warps share the rows of the images."""
    count = KH * KW * C
    rows = count + 1  # db is the last

    @cuda.jit
    def dw_few_taps_kernel(sums, dout, argmax, x, H, W, images, top, left, scale):
        shared = cuda.shared.array((8, rows, WARP), np.float32)
        dw = cuda.local.array(count, np.float32)
        N, PH, PW, F = dout.shape
        lane = cuda.threadIdx.x
        warp = cuda.threadIdx.y
        f = cuda.blockIdx.x * WARP + lane
        part = cuda.blockIdx.y
        db = float32(0)
        for tap in range(count):
            dw[tap] = float32(0)
        stop = min((part + 1) * images, N) * PH
        row = part * images * PH + warp
        while row < stop and f < F:
            n, i = divided(row, PH)
            for j in range(PW):
                winner = int(argmax[n, i, j, f])
                value = scale * dout[n, i, j, f] if winner >= 0 else float32(0)
                winner = max(winner, 0)
                y = 2 * i + (winner >> 1) - top
                column = 2 * j + (winner & 1) - left
                db += value
                for tap in range(count):
                    k = y + tap // (KW * C)
                    l = column + tap // C % KW
                    inside = (k >= 0) & (k < H) & (l >= 0) & (l < W)
                    at = ((n * H + k) * W + l) * C + tap % C
                    pixel = x[index(at if inside else 0)]
                    dw[tap] += value * (pixel if inside else float32(0))
            row += 8
        for tap in range(count):
            shared[warp, tap, lane] = dw[tap]
        shared[warp, count, lane] = db
        cuda.syncthreads()
        tap = warp
        while tap < rows:
            total = float32(0)
            for other in range(8):
                total += shared[other, tap, lane]
            if f < F:
                sums[(part * rows + tap) * F + f] = total
            tap += 8

    return dw_few_taps_kernel


@cache
def _many_taps(threads, padded):
    """dw of filters with many taps: a block owns a filter, lists its winners, and each thread adds them for its tap."""
    warps = threads // WARP

    @cuda.jit
    def dw_many_taps_kernel(sums, dout, argmax, x, shape, images, top, left, scale):
        flags = cuda.shared.array(threads, np.int32)
        before = cuda.shared.array(warps, np.int32)
        values = cuda.shared.array(threads, np.float32)
        corners = cuda.shared.array(threads, np.int64)  # where in x each winner's first tap lies: that pixel,
        ys = cuda.shared.array(threads, np.int32)  # its row
        columns = cuda.shared.array(threads, np.int32)  # and its column
        H, W, C, KW, taps = shape
        N, PH, PW, F = dout.shape
        t = cuda.threadIdx.x
        f = cuda.blockIdx.x
        part = cuda.blockIdx.y
        tap = cuda.blockIdx.z * threads + t
        kl, c = divided(tap, C)
        k, l = divided(kl, KW)
        offset = (k * W + l) * C + c
        dw = float32(0)
        db = float32(0)
        stop = min((part + 1) * images, N) * PH * PW
        start = part * images * PH * PW
        while start < stop:
            cell = start + t
            ni, j = divided(cell, PW)
            n, i = divided(ni, PH)
            winner = -1
            value = float32(0)
            if cell < stop:
                winner = int(argmax[n, i, j, f])
                value = scale * dout[n, i, j, f]
            flags[t] = 1 if winner >= 0 and value != float32(0) else 0
            rank, count = 0, 0
            cuda.syncthreads()
            if t < warps:
                for lane in range(WARP):
                    rank += flags[t * WARP + lane]
                before[t] = rank
            cuda.syncthreads()
            rank = 0
            for warp in range(warps):
                if warp < t // WARP:
                    rank += before[warp]
                count += before[warp]
            for other in range(t // WARP * WARP, t):
                rank += flags[other]
            if flags[t] == 1:
                values[rank] = value
                y = 2 * i + (winner >> 1) - top
                column = 2 * j + (winner & 1) - left
                corners[rank] = ((n * H + y) * W + column) * C
                ys[rank] = y
                columns[rank] = column
            cuda.syncthreads()
            if tap < taps:
                entry = 0
                while entry < count:
                    value = values[index(entry)]
                    at = corners[index(entry)] + offset
                    db += value
                    if padded:
                        y = ys[index(entry)] + k
                        column = columns[index(entry)] + l
                        inside = (y >= 0) & (y < H) & (column >= 0) & (column < W)
                        pixel = x[index(at if inside else 0)]
                        dw += value * (pixel if inside else float32(0))
                    else:
                        dw += value * x[index(at)]
                    entry += 1
            cuda.syncthreads()
            start += threads
        if tap < taps:
            sums[(part * (taps + 1) + tap) * F + f] = dw
        if tap == 0:
            sums[(part * (taps + 1) + taps) * F + f] = db

    return dw_many_taps_kernel


@cuda.jit
def _turn(turned, w):
    """turned[f, k, l, c] = w[k, l, c, f]: so that neighbouring channels lie side by side."""
    KH, KW, C, F = w.shape
    tap = cuda.blockIdx.x
    cf = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if cf < C * F:
        f, c = divided(cf, C)
        k, l = divided(tap, KW)
        turned[(f * KH * KW + tap) * C + c] = w[k, l, c, f]


@cuda.jit
def _list_winners(lengths, places, values, dout, argmax, scale):
    """A block lists one cell's non-zero gradients in the order of the filters: place 4 * filter + position, value."""
    flags = cuda.shared.array(LIST, np.int32)
    N, PH, PW, F = dout.shape
    cell = cuda.blockIdx.x
    ni, j = divided(cell, PW)
    n, i = divided(ni, PH)
    t = cuda.threadIdx.x
    length = 0
    f0 = 0
    while f0 < F:
        f = f0 + t
        winner = -1
        value = float32(0)
        if f < F:
            winner = int(argmax[n, i, j, f])
            value = scale * dout[n, i, j, f]
        flags[t] = 1 if winner >= 0 and value != float32(0) else 0
        step = 1
        while step < LIST:  # a running sum: each round adds the sum that ended ``step`` threads before
            cuda.syncthreads()
            more = flags[t - step] if t >= step else np.int32(0)
            cuda.syncthreads()
            flags[t] += more
            step *= 2
        cuda.syncthreads()
        if winner >= 0 and value != float32(0):
            at = cell * F + length + flags[t] - 1
            places[at] = float32(4 * f + winner)
            values[at] = value
        length += flags[LIST - 1]
        cuda.syncthreads()
        f0 += LIST
    if t == 0:
        lengths[cell] = float32(length)


@cache
def _dx(KW):
    """dx for filters KW wide. A warp owns one row of dx, a lane one channel; four rows are a block."""
    touched = KW + 1  # columns that the windows of one cell touch

    @cuda.jit
    def dx_kernel(dx, turned, lengths, places, values, PH, PW, F, KH, top, left):
        passing = cuda.local.array(touched, np.float32)  # dx of the columns that the windows of this cell touch
        even = cuda.local.array(BATCH, np.float32)  # the gradients whose windows begin at the cell's first column
        odd = cuda.local.array(BATCH, np.float32)  # and at its second
        taps = cuda.local.array(BATCH, np.int64)  # where their weights begin
        N, H, W, C = dx.shape
        down = (H + 3) // 4
        n, y = divided(cuda.blockIdx.x, down)
        y = y * 4 + cuda.threadIdx.y
        c = cuda.blockIdx.y * WARP + cuda.threadIdx.x
        if y < H and c < C:
            for tap in range(touched):
                passing[tap] = float32(0)
            first = max(0, (y + top - KH + 1) // 2)  # the rows of cells whose windows reach row y
            last = min(PH, (y + top) // 2 + 1)
            j = 0
            while 2 * j - left < W:
                i = first
                while i < last and j < PW:
                    cell = (n * PH + i) * PW + j
                    entry = cell * F
                    stop = entry + int(lengths[cell])
                    while entry < stop:
                        for q in range(BATCH):  # several at a time, so that their loads are under way together
                            at = min(entry + q, stop - 1)
                            place = int(places[index(at)])
                            value = values[index(at)]
                            k = y + top - 2 * i - (place >> 1 & 1)
                            there = (entry + q < stop) & (k >= 0) & (k < KH)
                            even[q] = value if there & (place & 1 == 0) else float32(0)
                            odd[q] = value if there & (place & 1 == 1) else float32(0)
                            taps[q] = (((place >> 2) * KH + (k if there else 0)) * KW) * C + c
                        for l in range(KW):
                            for q in range(BATCH):
                                weight = turned[index(taps[q] + l * C)]
                                passing[l] += even[q] * weight
                                passing[l + 1] += odd[q] * weight
                        entry += BATCH
                    i += 1
                for side in range(2):
                    column = 2 * j + side - left
                    if 0 <= column < W:
                        dx[n, y, column, c] = passing[side]
                for tap in range(KW - 1):
                    passing[tap] = passing[tap + 2]
                for tap in range(KW - 1, touched):
                    passing[tap] = float32(0)
                j += 1

    return dx_kernel
