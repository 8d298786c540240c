"""The threads that run the parallel kernels.

Numba can run its parallel loops on any of three libraries, its "threading layers". They give the same results, but
they are not equally good neighbours: with *workqueue* two Python threads that call a kernel at once abort the process;
with *omp* (libgomp) a forked child that uses its threads is killed, and waiting threads spin, which slows down whatever
else runs on the machine; *tbb* has none of these faults. So :data:`LAYER`, in this order:

* what the user's NUMBA_THREADING_LAYER says, or what runs already;
* tbb, which comes with tinyconv from PyPI where there are wheels for it. Numba does not look into the folder where pip
  puts the library, so it is loaded here, before Numba wants it;
* omp, whose waiting threads are told to sleep instead of spinning;
* workqueue, and a lock around every parallel kernel.
"""

import contextlib
import ctypes
import functools
import importlib
import numbers
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel as numba_threads

SETTINGS: Any = numba.config  # what the environment variables NUMBA_* say

_TBB = {"linux": "libtbb.so.12", "darwin": "libtbb.12.dylib", "win32": "tbb12.dll"}
_OLDEST_TBB = 12060  # the oldest interface version that Numba accepts


def _load_tbb() -> bool:
    """Load the TBB library for the whole process, from this Python environment or from the system."""
    name = _TBB.get(sys.platform, "libtbb.so.12")
    roots = (sys.prefix, sysconfig.get_config_var("userbase") or sys.prefix, sys.base_prefix)
    folders = [Path(root, *below) for root in roots for below in (("lib",), ("Library", "bin"))]
    for path in [*(str(folder / name) for folder in folders if os.path.exists(folder / name)), name]:
        try:
            library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
            return library.TBB_runtime_interface_version() >= _OLDEST_TBB and _importable("tbbpool")
        except (OSError, AttributeError):
            continue
    return False


def _importable(pool: str) -> bool:
    """Whether Numba's module for a threading layer is there and finds its library."""
    try:
        importlib.import_module(f"numba.np.ufunc.{pool}")
    except ImportError:
        return False
    return True


def _load_omp() -> bool:
    """Load OpenMP, its waiting threads asleep, if it is there."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read once, when libgomp is loaded
    return _importable("omppool")


_LOADERS: dict[str, Callable[[], bool]] = {"tbb": _load_tbb, "omp": _load_omp, "workqueue": lambda: True}


def _choose() -> str:
    """Make the best threading layer ready, and name it."""
    if SETTINGS.DISABLE_JIT:
        raise RuntimeError(
            "The CPU kernels need Numba's compiler, which NUMBA_DISABLE_JIT turns off. "
            'Fix: unset it, or use backend="reference".'
        )
    if numba_threads._is_initialized:  # somebody else's Numba code was first
        return numba.threading_layer()
    asked, priority = str(SETTINGS.THREADING_LAYER).lower(), list(SETTINGS.THREADING_LAYER_PRIORITY)
    if sorted(priority) != sorted(_LOADERS):
        raise RuntimeError(
            "The environment variable NUMBA_THREADING_LAYER_PRIORITY puts the libraries for threads in an order. "
            f'Expected "tbb omp workqueue", in any order. Received: {" ".join(map(str, priority))!r}. '
            "Fix: correct or unset it."
        )
    choices = {
        "default": priority,
        "safe": ["tbb"],
        "threadsafe": ["tbb", "omp"],
        "forksafe": ["tbb", "workqueue"],
        **{name: [name] for name in _LOADERS},
    }
    for name in choices.get(asked, ()):
        if _LOADERS[name]():
            SETTINGS.THREADING_LAYER = name  # so that Numba starts no other
            return name
    raise RuntimeError(
        "The environment variable NUMBA_THREADING_LAYER names the library whose threads run the CPU kernels. Expected "
        f"one of {', '.join(choices)}, installed here. Received: {asked!r}. Fix: unset it, or install the library "
        "(pip install tbb)."
    )


LAYER = _choose()


# A forked child has only the Python thread that called fork. The kernels' threads are gone for it, and so is whoever
# was in a kernel or in the compiler, with locks that nobody will release. So a fork waits until no other Python thread
# is in either, and lets none begin. In the child the kernels run in one thread, since to use the parent's threads would
# hang or kill it, unless TBB could end them before the fork, which it can if there is no other Python thread.


class _Gate:
    """A with-block that no fork by another Python thread falls into."""

    def __init__(self) -> None:
        self.inside: set[int] = set()  # Python threads
        self.forking = 0  # the Python thread that forks
        self.fork = threading.RLock()  # held during a fork

    def __enter__(self) -> None:
        me = threading.get_ident()
        self.inside.add(me)  # before the look at ``forking``, as the other looks here after it said so there
        while self.forking not in (0, me):
            self.inside.discard(me)
            with self.fork:
                self.inside.add(me)

    def __exit__(self, *exception: object) -> None:
        self.inside.discard(threading.get_ident())

    def close(self) -> None:
        """Wait until nobody else is inside, and let nobody in."""
        self.fork.acquire()
        self.forking = threading.get_ident()
        while self.inside - {self.forking}:
            time.sleep(0.0002)

    def open(self) -> None:
        self.forking = 0
        self.fork.release()


_gate = _Gate()
_turn = threading.RLock() if LAYER == "workqueue" else contextlib.nullcontext()
_starter = 0  # the Python thread that started the kernels' threads; -1: not known
_survives = True  # whether a child that is forked now may use several threads
_one_thread = False  # whether this is a child that may not
_chosen = False  # whether somebody has set the number of threads


def guarded(loop: Callable[..., int]) -> Callable[..., int]:
    """A parallel loop that several Python threads may call, and forked children. By a last argument it is told to make
    do with one thread: if these call it, or ``alone``."""

    @functools.wraps(loop.py_func)  # type: ignore[attr-defined]
    def call(*arguments, alone=False):
        with _gate:
            if not _starter and not _one_thread:
                start()
            with _turn:
                return loop(*arguments, alone or _one_thread)

    return call


def start() -> None:
    """Start the kernels' threads, if they are not started yet."""
    global _starter
    if _starter:
        return
    with global_compiler_lock:  # which a fork waits for
        if not _starter:
            known = not numba_threads._is_initialized
            numba.get_num_threads()
            _starter = threading.get_ident() if known else -1


def _before_fork() -> None:
    global _survives
    _gate.close()
    global_compiler_lock.acquire()
    alone = LAYER == "tbb" and _starter == threading.get_ident() and threading.active_count() == 1
    _survives = not numba_threads._is_initialized or (alone and not _gate.inside)


def _after_fork_in_parent() -> None:
    global_compiler_lock.release()
    _gate.open()


def _after_fork_in_child() -> None:
    global _one_thread
    _one_thread = _one_thread or not _survives
    _gate.fork._at_fork_reinit()  # type: ignore[attr-defined]  # others may wait for it
    _gate.fork.acquire()
    _after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def threading_layer() -> str:
    """The threading layer in use: "tbb", "omp" or "workqueue"."""
    start()
    return numba.threading_layer()


def get_threads() -> int:
    """The number of threads that a kernel called from this Python thread uses."""
    start()
    with _gate:
        return 1 if _one_thread else numba.get_num_threads()


def default_threads(count: int) -> None:
    """Use ``count`` threads, at most, unless somebody has said how many: other processes need processors too."""
    start()
    with _gate:
        if not _chosen and "NUMBA_NUM_THREADS" not in os.environ:
            numba.set_num_threads(min(count, SETTINGS.NUMBA_NUM_THREADS))


def set_threads(count: int) -> None:
    """Let the kernels called from this Python thread use ``count`` threads. The results do not depend on it."""
    largest = SETTINGS.NUMBA_NUM_THREADS
    wanted = (
        f"Cannot use that many threads. Expected a whole number from 1 to {largest}. Received: count={count!r}. The "
        "largest number is fixed when the process starts: the number of processors, or the environment variable "
        "NUMBA_NUM_THREADS."
    )
    if isinstance(count, bool) or not isinstance(count, numbers.Integral):
        raise TypeError(wanted)
    if not 1 <= count <= largest:
        raise ValueError(wanted)
    global _chosen
    start()
    with _gate:
        _chosen = True
        numba.set_num_threads(int(count))
