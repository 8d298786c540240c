"""Small helpers, with Keras' names."""

import numpy as np

from tinyconv.random import set_random_seed

__all__ = ["set_random_seed", "to_categorical"]


def to_categorical(x, num_classes: int | None = None) -> np.ndarray:
    """One-hot rows of integer labels: label 2 of 4 classes becomes [0, 0, 1, 0].

    Arguments:
        x: integers from 0 to ``num_classes`` - 1, of any shape; a last axis of length 1 is dropped, as in Keras.
        num_classes: how many classes there are; the largest label plus 1 if None.

    Returns a float64 array of the labels' shape with one more axis, of length ``num_classes``.
    """
    labels = np.asarray(x)
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    labels = _integral(labels)
    if num_classes is None:
        if not labels.size:
            raise ValueError("to_categorical needs num_classes when there are no labels. Received: an empty array.")
        num_classes = int(labels.max()) + 1
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        raise ValueError(
            f"to_categorical met a label out of range. Expected 0 to {num_classes - 1} (num_classes={num_classes}). "
            f"Received: {labels[wrong].flat[0]} at index {tuple(map(int, np.argwhere(wrong)[0]))}."
        )
    return np.eye(num_classes)[labels]


def _integral(labels: np.ndarray) -> np.ndarray:
    """The labels as int64; floats must have no fraction and be no NaN."""
    if labels.dtype.kind not in "iufb":
        raise TypeError(f"to_categorical expects integer labels. Received: an array of dtype {labels.dtype}.")
    with np.errstate(invalid="ignore"):  # the comparison below finds what the conversion could not hold
        integers = labels.astype(np.int64)
    wrong = integers != labels
    if wrong.any():
        raise ValueError(f"to_categorical expects integer labels. Received: {labels[wrong].flat[0]}.")
    return integers
