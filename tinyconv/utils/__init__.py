"""Small helpers, with Keras' names."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.checking import affordable, boolean, integer, number, numbers
from tinyconv.checking.absent import getter
from tinyconv.checking.messages import explained
from tinyconv.files.registered import (
    CustomObjectScope,
    custom_object_scope,
    get_custom_objects,
    get_registered_name,
    get_registered_object,
    register_keras_serializable,
)
from tinyconv.random import set_random_seed
from tinyconv.training.py_dataset import PyDataset
from tinyconv.utils.image_folders import image_dataset_from_directory
from tinyconv.utils.images import array_to_img, img_to_array, load_img, save_img

Sequence = PyDataset  # an old name of Keras

__all__ = [
    "CustomObjectScope",
    "PyDataset",
    "Sequence",
    "array_to_img",
    "clear_session",
    "custom_object_scope",
    "get_custom_objects",
    "get_registered_name",
    "get_registered_object",
    "image_dataset_from_directory",
    "img_to_array",
    "load_img",
    "normalize",
    "register_keras_serializable",
    "save_img",
    "set_random_seed",
    "to_categorical",
]


@explained
def clear_session(free_memory: bool = True) -> None:
    """Nothing: Keras forgets its global state here, and tinyconv has none. Models number their layers by themselves,
    and go with the last reference to them."""
    boolean("clear_session", "free_memory", free_memory)


@explained
def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray:
    """One-hot rows of integer labels: label 2 of 4 classes becomes [0, 0, 1, 0].

    Arguments:
        x: integers from 0 to ``num_classes`` - 1, of any shape; a last axis of length 1 is dropped, as in Keras.
        num_classes: how many classes there are; the largest label plus 1 if None.

    Returns a float64 array of the labels' shape with one more axis, of length ``num_classes``.
    """
    classes = None if num_classes is None else integer("to_categorical", "num_classes", num_classes)
    labels = numbers("The labels of to_categorical", x)
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    labels = _integral(labels)
    if classes is None:
        if not labels.size:
            raise ValueError("to_categorical needs num_classes when there are no labels. Received: an empty array.")
        classes = int(labels.max()) + 1
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        raise ValueError(
            f"to_categorical met a label out of range. Expected 0 to {classes - 1} (num_classes={classes}). "
            f"Received: {labels[wrong].flat[0]} at index {tuple(map(int, np.argwhere(wrong)[0]))}."
        )
    affordable("to_categorical", "result", (*labels.shape, classes), itemsize=8)
    rows = np.zeros((labels.size, classes))
    rows[np.arange(labels.size), labels.reshape(-1)] = 1
    return rows.reshape(*labels.shape, classes)


def _integral(labels: np.ndarray) -> np.ndarray:
    """The labels as int64; floats must be whole numbers, and not NaN."""
    with np.errstate(invalid="ignore"):  # the comparison below finds what the conversion could not hold
        integers = labels.astype(np.int64)
    wrong = integers != labels
    if wrong.any():
        raise ValueError(f"to_categorical expects integer labels. Received: {labels[wrong].flat[0]}.")
    return integers


@explained
def normalize(x: Any, axis: int = -1, order: int = 2) -> np.ndarray:
    """``x`` divided by its norms along an axis (order 2: by lengths); what has the norm 0 stays.

    Keras divides by the wrong norms where the axis is not the last one.
    """
    array = numbers("The x of normalize", x)
    if not array.ndim:
        raise ValueError("The x of normalize has no axes. Expected an array. Received: a single number.")
    along = integer("normalize", "axis", axis, at_least=-array.ndim, at_most=array.ndim - 1)
    if isinstance(order, float) and math.isinf(order):
        exponent: float = order
    else:
        exponent = number("normalize", "order", order)
    norm = np.linalg.norm(array, exponent, along, keepdims=True)
    return array / np.where(norm == 0, 1, norm)


if not TYPE_CHECKING:
    __getattr__ = getter("utils", __all__)
