"""Batch normalisation and ReLU, which compute little: their bytes against what the memory can move."""

import functools

import numpy as np

from benchmarks import peers
from benchmarks.measure import interleave
from benchmarks.report import Result
from benchmarks.sections.session import Session, asked

SHAPE = (128, 32, 32, 64)  # 32 MiB: more than caches keep from one pass to the next
PASSES = {  # how often an array of that shape must go through memory; see batch_norm
    "forward": 3,
    "backward": 5,
    "forward with max-pooling": 2.5625,
    "backward with max-pooling": 2.8125,
}


def batch_norm(s: Session) -> list[Result]:
    """Forward reads x for the statistics, and again to write out: three arrays. Backward reads x and dout for the sums,
    and again to write dx: five. Their time at the speed of a copy, which moves two, is the floor.

    With 2 x 2 max-pooling, forward writes a quarter of out, of the winners' x, and, in a byte each, of their places;
    backward reads a quarter of dout and of the winners' x for the sums, of dout again and of the places, and x, to
    write dx."""
    shape = (2, 4, 4, 8) if s.quick else SHAPE
    worker, at_least = s.worker(peers.TINYCONV), s.samples(100, 1) / 1000
    works = ("copy", *PASSES)
    turn = functools.partial(asked, "batch_norm", shape=shape, at_least=at_least)
    turns = {what: functools.partial(turn(what=what), worker) for what in works}
    times = interleave(turns, s.rounds)
    size, copy, rows = 4 * int(np.prod(shape)), times["copy"], []
    for what, arrays in PASSES.items():
        value = times[what].median / (copy.median * arrays / 2)
        speeds = [f"{n * size / times[w].median / 1e9:.1f} GB/s" for w, n in ((what, arrays), ("copy", 2))]
        columns = f"{times[what]}, {speeds[0]}", f"a copy at {speeds[1]}"
        seconds = {w: times[w].seconds for w in (what, "copy")}
        work = f"batch norm + ReLU, {what}: time over that of its {arrays:.3g} passes through memory"
        rows.append(Result("batch-norm", work, value, "x", 1.5, True, *columns, seconds))
    return rows
