"""The threads that run the parallel kernels.

Numba can run its parallel loops on any of three libraries, its "threading layers". They give the same results, but
they are not equally good neighbours: with *workqueue* two Python threads that call a kernel at once abort the process;
with *omp* (libgomp) a forked child that calls a kernel is killed, and waiting threads spin, which slows down whatever
else runs on the machine; *tbb* has none of these faults. So :data:`LAYER`, in this order:

* what the user's NUMBA_THREADING_LAYER says;
* tbb, which comes with tinyconv from PyPI where there are wheels for it. Numba does not look into the folder where pip
  puts the library, so it is loaded here, before Numba wants it;
* omp, whose waiting threads are told to sleep instead of spinning;
* workqueue, and a lock around every parallel kernel.
"""

import ctypes
import functools
import importlib
import numbers
import os
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

SETTINGS: Any = numba.config  # what the environment variables NUMBA_* say

_TBB = {"linux": "libtbb.so.12", "darwin": "libtbb.12.dylib", "win32": "tbb12.dll"}
_OLDEST_TBB = 12060  # the oldest interface version that Numba accepts


def _load_tbb() -> bool:
    """Load the TBB library for the whole process, from this Python environment or from the system."""
    name = _TBB.get(sys.platform, "libtbb.so.12")
    roots = (sys.prefix, sysconfig.get_config_var("userbase") or sys.prefix, sys.base_prefix)
    folders = [Path(root, *below) for root in roots for below in (("lib",), ("Library", "bin"))]
    for path in [*(str(folder / name) for folder in folders if (folder / name).exists()), name]:
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


def _choose() -> str:
    """Make the best threading layer ready, and name it."""
    asked = str(SETTINGS.THREADING_LAYER).lower()
    if asked not in ("omp", "workqueue") and _load_tbb():
        return "tbb"
    if asked in ("default", "omp", "threadsafe"):
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read once, when libgomp is loaded
        if asked == "omp" or _importable("omppool"):
            return "omp"
    return "workqueue"


LAYER = _choose()


_LOCK = threading.Lock()


def one_at_a_time(kernel: Callable[..., None]) -> Callable[..., None]:
    """The same kernel, that waits until no other Python thread is in such a kernel."""

    @functools.wraps(kernel)
    def locked(*arguments):
        with _LOCK:
            return kernel(*arguments)

    return locked


def threading_layer() -> str:
    """The threading layer in use: "tbb", "omp" or "workqueue"."""
    numba.get_num_threads()  # starts the threads
    return numba.threading_layer()


def get_threads() -> int:
    """How many threads a kernel called from this Python thread uses."""
    return numba.get_num_threads()


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
    numba.set_num_threads(int(count))
