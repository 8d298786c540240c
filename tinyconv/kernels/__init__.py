"""Kernels say *how*: three sets of functions behind one contract.

``reference`` is NumPy, the mathematics chapter. ``cpu`` is Numba, parallel and vectorised. ``cuda`` is numba.cuda.
Each set is a package with the functions of ``reference.__all__`` (same names, same arguments in the same order) and
with the six functions below, so that a plan can be built on any of them:

* ``allocate(shape, dtype)``: a new array of zeros where the kernels can reach it;
* ``upload(array, host)``: copy a NumPy array into one of the set's arrays;
* ``download(host, array)``: copy one of the set's arrays into a NumPy array;
* ``synchronize()``: wait until everything asked for has happened;
* ``record(calls)``: turn a list of (kernel, arguments) into one callable that runs them all in order. It sees what the
  arrays hold when it runs; everything else is as it was when it first ran. One Python thread may run it at a time;
* ``describe()``: on what the kernels run, in a few words.

Kernels import nothing from the rest of tinyconv.
"""

import functools
import importlib
import importlib.util
import inspect
from types import ModuleType

NAMES = ("reference", "cpu", "cuda")
MEMORY = ("allocate", "describe", "download", "record", "synchronize", "upload")


def load(name: str) -> ModuleType:
    """The kernel set of that name: "reference", "cpu" or "cuda".

    Raises ValueError for another name, and RuntimeError, with what to do about it, if the set cannot run here.
    """
    if name not in NAMES:
        raise ValueError(f"Unknown backend. Expected one of {', '.join(map(repr, NAMES))}. Received: {name!r}.")
    kernel_set = importlib.import_module(f"tinyconv.kernels.{name}")
    if name == "cuda":
        kernel_set.require()
    return kernel_set


def cuda_usable() -> bool:
    """Whether the ``cuda`` set could work here: its packages are installed and there is a GPU. Never raises."""
    if not any(map(importlib.util.find_spec, ("numba_cuda", "numba_cuda_mlir"))):  # without importing Numba
        return False
    from tinyconv.kernels.cuda.runtime import device

    return device.available()[0]


@functools.cache
def contract() -> dict[str, tuple[str, ...]]:
    """The contract: each kernel's name and the names of its arguments, in order."""
    from tinyconv.kernels import reference

    return {name: tuple(inspect.signature(getattr(reference, name)).parameters) for name in reference.__all__}
