"""99 % on MNIST in little time: one run, by tinyconv or by a peer. ``benchmarks/record.py`` times the whole process.

    python -m benchmarks.fastest tinyconv --seed 3

Two epochs in batches of 32. The learning rate rises to 6e-3 and falls again along half waves of a cosine
(Smith and Topin, 2018); drop-out is 0.25. ``--held-out`` tests on the last 10,000 training images instead, which is how
to try other settings: the test images have no say in them.
"""

import argparse
import functools
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import network, report

EPOCHS, BATCH, RATE, DROPOUT = 2, 32, 6e-3, 0.25
HELD_OUT = 10_000
Data = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", choices=PROGRAMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--samples", type=int, help="fewer images, for training and for the test")
    parser.add_argument("--held-out", action="store_true", help="test on training images that are not trained on")
    parser.add_argument("--backend", default="cpu", help="tinyconv's kernels")
    parser.add_argument("--data", type=Path, help="a folder with the arrays, for peers: reading them is free")
    options = parser.parse_args()
    print(f"Test accuracy: {PROGRAMS[options.who](options):.4f}")


def split(options: argparse.Namespace, train: Data, test: Data) -> tuple[Data, Data]:
    """Training and test data: images from 0 to 1, with a channel."""
    x, y = train
    if options.held_out:
        x, test, y = x[:-HELD_OUT], (x[-HELD_OUT:], y[-HELD_OUT:]), y[:-HELD_OUT]
    x, y, test = x[: options.samples], y[: options.samples], (test[0][: options.samples], test[1][: options.samples])
    images, test_images = (array[..., np.newaxis].astype(np.float32) / 255 for array in (x, test[0]))
    return (images, y.astype(np.int64)), (test_images, test[1].astype(np.int64))


def read(options: argparse.Namespace) -> tuple[Data, Data]:
    """What ``record.py`` has written."""
    train, test = ((np.load(options.data / f"{x}.npy"), np.load(options.data / f"{y}.npy")) for x, y in FILES)
    return split(options, train, test)


FILES = (("x_train", "y_train"), ("x_test", "y_test"))


def steps(options: argparse.Namespace, samples: int) -> int:
    return options.epochs * math.ceil(samples / BATCH)


def tinyconv(options: argparse.Namespace) -> float:
    import tinyconv

    data = split(options, *tinyconv.datasets.mnist.load_data())
    schedule = tinyconv.optimizers.schedules.OneCycle(RATE, steps(options, len(data[0][0])))
    return fit(tinyconv, options, schedule, data, backend=options.backend)


def keras_tensorflow(options: argparse.Namespace) -> float:
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import keras

    class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
        """tinyconv's, which Keras does not have."""

        def __init__(self, total: int) -> None:
            self.total = total

        def __call__(self, step: Any) -> Any:
            start, peak = RATE / 25, 0.3 * self.total
            step = keras.ops.cast(step, "float32")
            rises = step < peak
            low = keras.ops.where(rises, start, start / 1e4)
            share = keras.ops.where(rises, 1 - step / peak, (step - peak) / (self.total - peak))
            return low + (RATE - low) * 0.5 * (1 + keras.ops.cos(math.pi * share))

    data = read(options)
    return fit(keras, options, OneCycle(steps(options, len(data[0][0]))), data)


def fit(keras: Any, options: argparse.Namespace, schedule: Any, data: tuple[Data, Data], **settings: Any) -> float:
    """Train and test with anything that has Keras' names."""
    (x, y), test = data
    keras.utils.set_random_seed(options.seed)
    model = network.keras_model(keras, DROPOUT)
    optimizer = keras.optimizers.Adam(schedule)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **settings)
    model.fit(x, y, batch_size=BATCH, epochs=options.epochs, verbose=0)
    return model.evaluate(*test, batch_size=1000, verbose=0)[1]


def pytorch(options: argparse.Namespace, channels_last: bool) -> float:
    from torch.optim.lr_scheduler import OneCycleLR

    from benchmarks.peers.pytorch import PyTorch

    train, (x_test, y_test) = read(options)
    peer = PyTorch(report.cores(), channels_last)
    peer.x, peer.y = train
    peer.build(options.seed, DROPOUT)
    schedule = OneCycleLR(peer.optimizer, RATE, steps(options, len(peer.x)), div_factor=25, cycle_momentum=False)
    peer.optimizer.register_step_post_hook(lambda *_: schedule.step())
    for _ in range(options.epochs):
        peer.epoch(len(peer.x), BATCH)
    right = 0
    for first in range(0, len(x_test), 1000):
        part = slice(first, first + 1000)
        peer.show(x_test[part])
        right += int((peer.outputs(len(x_test[part])).argmax(1) == y_test[part]).sum())
    return right / len(x_test)


PROGRAMS = {
    "tinyconv": tinyconv,
    "Keras on TensorFlow": keras_tensorflow,
    "PyTorch": functools.partial(pytorch, channels_last=False),
    "PyTorch channels_last": functools.partial(pytorch, channels_last=True),
}

if __name__ == "__main__":
    main()
