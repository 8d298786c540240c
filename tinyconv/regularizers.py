"""Penalties on large weights."""

from typing import Any, Literal

from tinyconv.checking import number
from tinyconv.checking.configuration import Configured
from tinyconv.checking.lookup import look_up


class L2(Configured):
    """Adds ``l2`` times the sum of the squared weights to the loss (weight decay, through the gradient).

    Both the reported loss and the gradients include it, as in Keras. ``l2`` must not be negative.
    """

    keras_module = "keras.regularizers"

    def __init__(self, l2: float = 0.01) -> None:
        self.l2 = number(type(self).__name__, "l2", l2, at_least=0.0)

    def get_config(self) -> dict[str, float]:
        """The arguments that make a regulariser like this one."""
        return {"l2": self.l2}


NAMES: dict[str, type[L2]] = {"l2": L2}
RegularizerName = Literal["l2", "L2"]
RegularizerLike = RegularizerName | L2 | type[L2] | dict[str, Any] | None


def get(identifier: RegularizerLike | str) -> L2 | None:
    """The regulariser of that name or class, the given one, or None."""
    return None if identifier is None else look_up("regularizer", identifier, L2, NAMES)


__all__ = [
    "L2",
    "get",
]
