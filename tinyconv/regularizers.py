"""Penalties on large weights."""

from tinyconv.messages import suggest


class L2:
    """Adds ``l2`` times the sum of the squared weights to the loss (weight decay, through the gradient).

    Both the reported loss and the gradients include it, as in Keras. ``l2`` must not be negative.
    """

    def __init__(self, l2: float = 0.01) -> None:
        if not l2 >= 0:
            raise ValueError(f"Invalid l2. Expected a number of at least 0. Received: {l2!r}.")
        self.l2 = float(l2)

    def get_config(self) -> dict[str, float]:
        return {"l2": self.l2}


def get(identifier: "str | L2 | None") -> L2 | None:
    """The regulariser of that name, the given one, or None."""
    if identifier is None or isinstance(identifier, L2):
        return identifier
    if identifier in ("l2", "L2"):
        return L2()
    raise ValueError(f"Unknown regularizer: {identifier!r}. {suggest(identifier, ['l2'])}")
