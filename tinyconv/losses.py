"""Losses: what training makes small. Configuration only; the arithmetic is in the kernels."""

from typing import Any

from tinyconv import ops
from tinyconv.arena import Shape
from tinyconv.messages import suggest


class Loss:
    """Base class. ``kind`` names the kernels; ``sparse`` losses take class numbers instead of one row per sample."""

    kind: str
    scores_kind: str | None = None  # the kernels that start from scores, for from_logits=True
    sparse = False
    name: str

    def __init__(self, from_logits: bool = False) -> None:
        if from_logits and self.scores_kind is None:
            raise TypeError(f"{type(self).__name__} has no scores to start from. Leave out from_logits.")
        self.from_logits = bool(from_logits)

    def op(self, x_shape: Shape, metrics: tuple[tuple[str, dict[str, int]], ...]) -> ops.Loss:
        """The loss of predictions of that shape, and the metrics computed beside it."""
        kind = self.scores_kind if self.from_logits and self.scores_kind else self.kind
        return ops.Loss("loss", x_shape, x_shape, kind, metrics)

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits} if self.scores_kind else {}


class CategoricalCrossentropy(Loss):
    """Minus the logarithm of the probability given to the true class; targets are one-hot rows (or any probabilities).

    ``from_logits``: the predictions are scores, softmax is still to be applied.
    """

    kind, scores_kind, name = "cross_entropy", "softmax_cross_entropy", "categorical_crossentropy"


class SparseCategoricalCrossentropy(CategoricalCrossentropy):
    """The same with targets as class numbers, 0 to classes - 1."""

    sparse, name = True, "sparse_categorical_crossentropy"


class BinaryCrossentropy(Loss):
    """Cross-entropy of independent yes/no questions, one per column; targets between 0 and 1.

    ``from_logits``: the predictions are scores, the sigmoid is still to be applied.
    """

    kind, scores_kind, name = "binary_cross_entropy", "sigmoid_cross_entropy", "binary_crossentropy"


class MeanSquaredError(Loss):
    """The mean of the squared differences."""

    kind, name = "mean_squared_error", "mean_squared_error"

    def __init__(self) -> None:
        super().__init__()


NAMES: dict[str, type[Loss]] = {
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
}


def get(identifier: "str | Loss") -> Loss:
    """The loss of that name, or the given one."""
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, str) and identifier in NAMES:
        return NAMES[identifier]()
    raise ValueError(f"Unknown loss: {identifier!r}. {suggest(identifier, NAMES)}")
