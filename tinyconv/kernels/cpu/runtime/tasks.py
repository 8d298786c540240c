"""Kernels that work in tasks.

Such a kernel is a serial function of the number of its task, and ``run(kernel, tasks, ...)`` calls it for each of them,
on all threads. Why is there no parallel loop in each kernel?

* Numba compiles whatever the body of a ``prange`` calls four times over, once for each wrapper around it; for a large
  kernel that is seconds. Here the loop is compiled once, and calls kernels by their address (``workers.py``).
* Every parallel loop wakes the other threads, waits for the slowest, and costs some microseconds in Python too, and a
  training step has two dozen kernels. So ``record`` writes down what a list of kernel calls runs, as a table, and one
  loop works through the whole table.
* Dealt out in advance, half of the tasks for each of two threads, work ends when the thread ends whose processor
  something else needed meanwhile. Here each worker takes one task at a time, and helps the others with theirs.

Every kernel takes the same arguments: ``(task, a, b, c, work, numbers)``, four arrays of float32 (the third may be
int8), all flat, and an int64 array of whatever else it must know. An array of another type can be passed as one of the
first, second or fourth; a kernel sees it as what it is by ``same_memory``.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from tinyconv.kernels.cpu.runtime.threads import start
from tinyconv.kernels.cpu.runtime.workers import (
    GIVE_WAY,
    WORDS,
    counters_of,
    helper,
    run_table,
    signature_of,
    write_line,
)

NOTHING = np.zeros(0, np.float32)  # for an argument that a kernel does not use

kernel = helper

_recorder = threading.local()  # .lines: where this thread's ``run`` writes instead of running

Line = tuple[Any, int, tuple[Any, ...]]  # a kernel, its number of tasks, and its five arrays
Calls = Sequence[tuple[Callable[..., None], tuple[Any, ...]]]


def run(function, tasks: int, a, b, c, work, numbers) -> None:
    """Call ``function(task, a, b, c, work, numbers)``, a kernel, for each task in 0 .. tasks - 1, in parallel."""
    line = function, tasks, (a, b, c, work, numbers)
    lines = getattr(_recorder, "lines", None)
    if lines is None:
        Table([line])()
    else:
        lines.append(line)


def in_tasks(function: Callable[..., None]) -> Callable[..., None]:
    """Mark a function of the contract that does nothing but ``run``, and to which only the shapes of its arrays matter,
    not what they hold at the time: its work can be written down and done later."""
    function.in_tasks = True  # type: ignore[attr-defined]
    return function


def record(calls: Calls) -> Callable[[], None]:
    """One callable that runs all calls in order."""
    return Program(calls)


class Program:
    """A list of kernel calls. Neighbours that work in tasks become a table, when the program is first run."""

    def __init__(self, calls: Calls) -> None:
        self._calls = tuple(calls)
        self._parts: list[Callable[[], None]] = []

    def __call__(self) -> None:
        for part in self._parts or self._record():
            part()

    def _record(self) -> list[Callable[[], None]]:
        parts: list[Callable[[], None]] = []
        lines = _recorder.lines = []
        try:
            for function, arguments in self._calls:
                if getattr(function, "in_tasks", False):
                    function(*arguments)
                else:
                    parts += [Table(lines)] if lines else []
                    lines = _recorder.lines = []
                    parts.append(functools.partial(function, *arguments))
            parts += [Table(lines)] if lines else []
        finally:
            del _recorder.lines
        self._parts = parts
        return parts


class Table:
    """Lines that run one after the other, the tasks of each in parallel."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = np.empty((len(lines), WORDS), np.int64)
        self._progress = np.empty(counters_of(len(lines)), np.int64)
        self._names = [function.__name__ for function, _, _ in lines]
        self._arrays = []  # kept alive
        for number, (function, tasks, (a, b, c, work, numbers)) in enumerate(lines):
            if not all(array.flags.c_contiguous for array in (a, b, c, work, numbers)) or numbers.dtype != np.int64:
                received = ", ".join(f"{array.dtype} {array.strides}" for array in (a, b, c, work, numbers))
                raise TypeError(
                    f"The kernel {function.__name__} takes addresses. Expected C-contiguous arrays, and numbers of "
                    f"int64. Received (dtype, strides): {received}."
                )
            int8 = c.dtype == np.int8
            arrays = _flat(a), _flat(b), c.reshape(-1) if int8 else _flat(c), _flat(work), numbers
            write_line(self._lines, number, _address(function, int8), tasks, *arrays)
            self._arrays.append(arrays)

    def __call__(self) -> None:
        failed = run_table(self._lines, self._progress, GIVE_WAY)
        if failed:
            raise IndexError(f"An index was out of bounds in the kernel {self._names[failed - 1]}.")


def _flat(array: np.ndarray) -> np.ndarray:
    """An array's memory as flat float32."""
    flat = array.reshape(-1)
    return flat if flat.dtype == np.float32 else flat.view(np.float32)


@functools.cache
def _address(function, int8: bool) -> int:
    """Where a kernel's machine code is; compiles it, or finds it in the cache."""
    signature = signature_of(int8)
    with global_compiler_lock:  # which a fork waits for
        start()  # a kernel may ask for the number of threads
        function.compile(signature)
        compiled = function.overloads[signature.args]
        return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
