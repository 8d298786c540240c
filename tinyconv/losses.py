"""Losses: what training minimises. Configuration only; the arithmetic is in the kernels."""

from typing import Any, Literal

from tinyconv.checking import boolean, optional_name
from tinyconv.checking.arguments import Shape
from tinyconv.checking.configuration import Configured
from tinyconv.checking.lookup import look_up
from tinyconv.checking.messages import refuse
from tinyconv.plan import ops

Reduction = Literal["sum_over_batch_size"]
Float32 = Literal["float32"]

# Arguments of Keras' losses that tinyconv does not have: the values at which it does the same as Keras.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "reduction": ("sum_over_batch_size",),
    "label_smoothing": (0.0,),
    "axis": (-1,),
    "ignore_class": (None,),
    "dtype": (None, "float32"),
}


class Loss(Configured):
    """Base class. ``kind`` names the kernels; ``sparse`` losses take class numbers instead of one row per sample."""

    keras_module = "keras.losses"
    kind: str
    scores_kind: str | None = None  # the kernels that start from scores, for from_logits=True
    sparse = False
    from_logits = False
    name: str

    def __init__(
        self, name: str | None = None, reduction: Reduction = "sum_over_batch_size", dtype: Float32 | None = None
    ) -> None:
        refuse(type(self).__name__, {"reduction": reduction, "dtype": dtype}, NEUTRAL)
        self.name = optional_name(type(self).__name__, name) or type(self).__name__

    def op(self, x_shape: Shape, metrics: tuple[tuple[str, dict[str, int]], ...]) -> ops.Loss:
        """The loss of predictions of that shape, and the metrics computed beside it."""
        kind = self.scores_kind if self.from_logits and self.scores_kind else self.kind
        return ops.Loss("loss", x_shape, x_shape, kind, metrics)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a loss like this one."""
        return {"name": self.name, "reduction": "sum_over_batch_size"}


class _Crossentropy(Loss):
    """What the cross-entropies share."""

    def _set(self, from_logits: bool, **unsupported: Any) -> None:
        who = type(self).__name__
        refuse(who, unsupported, NEUTRAL)
        self.from_logits = boolean(who, "from_logits", from_logits)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits, "axis": -1}


class CategoricalCrossentropy(_Crossentropy):
    """Minus the logarithm of the probability given to the true class; targets are one-hot rows (or any probabilities).

    ``from_logits``: the predictions are scores, softmax is still to be applied.
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
        self._set(from_logits, label_smoothing=label_smoothing, axis=axis)


class SparseCategoricalCrossentropy(_Crossentropy):
    """The same with targets as class numbers, 0 to classes - 1."""

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

    ``from_logits``: the predictions are scores, the sigmoid is still to be applied.
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
        self._set(from_logits, label_smoothing=label_smoothing, axis=axis)


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


NAMES: dict[str, type[Loss]] = {
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "bce": BinaryCrossentropy,
    "MSE": MeanSquaredError,
    "BCE": BinaryCrossentropy,
}
LossName = Literal[
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "binary_crossentropy",
    "mean_squared_error",
    "mse",
    "bce",
    "MSE",
    "BCE",
    "CategoricalCrossentropy",
    "SparseCategoricalCrossentropy",
    "BinaryCrossentropy",
    "MeanSquaredError",
]
LossLike = LossName | Loss | type[Loss] | dict[str, Any]


def get(identifier: LossLike | str) -> Loss:
    """The loss of that name or class, or the given one."""
    return look_up("loss", identifier, Loss, NAMES)


__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Loss",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "get",
]
