"""Convolution, ReLU and 2 x 2 max-pooling as one step: a thread's register tile is the pooling window.

Forward, a thread holds the four outputs of one window (a *cell*) for four filters, 16 sums: for every tap it reads
four pixels and four weights (one load of four), and does 16 multiply-adds. It then keeps the largest of four.

Backward, only the winners carry a gradient, and most of those are zero (ReLU, dropout). Each that is not costs only
the taps of its own filter:

* **dw**: a block owns one filter and some cells, a thread one row of the filter's taps in one channel. The block lists
  the winners that are not zero in shared memory, and each thread adds value times pixel for its taps. Where a filter
  has few taps (the first layer: 9), a thread instead owns one filter and holds all of its taps in registers.
* **dx**: one small kernel lists, for each pixel of the convolution's output, its winners that are not zero: where in
  the turned filters their weights begin, and their gradients. Then a warp owns one row of those pixels, a thread one
  channel, and walks from left to right; what the windows have begun to add up is in registers until they have passed.
  Each row of the filters gives a part of a row of dx, and a last kernel adds them in order.
"""

from functools import cache, partial

import numpy as np

from tinyconv.kernels.cuda.convolution.product import add_parts
from tinyconv.kernels.cuda.runtime.device import (
    THREADS,
    VECTOR,
    blocks_for,
    cuda,
    divided,
    float32,
    index,
    inlined,
    launch,
    together,
)

WIDE = 4  # filters of one thread forward
GROUPS = 8  # at most so many groups of four filters in a block
FLOATS = 8192  # shared floats of a forward block, at most: 32 KB
COPIES = 16  # floats that a thread copies at a time, so that their loads are under way together
FEW_TAPS = 32  # so many taps, at most, are held in registers
BATCH = 4  # winners that are read together, for the same reason
LISTED = 16  # the same, of those that are only listed
WARP = 32
WARPS = 8  # of a block of dw with few taps
_BLOCKS = 2048  # how many blocks, about, share dw


def conv2d_relu_max_pool2d_workspace(out_shape, x_shape, w_shape, padding):
    """Scratch of the backward pass: parts of dw and db, the turned filters, parts of dx, lists and their lengths."""
    (N, PH, PW, F), (N, _, W, C), (KH, KW, C, F) = out_shape, x_shape, w_shape
    taps, pixels = KH * KW * C, 4 * N * PH * PW
    lists, parts_of_dx = pixels + 2 * pixels * F, 2 * N * PH * KH * W * C
    return _parts(N, PH, PW, KH, KW, C, F)[0] * (taps + 1) * F + taps * F + lists + parts_of_dx


def conv2d_relu_max_pool2d_prepare(work, w):
    """Nothing to prepare: the filters are turned where dx is wanted, in the backward pass."""


def conv2d_relu_max_pool2d_forward(out, argmax, x, w, b, work, padding):
    """See reference. A block computes some cells of one image for up to 32 filters; a thread one cell for four."""
    N, PH, PW, F = out.shape
    N, H, W, C = x.shape
    KH, KW, C, F = w.shape
    groups, high, wide, deep = _forward_tile(KH, KW, C, F, PH, PW)
    grid = N * blocks_for(PH, high) * blocks_for(PW, wide), blocks_for(F, groups * WIDE)
    whole = C % deep == 0 and F % (groups * WIDE) == 0
    kernel, shape = _forward(KH, KW, groups, high, wide, deep, whole), (H, W, C, PH, PW, F)
    arrays = out.reshape(out.size), argmax.reshape(argmax.size), x.reshape(x.size), w.reshape(w.size), b
    arguments = *arrays, shape, *map(int, padding), argmax.size > 0
    launch(kernel, grid, (groups, high * wide), *arguments)


def conv2d_relu_max_pool2d_backward(dx, dw, db, dout, argmax, x, w, work, padding, scale):
    """See reference. dw and db; and, if wanted, dx beside them."""
    N, PH, PW, F = dout.shape
    KH, KW, C, F = w.shape
    work, sums = _split(work, _parts(N, PH, PW, KH, KW, C, F)[0] * (KH * KW * C + 1) * F)
    filters = partial(_filter_gradient, dw, db, dout, argmax, x, sums, padding, float32(scale))
    if dx.size:
        together(partial(_input_gradient, dx, dout, argmax, w, work, padding, float32(scale)), filters)
    else:
        filters()


def _filter_gradient(dw, db, dout, argmax, x, sums, padding, scale):
    """dw and db in parts (by rows of cells, or by cells), added in order."""
    N, PH, PW, F = dout.shape
    N, H, W, C = x.shape
    KH, KW, C, F = dw.shape
    top, left = map(int, padding)
    parts, size = _parts(N, PH, PW, KH, KW, C, F)
    arguments = sums, dout, argmax, x.reshape(x.size), (H, W, size, top, left), scale
    reaches_out = _reaches_out(x, dw, dout, padding)
    if KH * KW * C <= FEW_TAPS:
        launch(_few_taps(KH, KW, C, reaches_out), (blocks_for(F, WARP), parts), (WARP, WARPS), *arguments)
    else:
        tiles, threads = _tap_tiles(KH * C)
        launch(_many_taps(KH, KW, C, threads, reaches_out), (F, parts, tiles), threads, *arguments)
    add_parts(dw.reshape(dw.size), db, sums, parts, db, False, False)


def _input_gradient(dx, dout, argmax, w, work, padding, scale):
    """dx from the lists of the winners at each pixel of the convolution's output, in parts (by rows of the filters)."""
    N, PH, PW, F = dout.shape
    N, H, W, C = dx.shape
    KH, KW, C, F = w.shape
    top, left = map(int, padding)
    pixels = 4 * N * PH * PW
    work, turned = _split(work, w.size)
    work, sums = _split(work, 2 * N * PH * KH * W * C)
    work, lengths = _split(work.view(np.int32), pixels)
    work, offsets = _split(work, pixels * F)
    lists = lengths, offsets, work[: pixels * F].view(np.float32)
    launch(_turn, (KH * KW, blocks_for(C * F)), THREADS, turned, w)
    gradients = dout.reshape(dout.size), argmax.reshape(argmax.size), F, KH * KW * C, scale
    launch(_list_winners, blocks_for(pixels, WARP), WARP, *lists, *gradients)
    rows = min(KH, max(1, WARP // KW))
    grid = blocks_for(2 * N * PH, BATCH), blocks_for(C, WARP), blocks_for(KH, rows)
    launch(_dx_parts(KH, KW, C, rows), grid, (WARP, BATCH), sums, turned, *lists, (N, PH, PW, F, W, left))
    launch(_add_dx(KH), (N * H, blocks_for(W * C)), THREADS, dx, sums, PH, PW, KW, top, left)


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


def _parts(N, PH, PW, KH, KW, C, F):
    """Into how many parts dw is cut, and how many cells each has, or how many rows of cells if the taps are few."""
    if KH * KW * C <= FEW_TAPS:
        rows = N * PH
        size = blocks_for(rows, max(1, min(blocks_for(rows, WARPS), _BLOCKS // blocks_for(F, WARP))))
        return blocks_for(rows, size), size
    tiles, threads = _tap_tiles(KH * C)
    rounds = blocks_for(N * PH * PW, threads)
    size = threads * blocks_for(rounds, max(1, _BLOCKS // (F * tiles)))
    return blocks_for(N * PH * PW, size), size


def _tap_tiles(rows):
    """Into how many tiles the rows of taps are cut, and how many threads (whole warps) each has."""
    tiles = blocks_for(rows, 512)
    return tiles, blocks_for(blocks_for(rows, tiles), WARP) * WARP


@cache
def _forward(KH, KW, groups, high, wide, deep, whole):
    """The forward kernel for filters and a tile of this size: the sizes are constants, so its loops unroll.

    ``whole`` says that channels and filters fill their tiles, so that none of them is outside.
    """
    rows, columns, filters = 2 * high + KH - 1, 2 * wide + KW - 1, groups * WIDE
    pixels, weights = deep * rows * columns, deep * KH * KW * filters
    copy_pixels = _copy_pixels(rows, columns, deep, groups * high * wide, whole)
    copy_weights = _copy_weights(KH * KW, filters, deep, groups * high * wide, whole)
    multiply = _multiply(KH, KW, rows, columns, filters, deep)

    @cuda.jit
    def conv2d_relu_max_pool2d_kernel(out, argmax, x, w, b, shape, top, left, keep):
        patch = cuda.shared.array(pixels, np.float32, VECTOR)  # (channel, row, column)
        taps = cuda.shared.array(weights, np.float32, VECTOR)  # (channel, k, l, filter)
        sums = cuda.local.array((4, WIDE), np.float32)
        copied = cuda.local.array(COPIES, np.float32)
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
            copy_pixels(patch, copied, x, t, (n, 2 * i0 - top, 2 * j0 - left, c0), shape)
            copy_weights(taps, copied, w, t, c0, f0, C, F)
            cuda.syncthreads()
            i, j = divided(cell, wide)
            multiply(sums, patch, taps, i * (2 * columns) + j * 2, group * WIDE)
            cuda.syncthreads()
            c0 += deep

        i, j = divided(cell, wide)
        i += i0
        j += j0
        if i < PH and j < PW:
            at = ((n * PH + i) * PW + j) * F
            for q in range(WIDE):
                f = f0 + group * WIDE + q
                if whole or f < F:
                    best, winner = _largest(sums, q, b[index(f)])
                    out[index(at + f)] = best
                    if keep:
                        argmax[index(at + f)] = np.int8(winner)

    return conv2d_relu_max_pool2d_kernel


def _copy_pixels(rows, columns, deep, threads, whole):
    """What copies a patch of the image, and ``deep`` channels of it, to shared memory."""
    pixels = deep * rows * columns
    adjacent = 4 if deep % 4 == 0 else 1  # channels that one thread copies at a time
    steps = min(COPIES // adjacent, blocks_for(pixels // adjacent, threads))

    @inlined
    def copy_pixels(patch, copied, x, t, corner, shape):
        H, W, C, PH, PW, F = shape
        n, y0, column0, c0 = corner
        at = t
        while at < pixels // adjacent:  # neighbouring threads copy neighbouring channels
            for step in range(steps):
                place, c = divided(min(at + step * threads, pixels // adjacent - 1), deep // adjacent)
                y, column = divided(place, columns)
                y += y0
                column += column0
                c *= adjacent
                inside = (y >= 0) & (y < H) & (column >= 0) & (column < W)
                first = ((n * H + y) * W + column) * C + c0 + c
                for q in range(adjacent):
                    there = inside & (whole | (c0 + c + q < C))
                    value = x[index(first + q if there else 0)]
                    copied[step * adjacent + q] = value if there else float32(0)
            for step in range(steps):
                if at < pixels // adjacent:
                    place, c = divided(at, deep // adjacent)
                    for q in range(adjacent):
                        patch[index((c * adjacent + q) * (rows * columns) + place)] = copied[step * adjacent + q]
                at += threads

    return copy_pixels


def _copy_weights(count, filters, deep, threads, whole):
    """What copies the ``count`` taps of some filters, and ``deep`` channels of them, to shared memory."""
    weights = deep * count * filters
    steps = min(COPIES // 4, blocks_for(weights // 4, threads))

    @inlined
    def copy_weights(taps, copied, w, t, c0, f0, C, F):
        at = t
        while at < weights // 4:  # neighbouring threads copy neighbouring filters
            for step in range(steps):
                place, f = divided(min(at + step * threads, weights // 4 - 1), filters // 4)
                c, tap = divided(place, count)
                f = f0 + 4 * f
                first = (tap * C + c0 + c) * F + f
                for q in range(4):
                    there = whole | ((f + q < F) & (c0 + c < C))
                    value = w[index(first + q if there else 0)]
                    copied[step * 4 + q] = value if there else float32(0)
            for step in range(steps):
                if at < weights // 4:
                    for q in range(4):
                        taps[index(4 * at + q)] = copied[step * 4 + q]
                at += threads

    return copy_weights


def _multiply(KH, KW, rows, columns, filters, deep):
    """What adds up a thread's 16 sums over what is in shared memory, from its first pixel and its first weight on."""

    @inlined
    def multiply(sums, patch, taps, pixel, tap):
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

    return multiply


@inlined
def _largest(sums, q, bias):
    """The largest of a cell's four outputs behind ReLU, and which of them it is; -1 if none is above 0."""
    best = sums[0, q] + bias
    winner = 0
    for position in range(1, 4):
        value = sums[position, q] + bias
        if not value <= best and best == best:  # larger, or the first NaN
            best = value
            winner = position
    if best <= float32(0):
        best = float32(0)
        winner = -1
    return best, winner


@cache
def _few_taps(KH, KW, C, padded):
    """dw of filters with few taps: a lane owns a filter; eight warps share the rows of cells."""
    count = KH * KW * C
    rows = count + 1  # db is the last
    pixel = _pixel(padded)

    @cuda.jit
    def dw_few_taps_kernel(sums, dout, argmax, x, shape, scale):
        shared = cuda.shared.array((WARPS, rows, WARP), np.float32)
        dw = cuda.local.array(count, np.float32)
        winners = cuda.local.array(BATCH, np.int64)
        values = cuda.local.array(BATCH, np.float32)
        H, W, size, top, left = shape
        N, PH, PW, F = dout.shape
        lane = cuda.threadIdx.x
        warp = cuda.threadIdx.y
        f = cuda.blockIdx.x * WARP + lane
        part = cuda.blockIdx.y
        db = float32(0)
        for tap in range(count):
            dw[tap] = float32(0)
        stop = min((part + 1) * size, N * PH)
        row = part * size + warp
        while row < stop and f < F:
            n, i = divided(row, PH)
            j = 0
            while j < PW:
                for q in range(BATCH):  # beyond the row's end, the last one again, as one that carries nothing
                    at = min(j + q, PW - 1)
                    winner = int(argmax[n, i, at, f])
                    value = dout[n, i, at, f]
                    values[q] = scale * value if (winner >= 0) & (j + q < PW) else float32(0)
                    winners[q] = max(winner, 0)
                for q in range(BATCH):
                    value = values[q]
                    y, column, corner = _corner((n, i, min(j + q, PW - 1)), winners[q], C, shape)
                    db += value
                    for tap in range(count):
                        k = tap // (KW * C)
                        l = tap // C % KW
                        at = corner + (k * W + l) * C + tap % C
                        dw[tap] += value * pixel(x, at, y + k, column + l, H, W)
                j += BATCH
            row += WARPS
        for tap in range(count):
            shared[warp, tap, lane] = dw[tap]
        shared[warp, count, lane] = db
        cuda.syncthreads()
        tap = warp
        while tap < rows:
            total = float32(0)
            for other in range(WARPS):
                total += shared[other, tap, lane]
            if f < F:
                sums[(part * rows + tap) * F + f] = total
            tap += WARPS

    return dw_few_taps_kernel


@cache
def _many_taps(KH, KW, C, threads, padded):
    """dw of filters with many taps: a block owns a filter and some cells, a thread the taps of a row and channel."""
    count = KH * KW * C
    add_winners = _add_winners(KW, C, padded)

    @cuda.jit
    def dw_many_taps_kernel(sums, dout, argmax, x, shape, scale):
        flags = cuda.shared.array(threads, np.float32, VECTOR)
        length = cuda.shared.array(1, np.float32)
        values = cuda.shared.array(threads, np.float32)
        corners = cuda.shared.array(threads, np.int64)  # where in x each winner's first tap lies: that pixel,
        ys = cuda.shared.array(threads, np.int32)  # its row
        columns = cuda.shared.array(threads, np.int32)  # and its column
        dw = cuda.local.array(KW, np.float32)
        N, PH, PW, F = dout.shape
        t = cuda.threadIdx.x
        f = cuda.blockIdx.x
        part = cuda.blockIdx.y
        row = cuda.blockIdx.z * threads + t
        k, c = divided(row, C)
        k = min(k, KH - 1)  # threads beyond the last row do as it does, for nothing
        db = float32(0)
        for l in range(KW):
            dw[l] = float32(0)
        start = part * shape[2]
        stop = min(start + shape[2], N * PH * PW)
        while start < stop:
            ni, j = divided(min(start + t, stop - 1), PW)
            n, i = divided(ni, PH)
            winner = int(argmax[n, i, j, f])
            value = scale * dout[n, i, j, f]
            kept = (winner >= 0) & (value != float32(0)) & (start + t < stop)
            flags[t] = float32(1) if kept else float32(0)
            cuda.syncthreads()
            rank = _count_before(flags, t)
            if kept:
                place = index(rank)
                values[place] = value
                ys[place], columns[place], corners[place] = _corner((n, i, j), winner, C, shape)
            if t == threads - 1:
                length[0] = rank + flags[t]
            cuda.syncthreads()
            db = add_winners(dw, db, x, int(length[0]), (values, corners, ys, columns), k, c, shape)
            cuda.syncthreads()
            start += threads
        if row < KH * C:
            for l in range(KW):
                sums[(part * (count + 1) + (k * KW + l) * C + c) * F + f] = dw[l]
        if row == 0:
            sums[(part * (count + 1) + count) * F + f] = db

    return dw_many_taps_kernel


def _add_winners(KW, C, padded):
    """What adds up the listed winners, each times the pixels under one row and channel of its filter's taps."""
    pixel = _pixel(padded)

    @inlined
    def add_winners(dw, db, x, entries, winners, k, c, shape):
        values, corners, ys, columns = winners
        offset = k * shape[1] * C + c
        entry = 0
        while entry < entries:
            value = values[index(entry)]
            at = corners[index(entry)] + offset
            y = ys[index(entry)] + k
            column = columns[index(entry)]
            db += value
            for l in range(KW):
                dw[l] += value * pixel(x, at + l * C, y, column + l, shape[0], shape[1])
            entry += 1
        return db

    return add_winners


@cache
def _pixel(padded):
    """What reads a pixel of the flat images; if they are padded, 0 where its row and column are outside."""

    @inlined
    def pixel(x, at, y, column, H, W):
        if padded:
            inside = (y >= 0) & (y < H) & (column >= 0) & (column < W)
            value = x[index(at if inside else 0)]
            return value if inside else float32(0)
        return x[index(at)]

    return pixel


@inlined
def _corner(cell, winner, C, shape):
    """Where the window of a cell's winner begins: row and column of its first pixel, and its place in x."""
    H, W, size, top, left = shape
    n, i, j = cell
    y = 2 * i + (winner >> 1) - top
    column = 2 * j + (winner & 1) - left
    return y, column, ((n * H + y) * W + column) * C


@inlined
def _count_before(flags, t):
    """How many of the flags before number t are set."""
    rank = float32(0)
    other = 0
    while other < t:
        rank += flags[index(other)]
        other += 1
    return rank


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
def _list_winners(lengths, offsets, values, dout, argmax, F, taps, scale):
    """A thread lists the non-zero gradients of one pixel before the pooling, and where their filters' weights begin."""
    winners = cuda.local.array(LISTED, np.int32)
    gradients = cuda.local.array(LISTED, np.float32)
    number = cuda.grid(1)  # 4 * cell + place in the cell
    if number < lengths.size:
        cell = (number >> 2) * F
        first = number * F
        at = first
        f = 0
        while f < F:
            for q in range(LISTED):
                there = index(cell + min(f + q, F - 1))
                winners[q] = argmax[there] if f + q < F else -1
                gradients[q] = scale * dout[there]
            for q in range(LISTED):
                if winners[q] == number & 3 and gradients[q] != float32(0):
                    offsets[index(at)] = (f + q) * taps
                    values[index(at)] = gradients[q]
                    at += 1
            f += LISTED
        lengths[index(number)] = at - first


@cache
def _dx_parts(KH, KW, C, rows):
    """Parts of dx: a warp owns a row of the convolution's output and ``rows`` rows of the filters, a lane a channel."""

    @cuda.jit
    def dx_parts_kernel(sums, turned, lengths, offsets, values, shape):
        passing = cuda.local.array((rows, KW), np.float32)  # of the pixels that the windows of this output touch
        N, PH, PW, F, W, left = shape
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y  # n, i, upper or lower
        c = cuda.blockIdx.y * WARP + cuda.threadIdx.x
        k0 = cuda.blockIdx.z * rows
        if row < 2 * N * PH and c < C:
            for r in range(rows):
                for l in range(KW):
                    passing[r, l] = float32(0)
            first = (row >> 1) * PW * 4 + (row & 1) * 2
            length = lengths[index(first)]
            column = 0
            while column < 2 * PW + KW - 1:
                if column < 2 * PW:
                    entry = (first + (column >> 1) * 4 + (column & 1)) * F
                    end = entry + length
                    after = min(column + 1, 2 * PW - 1)  # its length is under way while this list is read
                    length = lengths[index(first + (after >> 1) * 4 + (after & 1))]
                    while entry < end:
                        value = values[index(entry)]
                        at = offsets[index(entry)] + c
                        for r in range(rows):
                            k = min(k0 + r, KH - 1)  # a row beyond the last one is computed, but not stored
                            for l in range(KW):
                                passing[r, l] += value * turned[index(at + (k * KW + l) * C)]
                        entry += 1
                if 0 <= column - left < W:
                    for r in range(rows):
                        if k0 + r < KH:
                            sums[index(((row * KH + k0 + r) * W + column - left) * C + c)] = passing[r, 0]
                for r in range(rows):
                    for l in range(KW - 1):
                        passing[r, l] = passing[r, l + 1]
                    passing[r, KW - 1] = float32(0)
                column += 1

    return dx_parts_kernel


@cache
def _add_dx(KH):
    """dx: a thread adds, for one pixel and channel, the parts of the rows of outputs whose windows reach the pixel."""

    @cuda.jit
    def add_dx_kernel(dx, sums, PH, PW, KW, top, left):
        N, H, W, C = dx.shape
        n, y = divided(cuda.blockIdx.x, H)
        at = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        if at < W * C:
            reached = at < (2 * PW + KW - 1 - left) * C
            total = float32(0)
            for k in range(KH):
                row = y + top - k
                there = (row >= 0) & (row < 2 * PH) & reached
                value = sums[index(((n * 2 * PH + row) * KH + k) * W * C + at if there else 0)]
                total += value if there else float32(0)
            x, c = divided(at, C)
            dx[n, y, x, c] = total

    return add_dx_kernel
