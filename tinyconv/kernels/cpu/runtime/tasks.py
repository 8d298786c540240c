"""All kernels work in tasks.

A kernel is a serial function of the number of its task, and ``run(kernel, tasks, ...)`` calls it for each of them, on
all threads. Why is there no parallel loop in each kernel?

* Numba compiles whatever the body of a ``prange`` calls four times over, once for each wrapper around it; for a large
  kernel that is seconds. Here the loop is compiled once, and calls kernels by their address (``workers.py``).
* Every parallel loop wakes the other threads, waits for the slowest, and costs some microseconds in Python too, and a
  training step has two dozen kernels. So ``record`` writes down what a list of kernel calls runs, as a table, and one
  loop works through the whole table.
* Dealt out in advance, half of the tasks for each of two threads, work ends when the thread ends whose processor
  something else needed meanwhile. Here each worker takes one task at a time, and helps the others with theirs.

Behind the task's number a kernel takes what it likes, each argument with its own type: arrays of any shape and dtype,
contiguous; integers; and tuples of integers, named ones too. A float comes in an array (see :func:`floats`).
"""

import contextlib
import ctypes
import functools
import operator
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.np.numpy_support import from_dtype

from tinyconv.kernels.cpu.runtime import ahead
from tinyconv.kernels.cpu.runtime.jit import KernelCache
from tinyconv.kernels.cpu.runtime.threads import start
from tinyconv.kernels.cpu.runtime.workers import (
    ADDRESS,
    ARGUMENTS,
    GIVE_WAY,
    MOST,
    TASK_COUNT,
    WORDS,
    compile_run_table,
    counters_of,
    helper,
    run_table,
)

NOTHING = np.zeros(0, np.float32)  # for an argument that a kernel does not use

kernel = helper

_recorder = threading.local()  # .lines: where this thread's ``run`` writes instead of running; .only_compiles

TRIALS = 9  # runs of a table that show how long it takes: the median of them
PERIOD = 4000  # runs until it is tried again
SHORT = 60_000  # nanoseconds: a longer one has work for all threads, whatever it takes to wake them
WORTH = 0.8  # of its time on all threads, that one thread must take at most

Calls = Sequence[tuple[Callable[..., None], tuple[Any, ...]]]


class Line(NamedTuple):
    """A kernel, its number of tasks, and what it takes beside the task's number."""

    kernel: Any
    tasks: int
    arguments: tuple[Any, ...]


Parts = list[list[Line] | Callable[[], None]]  # of a program, in order: lines of a table, or something else to call


def run(function, tasks: int, *arguments) -> None:
    """Call ``function(task, *arguments)``, a kernel, for each task in 0 .. tasks - 1, in parallel."""
    line = Line(function, tasks, arguments)
    lines = getattr(_recorder, "lines", None)
    if lines is None:
        Table([line])()
    else:
        lines.append(line)


def floats(*values: float) -> np.ndarray:
    """Numbers as an argument of a kernel."""
    return np.array(values, np.float64)


def flat(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays for a kernel that sees them as plain memory, and computes where in it things are."""
    return [array.reshape(-1) for array in arrays]


def in_tasks(function: Callable[..., None]) -> Callable[..., None]:
    """Mark a function of the contract that does nothing but ``run``, and to which only the shapes of its arrays matter,
    not what they hold at the time: its work can be written down and done later."""
    function.in_tasks = True  # type: ignore[attr-defined]
    return function


def _is_in_tasks(function: Callable[..., None]) -> bool:
    return getattr(function, "in_tasks", False)


def record(calls: Calls) -> Callable[[], None]:
    """One callable that runs all calls in order."""
    return Program(calls)


class Program:
    """A list of calls. Neighbours that are kernels become a table, when the program is first run."""

    def __init__(self, calls: Calls) -> None:
        self.calls = tuple(calls)
        self._parts: list[Callable[[], None]] = []

    def __call__(self) -> None:
        if self.is_cold:
            compile_programs([self])
        for part in self._parts:
            part()

    @property
    def is_cold(self) -> bool:
        """Whether it is still to be compiled."""
        return not self._parts

    def compile(self, written: Parts) -> None:
        """Make what is written down ready to run."""
        self._parts = [Table(part) if isinstance(part, list) else part for part in written]

    def write_down(self) -> Parts:
        """The calls in order, neighbours that are kernels as a list of lines. Compiles nothing."""
        parts: Parts = []
        lines = _recorder.lines = []
        try:
            for function, arguments in self.calls:
                if _is_in_tasks(function):
                    function(*arguments)
                else:
                    parts += [lines] if lines else []
                    lines = _recorder.lines = []
                    parts.append(functools.partial(function, *arguments))
            return [*parts, lines] if lines else parts
        finally:
            del _recorder.lines


def compile_programs(programs: Iterable[Any]) -> None:
    """Compile what those of these that are programs need, and may not find in the cache: see ``ahead.py``."""
    cold = {each: each.write_down() for each in programs if isinstance(each, Program) and each.is_cold}
    needed = {_machine_code(line) for written in cold.values() for line in _lines_of(written)}
    calls = [call for program in cold for call in program.calls if _is_in_tasks(call[0])]
    with ahead.second_process(calls, sum(_is_missing(*code) for code in needed)):
        for program, written in cold.items():
            program.compile(written)


def compile_backwards(calls: Calls) -> None:
    """Compile what these calls need, and what runs them, from the last to the first."""
    Table([])()
    for line in reversed(_lines_of(Program(calls).write_down())):
        _address(*_machine_code(line))


def _lines_of(written: Parts) -> list[Line]:
    return [line for part in written if isinstance(part, list) for line in part]


@contextlib.contextmanager
def compiling_only() -> Iterator[None]:
    """Meanwhile this thread runs nothing, and all arrays keep what they hold: for machine code that is another
    processor's, say."""
    compile_run_table()
    _recorder.only_compiles = True
    try:
        yield
    finally:
        del _recorder.only_compiles


class Table:
    """Lines that run one after the other, the tasks of each in parallel.

    To wake other threads takes some microseconds, as a whole table does that computes a small network for one sample.
    So a table that is that short is tried on one thread too, now and then: how long a thread takes to wake changes.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self._runs: int | None = 0  # None: it is not short
        self._alone = False
        self._took: list[int] = []  # nanoseconds
        self._memory = np.zeros((len(lines), WORDS), np.int64)
        self._progress = np.empty(counters_of(len(lines)), np.int64)
        self._lines = tuple(lines)  # keeps the arrays alive
        for row, line in zip(self._memory, lines, strict=True):
            kinds, words = _as_words(line)
            row[ADDRESS], row[TASK_COUNT] = _address(line.kernel, kinds), line.tasks
            row[ARGUMENTS : ARGUMENTS + len(words)] = words

    def __call__(self) -> None:
        if getattr(_recorder, "only_compiles", False):
            return
        short = self._runs is not None
        failed = self._run_short() if short else run_table(self._memory, self._progress, GIVE_WAY)
        if failed:
            name = self._lines[failed - 1].kernel.__name__
            raise IndexError(f"An index was out of bounds in the kernel {name}.")

    def _run_short(self) -> int:
        """Run it the quicker way; of every PERIOD runs, TRIALS to warm up, TRIALS on all threads and TRIALS on one, to
        see which that is."""
        assert self._runs is not None
        trial = self._runs % PERIOD // TRIALS
        alone = (self._alone, False, True)[trial] if trial < 3 else self._alone
        started = time.perf_counter_ns()
        failed = run_table(self._memory, self._progress, GIVE_WAY, alone=alone)
        self._runs += 1
        if trial < 3:
            self._took.append(time.perf_counter_ns() - started)
            if len(self._took) == TRIALS and self._median(0) > SHORT:
                self._runs = None
            elif len(self._took) == 3 * TRIALS:
                self._alone = self._median(2) < WORTH * self._median(1)
                self._took.clear()
        return failed

    def _median(self, trial: int) -> int:
        return sorted(self._took[trial * TRIALS : (trial + 1) * TRIALS])[TRIALS // 2]


def _as_words(line: Line) -> tuple[tuple[Any, ...], list[int]]:
    """Of each argument of a line, what decides which machine code it needs, and the words that machine code takes: of
    an array, what Numba's arrays consist of."""
    kinds: list[Any] = []
    words: list[int] = []
    for argument in line.arguments:
        if isinstance(argument, np.ndarray):
            if not argument.flags.c_contiguous:
                raise TypeError(
                    f"The kernel {line.kernel.__name__} takes addresses. Expected C-contiguous arrays. "
                    f"Received {argument.dtype} with the strides {argument.strides}."
                )
            kinds.append((argument.dtype, argument.ndim))
            words += 0, 0, argument.size, argument.itemsize, _start(argument), *argument.shape, *argument.strides
        elif isinstance(argument, tuple):
            kinds.append((type(argument), len(argument)))
            words += map(operator.index, argument)
        else:
            kinds.append(int)
            words.append(operator.index(argument))
    if len(words) > MOST:
        raise TypeError(
            f"The kernel {line.kernel.__name__} takes {len(words)} words of arguments. Expected at most {MOST}."
        )
    return tuple(kinds), words


def _start(array: np.ndarray) -> int:
    """Where an array's memory begins; quicker than ``array.ctypes.data``, which must do for one that is read-only."""
    if not array.size:
        return 0
    return ctypes.addressof(ctypes.c_char.from_buffer(array)) if array.flags.writeable else array.ctypes.data


def _type(kind: Any) -> types.Type:
    if kind is int:
        return types.int64
    first, count = kind
    if isinstance(first, np.dtype):
        return types.Array(from_dtype(first), count, "C")
    return types.UniTuple(types.int64, count) if first is tuple else types.NamedUniTuple(types.int64, count, first)


def _signature(kinds: tuple[Any, ...]) -> Any:
    return types.void(types.int64, *map(_type, kinds))


def _machine_code(line: Line) -> tuple[Any, tuple[Any, ...]]:
    """What decides which machine code a line needs: its kernel, and the kinds of its arguments."""
    return line.kernel, _as_words(line)[0]


def _is_missing(function, kinds: tuple[Any, ...]) -> bool:
    """Whether a kernel must be compiled for such arguments: it is neither here nor in the cache."""
    signature = _signature(kinds)
    if signature.args in function.overloads:
        return False
    return not isinstance(function._cache, KernelCache) or not function._cache.holds(signature, function.targetctx)


@functools.cache
def _address(function, kinds: tuple[Any, ...]) -> int:
    """Where a kernel's machine code for such arguments is; compiles it, or finds it in the cache."""
    signature = _signature(kinds)
    with global_compiler_lock:  # which a fork waits for
        start()  # a kernel may ask for the number of threads
        function.compile(signature)
        compiled = function.overloads[signature.args]
        return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
