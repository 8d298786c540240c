"""Data sets: MNIST ships inside; TensorFlow Datasets has the rest."""

from tinyconv.datasets import mnist

__all__ = ["mnist"]
