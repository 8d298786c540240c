"""``tinyconv warmup``: compile the kernels now, so that no training has to wait for it."""

import argparse
import time

import tinyconv
from tinyconv import kernels, layers
from tinyconv.commands.common import Result, made_up, network, say


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument("--backend", choices=("cpu", "cuda"), default="cpu", help="whose kernels to compile (cpu)")


def run(options: argparse.Namespace) -> Result:
    kernel_set = kernels.load(options.backend)
    start = time.perf_counter()
    functions = 0
    say(options, "Compiling ...")
    watch = getattr(kernel_set, "compile_watch", None)
    if watch is None:
        _train_every_layer(options.backend)
    else:
        with watch() as found:
            _train_every_layer(options.backend)
        functions = len(found.functions)
    result = {"backend": options.backend, "functions": functions, "seconds": time.perf_counter() - start}
    say(options, f"{functions} functions compiled, the others were there already: {result['seconds']:.1f} s.")
    return result


def _train_every_layer(backend: str) -> None:
    """Train, evaluate and predict with everything there is, for a step or two."""
    x, y = made_up(20)
    everything_else = tinyconv.Sequential(
        [
            tinyconv.Input(x.shape[1:]),
            layers.Conv2D(8, 3, strides=2, padding="same", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.MaxPooling2D(3, strides=1),
            layers.Conv2D(8, 3, activation="elu"),
            layers.AveragePooling2D(2),
            layers.Activation("sigmoid"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="tanh"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    optimizers = (tinyconv.optimizers.Adam(), tinyconv.optimizers.SGD())
    for model, optimizer in zip((network(x.shape[1:], 10), everything_else), optimizers, strict=True):
        top = tinyconv.metrics.SparseTopKCategoricalAccuracy(3)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy", top], backend=backend)
        model.fit(x, y, batch_size=16, epochs=1, verbose=0, validation_data=(x, y))
        model.predict(x)
