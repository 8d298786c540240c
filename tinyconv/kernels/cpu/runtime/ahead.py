"""A second process that compiles too.

The first step of a network needs a few dozen functions. Numba compiles them one after the other, however many cores
there are, since its threads wait for each other. So where several kernels of a program are missing, another Python
gets the same calls, and compiles them from the last to the first, while this one begins at the front: each finds what
the other has done in the cache on disk. If anything goes wrong there, this process compiles everything, as it would
without; so nothing is reported, and nothing waited for.
"""

import contextlib
import io
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv.kernels.cpu.runtime.threads import get_threads

FEWEST = 4  # missing kernels, 1 to 4 s of work, for which to start a process that takes a second to begin


@contextlib.contextmanager
def second_process(calls: Sequence[Any], missing: int) -> Iterator[None]:
    """While the kernels of these calls are compiled here, compile them in another process too, if it pays."""
    process = _start(calls) if missing >= FEWEST and get_threads() > 1 else None
    try:
        yield
    finally:
        if process:
            process.kill()  # what it is at, if anything, has been compiled here
            process.wait()


def _start(calls: Sequence[Any]) -> "subprocess.Popen[bytes] | None":
    """The other process, or None where there is no Python to be started, as in a program that embeds it."""
    if getattr(sys, "frozen", False) or not Path(sys.executable or "").name.startswith("python"):
        return None
    start = (
        f"import sys; sys.path[:] = {sys.path!r}; import pickle; from {__package__} import tasks; "
        "tasks.compile_backwards(pickle.load(sys.stdin.buffer))"
    )
    with contextlib.suppress(Exception), tempfile.TemporaryFile() as file:
        file.write(_without_data(calls))
        file.seek(0)
        nowhere = subprocess.DEVNULL
        return subprocess.Popen([sys.executable, "-c", start], stdin=file, stdout=nowhere, stderr=nowhere)
    return None


def _without_data(calls: Sequence[Any]) -> bytes:
    """Those of the calls that are the library's own, pickled: the other process imports nobody else's modules. Of their
    arrays only the shapes and types are written, which decide what is compiled."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, thing):
            return (np.empty, (thing.shape, thing.dtype)) if isinstance(thing, np.ndarray) else NotImplemented

    written = io.BytesIO()
    Pickler(written).dump([call for call in calls if call[0].__module__.startswith("tinyconv.")])
    return written.getvalue()
