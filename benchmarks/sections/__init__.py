"""The sections of the comparison. Each function measures one, and returns its rows with their targets."""

from collections.abc import Callable

from benchmarks.report import Result
from benchmarks.sections import bandwidth, convolutions, mnist, networks, processes
from benchmarks.sections.session import Session

SECTIONS: dict[str, Callable[[Session], list[Result]]] = {
    "epoch": mnist.epoch,
    "networks": networks.training,
    "conv": convolutions.conv,
    "batch-norm": bandwidth.batch_norm,
    "inference": mnist.inference,
    "networks-inference": networks.inference,
    "batches": mnist.batches,
    "threads": mnist.threads,
    "busy": mnist.busy,
    "networks-busy": networks.busy,
    "memory": processes.memory,
    "networks-memory": networks.memory,
    "import": processes.imports,
    "first-step": processes.first_step,
}

__all__ = ["SECTIONS", "Session"]
