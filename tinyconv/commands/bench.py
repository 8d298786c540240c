"""``tinyconv bench``: how fast each backend trains on this machine."""

import argparse
import os
import time

import numpy as np

from tinyconv import kernels
from tinyconv.commands.common import Result, compiled, integer, made_up, say, seconds


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seconds", type=seconds, default=3.0, help="how long to measure each backend (3)")
    command.add_argument("--batch-size", type=integer(1), default=128, help="images per training step (128)")


def run(options: argparse.Namespace) -> Result:
    """Training steps of the example's network on made-up images: the median and the spread of those that fit."""
    x, y = made_up(options.batch_size)
    names = ["reference", "cpu", *(["cuda"] if kernels.cuda_usable() else [])]
    say(options, f"Steps of {options.batch_size} images. Load average: {_load() or 'not known'}.")
    say(options, f"{'backend':<10} {'median':>10} {'fastest - slowest':>21} {'steps':>6} {'images/s':>10}  speed")
    measured: Result = {}
    for name in names:
        model = compiled((28, 28, 1), 10, name)
        for _ in range(1 if name == "reference" else 3):
            model.train_on_batch(x, y)  # compiles, and fills the caches
        times: list[float] = []
        while not times or sum(times) < options.seconds:
            start = time.perf_counter()
            model.train_on_batch(x, y)
            times.append(time.perf_counter() - start)
        median, fastest, slowest = (1e3 * float(pick(times)) for pick in (np.median, min, max))
        first = next(iter(measured.values()), {"step_ms": median})
        measured[name] = {
            "step_ms": median,
            "fastest_ms": fastest,
            "slowest_ms": slowest,
            "images_per_second": 1e3 * options.batch_size / median,
            "steps": len(times),
            "times_reference": first["step_ms"] / median,
        }
        spread, rate = f"{fastest:.2f} - {slowest:.2f} ms", f"{1e3 * options.batch_size / median:,.0f}"
        ratio = f"{first['step_ms'] / median:.1f} x reference"
        say(options, f"{name:<10} {median:7.2f} ms {spread:>21} {len(times):>6} {rate:>10}  {ratio}")
    return {"batch_size": options.batch_size, "cpus": os.cpu_count(), "load": _load(), "backends": measured}


def _load() -> float | None:
    """How many processes wanted a processor in the last minute; above the number of processors timings are too long."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # Windows
        return None
