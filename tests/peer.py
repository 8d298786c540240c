"""Keras on TensorFlow, the peer that the parity tests compare with; they are skipped where it is not installed."""

import contextlib
import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# oneDNN's gradient of a strided 1 x 1 convolution writes out of bounds: x (1, 8, 6, 6), 6 filters, strides (2, 1).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
tf.config.run_functions_eagerly(True)  # no graph of TensorFlow's is worth tracing for a few steps


@contextlib.contextmanager
def traced():
    """Keras' steps as it runs them by itself: traced at the first one, so that what changes later has no effect."""
    tf.config.run_functions_eagerly(False)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(True)


def gradients(function, *arrays, dout=None):
    """The value of ``function`` of the arrays, and the gradient of sum(value * dout) with respect to each, as NumPy."""
    tensors = [tf.convert_to_tensor(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        out = function(*tensors)
    found = tape.gradient(out, tensors, None if dout is None else tf.convert_to_tensor(dout))
    return [out.numpy(), *(gradient.numpy() for gradient in found)]


def listed(x):
    return list(x) if isinstance(x, list | tuple) else [x]


def close(found, wanted, tolerance):
    assert found.shape == wanted.shape
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    assert float(np.abs(found - wanted).max(initial=0)) <= tolerance * scale
