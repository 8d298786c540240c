"""Explanations of merges, element by element. An input of size 1 along an axis counts for the whole axis."""

import numpy as np

from tinyconv.kernels import reference
from tinyconv.plan import ops
from tinyconv.trace.explainer import SMALLER, ZEROS, Explainer, Scope
from tinyconv.trace.explanation import Column, Explanation, Place, Rows, reference_to
from tinyconv.trace.record import Array, Node
from tinyconv.trace.routes import Route, Ways
from tinyconv.trace.windows import places


class Joined(Route):
    """A merge that adds or chooses. An input of size 1 along an axis counts for the whole axis."""

    def __init__(self, scope: Scope, node: Node) -> None:
        super().__init__(scope, node)
        kind, subtracts = self.op.kind, self.op.kind == "subtract"
        self.chooses = kind not in ("add", "subtract")
        mean = self.op.scale != 1
        self.factor = "chosen" if self.chooses else "1 / n" if mean else "sign" if subtracts else ""
        kind = ops.NEGATED.get(kind, kind)
        self.forward = (getattr(reference, f"{kind}_forward"), f"np.{kind}")
        backward = "da[...] = np.where" if self.chooses else "dx[...] = dout"
        self.backward = (getattr(reference, f"{kind}_backward"), backward)
        difference = (r"out = x_0 - x_1", r"dx_0 = dout, \quad dx_1 = -dout")
        total = (r"out = \sum_k x_k", "dx_k = dout")
        means = (r"out = \frac{1}{n} \sum_k x_k", r"dx_k = \frac{1}{n} \cdot dout")
        choice = (rf"out = \{self.op.kind[:3]}_k x_k", r"dx_k = dout \text{ where } x_k \text{ was chosen, else 0}")
        self.formula = choice if self.chooses else means if mean else difference if subtracts else total

    def chosen(self, place: Place) -> int:
        """Which input an output was taken from: the first of equals."""
        values = [float(x[inward(place, x.shape)]) for x in self.node.inputs]
        return int(np.argmin(values) if self.op.kind == "minimum" else np.argmax(values))

    def _factor(self, k: int, place: Place) -> float:
        if self.op.kind == "subtract":
            return -1.0 if k else 1.0
        return float(self.chosen(place) == k) if self.chooses else self.op.scale

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        return [
            (
                k,
                Ways.one(
                    inward(place, x.shape), self._factor(k, place), "" if self._factor(k, place) else "not chosen"
                ),
            )
            for k, x in enumerate(self.node.inputs)
        ]

    def targets(self, k: int, place: Place) -> Ways:
        found = outward(place, self.node.inputs[k].shape, self.node.out.shape)
        factors = np.array([self._factor(k, tuple(each)) for each in found.tolist()])
        return Ways(found, factors, tuple("" if factor else ZEROS[SMALLER] for factor in factors))

    def lost(self, k: int) -> Array:
        shape = self.node.inputs[k].shape
        out = self.scope.lost(self.node.number)
        if shape != out.shape:
            return np.zeros(shape, np.int8)
        if not self.chooses:
            return out
        pick = np.argmin if self.op.kind == "minimum" else np.argmax
        chosen = pick(np.stack(np.broadcast_arrays(*self.node.inputs)), axis=0)
        return np.where(chosen == k, out, SMALLER)

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        several = len(ways.factors) > 1
        if self.chooses:
            if backward:
                return ["The input that was chosen gets the gradient, the others nothing."]
            return [f"Of {len(self.node.inputs)} inputs, number {self.chosen(place)} was chosen."]
        if self.op.kind == "subtract":
            said = (
                "Each gets the gradient, the second with the other sign." if backward else "The first minus the second."
            )
            return [said]
        if backward:
            return [
                f"A {'mean' if self.factor else 'sum'} hands its gradient to every summand"
                + (f", here times {self.op.scale:.4g}." if self.factor else "."),
                f"The number counts at {len(ways.factors)} places, and gets the sum of their gradients."
                if several
                else "",
            ]
        return [f"The {'mean' if self.factor else 'sum'} of {len(self.node.inputs)} inputs at the same place."]


class Multiplied(Explainer):
    """A merge that multiplies."""

    formulas = (r"out = x_0 \cdot x_1 \cdot \text{...}", r"dx_k = dout \cdot \text{the product of the other inputs}")

    def _factors(self, at: Array, without: int | None = None) -> tuple[Column, ...]:
        found = []
        for k, x in enumerate(self.node.inputs):
            if k != without:
                inside = np.array([inward(tuple(place), x.shape) for place in at.tolist()])
                found.append(self.x_at(inside, k))
        return tuple(found)

    def output(self, place: Place) -> Explanation:
        rows = [Rows(self._factors(np.array([place])))]
        said = [f"The product of {len(self.node.inputs)} inputs at the same place."]
        code = reference_to(reference.multiply_forward, "np.multiply")
        return self.explain(self.out_name(), place, self.node.out[place], rows, self.formulas[0], said, code)

    def dinput(self, k: int, place: Place) -> Explanation:
        at = outward(place, self.node.inputs[k].shape, self.node.out.shape)
        dout = self.dout_at(at)
        rows = [Rows((dout, *self._factors(at, without=k)), self.why_dout(dout))]
        said = ["By the product rule: the gradient, times what the number was multiplied by."]
        code = reference_to(reference.multiply_backward, "db[...] =" if k else "da[...] =")
        gradient = self.node.dinputs[k]
        assert gradient is not None
        return self.explain(f"d{self.x_name(k)}", place, gradient[place], rows, self.formulas[1], said, code)


def inward(place: Place, shape: tuple[int, ...]) -> Place:
    """Where an input of that shape has the number for a place of the output: axes that it lacks behind the batch's, or
    of size 1, count for all."""
    own = (place[0], *place[len(place) - len(shape) + 1 :])
    return tuple(0 if size == 1 and axis else i for axis, (i, size) in enumerate(zip(own, shape, strict=True)))


def outward(place: Place, shape: tuple[int, ...], out_shape: tuple[int, ...]) -> Array:
    """All places of the output that a place of such an input counts for."""
    lacks = len(out_shape) - len(shape)
    long = (shape[0], *(1,) * lacks, *shape[1:])
    at = (place[0], *(0,) * lacks, *place[1:])
    axes = [
        np.arange(whole) if size == 1 and whole > 1 and axis else np.array([i])
        for axis, (i, size, whole) in enumerate(zip(at, long, out_shape, strict=True))
    ]
    return places(*np.ix_(*axes))


def merge(scope: Scope, node: Node) -> Explainer:
    """What explains a merge of that kind."""
    return (Multiplied if node.op.kind == "multiply" else Joined)(scope, node)  # type: ignore[attr-defined]
