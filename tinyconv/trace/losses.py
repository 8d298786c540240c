"""Explanations of losses: of each row's, of their gradients, and of the whole."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinyconv.kernels import reference
from tinyconv.kernels.reference.loss import EPSILON
from tinyconv.plan import ops
from tinyconv.trace.explainer import CLIPPED, UNWEIGHTED, Explainer, Scope, counted
from tinyconv.trace.explanation import Column, Explanation, Fact, Place, Rows, Then, reference_to, single
from tinyconv.trace.record import FROM_PROBABILITIES, Array, Node, Record, row_factors

# For each kind: the loss of a row, its gradient, and the lines of the reference.
FORMULAS: dict[str, tuple[str, str]] = {
    "softmax_cross_entropy": (
        r"L_n = \sum_c t_{n,c} \cdot (-\log p_{n,c}), \quad p = softmax(z)",
        r"dz_{n,c} = (p_{n,c} \sum_k t_{n,k} - t_{n,c}) \cdot \frac{1}{N}",
    ),
    "cross_entropy": (
        r"L_n = \sum_c t_{n,c} \cdot (-\log q_{n,c}), \quad q_c = \frac{p_c}{\sum_k p_k}",
        r"dp_{n,c} = \sum_k g_k \cdot (\delta_{kc} - q_k) \cdot \frac{1}{N \sum_j p_j}, \quad g_k = -\frac{t_k}{q_k}",
    ),
    "sigmoid_cross_entropy": (
        r"L_n = \frac{1}{C} \sum_c (-t_c \log p_c - (1 - t_c) \log(1 - p_c)), \quad p = \frac{1}{1 + e^{-z}}",
        r"dz_{n,c} = (p_{n,c} - t_{n,c}) \cdot \frac{1}{N C}",
    ),
    "binary_cross_entropy": (
        r"L_n = \frac{1}{C} \sum_c (-t_c \log p_c - (1 - t_c) \log(1 - p_c))",
        r"dp_{n,c} = \frac{p_{n,c} - t_{n,c}}{p_{n,c} (1 - p_{n,c})} \cdot \frac{1}{N C}",
    ),
    "mean_squared_error": (
        r"L_n = \frac{1}{C} \sum_c (p_{n,c} - t_{n,c})^2",
        r"dp_{n,c} = 2 (p_{n,c} - t_{n,c}) \cdot \frac{1}{N C}",
    ),
    "mean_absolute_error": (
        r"L_n = \frac{1}{C} \sum_c |p_{n,c} - t_{n,c}|",
        r"dp_{n,c} = sign(p_{n,c} - t_{n,c}) \cdot \frac{1}{N C}",
    ),
    "huber": (
        r"L_n = \frac{1}{C} \sum_c h(p_{n,c} - t_{n,c}), \quad h(e) = e^2 / 2 \text{ or } \delta |e| - \delta^2 / 2",
        r"dp_{n,c} = \max(-\delta, \min(\delta, p_{n,c} - t_{n,c})) \cdot \frac{1}{N C}",
    ),
}


class Loss(Explainer):
    """The loss of an output. ``rows``: the last axis holds columns, all others count rows."""

    def __init__(self, scope: Scope, node: Node) -> None:
        super().__init__(scope, node)
        self.kind: str = self.op.kind
        own = node.own[f"{self.kind}_forward"]
        self.targets, self.losses = own["targets"].astype(np.float64), own["losses"]
        self.columns = self.targets.shape[1]
        self.x = node.inputs[0].reshape(self.targets.shape).astype(np.float64)
        self.probs = own["probs"].astype(np.float64) if "probs" in own else self.x
        self.factors = row_factors(node)

    @property
    def layer(self) -> str:
        return self.op.name

    def _places(self, row: int) -> Array:
        """Where the numbers of a row stand in the predictions."""
        at = np.unravel_index(row * self.columns + np.arange(self.columns), self.node.inputs[0].shape)
        return np.stack(at, axis=1)

    def _truth(self, row: int) -> str:
        if self.kind.endswith("cross_entropy") and "binary" not in self.kind and "sigmoid" not in self.kind:
            best, answer = int(self.targets[row].argmax()), int(self.probs[row].argmax())
            said = f"The truth is class {best}, the answer class {answer} with {self.probs[row].max():.4g}."
            return f"{said} Guessing among {self.columns} would cost {np.log(self.columns):.4f}."
        return f"The mean over {counted(self.columns, 'column')}."

    def output(self, place: Place) -> Explanation:
        (row,) = place
        at = self._places(row)
        targets = Column("targets", self.targets[row], at)
        name, costs = self._costs(row)
        if self.kind in ("softmax_cross_entropy", "cross_entropy"):
            rows = [Rows((targets, Column(name, costs, at)), lambda i: "" if self.targets[row, i] else "not the truth")]
        else:
            rows = [
                Rows((Column(f"1 / {self.columns}", np.full(self.columns, 1 / self.columns)), Column(name, costs, at)))
            ]
        factor = row_factors(self.node, of_output=False)[row]
        then = [] if factor == 1 else [Then(f"times the weight, {factor:.4g}", float(costs_of(rows) * factor))]
        said = [f"The loss of row {row}, one of {len(self.losses)}.", self._truth(row)]
        code = reference_to(getattr(reference, f"{self.kind}_forward"), "losses[...] =")
        formula, facts = FORMULAS[self.kind][0], self._facts()
        return self.explain("losses", place, self.losses[row], rows, formula, said, code, then, facts)

    def _facts(self) -> list[Fact]:
        smoothed = self.op.smoothing
        facts = [Fact(name, value) for name, value in self.op.options.items()]
        return facts + ([Fact("label_smoothing", smoothed[0], "the targets are smoothed")] if smoothed else [])

    def _costs(self, row: int) -> tuple[str, Array]:
        """What each column costs, before targets of one class choose among them."""
        x, t = self.x[row], self.targets[row]
        if self.kind == "softmax_cross_entropy":
            return "−log p", np.log(np.exp(x - x.max()).sum()) - (x - x.max())
        if self.kind == "cross_entropy":
            return "−log q", -np.log(np.clip(x / x.sum(), EPSILON, 1 - EPSILON))
        if self.kind == "sigmoid_cross_entropy":
            return "loss of a column", np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))
        if self.kind == "binary_cross_entropy":
            q = np.clip(x, EPSILON, 1 - EPSILON)
            return "loss of a column", -(t * np.log(q) + (1 - t) * np.log1p(-q))
        error = x - t
        if self.kind == "mean_squared_error":
            return "(p − t)²", error**2
        size = np.abs(error)
        if self.kind == "mean_absolute_error":
            return "|p − t|", size
        delta = self.op.options["delta"]
        return "h(p − t)", np.where(size <= delta, size**2 / 2, delta * size - delta**2 / 2)

    def dinput(self, k: int, place: Place) -> Explanation:
        row = int(np.ravel_multi_index(place[:-1], self.node.inputs[0].shape[:-1]))
        rows = GRADIENTS[self.kind](self, row, place)
        said = [f"Row {row} is one of {len(self.losses)}, over which the loss is the mean.", self._truth(row)]
        if self.factors[row] != 1:
            said.append(f"Its loss counts {self.factors[row]:.4g} times.")
        kernel = getattr(reference, f"{self.kind}_backward")
        mark = {"softmax_cross_entropy": "dlogits", "sigmoid_cross_entropy": "dlogits"}.get(self.kind)
        mark = mark or ("dprobs" if self.kind.endswith("cross_entropy") else "dpredictions")
        code, gradient = reference_to(kernel, f"{mark}[...] ="), self.node.dinputs[0]
        assert gradient is not None
        formula, facts = FORMULAS[self.kind][1], self._facts()
        return self.explain("dinput", place, gradient[place], rows, formula, said, code, facts=facts)

    def share(self, row: int, columns: bool) -> tuple[str, None, float]:
        """The last factor of a gradient: the row's weight, over the number of rows, and of columns."""
        name, count = f"1 / {len(self.losses)}", len(self.losses)
        if columns:
            name, count = f"1 / ({count} · {self.columns})", count * self.columns
        weight = self.factors[row]
        return (name if weight == 1 else f"{weight:.4g} / {name[4:]}"), None, weight / count

    def lost(self, k: int) -> Array:
        clips = self.kind in ("cross_entropy", "binary_cross_entropy")
        found = np.where(clips & ((self.x < EPSILON) | (self.x > 1 - EPSILON)), CLIPPED, 0)
        return np.where(self.factors[:, None] == 0, UNWEIGHTED, found).reshape(self.node.inputs[0].shape)


def costs_of(rows: list[Rows]) -> float:
    return float(sum(each.values.sum() for each in rows))


def _minus_truth(loss: Loss, row: int, place: Place) -> list[Rows]:
    """p - t, for probabilities that a loss has made of scores."""
    c, columns = place[-1], loss.kind.startswith("sigmoid")
    p, t = loss.probs[row, c], loss.targets[row, c]
    total = loss.targets[row].sum()
    sums = [] if columns or abs(total - 1) < 1e-6 else [("the sum of the targets", None, total)]
    share = loss.share(row, columns)
    return [single(("p", place, p), *sums, share), single(("−t", place, -t), share)]


def _of_probabilities(loss: Loss, row: int, place: Place) -> list[Rows]:
    p, t, c = loss.x[row], loss.targets[row], place[-1]
    q = p / p.sum()
    g = np.where((q < EPSILON) | (q > 1 - EPSILON), 0, -t / np.where(q == 0, 1, q))
    at, (name, _, share) = loss._places(row), loss.share(row, False)
    columns = (
        Column("−t / q", g, at),
        Column("(1 if the same) − q", (np.arange(len(q)) == c) - q, at),
        Column(name, np.full(len(q), share / p.sum())),
    )
    return [Rows(columns, lambda i: "not the truth" if not t[i] else "its probability was clipped")]


def _of_yes_or_no(loss: Loss, row: int, place: Place) -> list[Rows]:
    p, t = loss.x[row, place[-1]], loss.targets[row, place[-1]]
    clipped = not EPSILON <= p <= 1 - EPSILON
    slope = 0.0 if clipped else 1 / (p * (1 - p))
    why = "its probability was clipped" if clipped else ""
    return [single(("p − t", place, p - t), ("1 / (p (1 − p))", None, slope), loss.share(row, True), why=why)]


def _of_error(slope: Callable[[Loss, float], tuple[str, float]]) -> Callable[[Loss, int, Place], list[Rows]]:
    def rows(loss: Loss, row: int, place: Place) -> list[Rows]:
        name, value = slope(loss, loss.x[row, place[-1]] - loss.targets[row, place[-1]])
        return [single((name, place, value), loss.share(row, True))]

    return rows


def _clipped(loss: Loss, error: float) -> tuple[str, float]:
    delta = loss.op.options["delta"]
    return f"p − t, clipped to {delta:g}", float(np.clip(error, -delta, delta))


GRADIENTS: dict[str, Callable[[Loss, int, Place], list[Rows]]] = {
    "softmax_cross_entropy": _minus_truth,
    "sigmoid_cross_entropy": _minus_truth,
    "cross_entropy": _of_probabilities,
    "binary_cross_entropy": _of_yes_or_no,
    "mean_squared_error": _of_error(lambda loss, error: ("2 (p − t)", 2 * error)),
    "mean_absolute_error": _of_error(lambda loss, error: ("the sign of p − t", float(np.sign(error)))),
    "huber": _of_error(_clipped),
}


def of_probabilities(scope: Scope, loss: Node) -> Loss:
    """What a loss that starts from scores would have been as one that starts from the probabilities."""
    assert isinstance(loss.op, ops.Loss)
    kind = FROM_PROBABILITIES[loss.op.kind]
    own = {**loss.own, f"{kind}_forward": loss.own[f"{loss.op.label}_forward"]}
    op = replace(loss.op, kind=kind)
    dprobs = scope.record.nodes[loss.reads[0]].dout
    return Loss(scope, replace(loss, op=op, own=own, inputs=(loss.out,), dinputs=(dprobs,)))


def whole_loss(record: Record) -> Explanation:
    """The loss of the batch: the mean over its rows, of several outputs the weighted sum, and the penalties."""
    assert record.loss is not None
    rows = []
    for node in record.losses.values():
        losses = node.own[f"{node.op.label}_forward"]["losses"]
        count = np.arange(len(losses))
        columns = [
            Column("losses", losses, count[:, None]),
            Column(f"1 / {len(losses)}", np.full(len(losses), 1 / len(losses))),
        ]
        weight: float = node.op.weight  # type: ignore[attr-defined]
        if weight != 1:
            columns.append(Column("loss weight", np.full(len(losses), weight)))
        rows.append(Rows(tuple(columns)))
    if record.penalty:
        rows.append(single(("the penalties on large weights", None, record.penalty)))
    said = ("The mean of the rows' losses." if len(rows) == 1 else "The sum of all parts that compile() asked for.",)
    code = reference_to(reference.accumulate, "totals[slot] +=")
    return Explanation("loss", "loss", (), record.loss, tuple(rows), r"L = \frac{1}{N} \sum_n L_n", said, code)
