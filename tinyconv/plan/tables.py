"""A plan as tables: its steps, and how long each of them takes."""

import math
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from tinyconv.checking.tables import Table, dims, size
from tinyconv.plan.builder import Step


class Lowered(Protocol):
    """A plan, as a table sees it."""

    @property
    def kernels(self) -> ModuleType: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def buffers(self) -> dict[str, Any]: ...
    def all_steps(self) -> list[Step]: ...


def plan_table(plan: Lowered) -> Table:
    """Every step of a plan: kernel, what was fused into it, shapes, bytes and FLOPs."""
    rows: list[Sequence[str]] = []
    for step in plan.all_steps():
        shapes = (f"{name} {dims(array.shape)}" for name, array in step.arrays.items() if is_telling(name, array))
        rows.append(
            (step.phase, step.name, step.what, step.kernel_name, "  ".join(shapes), size(step.nbytes), flops(step))
        )
    columns = ("phase", "layer", "op", "kernel", "arrays", "memory", "MFLOP")
    needs = {0: 60, 2: 150, 4: 70, 6: 60}
    return Table(plan_title(plan), columns, rows, [plan_totals(plan)], right=(5, 6), needs=needs)


def plan_title(plan: Lowered) -> str:
    backend = plan.kernels.__name__.rpartition(".")[2]
    return f"Plan for batches of {plan.batch_size} on the {backend!r} kernels"


def plan_totals(plan: Lowered) -> str:
    steps = plan.all_steps()
    held = sum(array.size * array.dtype.itemsize for array in plan.buffers.values())
    total = sum(step.flops for step in steps)
    return f"{len(steps)} steps, {total / 1e6:,.0f} MFLOP, {size(held)} in {len(plan.buffers)} buffers"


def is_telling(name: str, array: Any) -> bool:
    """Whether an array's shape tells a reader something."""
    return bool(array.size) and name not in ("counters", "totals", "learning_rate", "work")


WINOGRAD = 36 / 16  # so many of the multiplications that are counted Winograd's method saves at the most


def profile_table(times: Sequence[tuple[Step, float]], peak: float | None) -> Table:
    """Time, speed and share of each step; ``peak`` is the machine's speed in FLOP/s, if it is known."""
    total = sum(seconds for _, seconds in times)
    speeds = [step.flops / max(seconds, 1e-12) for step, seconds in times]
    # A step cannot be faster than the machine: where one seems to be, the machine was busy when its peak was measured.
    busy = peak is not None and max(speeds, default=0.0) > WINOGRAD * peak
    rows: list[Sequence[str]] = []
    for (step, seconds), speed in zip(times, speeds, strict=True):
        share_of_peak = f"{100 * speed / peak:.0f} %" if peak and step.flops and not busy else ""
        gflops = f"{speed / 1e9:.1f}" if step.flops else ""
        bandwidth = f"{step.nbytes / max(seconds, 1e-12) / 1e9:.1f}"
        timing = (f"{seconds * 1e6:,.0f}", f"{100 * seconds / total:.1f} %")
        rows.append((step.phase, step.name, step.kernel_name, *timing, gflops, share_of_peak, bandwidth))
    columns = ("phase", "layer", "kernel", "µs", "share", "GFLOP/s", "of peak", "GB/s")
    notes = [f"{total * 1e6:,.0f} µs in all."]
    if busy:
        notes.append("Shares of the peak are left out: the machine was too busy to measure it. Fix: try again.")
    elif peak:
        notes.append(f"Peak: {peak / 1e9:.0f} GFLOP/s, the best of some large matrix products in the same process.")
        notes.append("Winograd's method may exceed it: it needs fewer multiplications than are counted here.")
    notes.append("Of a fused step's backward pass the FLOPs are an upper bound: it skips zeros.")
    needs = {0: 70, 2: 60, 5: 70, 6: 80, 7: 80}
    return Table("Median time per step", columns, rows, notes, right=(3, 4, 5, 6, 7), needs=needs)


def matrix_peak(size: int = 1024, repeats: int = 5) -> float:
    """The machine's speed as NumPy's matrix product shows it, in FLOP/s: the best of some runs."""
    a = np.ones((size, size), np.float32)
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def flops(step: "Step") -> str:
    return f"{step.flops / 1e6:,.1f}" if step.flops else ""
