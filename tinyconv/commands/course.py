"""The networks of a course: what ``tinyconv warmup`` compiles for."""

from collections.abc import Iterator
from typing import Any

import tinyconv
from tinyconv import layers
from tinyconv.commands.common import network


def networks() -> Iterator[tuple[Any, Any, str]]:
    """The networks of a course, an optimiser for each, and a loss."""
    adam, sgd, adamw, rmsprop = (getattr(tinyconv.optimizers, name) for name in ("Adam", "SGD", "AdamW", "RMSprop"))
    sparse, one_hot = "sparse_categorical_crossentropy", "categorical_crossentropy"
    yield network((28, 28, 1), 10), adam(), one_hot
    yield network((28, 28, 1), 10), adam(), sparse
    warped = [layers.RandomRotation(0.1), layers.RandomZoom(0.1), layers.RandomTranslation(0.1, 0.1)]
    yield tinyconv.Sequential([tinyconv.Input((28, 28, 1)), *warped, *network((28, 28, 1), 10).layers]), adam(), sparse
    yield _stack((784,), _dense(512), layers.Dropout(0.2), _dense(512), _dense(10, "softmax")), rmsprop(), sparse
    yield _stack((28, 28, 1), layers.Flatten(), _dense(128), _dense(10, "softmax")), sgd(0.01), sparse
    yield _stack((20,), _dense(16), _dense(1, "sigmoid")), adam(), "binary_crossentropy"
    yield _stack((20,), _dense(16, "tanh"), _dense(1)), sgd(0.01, momentum=0.9), "mean_squared_error"
    yield _lenet(), adam(), sparse
    yield _tutorial(), adam(), sparse
    yield _vgg(), adamw(), sparse
    yield _strided(), adam(), sparse
    yield _residual(), sgd(0.1, momentum=0.9), sparse


def _stack(shape: tuple[int, ...], *body: Any) -> Any:
    return tinyconv.Sequential([tinyconv.Input(shape), *body])


def _dense(units: int, activation: Any = "relu") -> Any:
    return layers.Dense(units, activation=activation)


def _lenet() -> Any:
    body = [layers.Conv2D(6, 5, padding="same", activation="tanh"), layers.AveragePooling2D(2)]
    body += [layers.Conv2D(16, 5, activation="tanh"), layers.AveragePooling2D(2)]
    return _stack((28, 28, 1), *body, layers.Flatten(), _dense(120, "tanh"), _dense(84, "tanh"), _dense(10, "softmax"))


def _tutorial() -> Any:
    """TensorFlow's tutorial for CIFAR-10."""
    body = [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D()]
    body += [layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(64, 3, activation="relu")]
    return _stack((32, 32, 3), *body, layers.Flatten(), _dense(64), _dense(10, "softmax"))


def _vgg() -> Any:
    body: list[Any] = []
    for channels in (32, 64, 128):
        for _ in range(2):
            body += [layers.Conv2D(channels, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()]
        body += [layers.MaxPooling2D(), layers.Dropout(0.3)]
    return _stack((32, 32, 3), *body, layers.Flatten(), _dense(128), _dense(10, "softmax"))


def _strided() -> Any:
    body = [layers.Conv2D(width, 3, strides=2, padding="same", activation="relu") for width in (32, 64, 128)]
    return _stack((32, 32, 3), *body, layers.GlobalAveragePooling2D(), _dense(10, "softmax"))


def _residual() -> Any:
    """Two blocks, the second of which halves the image."""

    def convolved(x: Any, channels: int, size: int, strides: int = 1) -> Any:
        x = layers.Conv2D(channels, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    image = tinyconv.Input((32, 32, 3))
    x = layers.ReLU()(convolved(image, 16, 3))
    for channels, strides in ((16, 1), (32, 2)):
        inner = convolved(layers.ReLU()(convolved(x, channels, 3, strides)), channels, 3)
        shortcut = x if strides == 1 else convolved(x, channels, 1, strides)
        x = layers.ReLU()(layers.Add()([inner, shortcut]))
    return tinyconv.Model(image, _dense(10, "softmax")(layers.GlobalAveragePooling2D()(x)))
