"""The border between the user's arrays and the kernels.

The kernels check nothing: given a wrong type, shape, layout or label they would read or write memory that is not
theirs. So everything is checked once, here, and arrives as a clean array: C-contiguous, native, aligned, writable,
float32. An array that is clean already is not copied.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from tinyconv.checking.arguments import Shape, invalid, number, numbers
from tinyconv.checking.messages import received


def as_batch(x: Any, where: str) -> np.ndarray:
    """``x`` as an array of numbers with a batch axis, not yet of the right shape or type."""
    if hasattr(x, "weight_specs"):
        raise TypeError(
            f"{where[0].upper()}{where[1:]} was called on {x!r}, which is not data. Expected a batch of samples, an "
            "array, or a tensor such as Input(...)."
        )
    array = numbers(f"The input of {where}", x)
    if array.ndim == 1 and hasattr(x, "to_numpy"):
        array = array[:, None]  # a column of pandas: one number for each sample, as in Keras
    if array.ndim == 0:
        raise ValueError(f"The input of {where} has no axes. Expected a batch of samples. Received: a single number.")
    if len(array) == 0:
        raise ValueError(f"The input of {where} is empty. Expected at least one sample. Received: shape {array.shape}.")
    return array


def unwrapped(x: Any, sample_shape: Shape | None) -> Any:
    """The array in a list of one: Keras takes [x] where there is one input. A sample in a list is a batch of one."""
    if isinstance(x, list | tuple) and len(x) == 1 and tuple(getattr(x[0], "shape", ())) not in ((), sample_shape):
        return x[0]
    return x


def is_ready(x: Any, sample_shape: Shape) -> bool:
    """Whether :func:`as_input` would return it as it is. Asked first: for a batch of one, all checks and what their
    messages begin with take as long as a layer."""
    return is_clean(x, np.float32) and x.ndim > 0 and len(x) > 0 and x.shape[1:] == sample_shape


def as_input(x: Any, sample_shape: Shape, where: str, any_rank: bool = False) -> np.ndarray:
    """``x`` as a clean float32 array of shape (batch, *sample_shape). With ``any_rank`` a last axis of length 1 may be
    missing, or be too many: models, as Keras', take grey images with or without it."""
    if is_ready(x, sample_shape):
        return x
    array = as_batch(x, where)
    if any_rank and ((*array.shape[1:], 1) == sample_shape or array.shape[1:] == (*sample_shape, 1)):
        array = array.reshape((len(array), *sample_shape))
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


def is_clean(array: Any, dtype: Any) -> bool:
    """Whether it is an array as kernels take it: C-contiguous, native, aligned, writable, of that type."""
    return type(array) is np.ndarray and array.dtype == dtype and array.flags.carray


def clean(array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array, or a copy that is clean."""
    if is_clean(array, dtype):
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


def as_weights(weights: Any, out_shape: Shape, samples: int) -> np.ndarray:
    """The weights of ``samples`` samples as float32 (samples, rows of output of a sample), clean and checked."""
    array, rows = numbers("The sample weights (sample_weight)", weights), (samples, *out_shape[:-1])
    if array.ndim == len(rows) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(
            f"The sample weights (sample_weight) hold a NaN or an infinity, first at {bad}. Expected finite numbers."
        )
    if array.shape not in ((samples,), rows):
        others = f", or one for each row of the output, of shape {rows}" if len(rows) > 1 else ""
        raise ValueError(
            f"The sample weights (sample_weight) have the wrong shape. Expected one for each of {samples} "
            f"samples{others}. Received: {array.shape}."
        )
    array = np.broadcast_to(array.reshape(array.shape + (1,) * (len(rows) - array.ndim)), rows)
    return clean(array.reshape(samples, -1), np.float32)


def weights_by_class(class_weight: Any, targets: np.ndarray, samples: int) -> np.ndarray:
    """The weight of each row of checked targets, which its class has in ``class_weight``, or 1; (samples, rows).

    The class of a row is its label, or the column of its largest target; a single column holds it rounded.
    """
    if not isinstance(class_weight, Mapping) or not all(
        isinstance(number, Integral) and not isinstance(number, bool) for number in class_weight
    ):
        raise invalid("", "class_weight", "a dictionary of weights by class number, {0: 1.0, 1: 5.0}", class_weight)
    given = {int(key): number("", f"class_weight[{key}]", value) for key, value in class_weight.items()}
    labels = targets
    if targets.ndim == 2:
        labels = targets.argmax(axis=1) if targets.shape[1] > 1 else np.rint(targets[:, 0]).astype(np.int64)
    classes, places = np.unique(labels, return_inverse=True)
    weights = np.array([given.get(int(each), 1.0) for each in classes], np.float32)
    return weights[places].reshape(samples, -1)


def as_pair(
    y_true: Any, y_pred: Any, sparse: bool, who: str, column: bool = False
) -> tuple[np.ndarray, np.ndarray, Shape]:
    """What a loss or a metric is called with: targets and predictions as float32 rows (M, C), and the shape of what is
    computed of each row. Axes of length 1 at the end may be missing, as in Keras. Of arrays of one axis this is the
    row; or, if ``column``, it holds one number for each row."""
    predictions, truth = numbers("The predictions (y_pred)", y_pred), numbers("The targets (y_true)", y_true)
    if not sparse and truth.ndim == predictions.ndim + 1 and truth.shape[-1] == 1:
        predictions, truth = (predictions[:, None], truth) if predictions.ndim == 1 else (predictions, truth[..., 0])
    elif not sparse and predictions.ndim == truth.ndim + 1 and predictions.shape[-1] == 1:
        truth = truth[..., None] if truth.ndim == 1 else truth
        predictions = predictions if truth.ndim == predictions.ndim else predictions[..., 0]
    if not predictions.ndim or not predictions.size:
        raise ValueError(f"{who}: the predictions (y_pred) are {received(predictions)}. Expected at least one row.")
    if column and predictions.ndim == 1:
        predictions, truth = predictions[:, None], truth[:, None]
    shape = predictions.shape[:-1]
    if predictions.ndim == 1:
        predictions, truth = predictions[None], truth[None]
    targets = as_targets(truth, predictions.shape[1:], sparse, len(predictions), who)
    rows = clean(predictions.reshape(-1, predictions.shape[-1]), np.float32)
    return one_hot(targets, rows.shape) if sparse else targets, rows, shape


def one_hot(labels: np.ndarray, shape: Shape) -> np.ndarray:
    """Class numbers as rows."""
    rows = np.zeros(shape, np.float32)
    rows[np.arange(len(labels)), labels] = 1
    return rows


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


Samples = tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]  # inputs, targets, and weights or None for each


def split_validation(
    xs: Sequence[np.ndarray], ys: Sequence[np.ndarray], weights: Sequence[np.ndarray | None], share: float
) -> tuple[Samples, Samples]:
    """The first samples for training and the last ``share`` of them for validation, before any shuffling."""
    number("", "validation_split", share, above=0.0, below=1.0)
    samples = len(xs[0])
    split = int(samples * (1 - share))
    if split in (0, samples):
        raise ValueError(
            f"validation_split={share} leaves no samples for {'training' if split == 0 else 'validation'}. "
            f"Received: {samples} samples."
        )

    def rows(part: slice) -> Samples:
        """Targets may have several rows for each sample."""
        many = [len(y) // samples for y in ys]
        cut = [slice(*(edge and edge * rows for edge in (part.start, part.stop))) for rows in many]
        targets = tuple(y[each] for y, each in zip(ys, cut, strict=True))
        return tuple(x[part] for x in xs), targets, tuple(None if w is None else w[part] for w in weights)

    return rows(slice(0, split)), rows(slice(split, samples))
