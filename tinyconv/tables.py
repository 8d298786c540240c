"""Tables as text: a model's summary, a plan's steps, a profile."""

import io
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tinyconv.plan import Plan, Step
    from tinyconv.stack import Stack


def render(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table as text; ``right`` are the columns to align to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console = Console(file=io.StringIO(), width=300, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().splitlines())


def summary(model: "Stack") -> str:
    """Layers, output shapes and numbers of parameters, as Keras' summary."""
    rows = []
    for layer in model.layers:
        shape = "?" if layer.input_shape is None else str((None, *layer.output_shape(layer.input_shape)))
        rows.append(
            (f"{layer.name} ({type(layer).__name__})", shape, f"{layer.count_params():,}" if layer.built else "?")
        )
    text = render(f'Model: "{model.name}"', ("Layer (type)", "Output Shape", "Param #"), rows, right=(2,))
    if not model.built:
        return f"{text}\n The model has no weights yet: its input shape is not known. Fix: begin with Input(shape=...)."
    counts = {
        "Total params": model.count_params(),
        "Trainable params": sum(array.size for array in model.trainable_weights),
        "Non-trainable params": sum(array.size for array in model.non_trainable_weights),
    }
    totals = (f" {name}: {count:,} ({size(4 * count)})" for name, count in counts.items())
    return "\n".join([text, *totals])


def plan_table(plan: "Plan") -> str:
    """Every step of a plan: kernel, what was fused into it, shapes, bytes and FLOPs."""
    rows: list[Sequence[str]] = []
    for step in plan.all_steps():
        shapes = (f"{name} {dims(array.shape)}" for name, array in step.arrays.items() if is_telling(name, array))
        rows.append(
            (step.phase, step.name, step.what, step.kernel_name, "  ".join(shapes), size(step.nbytes), flops(step))
        )
    columns = ("phase", "layer", "op", "kernel", "arrays", "memory", "MFLOP")
    total = sum(step.flops for step in plan.all_steps())
    held = sum(array.size * array.dtype.itemsize for array in plan.buffers.values())
    backend = plan.kernels.__name__.rpartition(".")[2]
    title = f"Plan for batches of {plan.batch_size} on the {backend!r} kernels"
    text = render(title, columns, rows, right=(5, 6))
    return f"{text}\n {len(rows)} steps, {total / 1e6:,.0f} MFLOP, {size(held)} in {len(plan.buffers)} buffers"


def is_telling(name: str, array: Any) -> bool:
    """Whether an array's shape tells a reader something."""
    return bool(array.size) and name not in ("counters", "totals", "learning_rate", "work")


def profile_table(times: Sequence[tuple["Step", float]], peak: float | None) -> str:
    """Time, speed and share of each step; ``peak`` is the machine's speed in FLOP/s, if it is known."""
    total = sum(seconds for _, seconds in times)
    rows: list[Sequence[str]] = []
    for step, seconds in times:
        speed = step.flops / max(seconds, 1e-12)
        share_of_peak = f"{100 * speed / peak:.0f} %" if peak and step.flops else ""
        gflops = f"{speed / 1e9:.1f}" if step.flops else ""
        bandwidth = f"{step.nbytes / max(seconds, 1e-12) / 1e9:.1f}"
        timing = (f"{seconds * 1e6:,.0f}", f"{100 * seconds / total:.1f} %")
        rows.append((step.phase, step.name, step.kernel_name, *timing, gflops, share_of_peak, bandwidth))
    columns = ("phase", "layer", "kernel", "µs", "share", "GFLOP/s", "of peak", "GB/s")
    text = render("Median time per step", columns, rows, right=(3, 4, 5, 6, 7))
    peak_text = f", peak {peak / 1e9:.0f} GFLOP/s (a large matrix product in the same process)" if peak else ""
    note = "Of a fused step's backward pass the FLOPs are an upper bound: it skips zeros."
    return f"{text}\n {total * 1e6:,.0f} µs in all{peak_text}. {note}"


def matrix_peak(size: int = 1024, repeats: int = 5) -> float:
    """The machine's speed as NumPy's matrix product shows it, in FLOP/s: the best of some runs."""
    a = np.ones((size, size), np.float32)
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def flops(step: "Step") -> str:
    return f"{step.flops / 1e6:,.1f}" if step.flops else ""


def size(nbytes: float) -> str:
    """Bytes in a unit a person reads: 12.00 KB."""
    power = min(int(math.log(nbytes, 1024)), 3) if nbytes >= 1 else 0
    return f"{nbytes / 1024**power:.{2 if power else 0}f} {('B', 'KB', 'MB', 'GB')[power]}"
