"""Run one kernel of the reference and of the CUDA set on the same arrays, and compare everything they wrote."""

import numpy as np

from tinyconv.kernels import cuda, reference, shapes
from tinyconv.kernels.cuda.runtime.device import SIMULATED

if SIMULATED:  # every launch of these tests is also watched for races
    from tests.cuda_sim import races, turns

    turns.install()
    races.install()


class Work:
    """Stands for the scratch argument: each set gets as many floats as its own workspace function asks for."""

    def __init__(self, function, *shapes):
        self.function, self.shapes = function, shapes

    def of(self, kernels):
        size = getattr(kernels, self.function)(*self.shapes)
        assert size == int(size)
        assert size >= 0
        return kernels.allocate((int(size),), np.float32)


def on_device(host):
    """A copy of a NumPy array on the device."""
    array = cuda.allocate(host.shape, host.dtype)
    if host.size:
        cuda.upload(array, host)
    return array


def on_host(array):
    """A copy of a device array in NumPy."""
    host = np.empty(tuple(array.shape), array.dtype)
    if host.size:
        cuda.download(host, array)
    return host


def compare(kernel, *arguments, tolerance=2e-5):
    """Both sets write into copies of the arrays; every array must then agree. Returns the device's results.

    What is not wanted, an array of size zero, must have as many axes as it would have otherwise, as in a plan: kernels
    are compiled for that number, and the simulator would not notice.
    """
    for rule, argument in zip(shapes.read(shapes.RULES[kernel]), arguments, strict=True):
        if isinstance(argument, np.ndarray) and rule.axes:
            assert argument.ndim == len(rule.axes), f"{kernel}, {rule.name}: {argument.ndim} axes"
    expected = [_for(reference, a, np.copy) for a in arguments]
    received = [_for(cuda, a, on_device) for a in arguments]
    getattr(reference, kernel)(*expected)
    getattr(cuda, kernel)(*received)
    results = [on_host(r) if isinstance(a, np.ndarray) else r for a, r in zip(arguments, received, strict=True)]
    for place, (argument, want, got) in enumerate(zip(arguments, expected, results, strict=True)):
        if not isinstance(argument, np.ndarray):
            continue
        where = f"{kernel}, argument {place}, shape {argument.shape}"
        if argument.dtype.kind == "f":
            scale = max(1.0, float(np.nanmax(np.abs(want), initial=0)))
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale, err_msg=where)
        else:
            np.testing.assert_array_equal(got, want, err_msg=where)
    return results


def _for(kernels, argument, copy):
    if isinstance(argument, Work):
        return argument.of(kernels)
    return copy(argument) if isinstance(argument, np.ndarray) else argument


def floats(random, *shape):
    """Numbers from a normal distribution."""
    return random.standard_normal(shape).astype(np.float32)


def nothing(*shape):
    """An output, filled so that a kernel that does not write it is noticed."""
    return np.full(shape, 7, np.float32)
