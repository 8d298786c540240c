"""Losses: what training minimises. Configuration only; the arithmetic is in the kernels.

A loss is given to ``compile``, or called: ``loss(y_true, y_pred, sample_weight)``. The functions of the same names give
one number per row (the last axis), without weights and without a reduction.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tinyconv.checking import boolean, inputs, invalid, number, optional_name
from tinyconv.checking.absent import getter
from tinyconv.checking.arguments import Shape
from tinyconv.checking.configuration import Configured
from tinyconv.checking.lookup import look_up, saved
from tinyconv.checking.messages import refuse
from tinyconv.kernels import reference
from tinyconv.plan import ops

Reduction = Literal["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none"] | None
REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None)
Float32 = Literal["float32"]

# Arguments of Keras' losses that tinyconv does not have: the values at which it does the same as Keras.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "axis": (-1,),
    "ignore_class": (None,),
    "dtype": (None, "float32"),
}


class Loss(Configured):
    """Base class. ``kind`` names the kernels; ``sparse`` losses take class numbers instead of one row per sample.

    Args:
        reduction: of the rows' losses. "sum_over_batch_size" or "mean": their sum, divided by their number;
            "sum"; "mean_with_sample_weight": the sum divided by the sum of the weights; "none" or None: none, the rows'
            own losses (not in ``compile``: training minimises one number).
    """

    _closed = (
        "Losses of one's own are not supported by tinyconv, which does not differentiate them. Fix: one of "
        "tinyconv.losses, on the output of a layer of your own if need be, see tinyconv.Layer."
    )
    keras_module = "keras.losses"
    kind: str
    scores_kind: str | None = None  # the kernels that start from scores, for from_logits=True
    sparse = False
    from_logits = False
    label_smoothing = 0.0
    options: Mapping[str, float] = MappingProxyType({})  # of the kernels
    name: str

    def __init__(
        self, name: str | None = None, reduction: Reduction = "sum_over_batch_size", dtype: Float32 | None = None
    ) -> None:
        who = type(self).__name__
        refuse(who, {"dtype": dtype}, NEUTRAL)
        if not (reduction is None or isinstance(reduction, str)) or reduction not in REDUCTIONS:
            raise invalid(who, "reduction", f"one of {', '.join(map(repr, REDUCTIONS))}", reduction)
        self.reduction = reduction
        self.name = optional_name(who, name) or who

    def op(self, x_shape: Shape, measures: tuple[ops.Measure, ...] = (), weighted: bool = False) -> ops.Loss:
        """The loss of predictions of that shape, and the metrics computed beside it."""
        if self.reduction in ("none", None):
            raise ValueError(
                f"Training minimises one number. Expected a reduction of the loss {self.name!r}, such as "
                f"'sum_over_batch_size'. Received: {self.reduction!r}."
            )
        kind = self.scores_kind if self.from_logits and self.scores_kind else self.kind
        return ops.Loss(
            "loss",
            x_shape,
            x_shape,
            kind,
            self.options,
            measures,
            summed=self.reduction == "sum",
            normalize=self.reduction == "mean_with_sample_weight",
            weighted=weighted,
            smoothing=(self.label_smoothing, self._level(x_shape[-1])) if self.label_smoothing else None,
        )

    def _level(self, columns: int) -> float:
        """What smoothed targets tend to."""
        return 1 / columns

    def call(self, y_true: Any, y_pred: Any) -> np.ndarray:
        """The loss of every row: of predictions of shape (samples, ..., columns) those of (samples, ...)."""
        targets, predictions, shape = inputs.as_pair(y_true, y_pred, self.sparse, self.name)
        losses, truth = np.empty(len(predictions), np.float32), targets
        if self.label_smoothing:
            truth = np.empty_like(targets)
            reference.smooth_targets(truth, targets, self.label_smoothing, self._level(targets.shape[1]))
        scores = self.from_logits and self.scores_kind
        forward = getattr(reference, f"{scores or self.kind}_forward")
        forward(losses, *([np.empty_like(predictions)] if scores else []), predictions, truth, **self.options)
        return losses.reshape(shape)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss, reduced: one number, or an array if there is no reduction.

        Args:
            y_true: targets: like ``y_pred``, or class numbers (samples, ...) for a sparse loss.
            y_pred: predictions, (samples, ..., columns).
            sample_weight: what to multiply the rows' losses by: one number for each row, or for all.
        """
        losses = self.call(y_true, y_pred)
        weights = None
        if sample_weight is not None:
            weights = inputs.numbers("The sample weights (sample_weight)", sample_weight).astype(np.float32)
            if weights.ndim == losses.ndim + 1 and weights.shape[-1] == 1:
                weights = weights[..., 0]
            if weights.shape not in ((), losses.shape):
                expected = f"a number, or numbers of shape {losses.shape}"
                raise invalid(self.name, "sample_weight", expected, weights)
            losses = losses * weights
        if self.reduction in ("none", None):
            return losses
        total, count = losses.sum(dtype=np.float64), float(losses.size)
        if self.reduction == "sum":
            return np.float32(total)
        if self.reduction == "mean_with_sample_weight" and weights is not None:
            count = weights.sum(dtype=np.float64)
        return np.float32(total / count if count else 0.0)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a loss like this one."""
        return {"name": self.name, "reduction": self.reduction}


class _Crossentropy(Loss):
    """What the cross-entropies share."""

    def _set(self, from_logits: bool, label_smoothing: float = 0.0, **unsupported: Any) -> None:
        who = type(self).__name__
        refuse(who, unsupported, NEUTRAL)
        self.from_logits = boolean(who, "from_logits", from_logits)
        self.label_smoothing = number(who, "label_smoothing", label_smoothing, at_least=0, at_most=1)

    def get_config(self) -> dict[str, Any]:
        smoothing = {} if self.sparse else {"label_smoothing": self.label_smoothing}
        return {**super().get_config(), "from_logits": self.from_logits, **smoothing, "axis": -1}


class CategoricalCrossentropy(_Crossentropy):
    """Minus the logarithm of the probability given to the true class; targets are one-hot rows (or any probabilities).

    Args:
        from_logits: the predictions are scores, softmax is still to be applied.
        label_smoothing: how much of each target is spread evenly over all classes.
    """

    kind, scores_kind = "cross_entropy", "softmax_cross_entropy"

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: Float32 | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self._set(from_logits, label_smoothing, axis=axis)


class SparseCategoricalCrossentropy(_Crossentropy):
    """The same with targets as class numbers, 0 to classes - 1.

    Predictions that do not sum to one are divided by their sum and then clipped, as Keras does it on PyTorch and JAX;
    on TensorFlow it clips them first.
    """

    kind, scores_kind, sparse = "cross_entropy", "softmax_cross_entropy", True

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: None = None,
        reduction: Reduction = "sum_over_batch_size",
        axis: int = -1,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: Float32 | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self._set(from_logits, ignore_class=ignore_class, axis=axis)


class BinaryCrossentropy(_Crossentropy):
    """Cross-entropy of independent yes/no questions, one per column; targets between 0 and 1.

    Args:
        from_logits: the predictions are scores, the sigmoid is still to be applied.
        label_smoothing: how far each target is moved towards one half.

    Behind a softmax the predictions are its probabilities. (Keras on TensorFlow finds the scores that the softmax
    started from, and takes them for a sigmoid's.)
    """

    kind, scores_kind = "binary_cross_entropy", "sigmoid_cross_entropy"

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "binary_crossentropy",
        dtype: Float32 | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self._set(from_logits, label_smoothing, axis=axis)

    def _level(self, columns: int) -> float:
        return 0.5


class MeanSquaredError(Loss):
    """The mean of the squared differences."""

    kind = "mean_squared_error"

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "mean_squared_error",
        dtype: Float32 | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)


class MeanAbsoluteError(Loss):
    """The mean of the absolute differences."""

    kind = "mean_absolute_error"

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "mean_absolute_error",
        dtype: Float32 | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)


class Huber(Loss):
    """Half the squared difference up to ``delta``, and a straight line from there on (Huber, 1964)."""

    kind = "huber"

    def __init__(
        self,
        delta: float = 1.0,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "huber_loss",
        dtype: Float32 | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self.delta = number("Huber", "delta", delta, above=0)
        self.options = {"delta": self.delta}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "delta": self.delta}


# The functions


def categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> np.ndarray:
    """The loss of every row, see :class:`CategoricalCrossentropy`."""
    return CategoricalCrossentropy(from_logits, label_smoothing, axis).call(y_true, y_pred)


def sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, ignore_class: None = None, axis: int = -1
) -> np.ndarray:
    """The loss of every row, see :class:`SparseCategoricalCrossentropy`."""
    return SparseCategoricalCrossentropy(from_logits, ignore_class, axis=axis).call(y_true, y_pred)


def binary_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> np.ndarray:
    """The loss of every row, see :class:`BinaryCrossentropy`."""
    return BinaryCrossentropy(from_logits, label_smoothing, axis).call(y_true, y_pred)


def mean_squared_error(y_true: Any, y_pred: Any) -> np.ndarray:
    """The loss of every row, see :class:`MeanSquaredError`."""
    return MeanSquaredError().call(y_true, y_pred)


def mean_absolute_error(y_true: Any, y_pred: Any) -> np.ndarray:
    """The loss of every row, see :class:`MeanAbsoluteError`."""
    return MeanAbsoluteError().call(y_true, y_pred)


def huber(y_true: Any, y_pred: Any, delta: float = 1.0) -> np.ndarray:
    """The loss of every row, see :class:`Huber`."""
    return Huber(delta).call(y_true, y_pred)


FUNCTIONS: dict[Callable[..., np.ndarray], type[Loss]] = {
    categorical_crossentropy: CategoricalCrossentropy,
    sparse_categorical_crossentropy: SparseCategoricalCrossentropy,
    binary_crossentropy: BinaryCrossentropy,
    mean_squared_error: MeanSquaredError,
    mean_absolute_error: MeanAbsoluteError,
    huber: Huber,
}
NAMES: dict[str, type[Loss]] = {
    **{function.__name__: kind for function, kind in FUNCTIONS.items()},
    **dict.fromkeys(("bce", "BCE"), BinaryCrossentropy),
    **dict.fromkeys(("mse", "MSE"), MeanSquaredError),
    **dict.fromkeys(("mae", "MAE"), MeanAbsoluteError),
}
LossName = Literal[
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "binary_crossentropy",
    "mean_squared_error",
    "mean_absolute_error",
    "huber",
    "bce",
    "BCE",
    "mse",
    "MSE",
    "mae",
    "MAE",
    "CategoricalCrossentropy",
    "SparseCategoricalCrossentropy",
    "BinaryCrossentropy",
    "MeanSquaredError",
    "MeanAbsoluteError",
    "Huber",
]
LossLike = LossName | Loss | type[Loss] | Callable[..., np.ndarray] | dict[str, Any]


def get(identifier: LossLike | str) -> Loss:
    """The loss of that name, class or function, or the given one."""
    kind = next((kind for function, kind in FUNCTIONS.items() if identifier is function), None)
    return look_up("loss", kind or identifier, Loss, NAMES)


def serialize(loss: Loss) -> dict[str, Any]:
    """A loss as a dictionary, in Keras' notation."""
    return saved(look_up("loss", loss, Loss, {}))


def deserialize(name: dict[str, Any] | str, custom_objects: None = None) -> Loss:
    """The loss that :func:`serialize` made a dictionary of."""
    refuse("deserialize()", {"custom_objects": custom_objects}, {"custom_objects": (None,)})
    return look_up("name", name, Loss, NAMES)


__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "binary_crossentropy",
    "categorical_crossentropy",
    "deserialize",
    "get",
    "huber",
    "mean_absolute_error",
    "mean_squared_error",
    "serialize",
    "sparse_categorical_crossentropy",
]

if not TYPE_CHECKING:
    __getattr__ = getter("losses", __all__)
