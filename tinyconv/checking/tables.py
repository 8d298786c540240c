"""Tables for a terminal or a notebook: a model's summary, a plan's steps, a profile."""

import html
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.checking import console

if TYPE_CHECKING:
    from tinyconv.models.stack import Stack
    from tinyconv.plan.lowering import Plan, Step

NARROWEST = 20  # columns of a terminal below which nothing can be read


@dataclass(frozen=True)
class Table:
    """A title, rows under columns, and lines below. ``right`` are the columns to align to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    right: Sequence[int] = ()
    needs: Mapping[int, int] = field(default_factory=dict)  # columns that a terminal of less than that width leaves out

    def __str__(self) -> str:
        """As text that fits the terminal, in characters that the standard output can encode."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(title=self.title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
        width = max(console.width() - 1, NARROWEST)  # a terminal wraps a line that fills it to the last column
        shown = [i for i in range(len(self.columns)) if self.needs.get(i, 0) <= width]
        for i in shown:
            right = i in self.right
            table.add_column(self.columns[i], justify="right" if right else "left", overflow="fold", no_wrap=right)
        for row in self.rows:
            table.add_row(*(row[i].replace("[", r"\[") for i in shown))
        screen = Console(file=io.StringIO(), width=width, color_system=None)
        screen.print(table)
        for note in self.notes:
            screen.print(f" {note}", markup=False, highlight=False, emoji=False)
        assert isinstance(screen.file, io.StringIO)
        lines = screen.file.getvalue().rstrip().splitlines()
        return console.encodable("\n".join(line.rstrip() for line in lines))

    def to_html(self) -> str:
        """As a table of a notebook."""

        def line(tag: str, cells: Sequence[str]) -> str:
            sides = ("right" if i in self.right else "left" for i in range(len(cells)))
            texts = zip(sides, cells, strict=True)
            return "".join(f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>' for side, cell in texts)

        head = f"<thead><tr>{line('th', self.columns)}</tr></thead>"
        body = "".join(f"<tr>{line('td', row)}</tr>" for row in self.rows)
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        return f"<div>{html.escape(self.title)}</div><table>{head}<tbody>{body}</tbody></table>{notes}"


def summary(model: "Stack") -> Table:
    """Layers, output shapes and numbers of parameters, as Keras' summary."""
    rows, shape = [], model._input.shape if model._input is not None else None
    for layer in model.layers:
        shape = None if shape is None else layer.output_shape(shape)
        count = f"{layer.count_params():,}" if layer.built else "?"
        rows.append((f"{layer.name} ({type(layer).__name__})", "?" if shape is None else str((None, *shape)), count))
    if model.built:
        counts = {
            "Total params": model.count_params(),
            "Trainable params": sum(array.size for array in model.trainable_weights),
            "Non-trainable params": sum(array.size for array in model.non_trainable_weights),
        }
        notes = [f"{name}: {count:,} ({size(4 * count)})" for name, count in counts.items()]
    else:
        notes = ["The model has no weights yet: its input shape is not known. Fix: begin with Input(shape=...)."]
    return Table(f'Model: "{model.name}"', ("Layer (type)", "Output Shape", "Param #"), rows, notes, right=(2,))


def plan_table(plan: "Plan") -> Table:
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


def plan_title(plan: "Plan") -> str:
    backend = plan.kernels.__name__.rpartition(".")[2]
    return f"Plan for batches of {plan.batch_size} on the {backend!r} kernels"


def plan_totals(plan: "Plan") -> str:
    steps = plan.all_steps()
    held = sum(array.size * array.dtype.itemsize for array in plan.buffers.values())
    total = sum(step.flops for step in steps)
    return f"{len(steps)} steps, {total / 1e6:,.0f} MFLOP, {size(held)} in {len(plan.buffers)} buffers"


def is_telling(name: str, array: Any) -> bool:
    """Whether an array's shape tells a reader something."""
    return bool(array.size) and name not in ("counters", "totals", "learning_rate", "work")


WINOGRAD = 36 / 16  # so many of the multiplications that are counted Winograd's method saves at the most


def profile_table(times: Sequence[tuple["Step", float]], peak: float | None) -> Table:
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


def dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def flops(step: "Step") -> str:
    return f"{step.flops / 1e6:,.1f}" if step.flops else ""


def size(nbytes: float) -> str:
    """Bytes in a unit a person reads: 12.00 KB."""
    power = min(int(math.log(nbytes, 1024)), 3) if nbytes >= 1 else 0
    return f"{nbytes / 1024**power:.{2 if power else 0}f} {('B', 'KB', 'MB', 'GB')[power]}"
