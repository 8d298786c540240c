"""Find races in kernels that run in Numba's simulator, which hides them: it runs a block's threads one after another.

Every access to an element of a shared array or of an argument is written down with its thread and with how many
barriers that thread has passed. After a launch, these are faults:

* an element that two threads of a block touch between the same two barriers, at least one of them writing;
* an element of an argument that threads of two blocks touch, at least one of them writing: no barrier is between those;
* an element of shared memory that is read before anything was written to it in this block.

What the toy run does not reach is not seen; :mod:`barriers` reads the source instead.
"""

import sys
import threading

from numba.cuda.simulator import kernel as simulated
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.cudadrv.devicearray import FakeWithinKernelCUDAArray

from tinyconv.kernels.cuda import simulator


class Accesses:
    """What one thread has touched: for an element, between two barriers, by reading or writing, the line of source."""

    def __init__(self, thread):
        self.block, self.thread = tuple(thread.blockIdx), thread.thread_id
        self.barriers = 0
        self.lines = {}

    def note(self, element, writes, line):
        self.lines.setdefault((element, self.barriers, writes), line)


class Watched:
    """A shared array that writes down who touches it."""

    def __init__(self, array):
        self.array, self.written = array, {}

    def __getitem__(self, index):
        own = accesses()
        element = self.element(index, own)
        own.note(element, False, _line())
        if element not in self.written:
            own.note(("nothing", *element), True, _line())
        return self.array[index]

    def __setitem__(self, index, value):
        own = accesses()
        element = self.element(index, own)
        own.note(element, True, _line())
        self.written[element] = True
        self.array[index] = value

    def element(self, index, own):
        return "shared", id(self), own.block, *map(int, index if isinstance(index, tuple) else (index,))


class Shared(simulator.Shared):
    """Shared memory whose arrays are watched."""

    def array(self, shape, dtype, alignment=None):
        caller = sys._getframe(1)
        line = caller.f_code.co_filename, caller.f_lineno
        if line not in self.arrays:
            self.arrays.setdefault(line, Watched(simulator._poisoned(shape, dtype)))
        return self.arrays[line]


_running = []  # the accesses of every thread of this launch


def accesses():
    """Those of this thread."""
    thread = threading.current_thread()
    if not hasattr(thread, "accesses"):
        thread.accesses = Accesses(thread)
        _running.append(thread.accesses)
    return thread.accesses


def _line():
    """The line of the kernel that touches an element."""
    return sys._getframe(2).f_lineno


def _address(array, index):
    """Where an element of an argument lies, so that two arrays over the same memory are seen as such."""
    own = vars(array)
    if "place" not in own:
        own["place"] = own["_item"]._ary.__array_interface__["data"][0], own["_item"]._ary.strides
    start, strides = own["place"]
    if isinstance(index, tuple):
        return start + sum(map(int.__mul__, map(int, index), strides))
    return start + int(index) * strides[0]


def faults(threads):
    """What is wrong with a launch, whose threads touched this."""
    touched = {}
    for own in threads:
        for (element, barriers, writes), line in own.lines.items():
            if element[0] == "nothing":
                yield f"line {line} reads shared memory to which nothing was written"
            else:
                touched.setdefault(element, []).append((own.block, barriers, own.thread, writes, line))
    for events in touched.values():
        writers = [event for event in events if event[3]]
        for block, barriers, thread, _, line in writers:
            for other_block, other_barriers, other_thread, other_writes, other_line in events:
                apart = block == other_block and (thread == other_thread or barriers != other_barriers)
                if not apart:
                    verb = "writes" if other_writes else "reads"
                    who = "thread" if block == other_block else "block"
                    yield f"line {other_line} {verb} what line {line} writes in another {who}, and no barrier between"


def install():
    """Watch every launch from now on; one with a fault raises RuntimeError."""
    wait, call = simulated.BlockThread.syncthreads, simulated.FakeCUDAKernel.__call__
    read, write = FakeWithinKernelCUDAArray.__getitem__, FakeWithinKernelCUDAArray.__setitem__

    def syncthreads(self):
        wait(self)
        accesses().barriers += 1

    def getitem(self, index):
        accesses().note((_address(self, index),), False, _line())
        return read(self, index)

    def setitem(self, index, value):
        accesses().note((_address(self, index),), True, _line())
        write(self, index, value)

    def launch(self, *arguments):
        if self._device or simulated._kernel_context:
            return call(self, *arguments)
        _running.clear()
        call(self, *arguments)
        found = sorted(set(faults(_running)))
        if found:
            raise RuntimeError(f"{self.fn.__name__}: " + "; ".join(found))
        return None

    kernelapi.FakeCUDAShared = Shared
    simulated.BlockThread.syncthreads = syncthreads
    simulated.FakeCUDAKernel.__call__ = launch
    FakeWithinKernelCUDAArray.__getitem__ = getitem
    FakeWithinKernelCUDAArray.__setitem__ = setitem
