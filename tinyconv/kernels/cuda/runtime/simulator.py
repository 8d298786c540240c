"""Three small repairs to Numba's CUDA simulator (``NUMBA_ENABLE_CUDASIM=1``), which runs kernels as Python threads.

Its shared arrays take no alignment, which the kernels ask for on a device; and they start with whatever was in
memory. Here the alignment is ignored, and they start as NaN (or a large negative number), so that a kernel that
reads what no thread wrote is seen by its result. And the shape of its arrays becomes a plain tuple, which also counts
from the end, as on a device.
"""

import sys
from typing import Any

import numpy as np

from tinyconv.kernels.cuda.runtime import package


class Shared:
    """The shared memory of one block: an array for each line of source that asks for one."""

    def __init__(self, dynshared_size: int) -> None:
        self.arrays: dict[tuple[str, int], np.ndarray] = {}

    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> np.ndarray:
        """``cuda.shared.array``."""
        caller = sys._getframe(1)
        line = caller.f_code.co_filename, caller.f_lineno
        if line not in self.arrays:
            self.arrays.setdefault(line, _poisoned(shape, dtype))  # setdefault: threads may meet here
        return self.arrays[line]


class Local:
    """The private arrays of a thread, which a device keeps in registers."""

    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> np.ndarray:
        """``cuda.local.array``."""
        return _poisoned(shape, dtype)


def _poisoned(shape: Any, dtype: Any) -> np.ndarray:
    dtype = np.dtype(dtype)
    return np.full(shape, np.nan if dtype.kind == "f" else np.iinfo(dtype).min // 2, dtype)


def install() -> None:
    """Put them in the place of Numba's."""
    kernelapi, devicearray = package.simulator()
    vars(kernelapi).update(FakeCUDAShared=Shared, FakeCUDALocal=Local)
    vars(devicearray).update(FakeShape=tuple)
