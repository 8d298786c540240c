"""The one decorator that compiles the CPU kernels."""

from numba import njit


def jit(function=None, **options):
    """Compile a kernel with the project's flags."""
    if function is None:
        return lambda function: jit(function, **options)
    flags = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}} | options
    return njit(**flags)(function)
