"""Time an epoch of the MNIST network without and with augmentation, in turns, and print what augmentation costs.

python -m benchmarks.augmentation
python -m benchmarks.augmentation --rounds 9 --record
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tinyconv
from benchmarks import network, report
from benchmarks.measure import Timing, alternate, interleave
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
    models = {name: model_with(own, options) for name, own in kinds().items()}
    times = interleave({name: turn(model, options) for name, model in models.items()}, options.rounds)
    shares = {name: share_of_step(model) for name, model in models.items()}
    plain = times["nothing"]
    rows = [(name, str(time), added(time, plain), f"{100 * shares[name]:.1f} %") for name, time in times.items()]
    facts = {**report.machine(), "backend": options.backend, "images": str(options.samples)}
    facts["other load"] = watch.share()
    columns = ("augmentation", "an epoch, median ± spread", "more than without", "its own steps, of a step")
    table = report.table(columns, rows, right=(1, 2, 3))
    body = f"{report.facts_list(facts)}\n\n{table}\n\nAt most {SHARE:.0%} is the aim.\n"
    print(body)
    found = {"facts": facts, "epochs": {name: time.seconds for name, time in times.items()}, "shares": shares}
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


@functools.cache
def images(samples: int) -> tuple[np.ndarray, np.ndarray]:
    (x, y), _ = tinyconv.datasets.mnist.load_data()
    return x[:samples, ..., np.newaxis].astype(np.float32) / 255, y[:samples]


def model_with(own: list[Any], options: argparse.Namespace) -> tinyconv.Sequential:
    """The network behind these layers, its kernels compiled."""
    tinyconv.utils.set_random_seed(0)
    x, y = images(options.samples)
    model = tinyconv.Sequential([tinyconv.Input(shape=(28, 28, 1)), *own, *network.keras_model(tinyconv).layers])
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", backend=options.backend)
    model.fit(x[:128], y[:128], batch_size=128, verbose=0)
    return model


def turn(model: tinyconv.Sequential, options: argparse.Namespace) -> Callable[[], float]:
    """What trains an epoch and returns its seconds."""
    x, y = images(options.samples)

    def epoch() -> float:
        seconds = Seconds()
        model.fit(x, y, batch_size=128, verbose=0, callbacks=[seconds])
        return seconds.total

    return epoch


def share_of_step(model: tinyconv.Sequential) -> float:
    """The time of the warp's kernels alone, as a share of that of a whole step; both in turns, medians."""
    plan = model.plan
    own = [step.call for step in plan.steps["forward"] if "warp" in step.kernel_name]
    if not own:
        return 0.0
    step, warp = alternate([plan.program(*plan.steps), plan.kernels.record(own)], at_least=0.5)
    return warp / step


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
