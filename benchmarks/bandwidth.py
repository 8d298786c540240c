"""How near batch normalisation, ReLU and pooling come to what memory allows: ``python -m benchmarks.bandwidth``.

What they compute costs next to nothing, so their limit is their own bytes over the bandwidth of memory, which a kernel
that copies tells: each takes its turn beside it, in one process. Layers of a VGG and of a small residual network.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import measure, report
from tinyconv import kernels

LIMIT = 1.5  # times what their bytes would take, which these kernels may take
SHAPES = [(64, 32, 64), (64, 16, 128), (64, 8, 256), (128, 32, 16), (128, 16, 32)]  # batch, height and width, channels


class Work(NamedTuple):
    """Some kernel calls, and how many activations of the layer's size they read and write."""

    name: str
    calls: tuple[tuple[str, tuple[Any, ...]], ...]
    arrays: float


def works(cpu: Any, batch: int, size: int, C: int) -> list[Work]:
    """The copy, and what is measured beside it."""
    rng = np.random.default_rng(0)
    M, half = batch * size * size, (batch, size // 2, size // 2, C)

    def array(*shape: int, dtype: Any = np.float32) -> np.ndarray:
        made = cpu.allocate(shape, dtype)
        made[...] = rng.standard_normal(shape)
        return made

    x, out, relu, dx, dout, drelu = (array(M, C) for _ in range(6))
    pooled, dpooled, argmax = array(*half), array(*half), array(*half, dtype=np.int32)
    mean, inv_std, moving_mean, moving_variance, gamma, beta, dgamma, dbeta = (array(C) ** 2 for _ in range(8))
    forward = out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, 0.99, 1e-3
    image, flat = (batch, size, size, C), [each.reshape(-1) for each in (relu, out, dout, drelu)]
    window = (2, 2), (2, 2), (0, 0)
    after = ("activation_forward", (*flat[:2], "relu", ()))
    before = ("activation_backward", (flat[2], flat[3], flat[1], flat[0], "relu", ()))
    gradients, statistics_ = (dx, dgamma, dbeta), (mean, inv_std)
    plain = ("batch_norm_backward", (*gradients, dout, x, gamma, *statistics_))
    fused = ("batch_norm_relu_backward", (*gradients, drelu, x, gamma, beta, *statistics_))
    pool = ("max_pool2d_forward", (pooled, argmax, out.reshape(image), *window))
    unpool = ("max_pool2d_backward", (dout.reshape(image), dpooled, argmax, *window))
    kept = array(*half, dtype=np.int8), array(*half)  # the winners' places, and their x
    pixels, affine = x.reshape(image), (gamma, beta)
    options = (*kept, mean, inv_std, moving_mean, moving_variance, pixels, *affine, 0.99, 1e-3, *window)
    pooled_forward = ("batch_norm_relu_max_pool2d_forward", (pooled, *options))
    options = dpooled, *kept, pixels, *affine, *statistics_, *window
    pooled_backward = ("batch_norm_relu_max_pool2d_backward", (dx.reshape(image), dgamma, dbeta, *options))
    return [
        Work("a copy", (("rescale_forward", (flat[1], x.reshape(-1), 1.0, 0.0)),), 2),
        Work("batch norm, then ReLU, forward", (("batch_norm_forward", forward), after), 5),
        Work("batch norm + ReLU, forward", (("batch_norm_relu_forward", forward),), 3),
        Work("batch norm + ReLU, then max-pool, forward", (("batch_norm_relu_forward", forward), pool), 4.5),
        Work("batch norm + ReLU + max-pool, forward", (pooled_forward,), 2.5625),
        Work("ReLU, then batch norm, backward", (before, plain), 8),
        Work("batch norm + ReLU, backward", (fused,), 5),
        Work("max-pool, then batch norm + ReLU, backward", (unpool, fused), 6.5),
        Work("batch norm + ReLU + max-pool, backward", (pooled_backward,), 2.8125),
    ]


def turn(program: Callable[[], None]) -> Callable[[], float]:
    def timed() -> float:
        start = time.perf_counter()
        program()
        return time.perf_counter() - start

    return timed


def rows_of(shape: tuple[int, int, int], rounds: int) -> list[tuple[str, ...]]:
    """A row of the table for each work."""
    cpu = kernels.load("cpu")
    found = works(cpu, *shape)
    programs = {work.name: cpu.record([(getattr(cpu, name), given) for name, given in work.calls]) for work in found}
    for program in programs.values():
        program()
    times = measure.interleave({name: turn(program) for name, program in programs.items()}, rounds)
    copies, rows = times[found[0].name].seconds, []
    batch, size, C = shape
    for work in found:
        floors = [copy * work.arrays / found[0].arrays for copy in copies]
        ratio = statistics.median(a / b for a, b in zip(times[work.name].seconds, floors, strict=True))
        gigabytes = 4e-9 * batch * size * size * C * work.arrays
        quickest = min(times[work.name].seconds), min(floors)
        numbers = f"{gigabytes / quickest[0]:.1f}", f"{ratio:.2f}", f"{quickest[0] / quickest[1]:.2f}"
        rows.append((f"{batch} x {size} x {size} x {C}", work.name, str(times[work.name]), *numbers))
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101, help="calls of each, in turns")
    parser.add_argument("--quick", action="store_true", help="one small layer")
    report.add_output(parser)
    options = parser.parse_args(arguments)
    watch = report.LoadWatch()
    rows = [row for shape in ([(2, 4, 8)] if options.quick else SHAPES) for row in rows_of(shape, options.rounds)]
    facts = report.machine() | {"rounds": str(options.rounds), "other load": watch.share()}
    columns = ("layer", "work", "median ± spread", "GB/s, quickest", "of its bytes' time", "of the quickest")
    body = f"{report.facts_list(facts)}\n\n{report.table(columns, rows, right=(2, 3, 4, 5))}\n\n"
    body += f"At most {LIMIT} times what a copy takes for the same bytes is the aim. Where the layer's arrays fit into "
    body += "the last cache, the copy's do too, and it runs at several times the bandwidth of memory."
    print(body)
    content = {"facts": facts, "rows": [dict(zip(columns, row, strict=True)) for row in rows]}
    report.write(options.out, "bandwidth", "Batch normalisation, ReLU and pooling beside a copy", body, content)


if __name__ == "__main__":
    main()
