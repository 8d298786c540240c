"""Which of Numba's two CUDA packages compiles the kernels; nothing else imports either.

numba-cuda gets fixes only since June 2026; its successor numba-cuda-mlir reads the same kernels, launches them faster,
and has no simulator. Where both are installed, the successor is taken; ``TINYCONV_CUDA_PACKAGE`` may name the other.
Where neither is, Numba's own ``numba.cuda`` holds the definitions, so that the set can be imported and read.
"""

import importlib
import importlib.metadata
import importlib.util
import os
from types import SimpleNamespace
from typing import Any

from numba import config

SUPPORTED = {"numba-cuda-mlir": "0.6", "numba-cuda": "0.30"}  # the first that is installed is taken
VARIABLE = "TINYCONV_CUDA_PACKAGE"
INSTALL = "Fix: pip install 'tinyconv[cuda]', or use backend=\"cpu\"."
SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]


def _chosen() -> tuple[str, str]:
    """The name of the package to use, and what is wrong with it; either may be empty."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in SUPPORTED:
        names = " or ".join(map(repr, sorted(SUPPORTED)))
        return "", f"{VARIABLE} names an unknown package. Expected {names}. Received: {wanted!r}."
    if SIMULATED:
        if wanted == "numba-cuda-mlir":
            return "", f"numba-cuda-mlir has no simulator. Fix: unset NUMBA_ENABLE_CUDASIM or {VARIABLE}."
        return "", ""
    found = [name for name in ([wanted] if wanted else SUPPORTED) if _installed(name)]
    if not found:
        which = wanted or "numba-cuda (or its successor numba-cuda-mlir)"
        return "", f"the package {which} is not installed. {_install(wanted)}"
    problems = [_wrong_version(name) for name in found]
    for name, problem in zip(found, problems, strict=True):
        if not problem:
            return name, ""
    return "", problems[0]


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name.replace("-", "_")) is not None


def _install(name: str) -> str:
    return INSTALL.replace("cuda]", "cuda-mlir]") if name == "numba-cuda-mlir" else INSTALL


def _wrong_version(name: str) -> str:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    if version.split(".")[:2] == SUPPORTED[name].split("."):
        return ""
    return f"{name} has version {version}. Expected {SUPPORTED[name]}.*. {_install(name)}"


NAME, PROBLEM = _chosen()
cuda: Any  # what kernels call has its types on the device
try:
    cuda = importlib.import_module("numba_cuda_mlir.cuda" if NAME == "numba-cuda-mlir" else "numba.cuda")
except ImportError as error:
    cuda = None
    PROBLEM = PROBLEM or f"the package {NAME or 'numba-cuda'} cannot be imported: {error}. {_install(NAME)}"


def simulator() -> tuple[Any, Any]:
    """The two modules of Numba's simulator that :mod:`simulator` mends."""
    names = "numba.cuda.simulator.kernelapi", "numba.cuda.simulator.cudadrv.devicearray"
    return importlib.import_module(names[0]), importlib.import_module(names[1])


def ptx(kernel: Any, arguments: tuple[Any, ...], capability: tuple[int, int]) -> str:
    """The kernel's PTX, for arguments of these types, on a device of this compute capability, which need not be here.

    Both packages ask the current device for its capability while they compile what kernels call; here they are told.
    """
    if NAME == "numba-cuda-mlir":
        typing = importlib.import_module("numba_cuda_mlir.numba_cuda.typing.typeof")
        asked, name, answer = importlib.import_module("numba_cuda_mlir.tools"), "_cached_cc", capability
    else:
        typing = importlib.import_module("numba")
        asked, name = importlib.import_module("numba.cuda.dispatcher"), "get_current_device"
        answer = lambda: SimpleNamespace(compute_capability=capability)  # noqa: E731
    before = getattr(asked, name)
    setattr(asked, name, answer)
    try:
        signature = cuda.types.void(*map(typing.typeof, arguments))
        return cuda.compile_ptx(kernel.py_func, signature, cc=capability)[0]
    finally:
        setattr(asked, name, before)
