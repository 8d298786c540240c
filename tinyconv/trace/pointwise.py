"""Explanations of ops whose outputs are functions of few numbers: activations, softmax, inputs."""

from dataclasses import replace
from typing import Any

import numpy as np

from tinyconv.kernels import reference
from tinyconv.kernels.reference.activation import FORMULAS
from tinyconv.plan import ops
from tinyconv.trace.explainer import FLAT, INPUT, SHUT, ZEROS, Explainer, Scope, listed
from tinyconv.trace.explanation import (
    Column,
    Explanation,
    Fact,
    Place,
    Rows,
    Then,
    number,
    reference_to,
    single,
)
from tinyconv.trace.record import Array, Node
from tinyconv.trace.windows import places

# Of every activation f(x) and its derivative, and what its options are called.
SIGNS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "relu": (r"\max(0, x)", r"1 \text{ where } out > 0, \text{ else } 0", ()),
    "leaky_relu": (
        r"x \text{ where } x \ge 0, \text{ else } \alpha x",
        r"1 \text{ where } x > 0, \text{ else } \alpha",
        ("α",),
    ),
    "bounded_relu": (
        r"x \text{ between } t \text{ and } m, \text{ below } \alpha (x - t)",
        r"1 \text{ between } t \text{ and } m, \text{ below } \alpha, \text{ above } 0",
        ("α", "m", "t"),
    ),
    "elu": (
        r"x \text{ where } x > 0, \text{ else } \alpha (e^x - 1)",
        r"1 \text{ where } x > 0, \text{ else } out + \alpha",
        ("α",),
    ),
    "selu": (r"\lambda \, elu(x)", r"\lambda \text{ where } x > 0, \text{ else } out + \lambda \alpha", ()),
    "sigmoid": (r"\frac{1}{1 + e^{-x}}", r"out (1 - out)", ()),
    "tanh": (r"\tanh(x)", r"1 - out^2", ()),
    "exponential": (r"e^x", r"out", ()),
    "softplus": (r"\log(1 + e^x)", r"\frac{1}{1 + e^{-x}}", ()),
    "softsign": (r"\frac{x}{1 + |x|}", r"\frac{1}{(1 + |x|)^2}", ()),
    "hard_sigmoid": (r"\min(1, \max(0, x / 6 + 1 / 2))", r"1 / 6 \text{ where it rises, else } 0", ()),
    "silu": (r"\frac{x}{1 + e^{-x}}", r"s + out (1 - s), \quad s = \frac{1}{1 + e^{-x}}", ()),
    "hard_silu": (r"x \, h, \quad h = \min(1, \max(0, x / 6 + 1 / 2))", r"h + x h'", ()),
    "gelu": (r"x \Phi(x)", r"\Phi(x) + x \varphi(x)", ()),
    "approximate_gelu": (
        r"x (1 + \tanh u) / 2, \quad u = \sqrt{2 / \pi} (x + 0.044715 x^3)",
        r"(1 + t + x (1 - t^2) u') / 2, \quad t = \tanh u",
        (),
    ),
    "mish": (r"x \tanh(\log(1 + e^x))", r"t + x (1 - t^2) s, \quad t = \tanh(\log(1 + e^x))", ()),
}  # fmt: skip


class Activation(Explainer):
    """A function of one number: it is named, and its value at this number given."""

    @property
    def formulas(self) -> tuple[str, str]:
        f, slope, _ = SIGNS[self.op.kind]
        return f"out = f(x) = {f}", rf"dx = dout \cdot f'(x), \quad f'(x) = {slope}"

    def slope(self, place: Place) -> float:
        x, out = (np.array([array[place]]) for array in (self.node.inputs[0], self.node.out))
        return float(FORMULAS[self.op.kind][1](np.ones_like(x), x, out, *self.op.options)[0])

    def facts(self, place: Place) -> list[Fact]:
        return [Fact(name, value) for name, value in zip(SIGNS[self.op.kind][2], self.op.options, strict=True)]

    def then(self, place: Place, x: float) -> Then:
        """What the function makes of a number."""
        value = float(FORMULAS[self.op.kind][0](np.array([x]), *self.op.options)[0])
        return Then(f"max(0, {number(x)})" if self.op.kind == "relu" else f"{self.op.kind}({number(x)})", value)

    def output(self, place: Place) -> Explanation:
        x = float(self.node.inputs[0][place])
        rows, then = [single((self.x_name(), place, x))], self.then(place, x)
        said = [f"{self.op.kind} of the number at the same place, {number(x)}.", self._shut(place)]
        code = reference_to(FORMULAS[self.op.kind][0], "return")
        value, facts = self.node.out[place], self.facts(place)
        return self.explain(self.out_name(), place, value, rows, self.formulas[0], said, code, [then], facts)

    def dinput(self, k: int, place: Place) -> Explanation:
        loss = absorbing(self.scope, self.node)
        if loss is not None:
            return replace(loss.dinput(0, place), layer=self.layer, what=f"d{self.x_name()}")
        x, slope = float(self.node.inputs[0][place]), self.slope(place)
        dout = self.dout_at(np.array([place]))
        why = ZEROS[self.lost(0)[place]] if not slope else self.why_dout(dout)(0)
        factors = (f"d{self.out_name()}", place, dout.values[0]), (f"f'({number(x)})", None, slope)
        said = [
            f"The gradient is multiplied by the slope of {self.op.kind} at {number(x)}, which is {number(slope)}.",
            self._shut(place),
        ]
        code = reference_to(FORMULAS[self.op.kind][1], "return")
        gradient = self.node.dinputs[0]
        assert gradient is not None
        rows = [single(*factors, why=why)]
        return self.explain(f"d{self.x_name()}", place, gradient[place], rows, self.formulas[1], said, code)

    def _shut(self, place: Place) -> str:
        if self.op.kind == "relu" and self.node.out[place] <= 0:
            return f"ReLU is shut here: {number(float(self.node.inputs[0][place]))} is not above 0."
        return ""

    def zeros(self) -> Array:
        shut = SHUT if self.op.kind in ("relu", "bounded_relu") else 0
        return np.full(self.node.out.shape, shut, np.int8)

    def lost(self, k: int) -> Array:
        loss = absorbing(self.scope, self.node)
        if loss is not None:
            return loss.lost(0)
        x, out = self.node.inputs[0].reshape(-1), self.node.out.reshape(-1)
        slopes = FORMULAS[self.op.kind][1](np.ones_like(x), x, out, *self.op.options).reshape(self.node.out.shape)
        return np.where(slopes == 0, SHUT if self.op.kind == "relu" else FLAT, self.scope.lost(self.node.number))


def absorbing(scope: Scope, node: Node) -> Explainer | None:
    """The loss that computes together with this activation, if one does."""
    loss = next((each for each, _ in scope.record.readers(node.number) if isinstance(each.op, ops.Loss)), None)
    return scope.explainers(loss) if loss is not None and loss.op.absorbed else None  # type: ignore[attr-defined]


class Softmax(Explainer):
    formulas = (
        r"p_c = \frac{e^{z_c - m}}{\sum_k e^{z_k - m}}, \quad m = \max_k z_k",
        r"dz_c = \sum_k dp_k \cdot p_k \cdot (\delta_{kc} - p_c)",
    )

    def _row(self, place: Place) -> Array:
        columns = self.node.out.shape[-1]
        return places(*place[:-1], np.arange(columns))

    def output(self, place: Place) -> Explanation:
        at = self._row(place)
        z = self.x_at(at)
        top = float(z.values.max())
        powers = np.exp(z.values - top)
        rows = [Rows((Column(f"e^({self.x_name()} − max)", powers, at),))]
        share = float(powers[place[-1]] / powers.sum())
        then = [Then(f"{powers[place[-1]]:.4g} / {powers.sum():.4g}", share)]
        said = [
            f"The scores of row {listed(place[:-1])} as shares that add up to 1.",
            f"The score {z.values[place[-1]]:.4g} of class {place[-1]} makes {powers[place[-1]]:.4g} of "
            f"{powers.sum():.4g}.",
        ]
        value, code = self.node.out[place], reference_to(reference.softmax_forward, "out[...] =")
        return self.explain(self.out_name(), place, value, rows, self.formulas[0], said, code, then)

    def dinput(self, k: int, place: Place) -> Explanation:
        loss = absorbing(self.scope, self.node)
        if loss is not None:
            return replace(loss.dinput(0, place), layer=self.layer, what=f"d{self.x_name()}")
        at, c = self._row(place), place[-1]
        dout = self.dout_at(at)
        p = Column(self.out_name(), self.node.out[tuple(at.T)], at)
        same = np.arange(len(at)) == c
        rest = Column("(1 if the same) − p of this class", same - float(self.node.out[place]))
        rows = [Rows((dout, p, rest), self.why_dout(dout))]
        said = [
            f"Score {c} enters the probabilities of all {len(at)} classes: its own with p (1 − p), others with −p p.",
        ]
        gradient = self.node.dinputs[0]
        assert gradient is not None
        code = reference_to(reference.softmax_backward, "dx[...] =")
        return self.explain(f"d{self.x_name()}", place, gradient[place], rows, self.formulas[1], said, code)

    def lost(self, k: int) -> Array:
        loss = absorbing(self.scope, self.node)
        return super().lost(k) if loss is None else loss.lost(0)


class Source(Explainer):
    """An input: nothing is computed."""

    def output(self, place: Place) -> Explanation:
        value = float(self.node.out[place])
        rows = [single(("the batch", place, value))]
        said = [f"A number of sample {place[0]}, as it was handed over."]
        code = reference_to(ops.Source.emit, "return")
        return self.explain("output", place, value, rows, r"x", said, code)

    def zeros(self) -> Array:
        return np.full(self.node.out.shape, INPUT, np.int8)


POINTWISE: dict[type[ops.Op], Any] = {
    ops.Activation: Activation,
    ops.Softmax: Softmax,
    ops.Source: Source,
}
