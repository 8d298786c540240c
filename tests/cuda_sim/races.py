"""Find races in kernels that run in Numba's simulator, which hides them: it runs a block's threads one after another.

For every element of a shared array or of an argument it is known which threads have touched it since the last barrier
(:mod:`turns` says when that was), and which blocks before. After a launch, these are faults:

* an element that two threads of a block touch between the same two barriers, at least one of them writing;
* an element of an argument that threads of two blocks touch, at least one of them writing: no barrier is between those;
* an element of shared memory that is read before anything was written to it in this block.

What the toy run does not reach is not seen; :mod:`barriers` reads the source instead.
"""

import collections
import sys

from numba.cuda.simulator import kernel as simulated
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.cudadrv.devicearray import FakeWithinKernelCUDAArray

from tests.cuda_sim.turns import Turn
from tinyconv.kernels.cuda.runtime import simulator

SEVERAL = object()  # in the place of a thread
faults = set()  # of this launch


class Element:
    """Who has touched one element, and in which line of the kernel's source."""

    __slots__ = ("block", "lines", "moment", "others", "reader", "writer", "written")

    def __init__(self):
        self.moment = self.block = self.reader = self.writer = None
        self.lines, self.others = {}, {}  # of this block and of all before: the line that last reads, that writes
        self.written = False

    def read(self):
        thread = Turn.thread
        if self.moment is not Turn.moment:
            self.begin(thread)
        elif self.writer in (None, thread) and self.reader in (SEVERAL, thread):
            return  # nothing new
        line = _line()
        if self.writer not in (None, thread):
            _fault(line, "reads", self.lines["writes"], "thread")
        if "writes" in self.others:
            _fault(line, "reads", self.others["writes"], "block")
        self.reader = thread if self.reader in (None, thread) else SEVERAL
        self.lines["reads"] = line

    def write(self):
        thread, line = Turn.thread, _line()
        if self.moment is not Turn.moment:
            self.begin(thread)
        for verb, who in (("reads", self.reader), ("writes", self.writer)):
            if who not in (None, thread):
                _fault(self.lines[verb], verb, line, "thread")
            if verb in self.others:
                _fault(self.others[verb], verb, line, "block")
        self.writer, self.written, self.lines["writes"] = thread, True, line

    def begin(self, thread):
        """The first time after a barrier, or in a block."""
        self.moment, self.reader, self.writer = Turn.moment, None, None
        if self.block is not thread.block:
            self.others |= self.lines
            self.block, self.lines = thread.block, {}


def _fault(line, verb, writing, who):
    faults.add(f"line {line} {verb} what line {writing} writes in another {who}, and no barrier between")


def _line():
    """The line of the kernel that touches an element."""
    return sys._getframe(3).f_lineno


class Watched:
    """A shared array that notes who touches it. The simulator hands the same to each block, which here begins anew."""

    def __init__(self, array):
        self.array, self.elements = array, collections.defaultdict(Element)
        self.block = self.moment = None
        self.settled = {}  # what several threads have read since the last barrier: that one more does is nothing new

    def element(self, index):
        if self.block is not Turn.thread.block:
            self.block = Turn.thread.block
            self.elements.clear()
        if self.moment is not Turn.moment:
            self.moment = Turn.moment
            self.settled.clear()
        return self.elements[index]

    def __getitem__(self, index):
        if self.moment is Turn.moment and (value := self.settled.get(index)) is not None:
            return value
        element = self.element(index)
        element.read()
        if not element.written:
            faults.add(f"line {sys._getframe(1).f_lineno} reads shared memory to which nothing was written")
        value = self.array[index]
        if element.reader is SEVERAL:
            self.settled[index] = value
        return value

    def __setitem__(self, index, value):
        self.element(index).write()
        self.settled.pop(index, None)
        self.array[index] = value


class Shared(simulator.Shared):
    """Shared memory whose arrays are watched."""

    def array(self, shape, dtype, alignment=None):
        caller = sys._getframe(1)
        line = caller.f_code.co_filename, caller.f_lineno
        if line not in self.arrays:
            self.arrays[line] = Watched(simulator._poisoned(shape, dtype))
        return self.arrays[line]


_elements = collections.defaultdict(Element)  # of this launch's arguments, by their addresses


def _address(array, index):
    """Where an element of an argument lies, so that two arrays over the same memory are seen as such."""
    own = vars(array)
    if "place" not in own:
        own["place"] = own["_item"]._ary.__array_interface__["data"][0], own["_item"]._ary.strides
    start, strides = own["place"]
    if isinstance(index, tuple):
        return start + sum(map(int.__mul__, map(int, index), strides))
    return start + int(index) * strides[0]


def install():
    """Watch every launch from now on; one with a fault raises RuntimeError."""
    call = simulated.FakeCUDAKernel.__call__
    read, write = FakeWithinKernelCUDAArray.__getitem__, FakeWithinKernelCUDAArray.__setitem__

    def getitem(self, index):
        _elements[_address(self, index)].read()
        return read(self, index)

    def setitem(self, index, value):
        _elements[_address(self, index)].write()
        write(self, index, value)

    def launch(self, *arguments):
        if self._device or simulated._kernel_context:
            return call(self, *arguments)
        faults.clear()
        _elements.clear()
        call(self, *arguments)
        if faults:
            raise RuntimeError(f"{self.fn.__name__}: " + "; ".join(sorted(faults)))
        return None

    kernelapi.FakeCUDAShared = Shared
    simulated.FakeCUDAKernel.__call__ = launch
    FakeWithinKernelCUDAArray.__getitem__ = getitem
    FakeWithinKernelCUDAArray.__setitem__ = setitem
