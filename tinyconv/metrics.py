"""Metrics: what training is judged by. Configuration only; the arithmetic is in the kernels."""

from typing import Any

from tinyconv.arena import Shape
from tinyconv.messages import suggest


class Metric:
    """Base class: a kernel that gives one number per row, whose mean over the samples is the metric."""

    kernel: str
    name: str
    options: dict[str, int]

    def __init__(self, name: str | None = None) -> None:
        self.name = name or type(self).name
        self.options = {}

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


class CategoricalAccuracy(Metric):
    """How often the largest prediction is at the true class (targets one-hot)."""

    kernel, name = "count_correct", "categorical_accuracy"


class SparseCategoricalAccuracy(CategoricalAccuracy):
    """The same with class numbers as targets."""

    name = "sparse_categorical_accuracy"


class BinaryAccuracy(Metric):
    """How often a prediction above one half goes with a target of 1, and one below with 0."""

    kernel, name = "count_binary_correct", "binary_accuracy"


class TopKCategoricalAccuracy(Metric):
    """How often the true class is among the k largest predictions (targets one-hot)."""

    kernel, name = "count_top_k", "top_k_categorical_accuracy"

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        super().__init__(name)
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"Invalid k. Expected an integer of at least 1. Received: {k!r}.")
        self.options = {"k": k}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.options}


class SparseTopKCategoricalAccuracy(TopKCategoricalAccuracy):
    """The same with class numbers as targets."""

    name = "sparse_top_k_categorical_accuracy"


NAMES: dict[str, type[Metric]] = {
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "top_k_categorical_accuracy": TopKCategoricalAccuracy,
    "sparse_top_k_categorical_accuracy": SparseTopKCategoricalAccuracy,
}
ACCURACY = ("accuracy", "acc")


def get(identifier: "str | Metric", output_shape: Shape) -> Metric:
    """The metric of that name, or the given one.

    "accuracy" is the kind of accuracy that fits, chosen as Keras does: binary for one output column, else categorical.
    """
    if isinstance(identifier, Metric):
        return identifier
    if identifier in ACCURACY:
        kind: type[Metric] = BinaryAccuracy if output_shape[-1] == 1 else CategoricalAccuracy
        return kind(name=identifier)
    if isinstance(identifier, str) and identifier in NAMES:
        return NAMES[identifier]()
    raise ValueError(f"Unknown metric: {identifier!r}. {suggest(identifier, [*ACCURACY, *NAMES])}")
