"""The memory functions of the contract, for kernel sets that work in the computer's own memory (reference and cpu)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register. NumPy's own arrays start anywhere.


def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array of zeros that starts on a cache line, so that no vector load straddles two of them."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def upload(array: np.ndarray, host: np.ndarray) -> None:
    """Copy ``host`` into ``array``."""
    np.copyto(array, host)


def download(host: np.ndarray, array: np.ndarray) -> None:
    """Copy ``array`` into ``host``."""
    np.copyto(host, array)


def synchronize() -> None:
    """Everything has already happened when a kernel returns."""


def record(calls: Sequence[tuple[Callable[..., None], tuple[Any, ...]]]) -> Callable[[], None]:
    """One callable that runs all calls in order: here, one after the other."""
    calls = tuple(calls)

    def run() -> None:
        for kernel, arguments in calls:
            kernel(*arguments)

    return run
