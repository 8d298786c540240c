"""Metrics: how training is judged. Configuration only; the arithmetic is in the kernels."""

from typing import Any, Literal

from tinyconv.checking import integer, optional_name, unknown
from tinyconv.checking.arguments import Shape
from tinyconv.checking.configuration import Configured
from tinyconv.checking.lookup import look_up
from tinyconv.checking.messages import refuse

Float32 = Literal["float32"]

# Arguments of Keras' metrics that tinyconv does not have: the values at which it does the same as Keras.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "dtype": (None, "float32"),
    "threshold": (0.5,),
    "from_sorted_ids": (False,),
}


class Metric(Configured):
    """Base class: a kernel that gives one number per row, whose mean over the samples is the metric."""

    keras_module = "keras.metrics"
    kernel: str
    name: str
    options: dict[str, int]

    def __init__(self, dtype: Float32 | None = None, name: str | None = None) -> None:
        refuse(type(self).__name__, {"dtype": dtype}, NEUTRAL)
        self.name = optional_name(type(self).__name__, name) or type(self).__name__
        self.options = {}

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a metric like this one."""
        return {"name": self.name, "dtype": "float32"}


class CategoricalAccuracy(Metric):
    """How often the largest prediction is at the true class (targets one-hot)."""

    kernel = "count_correct"

    def __init__(self, name: str | None = "categorical_accuracy", dtype: Float32 | None = None) -> None:
        super().__init__(dtype, name)


class SparseCategoricalAccuracy(Metric):
    """The same with class numbers as targets."""

    kernel = "count_correct"

    def __init__(self, name: str | None = "sparse_categorical_accuracy", dtype: Float32 | None = None) -> None:
        super().__init__(dtype, name)


class BinaryAccuracy(Metric):
    """How often a prediction above one half goes with a target of 1, and one below with 0."""

    kernel = "count_binary_correct"

    def __init__(
        self, name: str | None = "binary_accuracy", dtype: Float32 | None = None, threshold: float = 0.5
    ) -> None:
        super().__init__(dtype, name)
        refuse(type(self).__name__, {"threshold": threshold}, NEUTRAL)


class TopKCategoricalAccuracy(Metric):
    """How often the true class is among the k largest predictions (targets one-hot)."""

    kernel = "count_top_k"

    def __init__(
        self, k: int = 5, name: str | None = "top_k_categorical_accuracy", dtype: Float32 | None = None
    ) -> None:
        super().__init__(dtype, name)
        self.options = {"k": integer(type(self).__name__, "k", k)}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.options}


class SparseTopKCategoricalAccuracy(TopKCategoricalAccuracy):
    """The same with class numbers as targets."""

    def __init__(
        self,
        k: int = 5,
        name: str | None = "sparse_top_k_categorical_accuracy",
        dtype: Float32 | None = None,
        from_sorted_ids: bool = False,
    ) -> None:
        super().__init__(k, name, dtype)
        refuse(type(self).__name__, {"from_sorted_ids": from_sorted_ids}, NEUTRAL)


NAMES: dict[str, type[Metric]] = {
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "top_k_categorical_accuracy": TopKCategoricalAccuracy,
    "sparse_top_k_categorical_accuracy": SparseTopKCategoricalAccuracy,
}
ACCURACY = ("accuracy", "acc")
MetricName = Literal[
    "accuracy",
    "acc",
    "Accuracy",
    "binary_accuracy",
    "categorical_accuracy",
    "sparse_categorical_accuracy",
    "top_k_categorical_accuracy",
    "sparse_top_k_categorical_accuracy",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "SparseCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
]
MetricLike = MetricName | Metric | type[Metric] | dict[str, Any]


def get(identifier: MetricLike | str, output_shape: Shape | None = None) -> Metric:
    """The metric of that name (which it then has) or class, or the given one.

    "accuracy" is the kind of accuracy that fits, chosen as Keras does: binary for one output column, else categorical.
    Without the shape of the output it is taken for categorical.
    """
    if isinstance(identifier, str):
        kinds = {**NAMES, **{kind.__name__: kind for kind in NAMES.values()}}
        binary = output_shape is not None and output_shape[-1] == 1
        kinds |= dict.fromkeys((*ACCURACY, "Accuracy"), BinaryAccuracy if binary else CategoricalAccuracy)
        if identifier not in kinds:
            raise unknown("", "metric", identifier, [*ACCURACY, *NAMES])
        return kinds[identifier](name=identifier)
    return look_up("metric", identifier, Metric, NAMES)


__all__ = [
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "Metric",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "get",
]
