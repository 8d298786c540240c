"""What the kernels stand on: what is known about the device, the stream, and the launch of a kernel.

How to read a kernel: it is a Python function that runs once per *thread*. Threads come in blocks (``cuda.threadIdx``
says which thread of the block, ``cuda.blockIdx`` which block of the grid); the threads of a block share a little fast
memory (``cuda.shared.array``) and can wait for each other (``cuda.syncthreads``), those of different blocks cannot.

Every kernel here keeps three rules, so that the same seed gives the same bits on every run: how the work is cut into
blocks follows from shapes alone; an element of the result belongs to one thread; and a sum that several threads share
is written down in parts and added in a fixed order by a second kernel, never by atomics.

And three about Numba. Constants are wrapped in ``float32``: a bare ``2 * x`` or ``x > 0`` would compute in float64.
Inner loops index with ``index`` (uint64): a signed index costs three instructions more, because it might be negative.
Loops that must unroll around an accumulator in registers are ``for _ in range(constant)``; the others are ``while``
loops, which the assembler unrolls better than Numba's ranges. And what is outside an image is not skipped by a branch
but read from somewhere harmless and replaced by zero: loads without branches can all be under way at once.
"""

import contextlib
import importlib.metadata
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinyconv.kernels.cuda.runtime import package
from tinyconv.kernels.cuda.runtime.package import SIMULATED, cuda

float32 = np.float32
index = np.uint64

if SIMULATED:
    from tinyconv.kernels.cuda.runtime import simulator

    simulator.install()

# Numba warns of every small grid; some kernels have little to do, whatever their grid.
warnings.filterwarnings("ignore", message=".*Grid size .* low occupancy")  # .*: it may begin with a colour

VECTOR = None if SIMULATED else 16  # bytes: shared arrays aligned so are read four floats at a time
THREADS = 128  # of a block, where nothing else decides

OLDEST = (7, 5)  # the compute capability below which a CUDA 13 toolkit does not compile


_found_well: list[bool] = []


def available() -> tuple[bool, str]:
    """Whether the kernels can run here, and the device's name; or why not and what to do about it. Never raises."""
    try:
        problem = _problem()
        return (False, problem) if problem else (True, name())
    except Exception as error:
        return False, f"the CUDA driver failed: {_first_line(error)} Fix: check it with nvidia-smi."


def require() -> None:
    """Raise RuntimeError, with what to do about it, if the kernels cannot run here. What was well once stays so."""
    if _found_well:
        return
    usable, reason = available()
    if not usable:
        raise RuntimeError(f'backend="cuda" cannot be used here: {reason}')
    _found_well.append(True)


def name() -> str:
    """The device's name."""
    if SIMULATED:
        return "Numba's CUDA simulator"
    found = cuda.get_current_device().name
    return found.decode() if isinstance(found, bytes) else str(found)


def _problem() -> str:
    """What keeps the kernels from running, or an empty string."""
    if package.PROBLEM or SIMULATED:
        return package.PROBLEM
    try:
        driver = cuda.cudadrv.driver.driver.get_version()
    except ImportError as error:  # numba-cuda's CudaSupportError is one
        return _without_driver(error)
    toolkit = _toolkit()
    if driver < toolkit:
        return (
            f"the NVIDIA driver is too old: it supports CUDA {_dotted(driver)}, and the installed toolkit is "
            f"{_dotted(toolkit)}. Fix: update the driver (CUDA 13 needs version 580 or newer)."
        )
    capability = tuple(cuda.get_current_device().compute_capability)
    if capability < OLDEST:
        return f"{name()} has compute capability {_dotted(capability)}. Expected {_dotted(OLDEST)} or newer."
    return ""


def _without_driver(error: Exception) -> str:
    text = str(error)
    if "NUMBA_DISABLE_CUDA" in text:
        return "CUDA is switched off by NUMBA_DISABLE_CUDA=1. Fix: unset it."
    if "cannot be found" in text:
        return 'no NVIDIA driver was found. Fix: install the driver (nvidia-smi must work), or use backend="cpu".'
    if "NO_DEVICE" in text or "no CUDA-capable device" in text:
        return 'no GPU was found. Fix: make one visible (CUDA_VISIBLE_DEVICES), or use backend="cpu".'
    return f'the CUDA driver did not start: {_first_line(error)} Fix: check it with nvidia-smi, or use backend="cpu".'


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if line != "Error at driver init:"] or [type(error).__name__]
    return lines[0].rstrip(".:") + "."


def _toolkit() -> tuple[int, int]:
    """The version of the CUDA toolkit from PyPI; (0, 0) where it comes from elsewhere."""
    try:
        major, minor = importlib.metadata.version("cuda-toolkit").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:
        return 0, 0
    return int(major), int(minor)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


_queue: list[Any] = []
_queue_lock = threading.Lock()
_thread = threading.local()


def stream() -> Any:
    """The stream, a queue of work, on which everything of tinyconv happens in order, whichever thread asks for it."""
    recording = getattr(_thread, "stream", None)
    if recording is not None:
        return recording
    with _queue_lock:
        if not _queue:
            _queue.append(cuda.stream())
        return _queue[0]


@contextlib.contextmanager
def recording_stream() -> Iterator[Any]:
    """A stream of its own for what this thread launches meanwhile, so that no other thread's work gets recorded."""
    _thread.stream = cuda.stream()
    try:
        yield _thread.stream
    finally:
        _thread.stream = None


def together(one: Callable[[], None], other: Callable[[], None]) -> None:
    """Queue two pieces of work that may run at the same time; what was queued before comes before both, and what is
    queued later waits for both. A small kernel leaves most of the GPU idle, and two of them fit beside each other."""
    if SIMULATED:
        other()
        one()
        return
    queue, depth = stream(), getattr(_thread, "depth", 0)
    beside = _beside(depth)
    begun, done = cuda.event(timing=False), cuda.event(timing=False)
    begun.record(queue)
    begun.wait(beside)
    before = getattr(_thread, "stream", None)
    _thread.stream, _thread.depth = beside, depth + 1
    try:
        other()
        _thread.stream = before
        one()
    finally:
        _thread.stream, _thread.depth = before, depth
        done.record(beside)
        done.wait(queue)


def _beside(depth: int) -> Any:
    """A second stream of this thread; others for what is together inside of what is together."""
    streams = _thread.__dict__.setdefault("beside", [])
    while len(streams) <= depth:
        streams.append(cuda.stream())
    return streams[depth]


def launch(kernel: Any, blocks: int | tuple[int, ...], threads: int | tuple[int, ...], *arguments: Any) -> None:
    """Queue one run of a kernel on ``blocks`` times ``threads`` threads. An empty grid does nothing."""
    if 0 in (blocks if isinstance(blocks, tuple) else (blocks,)):
        return
    configured = kernel[blocks, threads, stream()]
    for watch in _watches:
        watch.before(kernel)
    configured(*arguments)
    for watch in _watches:
        watch.after(kernel)


class CompileWatch:
    """What has been compiled meanwhile: ``functions``, their names, and ``seconds``, how long it took."""

    def __init__(self, on_first: Callable[[], None] | None, on_each: Callable[[int, float], None] | None) -> None:
        self.functions: list[str] = []
        self.seconds = 0.0
        self._on_first = on_first
        self._on_each = on_each

    def before(self, kernel: Any) -> None:
        self._known, self._start = len(kernel.overloads), time.perf_counter()
        if self._on_first and not self._known:
            self._on_first()
            self._on_first = None

    def after(self, kernel: Any) -> None:
        if len(kernel.overloads) > self._known:
            self.functions.append(kernel.py_func.__qualname__)
            self.seconds += time.perf_counter() - self._start
            if self._on_each:
                self._on_each(len(self.functions), self.seconds)


_watches: list[CompileWatch] = []


@contextlib.contextmanager
def compile_watch(
    on_first: Callable[[], None] | None = None, on_each: Callable[[int, float], None] | None = None
) -> Iterator[CompileWatch]:
    """Watch the compiler inside a with-block. ``on_first()`` is called before the first kernel is compiled there, and
    ``on_each(kernels, seconds)`` after each: how many it has compiled, and how long that took so far."""
    watch = CompileWatch(on_first, on_each)
    if SIMULATED:  # it compiles nothing
        yield watch
        return
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)


def blocks_for(size: int, per_block: int = THREADS) -> int:
    """How many blocks cover ``size`` elements."""
    return -(-size // per_block)


def inlined(function: Callable[..., Any]) -> Any:
    """A function that kernels call, compiled into each of them. It does not use ``cuda`` itself."""
    return function if SIMULATED or cuda is None else cuda.jit(device=True, forceinline=True)(function)


@inlined
def divided(a, b):
    """(a // b, a % b) of numbers in 0 .. 2**32 - 1. A division in 64 bits would be a call of a long subroutine."""
    quotient = np.int64(np.uint32(a) // np.uint32(b))
    return quotient, a - quotient * b
