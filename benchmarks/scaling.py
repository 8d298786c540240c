"""How the cost of a training step grows with the batch, the image, the channels and the threads; or the processes.

    python benchmarks/scaling.py             prints the table
    python benchmarks/scaling.py --record    writes it, and a picture, into benchmarks/results
    python benchmarks/scaling.py --ranks     the same of the number of processes (scaling_ranks.py)

Varies one of them at a time around the MNIST network at batch 128.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tinyconv as keras
from benchmarks import measure, network, report, scaling_ranks
from tinyconv.kernels.cpu.runtime import threads as pool

MOST_THREADS = pool.get_threads()


class Setting(NamedTuple):
    """One training step: its batch, the size of its square images, the filters of its first convolution (the second
    has twice as many), and the threads it runs on."""

    batch: int = 128
    image: int = 28
    channels: int = 32
    threads: int = MOST_THREADS

    @property
    def flops(self) -> float:
        """Forward and backward of both convolutions: each pass takes as many, but the first needs no dX."""
        first = network.Convolution(self.batch, self.image, 1, self.channels, 3)
        second = network.Convolution(self.batch, first.out_size // 2, self.channels, 2 * self.channels, 3)
        return 2 * first.flops + 3 * second.flops


class Cost(NamedTuple):
    """What a step costs."""

    timing: measure.Timing
    memory: int  # bytes of all buffers of the plan, and of parameters, gradients and moments


def axes(quick: bool) -> dict[str, list[Setting]]:
    """The values of each quantity that is varied."""
    one = Setting()
    threads = sorted({1, *(2**i for i in range(10) if 2**i < MOST_THREADS), MOST_THREADS})
    values = {
        "batch": [8, 32, 128, 512, 1024],
        "image": [12, 20, 28, 44, 68, 100],
        "channels": [8, 16, 32, 64, 128],
        "threads": threads,
    }
    if quick:
        one, values = (
            Setting(4, 12, 4),
            {"batch": [2, 4], "image": [12, 14], "channels": [2, 4], "threads": threads[:1]},
        )
    return {name: [one._replace(**{name: value}) for value in found] for name, found in values.items()}


def prepare(setting: Setting, backend: str) -> tuple[Callable[[], float], int]:
    """A turn that times training steps, and their memory; compiled, and checked to learn."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(shape=(setting.image, setting.image, 1)),
            layers.Conv2D(setting.channels, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(2 * setting.channels, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", backend=backend)
    rng = np.random.default_rng(0)
    x = rng.random((setting.batch, setting.image, setting.image, 1), np.float32)
    y = np.eye(10, dtype=np.float32)[rng.integers(0, 10, setting.batch)]
    losses = [model.train_on_batch(x, y) for _ in range(10)]
    if not losses[-1] < losses[0]:
        raise AssertionError(f"{setting} does not learn: {losses}.")

    def turn() -> float:
        pool.set_threads(setting.threads)
        try:
            return measure.seconds_per_call(lambda: model.train_on_batch(x, y), 0.1)
        finally:
            pool.set_threads(MOST_THREADS)

    held = sum(array.nbytes for array in model.plan.buffers.values()) + 4 * 4 * model.count_params()
    return turn, held


def measure_all(settings: dict[str, list[Setting]], rounds: int, backend: str) -> dict[Setting, Cost]:
    """All settings, in turns."""
    distinct = dict.fromkeys(setting for found in settings.values() for setting in found)
    prepared = {setting: prepare(setting, backend) for setting in distinct}
    times = measure.interleave({str(setting): turn for setting, (turn, _) in prepared.items()}, rounds)
    return {setting: Cost(times[str(setting)], held) for setting, (_, held) in prepared.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--quick", action="store_true", help="tiny networks; the times mean nothing")
    parser.add_argument("--backend", default="cpu", help="tinyconv's kernels")
    parser.add_argument("--ranks", action="store_true", help="the number of processes instead")
    report.add_output(parser)
    options = parser.parse_args(arguments)
    if options.ranks:
        scaling_ranks.record(options.rounds, options.quick, options.out)
        return
    watch = report.LoadWatch()
    settings = axes(options.quick)
    costs = measure_all(settings, options.rounds, options.backend)
    rows = []
    for name, found in settings.items():
        for setting in found:
            timing, memory = costs[setting]
            per_image = measure.duration(timing.median / setting.batch)
            speed = f"{setting.flops / timing.median / 1e9:.0f}"
            rows.append((name, getattr(setting, name), timing, per_image, speed, f"{memory / 2**20:.1f} MB"))
    columns = ("varied", "value", "training step", "per image", "GFLOP/s", "memory")
    text = report.table(columns, rows, right=(1, 2, 3, 4, 5))
    print(text)
    facts = report.machine() | {"threading layer": pool.threading_layer(), "other load": watch.share()}
    about = (
        "Made by `python benchmarks/scaling.py --record`: one quantity at a time is varied around the MNIST network "
        f"(without dropout) with batch 128, images of 28x28, 32 and 64 filters, {MOST_THREADS} threads. GFLOP/s count "
        "dense products; a backward pass through pooling skips most of them, so they may exceed the processor's peak. "
        f"Times are medians of {options.rounds} turns, ± half the distance between the slowest and the fastest."
    )
    body = f"{about}\n\n{text}\n\n![Scaling](scaling.png)\n\n{report.facts_list(facts)}"
    content = {
        "machine": facts,
        "costs": [{**s._asdict(), "seconds": c[0].seconds, "bytes": c[1]} for s, c in costs.items()],
    }
    report.write(options.out, "scaling", "How the cost of a training step grows", body, content)
    draw(settings, costs, options.out, f"{facts['processor']}, {facts['date']}")


LABELS = {
    "batch": "images in a batch",
    "image": "height and width of the images",
    "channels": "filters of the first convolution",
    "threads": "threads",
}


def draw(settings: dict[str, list[Setting]], costs: dict[Setting, Cost], folder: Path | None, caption: str) -> None:
    """Time above and memory below, one column for each quantity."""

    def paint(figure: Any) -> None:
        grid = figure.subplots(2, len(settings), sharey="row", sharex="col")
        paint_grid(grid, settings, costs)
        figure.suptitle("How the cost of a training step grows", fontweight="bold", x=0.01, ha="left", fontsize=11)

    report.picture(folder, "scaling", (11, 5), paint, caption)


def paint_grid(grid: Any, settings: dict[str, list[Setting]], costs: dict[Setting, Cost]) -> None:
    """One quantity in each column of two axes."""
    for column, (name, found) in enumerate(settings.items()):
        values = [getattr(setting, name) for setting in found]
        power, memory_power = {"image": (2, 2), "channels": (2, 1), "threads": (-1, 0)}.get(name, (1, 1))
        times = [1000 * costs[setting].timing.median for setting in found]
        memory = [costs[setting].memory / 2**20 for setting in found]
        for row, (numbers, exponent) in enumerate(((times, power), (memory, memory_power))):
            a = grid[row, column]
            ideal = [numbers[-1 if power > 0 else 0] * (v / values[-1 if power > 0 else 0]) ** exponent for v in values]
            law = {-1: "1 / threads", 0: "constant", 1: "proportional", 2: "proportional to the square"}[exponent]
            a.plot(values, ideal, color="#aaaaaa", linestyle=":", label=law)
            a.plot(values, numbers, color=report.OURS, marker="o")
            a.set(xscale="log", yscale="log")
            a.set_xticks(values, [str(value) for value in values])
            a.minorticks_off()
            a.legend(frameon=False, fontsize=8)
        grid[1, column].set_xlabel(LABELS[name])
    grid[0, 0].set_ylabel("ms per training step")
    grid[1, 0].set_ylabel("MB of buffers")
    for a in grid[:, 0]:
        a.yaxis.set_major_formatter("{x:g}")


if __name__ == "__main__":
    main()
