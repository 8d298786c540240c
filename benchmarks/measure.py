"""The one way in which all benchmarks here measure: warm up, take turns, and report medians with their spread."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

K = TypeVar("K")


class Timing(NamedTuple):
    """The seconds that several runs of the same work took."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the slowest and the fastest run, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / 2 / self.median

    def __str__(self) -> str:
        spread = f" ± {100 * self.spread:.0f} %" if len(self.seconds) > 1 else ""
        return duration(self.median) + spread


def seconds_per_call(function: Callable[[], object], at_least: float = 0.1, calls: int = 3, warm_up: int = 1) -> float:
    """The median time of a call, over as many calls as fill ``at_least`` seconds, but not fewer than ``calls``, after
    ``warm_up`` others."""
    return alternate([function], at_least, calls, warm_up)[0]


def alternate(
    functions: Sequence[Callable[[], object]], at_least: float = 0.1, calls: int = 3, warm_up: int = 1
) -> list[float]:
    """:func:`seconds_per_call` of some functions that are called one after the other, again and again."""
    for function in [*functions] * warm_up:
        function()
    times: list[list[float]] = [[] for _ in functions]
    while len(times[0]) < calls or sum(map(sum, times)) < at_least:
        for function, found in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def interleave(turns: Mapping[K, Callable[[], float]], rounds: int) -> dict[K, Timing]:
    """Let each take a turn, ``rounds`` times: whatever else the machine is doing affects all alike.

    A turn does its work and returns the seconds it took. The order is reversed in every second round, so that none
    always runs after the same other.
    """
    times: dict[K, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        names = list(turns)
        for name in names if number % 2 == 0 else reversed(names):
            times[name].append(turns[name]())
    return {name: Timing(tuple(found)) for name, found in times.items()}


def duration(seconds: float) -> str:
    """A time in a readable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}" if seconds / size < 1000 else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def peak_memory() -> int:
    """The most bytes of memory that this process has had. Not Linux's ``ru_maxrss``: a process begins there with what
    the one that started it had."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = (line.split() for line in status.read_text().splitlines())
        return next(int(line[1]) for line in lines if line[0] == "VmHWM:") * 1024
    import resource  # which Windows has not

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
