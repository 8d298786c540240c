"""Data sets: MNIST ships inside tinyconv, two are read from their official files, and TensorFlow Datasets has hundreds.

>>> (x_train, y_train), (x_test, y_test) = datasets.mnist.load_data()
>>> (x_train, y_train), (x_test, y_test) = datasets.cifar10.load_data()
>>> (x_train, y_train), (x_test, y_test) = datasets.load("emnist/letters")
"""

from typing import TYPE_CHECKING

from tinyconv.checking.absent import getter
from tinyconv.datasets import cifar10, fashion_mnist, mnist
from tinyconv.datasets.tfds import Dataset, load

__all__ = ["Dataset", "cifar10", "fashion_mnist", "load", "mnist"]

if not TYPE_CHECKING:
    __getattr__ = getter("datasets", __all__)
