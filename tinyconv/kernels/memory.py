"""The memory functions of the contract, for kernel sets that work in the computer's own memory (reference and cpu).

Inside ``with guarded():``, as tests use it, every array stands between two guard zones, and every program that was made
there looks at them after it has run: a kernel that wrote beyond an array is found out, whoever owns that memory. The
zones are NaNs, so that a number read from there shows too.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register. NumPy's own arrays start anywhere.

ZONE = 4 * ALIGNMENT  # bytes of a guard zone
_PATTERN = np.tile(np.array([0xA5, 0xC3, 0xFF, 0x7F], np.uint8), ZONE // 4)  # NaNs, in float32 as in float64

_zones: list[tuple[np.ndarray, np.ndarray | int, str]] | None = None  # bytes, what they must be, and where they are


def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array of zeros that starts on a cache line, so that no vector load straddles two of them."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    zone = ZONE if guarding() else 0
    raw = np.zeros(size + ALIGNMENT + 2 * zone, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT + zone
    if zone:
        for side, first in (("before", start - zone), ("behind", start + size)):
            raw[first : first + zone] = _PATTERN
            guard(raw[first : first + zone], _PATTERN, f"{side} an array of {dtype} and shape {tuple(shape)}")
    return raw[start : start + size].view(dtype).reshape(shape)


def guarding() -> bool:
    """Whether this is inside of :func:`guarded`."""
    return _zones is not None


def guard(memory: np.ndarray, expected: Any, where: str) -> None:
    """Inside of :func:`guarded`: no program may change this memory from what is ``expected`` there."""
    if _zones is not None:
        _zones.append((memory, expected, where))


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """A test mode: guard zones around all arrays made in it, that are looked at after each program made in it."""
    global _zones
    before, _zones = _zones, []
    try:
        yield
        look()
    finally:
        _zones = before


def look() -> None:
    """Raise RuntimeError if a guard zone was written to."""
    for memory, expected, where in _zones or ():
        if not (memory == expected).all():
            first = int(np.argmax((memory != expected).reshape(-1)))
            raise RuntimeError(f"A kernel wrote {where}, at {memory.dtype} {first} of the guard zone.")


def watched(program: Callable[[], None]) -> Callable[[], None]:
    """Inside of :func:`guarded` a program that looks at the guard zones when it has run; else the program itself."""
    if not guarding():
        return program

    def run() -> None:
        program()
        look()

    return run


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
