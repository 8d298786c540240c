"""The peers that tinyconv is compared with, and how to start each in a process of its own.

All do the same work: the same network from the same weights, the same batches of the same data in a random order,
dropout, Adam with the same constants, and the training loss and accuracy of the epoch.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.worker import Worker


@dataclass(frozen=True)
class Contender:
    """A contender: its name in the tables, its class, and the packages that it needs."""

    name: str
    peer: str
    needs: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    trains: bool = True
    infers: bool = True

    @property
    def missing(self) -> list[str]:
        return [package for package in self.needs if importlib.util.find_spec(package) is None]

    def start(self, threads: int, keep_memory: bool = True, **arguments: Any) -> Worker:
        return Worker(self.peer, threads, keep_memory, {**self.arguments, **arguments})


TINYCONV = Contender("tinyconv", "tiny:Tinyconv", ("tinyconv",))
KERAS_TENSORFLOW = Contender(
    "Keras on TensorFlow", "keras:Keras", ("keras", "tensorflow"), {"backend": "tensorflow"}, infers=False
)
KERAS_JAX = Contender("Keras on JAX", "keras:Keras", ("keras", "jax"), {"backend": "jax"}, infers=False)
TORCH = Contender("PyTorch", "pytorch:PyTorch", ("torch",))
TORCH_CHANNELS_LAST = Contender("PyTorch channels_last", "pytorch:PyTorch", ("torch",), {"channels_last": True})
TORCH_COMPILED = Contender("PyTorch compiled", "pytorch:PyTorch", ("torch",), {"channels_last": True, "compiled": True})
ONNX_RUNTIME = Contender("ONNX Runtime", "onnx:OnnxRuntime", ("onnx", "onnxruntime"), trains=False)

PEERS = (KERAS_TENSORFLOW, KERAS_JAX, TORCH, TORCH_CHANNELS_LAST, TORCH_COMPILED, ONNX_RUNTIME)


def installed(peers: Sequence[Contender]) -> tuple[list[Contender], list[str]]:
    """The peers that can take part, and a line about each that cannot."""
    absent = [
        f"{peer.name} does not take part: {', '.join(peer.missing)} is not installed" for peer in peers if peer.missing
    ]
    return [peer for peer in peers if not peer.missing], absent
