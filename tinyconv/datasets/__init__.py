"""Data sets: MNIST ships inside tinyconv, and TensorFlow Datasets has hundreds more.

>>> (x_train, y_train), (x_test, y_test) = datasets.mnist.load_data()
>>> (x_train, y_train), (x_test, y_test) = datasets.load("cifar10")
"""

from tinyconv.datasets import mnist
from tinyconv.datasets.tfds import Dataset, load

__all__ = ["Dataset", "load", "mnist"]
