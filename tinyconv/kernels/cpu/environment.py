"""Checks what would stop Numba in the middle of its import. So this is imported before anything that imports Numba."""

import os

_count, _largest = os.environ.get("NUMBA_NUM_THREADS", "1"), max(1024, os.cpu_count() or 1)
if not (_count.strip().isdecimal() and 1 <= int(_count) <= _largest):
    raise RuntimeError(
        "The environment variable NUMBA_NUM_THREADS says how many threads the CPU kernels use. Expected a whole number "
        f"from 1 to {_largest}. Received: {_count!r}. Fix: correct or unset it."
    )
