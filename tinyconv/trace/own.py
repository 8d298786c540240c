"""Explanations of users' own layers: what their methods compute is known to them alone, but it can be measured.

A gradient is the sum, over all outputs that a number moves, of the output's gradient times how fast it moves. So a
number is nudged, ``forward`` is run again in double precision, and the sum shows whether ``backward`` says the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.layers import Layer
from tinyconv.trace.explainer import Explainer, counted
from tinyconv.trace.explanation import Column, Explanation, Place, Reference, Rows, number, reference_to, single
from tinyconv.trace.record import Array, Node

STEP = 1e-6
SAME = 1e-4  # relative to the largest number of the output: so much double precision may change


class Custom(Explainer):
    """An op of a user's own layer."""

    def _said(self, method: str) -> str:
        kind = type(self.op.layer)
        own_call = method == "forward" and kind.forward is Layer.forward
        return f"{kind.__name__}.{'call' if own_call else method}"

    def _code(self, method: str) -> Reference:
        kind = type(self.op.layer)
        own_call = method == "forward" and kind.forward is Layer.forward
        return own_code(getattr(kind, "call" if own_call else method))

    def output(self, place: Place) -> Explanation:
        value, name = float(self.node.out[place]), self._said("forward")
        rows, said = [single((name, place, value))], [f"{name} has computed it; the library does not know how."]
        return self.explain(self.out_name(), place, value, rows, r"out = f(x, w)", said, self._code("forward"))

    def dinput(self, k: int, place: Place) -> Explanation:
        gradient = self.node.dinputs[0]
        assert gradient is not None
        return self._measured(f"d{self.x_name()}", "", place, float(gradient[place]), [self.node])

    def dweight(self, name: str, place: Place) -> Explanation:
        gradient = self.scope.record.weights[f"{self.op.name}/{name}"].gradient
        assert gradient is not None
        return self._measured(f"d{name}", name, place, float(gradient[place]), self.siblings())

    def _measured(self, what: str, weight: str, place: Place, value: float, nodes: Sequence[Node]) -> Explanation:
        """A gradient as the sum over the outputs that the number moves; of a layer that cannot be run again, alone."""
        name, rows = self._said("backward"), []
        for node in nodes:
            each = Custom(self.scope, node)
            slopes = each.slopes(weight, place)
            if slopes is None:
                rows = [single((name, place, value))]
                said = [f"{name} has computed it; the library does not know how."]
                break
            places = np.argwhere(slopes != 0)
            dout = each.dout_at(places)
            rows.append(Rows((dout, Column("slope", slopes[tuple(places.T)], places)), each.why_dout(dout)))
        else:
            moved = counted(sum(len(each.values) for each in rows), "output")
            said = [f"{name} has computed it. Nudged, the number moves {moved}.", "The slopes are measured."]
            rows += self.penalties(weight, place) if weight else []
            total = float(sum(each.values.sum() for each in rows))
            if abs(total - value) > 1e-3 * max(abs(value), abs(total)) + 1e-6:
                said.append(f"They give {number(total)}: the backward pass is not the derivative of the forward pass.")
        formula = r"dx = \sum_j dout_j \cdot \text{slope of } out_j"
        return self.explain(what, place, value, rows, formula, said, self._code("backward"))

    def slopes(self, weight: str, place: Place) -> Array | None:
        """How fast every output moves with a number of a weight or, "", of x; None if the layer does not compute the
        same again: it may draw at random, or count."""
        x = self.node.inputs[0].astype(np.float64)
        weights = {name: self.weight(name).astype(np.float64) for name in self.op.weights}
        array = weights[weight] if weight else x
        before, found = array[place], []
        try:
            for step in (0.0, STEP, -STEP):
                array[place] = before + step
                found.append(self._run(x, weights))
        except Exception:  # it does not compute in double precision
            return None
        here, above, below = found
        known = np.abs(here - self.node.out).max(initial=0) <= SAME * np.abs(self.node.out).max(initial=1e-3)
        return (above - below) / (2 * STEP) if known else None

    def _run(self, x: Array, weights: dict[str, Array]) -> Array:
        out, layer = np.empty(self.node.out.shape, np.float64), self.op.layer
        layer._is_training = self.scope.record.training
        layer.forward(out, x.copy(), {name: array.copy() for name, array in weights.items()})
        return out


def own_code(method: Any) -> Reference:
    """A user's own function; what was typed into a terminal has no file."""
    try:
        return reference_to(method)
    except (OSError, TypeError):
        return Reference(getattr(method, "__qualname__", "?"), "?", 0, 0, ("(no file)",))
