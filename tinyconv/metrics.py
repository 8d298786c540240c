"""Metrics: how training is judged. Configuration only; the arithmetic is in the kernels.

A metric is some totals, which grow batch by batch, and a function that makes a number of them at the end: so it belongs
to all samples, however they were cut into batches. It is given to ``compile``, or called, ``metric(y_true, y_pred)``,
or used step by step with ``update_state``, ``result`` and ``reset_state``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tinyconv.checking import choice, inputs, integer, number, optional_name, several, unknown
from tinyconv.checking.absent import getter
from tinyconv.checking.arguments import Shape
from tinyconv.checking.configuration import Configured
from tinyconv.checking.lookup import look_up, saved
from tinyconv.checking.messages import refuse
from tinyconv.kernels import contract, reference
from tinyconv.plan import ops

Float32 = Literal["float32"]

# Arguments of Keras' metrics that tinyconv does not have: the values at which it does the same as Keras.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "dtype": (None, "float32"),
    "threshold": (0.5,),
    "from_sorted_ids": (False,),
    "top_k": (None,),
    "multi_label": (False,),
    "num_labels": (None,),
    "label_weights": (None,),
    "from_logits": (False,),
}


class Metric(Configured):
    """Base class: ``kernel`` gives one number per row, whose mean over the samples is the metric."""

    _closed = (
        "Metrics of one's own are not supported by tinyconv. Fix: a callback whose on_epoch_end measures "
        "self.model.predict(x) with NumPy."
    )
    keras_module = "keras.metrics"
    kernel: str
    sparse = False  # whether targets are class numbers, where the metric is called
    column = False  # whether an array of one axis holds one number for each row, and not a row
    name: str

    def __init__(self, dtype: Float32 | None = None, name: str | None = None) -> None:
        refuse(type(self).__name__, {"dtype": dtype}, NEUTRAL)
        self.name = optional_name(type(self).__name__, name) or type(self).__name__.lower()
        self.options: dict[str, int] = {}  # of the kernel
        self._thresholds: tuple[float, ...] = ()
        self._totals = np.zeros(self.size)

    @property
    def size(self) -> int:
        """The number of totals."""
        return 2

    def measure(self, slot: int = 0, weighted: bool = False) -> ops.Measure:
        """What a plan does for the metric, whose totals begin at ``slot``."""
        return ops.Measure(self.kernel, self.options, slot, weighted, self._thresholds)

    def final(self, totals: np.ndarray) -> float:
        """The metric, from its totals."""
        return float(_ratio(totals[0], totals[1]))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch in.

        Args:
            y_true: targets: like ``y_pred``, or class numbers (samples, ...) for a sparse metric.
            y_pred: predictions, (samples, ..., columns).
            sample_weight: how much each row counts.
        """
        targets, predictions, shape = inputs.as_pair(y_true, y_pred, self.sparse, self.name, self.column)
        samples = shape[0] if shape else 1
        weights = np.zeros(0, np.float32)
        if sample_weight is not None:
            weights = inputs.as_weights(np.atleast_1d(sample_weight), (*shape[1:], 1), samples).reshape(-1)
        scratch = np.array(self._thresholds or np.zeros(len(predictions)), np.float32)
        arrays = {"predictions": predictions, "targets": targets, "totals": self._totals, "weights": weights}
        for kernel, arguments in self.measure().steps(contract(), scratch, samples / len(predictions), **arrays):
            getattr(reference, kernel)(**arguments)

    def result(self) -> float:
        """The metric of everything counted since :meth:`reset_state`; after ``evaluate``, what that found."""
        return self.final(self._totals)

    def take(self, totals: np.ndarray) -> None:
        """Take these as the totals so far."""
        self._totals[...] = totals

    def reset_state(self) -> None:
        """Begin anew."""
        self._totals[...] = 0

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        """Count a batch in, and return the metric of everything so far."""
        self.update_state(y_true, y_pred, sample_weight)
        return self.result()

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a metric like this one."""
        return {"name": self.name, "dtype": "float32"}


def _ratio(numerator: Any, denominator: Any) -> Any:
    """0 where nothing has been counted."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)[()]


class CategoricalAccuracy(Metric):
    """How often the largest prediction is at the true class (targets one-hot)."""

    kernel = "count_correct"

    def __init__(self, name: str | None = "categorical_accuracy", dtype: Float32 | None = None) -> None:
        super().__init__(dtype, name)


class SparseCategoricalAccuracy(Metric):
    """The same with class numbers as targets."""

    kernel, sparse = "count_correct", True

    def __init__(self, name: str | None = "sparse_categorical_accuracy", dtype: Float32 | None = None) -> None:
        super().__init__(dtype, name)


class BinaryAccuracy(Metric):
    """How often a prediction above one half goes with a target of 1, and one below with 0."""

    kernel, column = "count_binary_correct", True

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

    sparse = True

    def __init__(
        self,
        k: int = 5,
        name: str | None = "sparse_top_k_categorical_accuracy",
        dtype: Float32 | None = None,
        from_sorted_ids: bool = False,
    ) -> None:
        super().__init__(k, name, dtype)
        refuse(type(self).__name__, {"from_sorted_ids": from_sorted_ids}, NEUTRAL)


class MeanSquaredError(Metric):
    """The mean of the squared differences."""

    kernel = "mean_squared_error_forward"

    def __init__(self, name: str | None = "mean_squared_error", dtype: Float32 | None = None) -> None:
        super().__init__(dtype, name)


class MeanAbsoluteError(Metric):
    """The mean of the absolute differences."""

    kernel = "mean_absolute_error_forward"

    def __init__(self, name: str | None = "mean_absolute_error", dtype: Float32 | None = None) -> None:
        super().__init__(dtype, name)


class _Outcomes(Metric):
    """What counts how often predictions are above thresholds: of K thresholds the true positives, as many false
    positives, all positives and all negatives."""

    kernel, column = "count_outcomes", True

    def _count(self, thresholds: Sequence[float], column: int = -1) -> None:
        self._thresholds = tuple(thresholds)
        self.options = {"column": column}
        self._totals = np.zeros(self.size)

    @property
    def size(self) -> int:
        return 2 * len(self._thresholds) + 2

    def outcomes(self, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
        """True positives and false positives by threshold, all positives, all negatives."""
        K = len(self._thresholds)
        return totals[:K], totals[K : 2 * K], totals[-2], totals[-1]


class _AtThreshold(_Outcomes):
    """What Precision and Recall share."""

    def __init__(
        self,
        thresholds: float | None = None,
        top_k: None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: Float32 | None = None,
    ) -> None:
        who = type(self).__name__
        super().__init__(dtype, name)
        refuse(who, {"top_k": top_k}, NEUTRAL)
        self.thresholds = None if thresholds is None else number(who, "thresholds", thresholds, at_least=0, at_most=1)
        self.class_id = None if class_id is None else integer(who, "class_id", class_id, at_least=0)
        self._count(
            [0.5 if self.thresholds is None else self.thresholds], -1 if self.class_id is None else self.class_id
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "thresholds": self.thresholds, "class_id": self.class_id}


class Precision(_AtThreshold):
    """Of the predictions above the threshold, the share whose target is 1.

    Args:
        thresholds: a prediction above it says yes; one number, by default one half.
        class_id: the column to look at; None: all.
    """

    def final(self, totals: np.ndarray) -> float:
        true, false, _, _ = self.outcomes(totals)
        return float(_ratio(true[0], true[0] + false[0]))


class Recall(_AtThreshold):
    """Of the targets that are 1, the share whose prediction is above the threshold.

    Args:
        thresholds: a prediction above it says yes; one number, by default one half.
        class_id: the column to look at; None: all.
    """

    def final(self, totals: np.ndarray) -> float:
        true, _, positives, _ = self.outcomes(totals)
        return float(_ratio(true[0], positives))


class AUC(_Outcomes):
    """The area under a curve that the threshold draws, approximated with as many thresholds, evenly spaced in 0 to 1.

    "ROC": the true positive rate over the false positive rate: the probability that a positive gets a larger prediction
    than a negative. "PR": precision over recall.

    Args:
        num_thresholds: how many.
        curve: "ROC" or "PR".
        summation_method: how the area between two points of the curve is taken: "interpolation" (trapezia; for "PR" the
            interpolation of Davis and Goadrich, 2006), "minoring" (the lower one's height), "majoring" (the upper's).
        thresholds: thresholds within 0 to 1 to use instead.
    """

    def __init__(
        self,
        num_thresholds: int = 200,
        curve: Literal["ROC", "PR"] = "ROC",
        summation_method: Literal["interpolation", "minoring", "majoring"] = "interpolation",
        name: str | None = None,
        dtype: Float32 | None = None,
        thresholds: Sequence[float] | None = None,
        multi_label: bool = False,
        num_labels: None = None,
        label_weights: None = None,
        from_logits: bool = False,
    ) -> None:
        super().__init__(dtype, name)
        keras = {"multi_label": multi_label, "num_labels": num_labels, "label_weights": label_weights}
        refuse("AUC", {**keras, "from_logits": from_logits}, NEUTRAL)
        self.curve = choice("AUC", "curve", curve, ("roc", "pr")).upper()
        methods = ("interpolation", "minoring", "majoring")
        self.summation_method = choice("AUC", "summation_method", summation_method, methods)
        self.num_thresholds = integer("AUC", "num_thresholds", num_thresholds, at_least=2, at_most=MOST_THRESHOLDS)
        self.thresholds = None
        between = [k / (self.num_thresholds - 1) for k in range(1, self.num_thresholds - 1)]
        if thresholds is not None:
            between = self.thresholds = sorted(several("AUC", "thresholds", thresholds, number, at_least=0, at_most=1))
            self.num_thresholds = len(between) + 2
        self._count([-1e-7, *between, 1 + 1e-7])  # the ends are beyond all predictions, as in Keras

    def final(self, totals: np.ndarray) -> float:
        true, false, positives, negatives = self.outcomes(totals)
        recall = _ratio(true, np.full_like(true, positives))
        if self.curve == "PR" and self.summation_method == "interpolation":
            return self._interpolated_precision(true, true + false, positives)
        if self.curve == "PR":
            x, y = recall, _ratio(true, true + false)
        else:
            x, y = _ratio(false, np.full_like(false, negatives)), recall
        heights = {
            "interpolation": (y[:-1] + y[1:]) / 2,
            "minoring": np.minimum(y[:-1], y[1:]),
            "majoring": np.maximum(y[:-1], y[1:]),
        }[self.summation_method]
        return float(((x[:-1] - x[1:]) * heights).sum())

    def _interpolated_precision(self, true: np.ndarray, above: np.ndarray, positives: float) -> float:
        r"""The area under precision over recall where, between two thresholds, true positives grow in proportion to all
        that is above: :math:`t = a + s p`, so precision is :math:`s + a / p`, which is not a straight line. Its
        integral over recall, :math:`dt / P = s\,dp / P`, is :math:`s (\Delta t + a \log(p_1 / p_2)) / P`."""
        slope = _ratio(true[:-1] - true[1:], np.maximum(above[:-1] - above[1:], 0))
        start = true[1:] - slope * above[1:]
        both = (above[:-1] > 0) & (above[1:] > 0)
        ratio = np.where(both, _ratio(above[:-1], above[1:]), 1)
        areas = slope * (true[:-1] - true[1:] + start * np.log(ratio))
        return float(_ratio(areas, np.full_like(areas, positives)).sum())

    def get_config(self) -> dict[str, Any]:
        names = ("num_thresholds", "curve", "summation_method")
        own = {"thresholds": self.thresholds} if self.thresholds is not None else {}
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, **own}


MOST_THRESHOLDS = 100_000
NAMES: dict[str, type[Metric]] = {
    "auc": AUC,
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "mean_absolute_error": MeanAbsoluteError,
    "mean_squared_error": MeanSquaredError,
    "precision": Precision,
    "recall": Recall,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "top_k_categorical_accuracy": TopKCategoricalAccuracy,
    "sparse_top_k_categorical_accuracy": SparseTopKCategoricalAccuracy,
    **dict.fromkeys(("mae", "MAE"), MeanAbsoluteError),
    **dict.fromkeys(("mse", "MSE"), MeanSquaredError),
}
ACCURACY = ("accuracy", "acc")
MetricName = Literal[
    "accuracy",
    "acc",
    "Accuracy",
    "auc",
    "binary_accuracy",
    "categorical_accuracy",
    "mae",
    "MAE",
    "mean_absolute_error",
    "mean_squared_error",
    "mse",
    "MSE",
    "precision",
    "recall",
    "sparse_categorical_accuracy",
    "top_k_categorical_accuracy",
    "sparse_top_k_categorical_accuracy",
    "AUC",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Precision",
    "Recall",
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


def serialize(metric: Metric) -> dict[str, Any]:
    """A metric as a dictionary, in Keras' notation, without its state."""
    return saved(look_up("metric", metric, Metric, {}))


def deserialize(config: dict[str, Any] | str, custom_objects: None = None) -> Metric:
    """The metric that :func:`serialize` made a dictionary of."""
    refuse("deserialize()", {"custom_objects": custom_objects}, {"custom_objects": (None,)})
    return look_up("config", config, Metric, NAMES)


__all__ = [
    "AUC",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "Precision",
    "Recall",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "deserialize",
    "get",
    "serialize",
]

if not TYPE_CHECKING:
    __getattr__ = getter("metrics", __all__)
