"""Packages that only some parts of tinyconv need; each comes with one of its extras."""

import sys
from typing import Any

EXTRAS = {
    "h5py": "save",
    "onnx": "onnx",
    "matplotlib": "plot",
    "PIL": "images",
    "tensorflow_datasets": "datasets",
    "tensorflow": "datasets",
    "importlib_resources": "datasets",
    "mpi4py": "mpi",
}
DISTRIBUTIONS = {"PIL": "Pillow"}


def need(purpose: str, *modules: str) -> Any:
    """Import these modules and return the first, or raise an ImportError that names the package and its extra.

    ``purpose`` begins the message, and the package ends its sentence: "Exporting needs".
    """
    for module in modules:
        try:
            __import__(module)
        except ImportError as error:
            missing = error.name if error.name in modules else module
            package = missing.partition(".")[0]
            absent = isinstance(error, ModuleNotFoundError) and error.name in (missing, package)
            cause = "" if absent else f" ({error})"  # it is there, and cannot be used
            raise ImportError(
                f"{purpose} {DISTRIBUTIONS.get(package, package)}{cause}: pip install 'tinyconv[{EXTRAS[package]}]'",
                name=missing,
            ) from error
    return sys.modules[modules[0]]
