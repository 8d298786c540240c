"""The border between the user's arrays and the kernels.

The kernels check nothing: given a wrong type, shape, layout or label they would read or write memory that is not
theirs. So everything is checked once, here, and arrives as a clean array: C-contiguous, native, aligned, writable,
float32. An array that is clean already is not copied.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.checking.arguments import Shape, invalid, number, numbers


def as_batch(x: Any, where: str) -> np.ndarray:
    """``x`` as an array of numbers with a batch axis, not yet of the right shape or type."""
    if hasattr(x, "weight_specs"):
        raise TypeError(
            f"{where[0].upper()}{where[1:]} was called on {x!r}, which is not data. Expected a batch of samples, an "
            "array, or a tensor such as Input(...)."
        )
    array = numbers(f"The input of {where}", x)
    if array.ndim == 0:
        raise ValueError(f"The input of {where} has no axes. Expected a batch of samples. Received: a single number.")
    if len(array) == 0:
        raise ValueError(f"The input of {where} is empty. Expected at least one sample. Received: shape {array.shape}.")
    return array


def as_input(x: Any, sample_shape: Shape, where: str) -> np.ndarray:
    """``x`` as a clean float32 array of shape (batch, *sample_shape)."""
    array = as_batch(x, where)
    if array.shape[1:] != sample_shape:
        raise ValueError(
            f"The input of {where} has the wrong shape. Expected (batch, {', '.join(map(str, sample_shape))}). "
            f"Received: {array.shape}.{_shape_hint(array.shape, sample_shape)}"
        )
    return clean(array, np.float32)


def as_device_input(array: Any, sample_shape: Shape, where: str) -> Any:
    """``array``, which is on a device, if it is float32 of shape (batch, *sample_shape); nothing is converted."""
    if tuple(array.shape[1:]) != sample_shape or array.ndim == 0 or len(array) == 0:
        raise ValueError(
            f"The input of {where} has the wrong shape. Expected (batch, {', '.join(map(str, sample_shape))}), "
            f"at least one sample. Received: {tuple(array.shape)}.{_shape_hint(tuple(array.shape), sample_shape)}"
        )
    if array.dtype != np.float32:
        raise TypeError(
            f"The input of {where} lies on a device and has an unsupported type. Expected float32. "
            f"Received: {array.dtype}. Fix: convert it there."
        )
    return array


def _shape_hint(shape: Shape, sample_shape: Shape) -> str:
    if shape == sample_shape:
        return " Fix: add the batch axis, x[None]."
    if (*shape[1:], 1) == sample_shape:
        return " Fix: add the channel axis, np.expand_dims(x, -1)."
    if len(shape) == 4 and (*shape[2:], shape[1]) == sample_shape:
        return " Fix: channels come last, np.moveaxis(x, 1, -1)."
    if (*shape, 1) == sample_shape:
        return " Fix: add the batch and the channel axis, x[None, ..., None]."
    return ""


def clean(array: np.ndarray, dtype: Any) -> np.ndarray:
    """C-contiguous, native, aligned, writable, of that type; copied only if it is not already."""
    if type(array) is np.ndarray and array.dtype == dtype and array.flags.carray:
        return array
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes inf, and stays visible as such
        return np.require(array, dtype, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE", "ENSUREARRAY"))


def as_targets(y: Any, out_shape: Shape, sparse: bool, samples: int, loss: str) -> np.ndarray:
    """The targets of ``samples`` samples, clean and checked.

    Sparse: int64 class numbers, flat, 0 <= label < classes. Otherwise float32 of shape (rows, columns), every
    prediction row beside its target row.
    """
    if y is None:
        raise ValueError(f"No targets. Expected y, one target per sample, for the loss {loss!r}. Received: None.")
    array = numbers("The targets", y)
    if array.ndim == 0 or len(array) != samples:
        raise ValueError(
            f"Inputs and targets differ in length. Expected one target per sample, {samples}. "
            f"Received: targets of shape {array.shape}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"The targets hold a NaN or an infinity, first at {bad}. Expected finite numbers.")
    return _labels(array, out_shape, loss) if sparse else _rows(array, out_shape, loss)


def _labels(array: np.ndarray, out_shape: Shape, loss: str) -> np.ndarray:
    per_sample, classes = out_shape[:-1], out_shape[-1]
    if array.shape[1:] not in (per_sample, (*per_sample, 1)):
        one_hot = (
            " They look one-hot; then the loss is 'categorical_crossentropy'." if array.shape[1:] == out_shape else ""
        )
        shape = f"(batch{''.join(f', {size}' for size in per_sample)})"
        raise ValueError(
            f"The targets have the wrong shape for {loss!r}. Expected class numbers of shape {shape}. "
            f"Received: {array.shape}.{one_hot}"
        )
    labels = array.reshape(-1)
    if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
        wrong = labels[labels != np.floor(labels)][0]
        raise ValueError(f"The targets are not class numbers. Expected integers. Received: {wrong}.")
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"A label is out of range. Expected 0 to {classes - 1}, as the model has {classes} outputs. "
            f"Received: {labels[at]} at position {at}."
        )
    return clean(labels, np.int64)


def _rows(array: np.ndarray, out_shape: Shape, loss: str) -> np.ndarray:
    if array.shape[1:] != out_shape and (*array.shape[1:], 1) != out_shape:
        numbers = array.dtype.kind in "biu" and array.shape[1:] in (out_shape[:-1], (*out_shape[:-1], 1))
        hint = (
            " They look like class numbers; then the loss is 'sparse_categorical_crossentropy', "
            f"or use to_categorical(y, {out_shape[-1]})."
        )
        raise ValueError(
            f"The targets have the wrong shape for {loss!r}. Expected the model's output shape, "
            f"(batch, {', '.join(map(str, out_shape))}). Received: {array.shape}.{hint if numbers else ''}"
        )
    return clean(array.reshape(-1, out_shape[-1]), np.float32)


def checked_weights(
    where: str, arrays: Sequence[tuple[str, np.ndarray]], weights: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """``weights`` as arrays that fit the given named ones, or a ValueError that says which does not."""
    several = isinstance(weights, Sequence) or (isinstance(weights, np.ndarray) and weights.ndim > 0)
    if not several or isinstance(weights, str | bytes):
        raise invalid(repr(where), "weights", "a list of arrays, as get_weights gives it", weights)
    weights = list(weights)
    if len(weights) != len(arrays):
        names = ", ".join(f"{name} {array.shape}" for name, array in arrays) or "none"
        raise ValueError(
            f"Wrong number of weights for {where!r}. Expected {len(arrays)} arrays: {names}. Received: {len(weights)}."
        )
    checked = []
    for (name, array), values in zip(arrays, weights, strict=True):
        values = numbers(f"Weight {name!r} of {where!r}", values)
        if values.shape != array.shape:
            raise ValueError(
                f"Weight {name!r} of {where!r} does not fit. Expected numbers of shape {array.shape}. "
                f"Received: dtype {values.dtype}, shape {values.shape}."
            )
        checked.append(values)
    return checked


def split_validation(
    xs: Sequence[np.ndarray], ys: Sequence[np.ndarray], share: float
) -> tuple[tuple[tuple[Any, ...], tuple[Any, ...]], tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """The first samples for training and the last ``share`` of them for validation, before any shuffling."""
    number("", "validation_split", share, above=0.0, below=1.0)
    samples = len(xs[0])
    split = int(samples * (1 - share))
    if split in (0, samples):
        raise ValueError(
            f"validation_split={share} leaves no samples for {'training' if split == 0 else 'validation'}. "
            f"Received: {samples} samples."
        )

    def rows(part: slice) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Targets may have several rows for each sample."""
        many = [len(y) // samples for y in ys]
        cut = [slice(*(edge and edge * rows for edge in (part.start, part.stop))) for rows in many]
        return tuple(x[part] for x in xs), tuple(y[each] for y, each in zip(ys, cut, strict=True))

    return rows(slice(0, split)), rows(slice(split, samples))
