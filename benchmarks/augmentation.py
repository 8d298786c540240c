"""Time an epoch of the MNIST network without and with augmentation, in turns, and print what augmentation costs.

python -m benchmarks.augmentation
python -m benchmarks.augmentation --rounds 9 --record
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tinyconv
from benchmarks import network, report
from benchmarks.measure import Timing, interleave
from tinyconv import layers

SHARE = 0.05  # of an epoch, which augmentation may take at the most


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What augmentation adds to an epoch of the MNIST network.")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each, in turns")
    parser.add_argument("--samples", type=int, default=network.TRAINING_SAMPLES, help="images in an epoch")
    parser.add_argument("--backend", default="cpu")
    report.add_output(parser)
    options = parser.parse_args(arguments)
    watch = report.LoadWatch()
    times = interleave({name: turn(own, options) for name, own in kinds().items()}, options.rounds)
    plain = times["nothing"]
    rows = [(name, str(time), added(time, plain)) for name, time in times.items()]
    facts = {**report.machine(), "backend": options.backend, "images": str(options.samples)}
    facts["other load"] = watch.share()
    table = report.table(("augmentation", "an epoch, median ± spread", "more than without"), rows, right=(1, 2))
    body = f"{report.facts_list(facts)}\n\n{table}\n\nAt most {SHARE:.0%} is the aim.\n"
    print(body)
    found = {"facts": facts, "epochs": {name: time.seconds for name, time in times.items()}}
    report.write(options.out, "augmentation", "MNIST: what augmentation costs", body, found)


def kinds() -> dict[str, list[Any]]:
    """What is measured: layers that the network begins with. All neighbours are one warp."""
    fill: Any = {"fill_mode": "constant"}
    four = [
        layers.RandomRotation(12 / 360, **fill),
        layers.RandomZoom(0.1, 0.1, **fill),
        layers.RandomShear(0.15, 0.15, **fill),
        layers.RandomTranslation(2 / 28, 2 / 28, **fill),
    ]
    return {"nothing": [], "one layer": [layers.RandomRotation(12 / 360)], "four layers": four}


def turn(own: list[Any], options: argparse.Namespace) -> Callable[[], float]:
    """A network with these layers, as something that trains an epoch and returns its seconds."""
    tinyconv.utils.set_random_seed(0)
    (x, y), _ = tinyconv.datasets.mnist.load_data()
    x, y = x[: options.samples, ..., np.newaxis].astype(np.float32) / 255, y[: options.samples]
    plain = network.keras_model(tinyconv)
    model = tinyconv.Sequential([tinyconv.Input(shape=(28, 28, 1)), *own, *plain.layers])
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", backend=options.backend)
    model.fit(x[:1280], y[:1280], batch_size=128, verbose=0)  # compiles

    def epoch() -> float:
        seconds = Seconds()
        model.fit(x, y, batch_size=128, verbose=0, callbacks=[seconds])
        return seconds.total

    return epoch


class Seconds(tinyconv.callbacks.Callback):
    """The time between the beginning and the end of an epoch."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.total = -time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.total += time.perf_counter()


def added(time: Timing, plain: Timing) -> str:
    """The median over the rounds of what an epoch takes more than the plain one of the same round."""
    return f"{100 * (np.median(np.divide(time.seconds, plain.seconds)) - 1):+.1f} %"


if __name__ == "__main__":
    main()
