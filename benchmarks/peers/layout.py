"""Keras' weights for the frameworks that keep channels first."""

import numpy as np


def channels_first(weights: list[np.ndarray]) -> list[np.ndarray]:
    """Keras' weights for a network whose images are NCHW: filters OIHW, the dense layer's rows reordered."""
    w1, b1, w2, b2, w3, b3 = weights
    w3 = w3.reshape(5, 5, 64, 10).transpose(3, 2, 0, 1).reshape(10, 1600)
    arrays = (w1.transpose(3, 2, 0, 1), b1, w2.transpose(3, 2, 0, 1), b2, w3, b3)
    return [np.ascontiguousarray(array) for array in arrays]
