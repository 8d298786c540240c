"""Is a gradient right? A number is nudged, the loss is looked at: in double precision, by the reference's kernels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tinyconv.checking.tables import Table, Tabled
from tinyconv.kernels import memory, reference
from tinyconv.plan import ops
from tinyconv.plan.arena import Arena
from tinyconv.plan.lowering import Emitted
from tinyconv.plan.state import LOSSES, PENALTY, State
from tinyconv.trace.explainer import name_in
from tinyconv.trace.explanation import Place, number
from tinyconv.trace.record import Array, Node, Record
from tinyconv.trace.step import backward, forward, lowered, run

STEP = 1e-6  # double precision's best compromise: the difference's error grows with its square, rounding with 1 / step
NOISE = 1e-8  # of a slope, for a loss of 1
SINGLE = 1e-6  # of the network's largest gradient: what single precision may leave of a sum that is 0
KINK = 0.01  # of a slope: so much the left and the right one may differ

AGREES, AT_A_KINK, ROUNDED, WRONG = "agrees", "kink", "rounding", "wrong"


@dataclass(frozen=True)
class Nudged:
    """A gradient, and what the loss does when its number is nudged.

    ``exact``: the gradient in double precision. ``losses``: to the left, here, and to the right, a ``STEP`` apart;
    ``left`` and ``right``: the slopes to both sides; ``slope`` is their mean.

    ``verdict``: "agrees"; "kink", if the loss has two slopes here (a ReLU at 0, two equals in a pool), and the gradient
    is that of double precision; "rounding", if a ReLU or a pool decides otherwise in single precision somewhere in the
    batch, so that two different functions are compared; else "wrong".
    """

    tensor: str  # "conv2d, dkernel"
    place: Place
    gradient: float
    exact: float
    losses: tuple[float, float, float]
    verdict: str = AGREES

    @property
    def left(self) -> float:
        return (self.losses[1] - self.losses[0]) / STEP

    @property
    def right(self) -> float:
        return (self.losses[2] - self.losses[1]) / STEP

    @property
    def slope(self) -> float:
        return (self.losses[2] - self.losses[0]) / (2 * STEP)

    def __str__(self) -> str:
        said = {AGREES: f"agrees in {self.digits} digits" if self.digits else "agrees", WRONG: "WRONG"}
        said[AT_A_KINK] = f"a kink: left {number(self.left)}, right {number(self.right)}"
        said[ROUNDED] = "a ReLU or a pool is on the other side in double precision"
        return said[self.verdict]

    @property
    def digits(self) -> int:
        """How many digits of the exact gradient are those of the slope; none of what is not finite."""
        if not np.isfinite([self.exact, self.slope]).all():
            return 0
        error = max(abs(self.exact - self.slope), 1e-16 * abs(self.slope), 1e-300)
        return max(int(-np.log10(error / max(abs(self.slope), 1e-300))), 0) if self.slope else 0


class GradientCheck(Tabled):
    """What :meth:`Trace.check` found: ``rows``, and whether they are all ``ok``, that is, none is wrong."""

    def __init__(self, rows: list[Nudged], tolerance: float) -> None:
        self.rows, self.tolerance = rows, tolerance

    @property
    def ok(self) -> bool:
        return not self.wrong

    @property
    def wrong(self) -> list[Nudged]:
        return [row for row in self.rows if row.verdict == WRONG]

    def table(self) -> Table:
        """Every number that was nudged."""
        cells = [
            (each.tensor, str(list(each.place)), number(each.gradient), number(each.slope), str(each))
            for each in self.rows
        ]
        columns = ("gradient", "place", "chain rule", "measured by nudging", "")
        kinks = sum(each.verdict == AT_A_KINK for each in self.rows)
        notes = [f"{len(self.rows)} gradients: {len(self.wrong)} wrong, {kinks} at kinks of the loss."]
        return Table(f"Central differences of {STEP:g} in double precision", columns, cells, notes, right=(2, 3))

    def __repr__(self) -> str:
        return f"<{len(self.rows)} gradients checked, {len(self.wrong)} wrong>"


@dataclass(frozen=True, eq=False)
class Tensor:
    """A gradient, the step's and the exact one; the numbers to nudge; and the node behind which the loss then has to be
    computed again."""

    name: str
    gradient: Array
    exact: Array
    array: Array
    node: int


class Exact:
    """The same step in double precision, whose numbers can be nudged."""

    def __init__(self, record: Record) -> None:
        self.record = record
        losses = [None if loss is None else replace(loss, measures=()) for loss in record.setting.losses]
        setting = replace(record.setting, losses=losses)
        self.losses = [loss for loss in losses if loss is not None]
        penalties: dict[int, dict[str, float]] = {}
        for name, weight in record.weights.items():
            for power, strength in weight.penalty.items():
                penalties.setdefault(power, {})[name] = strength
        params, moving = (
            Arena(
                {name: w.value.shape for name, w in record.weights.items() if (w.gradient is None) is frozen},
                memory,
                np.float64,
            )  # type: ignore[arg-type]
            for frozen in (False, True)
        )
        for arena in (params, moving):
            for name in arena.shapes:
                arena[name][...] = record.weights[name].value
        totals = LOSSES + 2 * len(self.losses)
        self.state = State(reference, params, moving, seed=record.seed, totals=totals, penalties=penalties)
        self.state.set(self.state.counters, record.counters)
        self.plan = lowered(setting, self.state, len(record.given[0][0]), training=True)
        for there, given in zip(
            (self.plan.xs, self.plan.all_targets, self.plan.all_weights), record.given, strict=True
        ):
            for array, values in zip(there, given, strict=True):
                array[...] = values
        run(self.state, self.plan.steps["prepare"])
        self.nodes = forward(self.state, self.plan)
        self.loss = self._loss()
        self.nodes = backward(self.state, self.plan, self.nodes)
        self.grads = {name: self.state.read(self.state.grads[name]) for name in params.shapes}

    def _loss(self) -> float:
        totals = self.state.totals
        whole = totals[PENALTY] + sum(loss.weight * totals[loss.slot] for loss in self.losses)
        return float(whole / totals[LOSSES + 1])

    def again(self, after: int) -> float:
        """The loss, if the values of the nodes up to that number are as they stand in memory."""
        self.state.totals[...] = 0
        done = 0
        for node, emitted in self.plan.emitted.items():
            done += len(emitted.forward)
            if node > after:
                run(self.state, emitted.forward)
        run(self.state, self.plan.steps["forward"][done:])
        return self._loss()

    @cached_property
    def values(self) -> dict[int, Tensor]:
        """The gradients of values, by the number of the node, the last first."""
        found = {}
        for node, emitted in reversed(self.plan.emitted.items()):
            kept, exact = self.record.nodes[node], self.nodes[node].dout
            if isinstance(emitted.op, ops.Loss | ops.Reshape) or kept.dout is None or exact is None:
                continue  # the numbers of a reshaped array are those of the array before it
            use = next((use for use in self.record.uses if node in use.nodes), None)
            name = f"{kept.where}, d{name_in(self.record, use, node)}"
            found[node] = Tensor(name, kept.dout, exact, emitted.out.data, node)
        return found

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The gradients of weights, by "layer/weight"."""
        found = {}
        for weight, exact in self.grads.items():
            layer, _, own = weight.rpartition("/")
            gradient = self.record.weights[weight].gradient
            assert gradient is not None
            found[weight] = Tensor(f"{layer}, d{own}", gradient, exact, self.state.params[weight], -1)
        return found

    @cached_property
    def largest(self) -> float:
        """The largest gradient of all."""
        tensors = (*self.values.values(), *self.weights.values())
        return max((float(np.abs(tensor.exact).max(initial=0)) for tensor in tensors), default=0.0)

    def nudge(self, tensor: "Tensor", place: Place) -> Nudged:
        """Nudge one number. What lies behind it in memory is then the nudged network's."""
        array, before = tensor.array, tensor.array[place]
        losses = []
        for step in (-STEP, STEP):
            array[place] = before + step
            losses.append(self.again(tensor.node))
        array[place] = before
        gradient, exact = float(tensor.gradient[place]), float(tensor.exact[place])
        return Nudged(tensor.name, place, gradient, exact, (losses[0], self.loss, losses[1]))

    def decisions(self) -> list[Array]:
        """What ReLUs, pools and maxima decide, as the values stand in memory."""
        return [_decisions(each.op, [x.data for x in each.inputs], each) for each in self.plan.emitted.values()]

    def crosses(self, tensor: Tensor, place: Place) -> bool:
        """Whether a nudge changes what a ReLU or a pool decides, from 0 included."""
        array, before, found = tensor.array, tensor.array[place], []
        for step in (-STEP, 0.0, STEP):
            array[place] = before + step
            self.again(tensor.node)
            found.append(self.decisions())
        array[place] = before
        return any(not np.array_equal(a, b) for other in (0, 2) for a, b in zip(found[1], found[other], strict=True))

    def is_another_function(self) -> bool:
        """Whether a ReLU or a pool decides otherwise in single precision."""
        return any(
            not np.array_equal(_decisions(node.op, node.inputs, node), _decisions(node.op, kept.inputs, kept))
            for number, node in self.nodes.items()
            if (kept := self.record.nodes[number])
        )


def _decisions(op: ops.Op, inputs: Sequence[Array], holder: Emitted | Node) -> Array:
    """Of a ReLU the signs, of a pool, a maximum or a minimum the winners."""
    if isinstance(op, ops.MaxPool2D):
        own = holder.own if isinstance(holder, Node) else {"": holder.forward[0].arguments}
        return np.array(next(iter(own.values()))["argmax"])
    if isinstance(op, ops.Activation):
        return np.sign(inputs[0])
    if isinstance(op, ops.Merge) and op.kind not in ("add", "subtract", "multiply"):
        winner = np.argmin if op.kind == "minimum" else np.argmax
        return winner(np.stack(np.broadcast_arrays(*inputs)), axis=0)
    return np.zeros(0)


def checked(exact: Exact, count: int, seed: int, tolerance: float) -> GradientCheck:
    """Nudge ``count`` random numbers of every array that has a gradient, the last values first."""
    rng, rows = np.random.default_rng(seed), []
    exact.again(-1)
    for tensor in (*exact.values.values(), *exact.weights.values()):
        size = tensor.array.size
        for flat in rng.choice(size, min(count, size), replace=False) if size else ():
            place = tuple(int(i) for i in np.unravel_index(flat, tensor.array.shape))
            rows.append(judged(exact, tensor, place, tolerance))
    return GradientCheck(rows, tolerance)


def judged(exact: Exact, tensor: Tensor, place: Place, tolerance: float) -> Nudged:
    """A number nudged, and the verdict. At a kink no slope is the right one: there the exact gradient decides."""
    row = exact.nudge(tensor, place)
    noise = NOISE * max(1.0, abs(exact.loss))
    allowed = tolerance * max(float(np.abs(tensor.gradient).max(initial=0)), abs(row.slope)) + noise
    is_derivative = abs(row.exact - row.slope) <= allowed
    is_exact = abs(row.gradient - row.exact) <= allowed + SINGLE * exact.largest
    bent = abs(row.right - row.left) > KINK * max(abs(row.right), abs(row.left)) + noise
    if is_derivative and is_exact and not bent:
        return row
    if not np.isfinite((row.gradient, row.slope)).all():
        return replace(row, verdict=WRONG)
    another = exact.is_another_function()
    if bent or exact.crosses(tensor, place):
        return replace(row, verdict=AT_A_KINK if is_exact or another else WRONG)
    return replace(row, verdict=ROUNDED if is_derivative and another else WRONG)


def nudged(exact: Exact, what: int | str, place: Place, tolerance: float) -> Nudged:
    """The same for one number of the gradient of a value, by its node, or of a weight."""
    nodes = exact.record.nodes
    while isinstance(what, int) and isinstance(nodes[what].op, ops.Reshape):
        node = nodes[what]
        flat = np.ravel_multi_index(place, node.out.shape)
        what, place = node.reads[0], tuple(int(i) for i in np.unravel_index(flat, node.inputs[0].shape))
    tensor = exact.weights[what] if isinstance(what, str) else exact.values.get(what)
    if tensor is None:
        raise ValueError(
            f"The loss starts from the scores, before {nodes[what].where!r} makes probabilities of them. "  # type: ignore[index]
            'Expected another gradient, such as "dz".'
        )
    exact.again(-1)
    return judged(exact, tensor, place, tolerance)
