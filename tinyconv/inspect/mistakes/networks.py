"""Small networks that classify images: each has the kernels that some mistakes are in."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyconv import losses
from tinyconv.checking.arguments import Shape
from tinyconv.inspect.mistakes.patch import Mistake, made
from tinyconv.layers import (
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    Input,
    LayerNormalization,
    Maximum,
    MaxPooling2D,
    Multiply,
    ReLU,
    UpSampling2D,
    ZeroPadding2D,
)
from tinyconv.models.model import Model
from tinyconv.models.sequential import Sequential
from tinyconv.random import set_random_seed
from tinyconv.trace.check import GradientCheck

CLASSES = 10
SMALL = (12, 10, 1)  # an image that has some pixels left after two pools


def _cnn(width: int) -> list[Any]:
    first = [Conv2D(width, 3, padding="same", activation="relu"), MaxPooling2D(2)]
    second = [Conv2D(width, 3, activation="relu"), MaxPooling2D(2)]
    return [*first, *second, Flatten(), Dropout(0.25), Dense(CLASSES, activation="softmax")]


def _strided(width: int) -> list[Any]:
    first = Conv2D(width, 3, strides=2, padding="same", activation="relu")
    second = Conv2D(width, 3, dilation_rate=2, padding="same", activation="relu")
    third = Conv2D(width, 3, strides=2, activation="relu")
    return [first, second, third, Flatten(), Dense(CLASSES, activation="softmax")]


def _overlapping(width: int) -> list[Any]:
    first = [Conv2D(width, 3, activation="relu"), MaxPooling2D(3, strides=2, padding="same")]
    second = [Conv2D(width, 3, activation="relu"), AveragePooling2D(3, strides=2, padding="same")]
    return [*first, *second, Flatten(), Dense(CLASSES, activation="softmax")]


def _normalised(width: int) -> list[Any]:
    conv = [Conv2D(width, 3, use_bias=False), BatchNormalization(momentum=0.9), ReLU(), MaxPooling2D(2), Flatten()]
    return [*conv, Dense(4 * width), LayerNormalization(), ReLU(), Dense(CLASSES, activation="softmax")]


def _decoding(width: int) -> list[Any]:
    down = [Conv2D(width, 3, strides=2, padding="same", activation="relu"), MaxPooling2D(2)]
    up = [Conv2DTranspose(width, 3, strides=2, padding="same", activation="relu"), UpSampling2D(2)]
    last = [ZeroPadding2D(1), Conv2D(width, 3, strides=2, activation="relu"), MaxPooling2D(2)]
    return [*down, *up, *last, Flatten(), Dense(CLASSES, activation="softmax")]


def _dense(activation: Any = "relu", last: Any = "softmax", **settings: Any) -> Callable[[int], list[Any]]:
    """Two hidden layers of equal width."""

    def layers(width: int) -> list[Any]:
        hidden = [Dense(4 * width, activation=activation, **settings) for _ in range(2)]
        return [Flatten(), *hidden, Dense(CLASSES, activation=last)]

    return layers


def _branched(width: int) -> Callable[[Any], Any]:
    """A fork, and every way to join two values."""

    def connect(image: Any) -> Any:
        a = MaxPooling2D(2)(Conv2D(width, 3, padding="same", activation="relu")(image))
        b = Conv2D(width, 3, padding="same", activation="tanh")(a)
        c = Add()([Maximum()([Multiply()([a, b]), b]), a])
        pooled = MaxPooling2D(2)(Concatenate()([c, b]))
        return Dense(CLASSES, activation="softmax")(Flatten()(pooled))

    return connect


# What each consists of, and its loss.
NETWORKS: dict[str, tuple[Callable[[int], Any], Any]] = {
    "cnn": (_cnn, "sparse_categorical_crossentropy"),
    "strided": (_strided, "sparse_categorical_crossentropy"),
    "overlapping": (_overlapping, "sparse_categorical_crossentropy"),
    "normalised": (_normalised, "sparse_categorical_crossentropy"),
    "decoding": (_decoding, "sparse_categorical_crossentropy"),
    "branched": (_branched, "sparse_categorical_crossentropy"),
    "dense": (_dense(), "sparse_categorical_crossentropy"),
    "decayed": (_dense(kernel_regularizer="l2"), "sparse_categorical_crossentropy"),
    "leaky": (_dense("leaky_relu"), "sparse_categorical_crossentropy"),
    "sigmoid": (_dense("sigmoid"), "sparse_categorical_crossentropy"),
    "tanh": (_dense("tanh"), "sparse_categorical_crossentropy"),
    "swish": (_dense("silu"), "sparse_categorical_crossentropy"),
    "votes": (_dense(last="sigmoid"), "binary_crossentropy"),
    "shares": (_dense(last="sigmoid"), "categorical_crossentropy"),
    "squares": (_dense(), "mean_squared_error"),
    "distances": (_dense(last="linear"), losses.Huber(delta=0.3)),
}


def network(name: str, input_shape: Shape = (28, 28, 1), width: int = 8, optimizer: Any = "adam") -> Model:
    """One of :data:`NETWORKS`, compiled for the reference and without fusion, so that every kernel runs by itself.

    Args:
        name: which.
        input_shape: (height, width, channels) of the images.
        width: the number of filters, and a quarter of the number of hidden units.
        optimizer: as for ``compile``.
    """
    build, loss = NETWORKS[name]
    inside = build(width)
    if isinstance(inside, list):
        model: Model = Sequential([Input(input_shape), *inside])
    else:
        image = Input(input_shape)
        model = Model(image, inside(image))
    model.compile(optimizer, loss, metrics=["accuracy"], backend="reference", fuse=False)
    return model


def targets(name: str, labels: Any) -> Any:
    """The labels as that network's loss wants them: as numbers, or as rows with a 1 in the label's column."""
    sparse = NETWORKS[name][1] == "sparse_categorical_crossentropy"
    return labels if sparse else np.eye(CLASSES, dtype=np.float32)[labels]


def applies(mistake: Mistake, model: Model) -> bool:
    """Whether a compiled model runs the kernel that the mistake is in, in training on the reference."""
    return any(step.kernel_name in (mistake.kernel, mistake.also) for step in model.plan.all_steps())


def checked(mistake: Mistake, n: int = 3) -> GradientCheck:
    """What :meth:`Trace.check` says of the mistake's network, made small, on four images of noise. Its first wrong row
    is the first wrong gradient on the way back from the loss."""
    set_random_seed(1)
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((4, *SMALL), np.float32), rng.integers(0, CLASSES, 4)
    with made(mistake):
        model = network(mistake.network, SMALL, width=2)
        return model.trace(x, targets(mistake.network, labels)).check(n)
