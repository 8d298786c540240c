"""A receipt: what shows that two runs had the same result, or from where on they could differ."""

import functools
import hashlib
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tinyconv import random
from tinyconv.network import Network

VERSIONS = ("tinyconv", "numpy", "numba")


@dataclass(frozen=True)
class Receipt:
    """The SHA-256 of a model's weights, the seed that was set, and the versions of what computed.

    ``sha256``: of all weights in Keras' order, each as its name and shape, and its numbers in little-endian float32.
    """

    sha256: str
    seed: int | None
    versions: dict[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"Receipt: weights sha256 {self.sha256}, seed {self.seed}, {versions}"


def receipt(model: Network) -> Receipt:
    """The receipt of a model as it is now."""
    names = [f"{path}/{name}" for path, layer in model._leaves for name in layer._arrays]
    digest = hashlib.sha256()
    for name, array in zip(names, model.get_weights(), strict=True):
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, "<f4").data)
    return Receipt(digest.hexdigest(), random.last_seed(), versions())


def versions() -> dict[str, str]:
    """The versions of what computes."""
    return {name: version(name) for name in VERSIONS} | {"python": platform.python_version()}


@functools.cache
def sources() -> str:
    """What shows whether two installations of a version are the same."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
