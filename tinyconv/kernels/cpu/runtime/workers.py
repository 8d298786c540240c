"""The one parallel loop that runs all kernels that work in tasks (see ``tasks.py``): workers on a table.

A table has a line for each kernel call, in order. The workers, one for each thread, go through it together. Of a line,
each has a share of the tasks, and takes them one by one, counting with an atomic counter: neighbouring tasks often
read neighbouring memory. One that is done helps the others with theirs, and waits, when no task is left, until all have
finished, which a last counter says. So no line waits for a worker that comes late: the others do its share, and when
it comes, it finds nothing to do. Who does which task does not change the result, since each number has one task that
writes it.
"""

import ctypes
import functools
import os
import platform

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyconv.kernels.cpu.runtime.cutting import share
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.threads import guarded

ADDRESS, TASK_COUNT, ARGUMENTS = 0, 1, 2  # where in a line they stand
MOST = 80  # words of arguments
WORDS = ARGUMENTS + MOST
CACHE_LINE = 8  # counters lie so far apart that no two share one, or workers would fight for it
PATIENCE = 2000  # looks at a counter, some tens of us, before a waiting worker leaves its processor to others

helper = functools.partial(jit, no_cpython_wrapper=True, no_cfunc_wrapper=True)  # never called from Python

_WORD = ir.IntType(64)


def counters_of(lines: int) -> int:
    """How many numbers the progress of a table takes: the line that failed, and for each line how many tasks are done,
    and how many are taken of each worker's share."""
    return (1 + lines * (1 + numba.config.NUMBA_NUM_THREADS)) * CACHE_LINE


def _give_way() -> int:
    """The address of the system's function that lets another thread have the processor for a moment.

    It sleeps for a microsecond rather than yield: who only yields is runnable all the time, and where there are more
    runnable threads than processors, gets its turn before the worker that it waits for.
    """
    system = ctypes.WinDLL("kernel32") if os.name == "nt" else ctypes.CDLL(None)  # type: ignore[attr-defined]
    function = system.SwitchToThread if os.name == "nt" else system.usleep
    return ctypes.cast(function, ctypes.c_void_p).value or 0


GIVE_WAY = _give_way()


@intrinsic
def _call(typing_context, lines, line, task):
    """Call the kernel of a line for one task; whether that failed.

    To machine code an array is a row of words, and so is a tuple; addresses and integers are words too. So all kernels
    are called in one way, with MOST words, whatever they are called with. One that takes fewer does not see the rest:
    on all 64-bit systems arguments are passed from the first on, and it is the caller who clears them away.
    """

    def write(context, builder, signature, arguments):
        table = context.make_array(lines)(context, builder, arguments[0]).data
        first = builder.mul(arguments[1], _WORD(WORDS))

        def word(number):
            return builder.load(builder.gep(table, [builder.add(first, _WORD(number))]))

        words = [arguments[2], *(word(ARGUMENTS + number) for number in range(MOST))]
        kinds = [types.int64] * len(words)
        function_type = context.call_conv.get_function_type(types.void, kinds)
        function = builder.inttoptr(word(ADDRESS), function_type.as_pointer())
        status, _ = context.call_conv.call_function(builder, function, types.void, kinds, words)
        return status.is_error

    return types.boolean(lines, types.int64, types.int64), write


@intrinsic
def _count(typing_context, counters, place, more):
    """Add to a counter that others count with too, and return what it was. What was written before is seen by all who
    see the new count."""

    def write(context, builder, signature, arguments):
        data = context.make_array(counters)(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [arguments[1]]), arguments[2], "acq_rel")

    return types.int64(counters, types.int64, types.int64), write


@intrinsic
def _look(typing_context, counters, place):
    """A counter's value, as others may have changed it."""

    def write(context, builder, signature, arguments):
        data = context.make_array(counters)(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "acquire", 8)

    return types.int64(counters, types.int64), write


@intrinsic
def _threads(typing_context):
    """How many threads may work: ``numba.get_num_threads()``, which would keep its caller from being kept on disk."""

    def write(context, builder, signature, arguments):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_WORD, []), "get_num_threads")
        return builder.sext(builder.trunc(builder.call(function, []), ir.IntType(32)), _WORD)  # it returns a C int

    return types.int64(), write


@intrinsic
def _pause(typing_context):
    """Tell the processor that this is a waiting loop."""

    def write(context, builder, signature, arguments):
        if platform.machine() in ("x86_64", "AMD64"):
            pause = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"
            )
            builder.call(pause, [])
        return context.get_dummy_value()

    return types.void(), write


@intrinsic
def _call_system(typing_context, address):
    """Call a function of the system with the number 1, if it takes one; it returns an int."""

    def write(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32)]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), [ir.IntType(32)(1)])
        return context.get_dummy_value()

    return types.void(types.int64), write


@helper
def _work(worker, workers, lines, progress, give_way):
    """Go through the lines: take the tasks of the own share of each, then what is left of the others' shares, and wait
    for those that others are still busy with."""
    for line in range(lines.shape[0]):
        tasks, done, mine = lines[line, TASK_COUNT], (1 + line * (1 + workers)) * CACHE_LINE, 0
        for i in range(workers):
            whose = (worker + i) % workers
            first, last = share(whose, workers, tasks)
            taken = done + (1 + whose) * CACHE_LINE
            if _look(progress, taken) >= last - first:
                continue  # without a write, for which workers would have to take turns
            task = first + _count(progress, taken, 1)
            while task < last:
                if _call(lines, line, task):
                    progress[0] = line + 1
                mine += 1
                task = first + _count(progress, taken, 1)
        _count(progress, done, mine)
        looks = 0
        while _look(progress, done) < tasks:
            looks += 1
            if looks < PATIENCE:
                _pause()
            else:
                _call_system(give_way)
        if _look(progress, 0):
            return  # some task of this line failed, and all workers know


@jit(parallel=True)
def _run_table(lines, progress, give_way, alone):
    """Work through a table, on one thread if ``alone``; 0, or the number of a line that failed, counted from 1."""
    most = 1
    for line in range(lines.shape[0]):
        most = max(most, lines[line, TASK_COUNT])
    workers = 1 if alone else min(most, _threads())
    for place in range((1 + lines.shape[0] * (1 + workers)) * CACHE_LINE):
        progress[place] = 0
    if workers == 1:
        _work(0, 1, lines, progress, give_way)  # and wake no other thread
    else:
        for worker in prange(workers):
            _work(np.int64(worker), workers, lines, progress, give_way)  # Numba takes the index for unsigned
    return progress[0]


run_table = guarded(_run_table)


def compile_run_table() -> None:
    """Compile it, or find it in the cache, and run nothing."""
    _run_table.compile((types.int64[:, ::1], types.int64[::1], types.int64, types.boolean))
