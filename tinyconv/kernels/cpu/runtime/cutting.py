"""Cutting a kernel's work into tasks (see ``tasks.py``).

What a task computes must not depend on how many threads there are, down to the last bit. So a job is cut into a number
of tasks that depends on its size alone, of which each has its ``share``.
"""

from tinyconv.kernels.cpu.runtime.jit import jit

PIECE = 16384  # elements of a task: microseconds of work, beside which taking a task costs nothing
LINE = 16  # float32 in a cache line


def pieces(size, cost=1):
    """The number of tasks for a job of so many elements, each ``cost`` times as expensive as a simple one."""
    return max(1, -(-size * cost // PIECE))


@jit
def share(task, tasks, size):
    """Where a task's part of ``size`` things begins, and where it ends."""
    return task * size // tasks, (task + 1) * size // tasks


@jit
def share_in_lines(task, tasks, size):
    """The same for the elements of a flat array, in whole cache lines."""
    first, last = share(task, tasks, (size + LINE - 1) // LINE)
    return first * LINE, min(last * LINE, size)


@jit
def copy_row(target, source):
    """Copy a 1-D array. (An assignment of one slice to another allocates, in case the two overlap.)"""
    for i in range(target.size):
        target[i] = source[i]
