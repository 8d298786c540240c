"""Resizing as ``tf.image.resize`` does: each pixel of the result is a weighted mean of pixels near where it lies.

Pixel i of the result has its centre at (i + 1/2) source / target - 1/2 in pixels of the source. A kernel k says how
much the pixel j counts there, k(j - centre); the weights are divided by their sum. Rows and columns are done one after
the other. Nothing is smoothed where an image shrinks.

Sources: Keys, "Cubic Convolution Interpolation for Digital Image Processing" (1981), with a = -1/2; Mitchell and
Netravali, "Reconstruction Filters in Computer Graphics" (1988), with B = C = 1/3; Duchon, "Lanczos Filtering in One and
Two Dimensions" (1979).
"""

import math
from collections.abc import Callable

import numpy as np

Kernel = Callable[[np.ndarray], np.ndarray]  # of the distance in pixels


def _cubic(near: tuple[float, ...], far: tuple[float, ...]) -> Kernel:
    """A piecewise polynomial: coefficients from the cube down, for distances up to 1 and up to 2."""
    return lambda x: np.where(x < 1, np.polyval(near, x), np.polyval(far, x))


KERNELS: dict[str, tuple[float, Kernel]] = {  # the distance at which they end, and they themselves
    "bilinear": (1, lambda x: 1 - x),
    "bicubic": (2, _cubic((1.5, -2.5, 0, 1), (-0.5, 2.5, -4, 2))),
    "mitchellcubic": (2, _cubic((7 / 6, -2, 0, 8 / 9), (-7 / 18, 2, -10 / 3, 16 / 9))),
    "gaussian": (1.5, lambda x: np.exp(-2 * x * x)),  # a standard deviation of half a pixel
    "lanczos3": (3, lambda x: np.sinc(x) * np.sinc(x / 3)),
    "lanczos5": (5, lambda x: np.sinc(x) * np.sinc(x / 5)),
}
METHODS = ("bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic")


def resized(image: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """``image`` (height, width, channels) as float32 of (size[0], size[1], channels)."""
    for axis, target in enumerate(size):
        places, weights = _taps(image.shape[axis], target, method)
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        image = sum(np.take(image, p, axis) * w.reshape(shape) for p, w in zip(places, weights, strict=True))
    return image.astype(np.float32)


def _taps(source: int, target: int, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of the source count for each of the target, and how much: (taps, target)."""
    scale = source / target
    i = np.arange(target)
    if method == "nearest":
        return np.minimum((i + 0.5) * scale, source - 1).astype(int)[None], np.ones((1, target), np.float32)
    if method == "area":  # what a pixel of the target covers
        first, last = i * scale, (i + 1) * scale
        places = np.floor(first).astype(int) + np.arange(math.ceil(scale) + 1)[:, None]
        weights = np.clip(np.minimum(places + 1, last) - np.maximum(places, first), 0, None)
    else:
        reach, kernel = KERNELS[method]
        centre = (i + 0.5) * scale - 0.5
        places = np.ceil(centre - reach).astype(int) + np.arange(2 * math.ceil(reach) + 1)[:, None]
        distance = np.abs(places - centre)
        weights = np.where(distance < reach, kernel(distance), 0)
    weights[(places < 0) | (places >= source)] = 0
    weights /= weights.sum(axis=0)
    return np.clip(places, 0, source - 1), weights.astype(np.float32)


def middle(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest part of an image, in its middle, that has the shape of ``size``."""
    height, width, _ = image.shape
    rows = max(min(height, int(np.float32(width * size[0]) / np.float32(size[1]))), 1)
    columns = max(min(width, int(np.float32(height * size[1]) / np.float32(size[0]))), 1)
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]
