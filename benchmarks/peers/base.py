"""What every peer can be asked to do."""

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks import measure, network, networks, report
from benchmarks.measure import seconds_per_call


class Peer:
    """One way to train and run the network. The subclasses say how; here is what is the same for all.

    Args:
        threads: how many threads to use.
    """

    packages: tuple[str, ...] = ()  # whose versions to report

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.prepared: tuple[network.Convolution, dict[str, Callable[[], Any]]] | None = None

    def facts(self) -> dict[str, str]:
        """Versions, and settings worth reporting."""
        return {package: version(package) for package in self.packages}

    def load(self, folder: str) -> None:
        """Read the training data, and make the network anew from the common weights."""
        self.x, self.y = network.load_data(folder)
        self.build()

    def build(self) -> None:
        """Make the network, ready to train, from the common weights."""
        raise NotImplementedError

    def take(self, name: str, weights: list[np.ndarray], samples: int) -> None:
        """Leave the seed's network for another of ``benchmarks.networks``, and its samples, from these weights."""
        self.network = networks.NETWORKS[name]
        self.x, self.y = self.network.data(samples)
        self.build_other(weights)

    def build_other(self, weights: list[np.ndarray]) -> None:
        """Make ``self.network``, ready to train with Adam."""
        raise NotImplementedError

    def outputs(self, samples: int) -> np.ndarray:
        """The probabilities for the first samples, (samples, 10)."""
        raise NotImplementedError

    def epoch(self, samples: int, batch_size: int) -> float:
        """Train once through the first samples, shuffled. Returns the mean loss."""
        raise NotImplementedError

    def train(self, samples: int, batch_size: int) -> tuple[float, float]:
        """:meth:`epoch`, timed: (seconds, loss)."""
        start = time.perf_counter()
        loss = self.epoch(samples, batch_size)
        return time.perf_counter() - start, loss

    def inference(self, batch_size: int) -> Callable[[], Any]:
        """A call that computes the probabilities of the first ``batch_size`` images, as a NumPy array."""
        raise NotImplementedError

    def infer(self, batch_size: int, at_least: float = 0.2) -> float:
        """Seconds per batch."""
        assert len(self.x) >= batch_size
        return seconds_per_call(self.inference(batch_size), at_least)

    def convolution(self, shape: network.Convolution) -> dict[str, Callable[[], Any]]:
        """For each pass of a convolution a call that computes it: "forward", "dW", "dX" (and "dW and dX")."""
        raise NotImplementedError

    def convolve(self, shape: network.Convolution, what: str, at_least: float = 0.1) -> float:
        """Seconds per pass."""
        return seconds_per_call(self.passes(shape)[what], at_least)

    def passes(self, shape: network.Convolution) -> dict[str, Callable[[], Any]]:
        """:meth:`convolution`, kept for the next call."""
        if self.prepared is None or self.prepared[0] != shape:
            self.prepared = shape, self.convolution(shape)
        return self.prepared[1]

    def convolved(self, shape: network.Convolution) -> dict[str, np.ndarray]:
        """The result of each pass: out (NHWC), dW (HWIO), dX (NHWC)."""
        raise NotImplementedError

    def matrix_product(self, size: int, at_least: float = 0.2) -> float:
        """Seconds for a product of two square float32 matrices."""
        raise NotImplementedError

    def processor_seconds(self) -> float:
        """Processor time of this process, and of its children that have ended."""
        return report.own_seconds()

    def peak_memory(self) -> int:
        """The most bytes of memory this process has had."""
        return measure.peak_memory()
