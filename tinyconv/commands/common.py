"""What several commands share: how they speak, which network and images they take, and which values options have."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tinyconv
from tinyconv import layers
from tinyconv.checking import console

Result = dict[str, Any]


def say(options: argparse.Namespace, text: str) -> None:
    """Print for a person; with --json only the result is printed."""
    if not options.json:
        console.write(text)


def complain(text: str) -> None:
    """Print beside the result."""
    console.write(text, sys.stderr)


# The network and the images


def network(input_shape: tuple[int, ...], classes: int) -> tinyconv.Sequential:
    """The network of examples/mnist.py."""
    return tinyconv.Sequential(
        [
            tinyconv.Input(input_shape),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def compiled(input_shape: tuple[int, ...], classes: int, backend: str) -> tinyconv.Sequential:
    model = network(input_shape, classes)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], backend=backend)
    return model


def made_up(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of MNIST's shape that mean nothing."""
    rng = np.random.default_rng(0)
    return rng.random((samples, 28, 28, 1), np.float32), rng.integers(0, 10, samples)


def images(dataset: str) -> tuple[Any, Any, Sequence[str]]:
    """Training and test images, with a channel axis, their labels, and the names of the classes."""
    if dataset == "mnist":
        (x_train, y_train), (x_test, y_test) = tinyconv.datasets.mnist.load_data()
        return (x_train[..., None], y_train), (x_test[..., None], y_test), list("0123456789")
    data = tinyconv.datasets.load(dataset)
    return data.train, data.test, data.class_names


# The values of options


def integer(at_least: int, at_most: float = math.inf) -> Callable[[str], int]:
    """Reads an integer within these bounds."""
    expected = (
        f"an integer of at least {at_least}" if at_most == math.inf else f"an integer from {at_least} to {at_most}"
    )

    def integer(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not at_least <= number <= at_most:
            raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}")
        return number

    return integer


def threads(text: str) -> int:
    from tinyconv.kernels.cpu.runtime.threads import SETTINGS

    return integer(1, SETTINGS.NUMBA_NUM_THREADS)(text)


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0 and up to 3600, received {text!r}")
    return number
