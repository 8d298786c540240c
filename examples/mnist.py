"""Train a small convolutional network to read handwritten digits: about 99 % after 15 epochs.

With ``--recipe best`` the same network, of 34,826 parameters, sees each digit a little turned, stretched and shifted,
never twice the same, and is trained for longer: 99.5 %, the mean of five seeds (benchmarks/results/accuracy-best.md).

This is the first chapter: everything a training run needs, from the images to the final accuracy. To learn how a
line does what it does, open tinyconv/models/sequential.py, tinyconv/layers and tinyconv/plan, in that order.

    python examples/mnist.py
    python examples/mnist.py --recipe best
    mpiexec -n 2 python examples/mnist.py --distribute --seed 1
    python examples/mnist.py --help
"""

import argparse
import math
import os
import sys
import time
from typing import NamedTuple

import numpy as np

import tinyconv as keras
from tinyconv import layers


def main() -> None:
    options = parse_options()
    started = time.perf_counter()
    leads = not options.distribute or take_part()
    try:
        if options.seed is not None:
            keras.utils.set_random_seed(options.seed)
        if options.threads is not None:
            keras.set_threads(options.threads)
    except ValueError as error:  # the message says what is possible
        raise SystemExit(str(error)) from None

    # The data: images as numbers from 0 (paper) to 1 (ink), with one channel (three if they have colours), and for each
    # image a row with a 1 at its class: label 3 of 10 classes is [0, 0, 0, 1, 0, 0, 0, 0, 0, 0].
    (x_train, y_train), (x_test, y_test), class_names = load(options.dataset)
    num_classes = len(class_names)
    x_train = x_train.astype("float32") / 255
    x_test = x_test.astype("float32") / 255
    print(f"{options.dataset}: {len(x_train):,} training and {len(x_test):,} test images of {x_train.shape[1:]}")

    # The network. Convolutions look for small patterns, 3 x 3 pixels and then 3 x 3 of what the first ones found;
    # pooling keeps the strongest answer of each 2 x 2 square; the dense layer weighs all answers for each class.
    # Dropout hides a random half of them during training, so that the network relies on none of them alone.
    recipe = best(options, len(x_train)) if options.recipe == "best" else notebook(options)
    model = keras.Sequential(
        [
            keras.Input(shape=x_train.shape[1:]),
            *recipe.augmentation,
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(recipe.dropout),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )
    model.summary()

    # Training. Each step takes a batch of images, measures how wrong the answers are (the loss), asks every weight
    # which way lowers it (the gradient), and moves all weights a little (the optimiser, Adam).
    loss = "categorical_crossentropy"
    model.compile(loss=loss, optimizer=recipe.optimizer, metrics=["accuracy"], backend=options.backend)
    try:
        model.fit(
            x_train,
            keras.utils.to_categorical(y_train, num_classes),
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            validation_split=recipe.validation,  # 0.1: 6,000 images are not trained on. How well are they read?
        )
    except KeyboardInterrupt:
        if not model.optimizer.iterations:
            raise SystemExit("\nStopped before the first step: nothing to evaluate.") from None
        print("\nStopped. This is how far it came:")

    # The test: images that the network has never seen.
    loss, accuracy = model.evaluate(x_test, keras.utils.to_categorical(y_test, num_classes), verbose=0)
    print(f"Test loss:     {loss:.4f}")
    print(f"Test accuracy: {accuracy:.4f}")
    print(f"Total time:    {time.perf_counter() - started:.1f} s")
    if options.seed is not None:
        print(keras.distribution.receipt(model))

    if options.report:
        predictions = model.predict(x_test)  # which processes share, too
        if leads:
            title = f"{options.dataset.upper()}, test accuracy {accuracy:.2%}"
            write_report(options.report, model.history.history, x_test, y_test, predictions, class_names, title)


def take_part() -> bool:
    """Train together with the other processes that mpiexec has started. Whether this is the one that says so."""
    try:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    except ImportError as error:  # the message says what to install
        raise SystemExit(str(error)) from None
    rank, processes = keras.distribution.distribution().rank, keras.distribution.get_device_count()
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the program ends
    print(f"Training in {processes} process{'es' * (processes > 1)}.")
    return rank == 0


class Recipe(NamedTuple):
    """How to train."""

    epochs: int
    batch_size: int
    augmentation: list[layers.Layer]  # that change the images, in training only
    dropout: float
    optimizer: str | keras.optimizers.Optimizer
    validation: float


def notebook(options: argparse.Namespace) -> Recipe:
    return Recipe(options.epochs or 15, options.batch_size or 128, [], dropout=0.5, optimizer="adam", validation=0.1)


def best(options: argparse.Namespace, samples: int) -> Recipe:
    """Every digit in a new shape at every epoch: turned by up to 12 degrees, 10 % larger or smaller in either
    direction, slanted, and moved by up to two pixels. The steps become smaller, down to none at the end. Nothing is
    left to be chosen, so all images are trained on."""
    epochs, batch_size = options.epochs or 40, options.batch_size or 64
    paper = {"fill_mode": "constant"}  # is what lies beyond the edge
    augmentation = [
        layers.RandomRotation(12 / 360, **paper),
        layers.RandomZoom(0.1, 0.1, **paper),
        layers.RandomShear(0.15, **paper),
        layers.RandomTranslation(2 / 28, 2 / 28, **paper),
    ]
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * math.ceil(samples / batch_size))
    return Recipe(epochs, batch_size, augmentation, dropout=0.3, optimizer=keras.optimizers.Adam(rate), validation=0.0)


def load(dataset: str):
    """Training and test data, with a channel axis, and the names of the classes."""
    if dataset == "mnist":  # the files inside the package, in their official order
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
        return (x_train[..., np.newaxis], y_train), (x_test[..., np.newaxis], y_test), list("0123456789")
    try:
        data = keras.datasets.load(dataset)  # from TensorFlow Datasets
    except (ImportError, RuntimeError, ValueError) as error:  # the message says what to do
        raise SystemExit(str(error)) from error
    return data.train, data.test, data.class_names


def write_report(path: str, *results) -> None:
    try:
        from tinyconv.inspect.report import training_report

        training_report(*results).savefig(path)
        print(f"Report:        {path}")
    except (ImportError, OSError, ValueError) as error:  # no matplotlib, or not a path to write a picture to
        print(f"Report:        not drawn. {error}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a convolutional network to read handwritten digits. Ctrl-C stops early, with a result."
    )
    add = parser.add_argument
    add("--recipe", choices=("notebook", "best"), default="notebook", help="how to train (notebook)")
    add("--epochs", type=positive, help="how often to go through the training images (15; of the best recipe: 40)")
    add("--batch-size", type=positive, help="images per training step (128; of the best recipe: 64)")
    add("--seed", type=int, help="an integer that makes the run repeatable (another one each time)")
    add("--backend", choices=("auto", "cpu", "cuda", "reference"), default="auto", help="what computes (auto)")
    add("--threads", type=positive, help="how many CPU threads (all)")
    add("--distribute", action="store_true", help="train in all processes that mpiexec has started")
    add("--dataset", default="mnist", help="mnist, or an image set of TensorFlow Datasets, like cifar10 (mnist)")
    add("--report", default="mnist_report.png", metavar="PATH", help="the picture; '' for none (mnist_report.png)")
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {number}")
    return number


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
    except RuntimeError as error:  # this backend cannot run here; the message says why
        raise SystemExit(str(error)) from None
