"""Which kernel set computes: by an argument, by the environment, or the best that there is."""

import os
from types import ModuleType

from tinyconv import kernels
from tinyconv.checking import unknown


def resolve_backend(backend: str | None) -> str:
    """The backend asked for, by argument or environment; checked, but "auto" is not decided yet."""
    source = "backend" if backend is not None else "TINYCONV_BACKEND"
    backend = backend if backend is not None else os.environ.get("TINYCONV_BACKEND") or "auto"
    if not isinstance(backend, str) or backend not in ("auto", *kernels.NAMES):
        raise unknown("", source, backend, ["auto", *kernels.NAMES])
    return backend


def load_backend(backend: str) -> ModuleType:
    """The kernel set of that name; "auto": CUDA where a GPU is usable, else the CPU's."""
    if backend != "auto":
        return kernels.load(backend)
    return kernels.load("cuda" if kernels.cuda_usable() else "cpu")
