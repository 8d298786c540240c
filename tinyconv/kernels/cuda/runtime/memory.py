"""The memory functions of the contract, for arrays on the GPU; and replaying a step as one CUDA graph.

A launch costs 10 to 50 microseconds of Python, and a training step has some twenty of them: more than the GPU needs
to compute it. A *graph* is the whole list of launches, recorded once, that the driver then repeats with one call.
"""

import logging
import math
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tinyconv.kernels.cuda.runtime import dlpack
from tinyconv.kernels.cuda.runtime.device import SIMULATED, cuda, name, recording_stream, require, stream, together

logger = logging.getLogger("tinyconv")

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_warned: set[str] = set()

COUNTING = ("accumulate", "count_correct", "count_binary_correct", "count_top_k")  # what is only for the logs


def allocate(shape: tuple[int, ...], dtype: Any) -> Any:
    """A new array of zeros on the device. RuntimeError if there is no device, or not enough memory on it."""
    require()
    size, dtype = math.prod(shape), np.dtype(dtype)
    numbers = max(size, 1)  # Numba cannot slice what has no elements, so even those get one
    try:
        array = cuda.device_array(numbers, dtype)
    except Exception as error:
        if getattr(error, "code", None) != _OUT_OF_MEMORY:
            raise
        needed = f"an array of shape {tuple(shape)} needs {numbers * dtype.itemsize / 2**20:,.0f} MiB"
        raise RuntimeError(
            f"Not enough memory on {name()}: {needed}, and {_free()} are free. "
            'Fix: use a smaller batch_size, end other programs on the GPU, or use backend="cpu".'
        ) from None
    if SIMULATED:
        array.copy_to_device(np.zeros(numbers, dtype))
    else:
        cuda.cudadrv.driver.device_memset(array, 0, numbers * dtype.itemsize, stream=stream())
    return array[:size].reshape(shape)


def upload(array: Any, host: np.ndarray) -> None:
    """Copy ``host`` into ``array``."""
    if isinstance(host, np.ndarray):
        host = np.ascontiguousarray(host, array.dtype).reshape(array.shape)
    array.copy_to_device(host, stream=stream())  # from the device, if it is there
    synchronize()  # the caller may change host as soon as this returns


def download(host: np.ndarray, array: Any) -> None:
    """Copy ``array`` into ``host``."""
    there = array.copy_to_host(stream=stream())
    synchronize()
    np.copyto(host, there.reshape(host.shape))


def synchronize() -> None:
    """Wait until everything queued so far has happened."""
    stream().synchronize()


Call = tuple[Callable[..., None], tuple[Any, ...]]


def record(calls: Sequence[Call]) -> Callable[[], None]:
    """One callable that runs all calls in order; from its second run on, as one CUDA graph.

    The first run launches them one by one, which compiles the kernels. Where graphs cannot be had (the simulator, an
    old driver), every run does so, and one line in the log says why.
    """
    before, metrics, after = _parted(tuple(calls))
    graph: list[Callable[[], None]] = []  # empty before the first run

    def run() -> None:
        if graph:
            graph[0]()
            return
        launch_all()
        graph.append(capture)

    def launch_all() -> None:
        _launch(before)
        if metrics:
            together(partial(_launch, after), partial(_launch, metrics))

    def capture() -> None:
        try:
            graph[0] = _captured(launch_all)
        except Exception as error:
            _warn_once(
                f"CUDA graphs cannot be used here ({error}); every kernel is launched by Python, which is slower."
            )
            graph[0] = launch_all
        graph[0]()

    return run


def _parted(calls: tuple[Call, ...]) -> tuple[tuple[Call, ...], ...]:
    """The calls up to the loss, those that then only count (metrics, totals), and those that need not wait for them.

    What a metric reads, the loss and the output, nothing changes until the next step; and only they touch the totals.
    """
    counting = [getattr(kernel, "__name__", "") in COUNTING for kernel, _ in calls]
    first = counting.index(True) if any(counting) else len(calls)
    last = first + sum(counting)
    if not all(counting[first:last]):  # a penalty on the weights is counted later than the others
        first = last = len(calls)
    return calls[:first], calls[first:last], calls[last:]


def _launch(calls: Sequence[Call]) -> None:
    for kernel, arguments in calls:
        kernel(*arguments)


def on_device(x: Any) -> bool:
    """Whether ``x`` is an array on a CUDA device: Numba's, CuPy's, PyTorch's, JAX's, or any that speaks DLPack."""
    if getattr(x, "__cuda_ndarray__", False) or hasattr(x, "__cuda_array_interface__"):
        return True
    return hasattr(x, "__dlpack_device__") and int(x.__dlpack_device__()[0]) == dlpack.CUDA


def as_device_array(x: Any) -> Any:
    """The device array of CuPy, PyTorch, JAX or Numba as one that the kernels take: the same memory, nothing copied.

    Through ``__cuda_array_interface__``, else DLPack. Raises TypeError for anything that is not on a CUDA device, and
    ValueError if it is not C-contiguous.
    """
    if getattr(x, "__cuda_ndarray__", False):
        array = x
    elif hasattr(x, "__cuda_array_interface__"):
        array = cuda.as_cuda_array(x)
    elif hasattr(x, "__dlpack__"):
        description, owner = dlpack.describe(x, None if SIMULATED else int(stream().handle))
        array = cuda.from_cuda_array_interface(description, owner=owner)
    else:
        raise TypeError(
            "Expected an array on a CUDA device, with __cuda_array_interface__ or __dlpack__ (CuPy, PyTorch, JAX). "
            f"Received: {type(x).__module__}.{type(x).__qualname__}."
        )
    if not array.is_c_contiguous():
        raise ValueError(
            f"Expected a C-contiguous device array. Received strides {array.strides} for shape {array.shape}. "
            "Fix: make it contiguous first (x.contiguous() in PyTorch, cupy.ascontiguousarray(x) in CuPy)."
        )
    return array


def _captured(launch_all: Callable[[], None]) -> Callable[[], None]:
    """Record the launches into a graph instead of running them; what runs the graph is returned."""
    if SIMULATED:
        raise RuntimeError("the simulator has none")
    from cuda.bindings import driver

    with recording_stream() as recording, cuda.defer_cleanup():  # memory must not be freed during a capture
        queue = driver.CUstream(int(recording.handle))
        relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        _checked(driver, driver.cuStreamBeginCapture(queue, relaxed))
        try:
            launch_all()
        finally:  # end it in any case, or the stream stays unusable
            ended = driver.cuStreamEndCapture(queue)
    graph = _checked(driver, ended)
    executable = _checked(driver, driver.cuGraphInstantiate(graph, 0))
    _checked(driver, driver.cuGraphDestroy(graph))

    queue = driver.CUstream(int(stream().handle))

    def replay() -> None:
        _checked(driver, driver.cuGraphLaunch(executable, queue))

    weakref.finalize(replay, driver.cuGraphExecDestroy, executable)
    return replay


def _checked(driver: Any, answer: tuple[Any, ...]) -> Any:
    """The result of a driver call, whose first element is its status."""
    status, *result = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver answered {status.name}")
    return result[0] if result else None


def _free() -> str:
    free, total = cuda.current_context().get_memory_info()
    return f"{free / 2**20:,.0f} of {total / 2**20:,.0f} MiB"


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logger.warning(message)
