"""Run the threads of a block in Numba's simulator in turn, each up to its next barrier, in one thread of the system.

Numba takes a thread of the system for each and lets them wait for one another, which takes most of its time. Here a
kernel is compiled once more from its source, with ``yield`` in the place of ``cuda.syncthreads()``: that is a
generator, and a block goes on with each thread's in turn. In which order does not matter to a kernel without a race.
"""

import ast
import functools
import inspect
import textwrap
import types

import numpy as np
from numba.cuda.simulator import kernel as simulated
from numba.cuda.simulator import kernelapi


class Thread:
    """One thread of a block, as ``cuda.threadIdx`` and ``cuda.blockIdx`` ask for it."""

    def __init__(self, block, place, number):
        self.blockIdx, self.threadIdx = kernelapi.Dim3(*block), kernelapi.Dim3(*place)
        self.block, self.thread_id = block, number

    def syncthreads(self):
        raise NotImplementedError("A barrier must be a statement of the kernel: cuda.syncthreads()")


class Turn:
    """Whose turn it is. Numba asks the module threading for the thread that runs, and is answered here."""

    thread = None
    moment = None  # another object for each block and after each barrier

    @classmethod
    def current_thread(cls):
        return cls.thread


class Yields(ast.NodeTransformer):
    """Puts ``yield`` in the place of every barrier."""

    def visit_Expr(self, node):
        barrier = ast.unparse(node) == "cuda.syncthreads()"
        return ast.copy_location(ast.Expr(ast.Yield()), node) if barrier else node


@functools.cache
def in_turns(kernel):
    """The same function as a generator function, with the same lines, globals and captured variables."""
    lines, first = inspect.getsourcelines(kernel)
    definition = Yields().visit(ast.parse(textwrap.dedent("".join(lines))).body[0])
    definition.decorator_list = []
    definition.body += ast.parse("return\nyield").body  # a generator also where there is no barrier
    captured = dict(zip(kernel.__code__.co_freevars, kernel.__closure__ or (), strict=True))
    outer = ast.parse(f"def outer({', '.join(captured)}): pass").body[0]
    outer.body = [ast.increment_lineno(definition, first - 1)]
    module = compile(ast.fix_missing_locations(ast.Module([outer], [])), kernel.__code__.co_filename, "exec")
    for name in (outer.name, kernel.__name__):
        (module,) = (code for code in module.co_consts if inspect.iscode(code) and code.co_name == name)
    cells = tuple(captured[name] for name in module.co_freevars)
    return types.FunctionType(module, kernel.__globals__, kernel.__name__, kernel.__defaults__, cells)


def run(manager, block, *arguments):
    """Run one block."""
    kernel = in_turns(manager._f)
    places = enumerate(np.ndindex(*manager._block_dim))
    live = [(Thread(block, place, number), kernel(*arguments)) for number, place in places]
    while live:
        Turn.moment = object()
        live = [(thread, steps) for thread, steps in live if _turn(thread, steps)]


def _turn(thread, steps):
    """Go on with a thread up to its next barrier; whether there is one."""
    Turn.thread = thread
    try:
        next(steps)
    except StopIteration:
        return False
    except Exception as error:
        where = f"tid={list(thread.threadIdx)} ctaid={list(thread.blockIdx)}"
        raise type(error)(f"{where}: {error}").with_traceback(error.__traceback__) from None
    return True


def install():
    """Run every block so from now on."""
    kernelapi.threading = Turn
    simulated.BlockManager.run = run
