"""Penalties on large weights."""

from typing import Any, Literal

import numpy as np

from tinyconv.checking import number, numbers
from tinyconv.checking.configuration import Configured
from tinyconv.checking.lookup import look_up


class Regularizer(Configured):
    """Base class: adds a penalty on large weights to the loss.

    Both the reported loss and the gradients include it, as in Keras. The mathematics:
    ``kernels.reference.penalty_forward``.
    """

    _closed = (
        "Regularizers of one's own are not supported by tinyconv, which does not differentiate them. "
        "Fix: L1, L2 or L1L2."
    )
    keras_module = "keras.regularizers"

    @property
    def strengths(self) -> dict[int, float]:
        """By their power, what the weights' powers are multiplied by; none that is 0."""
        named = {1: getattr(self, "l1", 0.0), 2: getattr(self, "l2", 0.0)}
        return {power: strength for power, strength in named.items() if strength}

    def __call__(self, x: Any) -> float:
        """The penalty for an array of weights."""
        sizes = np.abs(numbers("The weights of a regularizer", x).astype(np.float64))
        return float(sum(strength * (sizes**power).sum() for power, strength in self.strengths.items()))

    def get_config(self) -> dict[str, float]:
        """The arguments that make a regulariser like this one."""
        return {name: getattr(self, name) for name in self._parameters()}


class L1(Regularizer):
    """Adds ``l1`` times the sum of the weights' magnitudes; ``l1`` must not be negative."""

    def __init__(self, l1: float = 0.01) -> None:
        self.l1 = number(type(self).__name__, "l1", l1, at_least=0.0)


class L2(Regularizer):
    """Adds ``l2`` times the sum of the squared weights; ``l2`` must not be negative."""

    def __init__(self, l2: float = 0.01) -> None:
        self.l2 = number(type(self).__name__, "l2", l2, at_least=0.0)


class L1L2(Regularizer):
    """Adds both; as in Keras neither by default."""

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1 = number(type(self).__name__, "l1", l1, at_least=0.0)
        self.l2 = number(type(self).__name__, "l2", l2, at_least=0.0)


l1, l2, l1_l2 = L1, L2, L1L2  # Keras' other names

NAMES: dict[str, type[Regularizer]] = {"l1": L1, "l2": L2, "l1l2": L1L2}
RegularizerName = Literal["l1", "L1", "l2", "L2", "l1l2", "L1L2"]
RegularizerLike = RegularizerName | Regularizer | type[Regularizer] | dict[str, Any] | None


def get(identifier: RegularizerLike | str) -> Regularizer | None:
    """The regulariser of that name or class, the given one, or None."""
    return None if identifier is None else look_up("regularizer", identifier, Regularizer, NAMES)


__all__ = [
    "L1",
    "L1L2",
    "L2",
    "Regularizer",
    "get",
    "l1",
    "l1_l2",
    "l2",
]
