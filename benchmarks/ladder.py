"""Why code is fast: one convolution on seven rungs, from plain Python to the fused step that trains the network.

    python benchmarks/ladder.py             prints the table
    python benchmarks/ladder.py --record    writes it, and a picture, into benchmarks/results

Every rung computes the same: the larger convolution of the MNIST network, its ReLU, and its 2 x 2 max-pool. Each is a
short function, and its docstring says what it adds to the one before. All are checked to give the same result before
any is timed. Read the file from top to bottom; ``ladder_backward.py`` goes on with the gradients.

The arrays: images x (N, H, W, C), filters w (KH, KW, C, F), bias b (F,), output out (N, PH, PW, F).
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit, prange

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure, network, report
from tinyconv import kernels
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    tile_load,
    tile_multiply_add,
    tile_relu,
    tile_shape,
    tile_store_at,
)
from tinyconv.kernels.cpu.runtime.jit import jit

CONVOLUTION = network.Convolution(128, 13, 32, 64, 3)


def python_loops(out, x, w, b):
    """The definition, spelt out: for every output, multiply a window of the image by a filter, and add up.

    Each of the inner multiplications costs the interpreter some 100 instructions: look up the types, unpack the
    numbers, make an object for the result. The processor could do 64 in the time of one of those instructions.
    """
    N, PH, PW, F = out.shape
    KH, KW, C, F = w.shape
    for n in range(N):
        for i in range(PH):
            for j in range(PW):
                for f in range(F):
                    best = 0.0  # ReLU: nothing below zero
                    for position in range(4):  # of the pooling window
                        y, z = 2 * i + position // 2, 2 * j + position % 2
                        total = b[f]
                        for k in range(KH):
                            for l in range(KW):
                                for c in range(C):
                                    total += x[n, y + k, z + l, c] * w[k, l, c, f]
                        best = max(best, total)
                    out[n, i, j, f] = best


def numpy_products(out, x, w, b):
    """The same in whole arrays. A tap (k, l) of the filters multiplies a shifted image: that is a matrix product.

    The loops now run in compiled code, and the products in BLAS, a library that has all the tricks of the rungs below.
    But every step goes through memory: nine shifted copies of the images, nine times reading and writing the whole
    result. The next rung begins again from the loops, to build what BLAS has where we need it.
    """
    N, PH, PW, F = out.shape
    KH, KW, C, F = w.shape
    full = np.broadcast_to(b, (N, 2 * PH, 2 * PW, F)).copy()
    for k in range(KH):
        for l in range(KW):
            full += x[:, k : k + 2 * PH, l : l + 2 * PW] @ w[k, l]
    np.maximum(full, 0, out=full)
    out[...] = full.reshape(N, PH, 2, PW, 2, F).max(axis=(2, 4))


numba_loops = njit(nogil=True)(python_loops)
numba_loops.__doc__ = """The first rung again, word for word, compiled to machine code.

Nothing is looked up any more. But the processor's vector units stay idle: the innermost loop adds up one number, each
addition waits four cycles for the one before, and neighbouring w[k, l, c, f] of one f lie F numbers apart.
"""


def rows_of_filters(out, x, w, b, scratch, n):
    """One image, with the loops turned inside out: the innermost one runs over the filters.

    Now neighbours in the loop are neighbours in memory, and no addition waits for another: the compiler uses vector
    instructions, LANES multiplications at a time. What limits it is that for each of them the sums are read from
    memory (well, from the cache) and written back.
    """
    N, PH, PW, F = out.shape
    KH, KW, C, F = w.shape
    for i in range(PH):
        for j in range(PW):
            out[n, i, j] = 0
            for position in range(4):
                y, z = 2 * i + position // 2, 2 * j + position % 2
                scratch[:] = b
                for k in range(KH):
                    for l in range(KW):
                        for c in range(C):
                            for f in range(F):
                                scratch[f] += x[n, y + k, z + l, c] * w[k, l, c, f]
                for f in range(F):
                    out[n, i, j, f] = max(out[n, i, j, f], scratch[f])


_rows_of_filters = njit(nogil=True, fastmath={"contract"})(rows_of_filters)


@njit(nogil=True)
def numba_vectors(out, x, w, b):
    """See rows_of_filters."""
    scratch = np.empty_like(b)
    for n in range(x.shape[0]):
        _rows_of_filters(out, x, w, b, scratch, n)


@njit(nogil=True, parallel=True)
def numba_parallel(out, x, w, b):
    """The same on all cores. Every image is a task of its own: no two threads write to the same place, so the result
    has the same bits on any number of threads."""
    for n in prange(x.shape[0]):
        _rows_of_filters(out, x, w, b, np.empty_like(b), n)


R, V = tile_shape(CONVOLUTION.F)


@jit(parallel=True)
def convolve_tiles(full, x, w, b, relu):
    """full (N, OH, OW, F): the convolution, tile by tile. The arrays are flat in memory, in C order."""
    N, OH, OW, F = full.shape
    N, H, W, C = x.shape
    KH, KW, C, F = w.shape
    pixels = OH * OW
    flat_x, flat_w, flat_full = x.reshape(-1), w.reshape(-1), full.reshape(-1)
    for index in prange(N):
        n = np.int64(index)
        for f in range(0, F, V * LANES):
            for pixel in range(0, pixels, R):
                reads = pixel_offsets(pixel, pixels - 1, OW, W * C, C, R)  # where the windows of R pixels begin
                tile = tile_load(b, f, 0, R, V)
                for k in range(KH):
                    for l in range(KW):
                        for c in range(C):
                            window = ((n * H + k) * W + l) * C + c
                            tile = tile_multiply_add(
                                tile, flat_x, reads, window, flat_w, ((k * KW + l) * C + c) * F + f
                            )
                writes = pixel_offsets(pixel, pixels - 1, OW, OW * F, F, R)
                if relu:
                    tile = tile_relu(tile)
                tile_store_at(tile, flat_full, writes, n * pixels * F + f, F - f)


@jit(parallel=True)
def pool(out, full):
    """The largest of each 2 x 2 window."""
    N, PH, PW, F = out.shape
    for n in prange(N):
        for i in range(PH):
            for j in range(PW):
                for f in range(F):
                    above = max(full[n, 2 * i, 2 * j, f], full[n, 2 * i, 2 * j + 1, f])
                    below = max(full[n, 2 * i + 1, 2 * j, f], full[n, 2 * i + 1, 2 * j + 1, f])
                    out[n, i, j, f] = max(above, below)


def register_tile(out, x, w, b, full):
    """Keep the sums in registers: R pixels times V vectors of filters at once, the *tile*.

    One step of the innermost loop loads V vectors of filters and R numbers of the image, and does R * V vector
    multiply-adds: no sum is read or written before it is complete. How that is said in Python is the story of
    tinyconv/kernels/cpu/registers/tile.py. Every dense product of tinyconv is this loop.
    """
    convolve_tiles(full, x, w, b, True)
    pool(out, full)


def fused_step(out, x, w, b, work):
    """What tinyconv trains with: the pooling window is part of the tile, so that only pooled outputs are ever written,
    and what pooling drops is never computed; and Winograd's transform saves more than half of the multiplications.
    See tinyconv/kernels/cpu/conv_pool.py."""
    cpu = kernels.load("cpu")
    cpu.conv2d_relu_max_pool2d_prepare(work, w)
    cpu.conv2d_relu_max_pool2d_forward(out, NO_ARGMAX, x, w, b, work, (0, 0))


NO_ARGMAX = np.zeros((0, 0, 0, 0), np.int8)


class Rung(NamedTuple):
    """One rung: its name, what it adds, how many images to time it on, and the call."""

    name: str
    adds: str
    images: int
    run: Callable[..., None]


def rungs(images: int) -> list[Rung]:
    """All rungs, from the slowest to the fastest. Each call takes (out, x, w, b)."""
    s = CONVOLUTION
    full = np.empty((images, s.out_size // 2 * 2, s.out_size // 2 * 2, s.F), np.float32)
    cpu = kernels.load("cpu")
    shapes = ((images, s.out_size // 2, s.out_size // 2, s.F), (images, s.size, s.size, s.C), (s.K, s.K, s.C, s.F))
    work = cpu.allocate((cpu.conv2d_relu_max_pool2d_workspace(*shapes, (0, 0)),), np.float32)
    return [
        Rung("Python", "the definition, as plain loops", 1, python_loops),
        Rung("NumPy", "whole arrays: a matrix product per tap, by BLAS", images, numpy_products),
        Rung("Numba", "begin again: the plain loops, compiled", images, numba_loops),
        Rung("Numba, loops turned", "innermost over filters: vector instructions", images, numba_vectors),
        Rung("Numba, parallel", "all cores", images, numba_parallel),
        Rung("register tile", "sums stay in registers", images, lambda *a: register_tile(*a, full)),
        Rung("fused step", "ReLU and pooling inside the tile, Winograd", images, lambda *a: fused_step(*a, work)),
    ]


class Ladder(NamedTuple):
    """All rungs, and how to climb and describe them."""

    name: str  # of the files that are written
    title: str
    heading: str  # of the picture
    caption: str
    about: str
    flops: float  # of an image, by the definition
    rungs: list[Rung]
    call: Callable[[Rung], Callable[[], None]]  # the rung on the first images
    check: Callable[[Rung], None]  # the rung once; fails if its results are wrong


def forward(images: int) -> Ladder:
    """The ladder of this file."""
    s = CONVOLUTION._replace(N=images)
    cpu = kernels.load("cpu")
    given = s.arrays()
    x, w, b = (aligned(given[name]) for name in ("x", "w", "b"))
    out = cpu.allocate((images, s.out_size // 2, s.out_size // 2, s.F), np.float32)
    expected = np.empty_like(out)
    kernels.load("reference").conv2d_relu_max_pool2d_forward(expected, NO_ARGMAX, x, w, b, None, (0, 0))

    def call(rung: Rung) -> Callable[[], None]:
        return functools.partial(rung.run, out[: rung.images], x[: rung.images], w, b)

    def check(rung: Rung) -> None:
        out[...] = np.nan
        call(rung)()
        np.testing.assert_allclose(out[: rung.images], expected[: rung.images], rtol=1e-3, atol=1e-3)

    return Ladder(
        name="ladder",
        title="The ladder: one convolution, seven ways",
        heading="One convolution, from plain Python to the fused step",
        caption=f"{s.name}, ReLU, 2x2 max-pool",
        about=f"{s.name} → ReLU → 2x2 max-pool. Every rung gives the same result. Made by `python benchmarks/ladder.py "
        "--record`, whose source is the explanation. GFLOP/s count the multiplications and additions of the "
        "definition; Winograd's transform needs fewer.",
        flops=pooled_flops(),
        rungs=rungs(images),
        call=call,
        check=check,
    )


def pooled_flops() -> float:
    """Of one image: those that pooling does not drop."""
    s = CONVOLUTION
    return s._replace(N=1).flops * (s.out_size // 2 * 2) ** 2 / s.out_size**2


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy in memory as the kernels like it."""
    copy = kernels.load("cpu").allocate(array.shape, array.dtype)
    copy[...] = array
    return copy


def climb(ladder: Ladder, rounds: int) -> list[tuple[Rung, measure.Timing]]:
    """Check all rungs, and time them: seconds per image."""
    for rung in ladder.rungs:
        ladder.check(rung)
    turns = {rung.name: functools.partial(seconds_per_image, rung, ladder.call(rung)) for rung in ladder.rungs}
    times = measure.interleave(turns, rounds)
    return [(rung, times[rung.name]) for rung in ladder.rungs]


def seconds_per_image(rung: Rung, call: Callable[[], None]) -> float:
    """The time of a turn, per image."""
    at_least, calls, warm_up = (0.0, 1, 0) if rung.name == "Python" else (0.1, 3, 1)
    return measure.seconds_per_call(call, at_least, calls, warm_up) / rung.images


def table(climbed: list[tuple[Rung, measure.Timing]], images: int, flops: float) -> str:
    """A row for each rung."""
    rows, first = [], climbed[0][1].median
    before = first
    for number, (rung, timing) in enumerate(climbed, 1):
        speed = flops / timing.median / 1e9
        gain = f"{before / timing.median:,.2f}x" if number > 1 else ""
        batch = measure.Timing(tuple(seconds * images for seconds in timing.seconds))
        time = str(batch) if rung.images == images else f"{batch}, extrapolated from {rung.images}"
        runs = len(timing.seconds)
        rows.append((number, rung.name, rung.adds, time, runs, f"{speed:,.3g}", gain, f"{first / timing.median:,.0f}x"))
        before = timing.median
    columns = ("", "rung", "what it adds", f"{images} images", "turns", "GFLOP/s", "step", "in all")
    return report.table(columns, rows, right=(3, 4, 5, 6, 7))


def main(
    arguments: list[str] | None = None,
    make: Callable[[int], Ladder] = forward,
    description: str = __doc__.splitlines()[0],
) -> None:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", type=int, default=CONVOLUTION.N, help="a batch")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each rung, interleaved")
    report.add_output(parser)
    options = parser.parse_args(arguments)
    watch = report.LoadWatch()
    ladder = make(options.images)
    climbed = climb(ladder, options.rounds)
    text = table(climbed, options.images, ladder.flops)
    print(text)
    facts = report.machine() | {"threads": str(numba.get_num_threads()), "threading layer": numba.threading_layer()}
    facts["other load"] = watch.share()
    times = (
        "Times are medians of turns, ± half the distance between the slowest and the fastest. Python's is that of one"
    )
    about = f"{ladder.about} {times} image, multiplied.\n\n"
    report.write(
        options.out,
        ladder.name,
        ladder.title,
        f"{about}{text}\n\n![The ladder]({ladder.name}.png)\n\n{report.facts_list(facts)}",
        {
            "machine": facts,
            "seconds per image": {rung.name: timing.seconds for rung, timing in climbed},
            "flops per image": ladder.flops,
        },
    )
    caption = f"{ladder.caption}; {facts['processor']}; {facts['threads']} threads"
    draw(climbed, ladder.flops, options.out, caption, ladder.name, ladder.heading)


def draw(
    climbed: list[tuple[Rung, measure.Timing]],
    flops: float,
    folder: Path | None,
    caption: str,
    name: str = "ladder",
    heading: str = "",
) -> None:
    """The ladder as bars: each rung's speed, on a logarithmic axis, and what it adds."""
    speeds = [flops / timing.median / 1e9 for _, timing in climbed]
    labels = [f"{speed:,.3g}" for speed in speeds]
    floor = 10 ** np.floor(np.log10(min(speeds)) - 0.7)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        report.bars(axes, [rung.name for rung, _ in climbed], speeds, labels, [report.OURS] * len(speeds))
        axes.set_xscale("log")
        axes.set_xlim(floor, max(speeds) * 6)
        for number, (rung, _) in enumerate(climbed):
            inside = speeds[number] > 1
            place = floor * 1.3 if inside else speeds[number] * 5
            axes.text(place, number, rung.adds, va="center", fontsize=8, color="white" if inside else "#555555")
        axes.set_xlabel("GFLOP/s (logarithmic: each line is ten times as fast)")
        axes.set_title(heading)

    report.picture(folder, name, (8.6, 0.6 * len(climbed)), paint, caption)


if __name__ == "__main__":
    main()
