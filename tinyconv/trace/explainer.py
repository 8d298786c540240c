"""What the explanations of all ops share: names of arrays, columns of terms, and why a number is zero."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyconv.plan import ops
from tinyconv.trace.explanation import Column, Explanation, Fact, Place, Reference, Rows, Then, single
from tinyconv.trace.record import Array, Node, Record, Use

ACTIVATIONS = ops.Activation | ops.Softmax


# Why a number is zero.
SHUT, LOST, DROPPED, NO_WINDOW, BORDER, INPUT, FLAT, SMALLER, UNREAD, UNWEIGHTED, CLIPPED, UNSEEN = range(1, 13)
ZEROS = (
    "",
    "ReLU shut",
    "lost the pool",
    "dropped",
    "in no window",
    "a zero of the border",
    "zero in the input",
    "flat there",
    "another input was chosen",
    "no loss depends on it",
    "the sample's weight is 0",
    "the probability was clipped",
    "seen by no pixel",
)


@dataclass(frozen=True)
class Scope:
    """A step, and who explains which op of it."""

    record: Record
    explainers: Callable[[Node], "Explainer"]
    known: dict[int, Array] = field(default_factory=dict)  # reasons of values, and, at ~number, of their gradients

    def explainer(self, number: int) -> "Explainer":
        return self.explainers(self.record.nodes[number])

    def use_of(self, node: Node) -> Use | None:
        return next((use for use in self.record.uses if node.number in use.nodes), None)

    def zeros(self, number: int) -> Array:
        """For every number of a value why it is zero, as a number of ZEROS; 0 where it is not, or that is not known."""
        if number not in self.known:
            out = self.record.nodes[number].out
            self.known[number] = np.where(out == 0, self.explainer(number).zeros(), 0).astype(np.int8)
        return self.known[number]

    def lost(self, number: int) -> Array:
        """The same of the gradient of a value: what its readers say. Those of later values are found out first, the
        last of all before the others: a network may be deeper than Python recurses."""
        if ~number not in self.known:
            for node in reversed(list(self.record.nodes.values())):
                if node.number >= number and node.dout is not None and ~node.number not in self.known:
                    self.known[~node.number] = self._lost(node, node.dout)
        return self.known[~number]

    def _lost(self, node: Node, dout: Array) -> Array:
        readers = [self.explainers(reader).lost(k) for reader, k in self.record.readers(node.number)]
        found = readers[0] if readers else np.full(dout.shape, UNREAD)
        for each in readers[1:]:
            found = np.where(each == 0, 0, found)
        return np.where(dout == 0, found, 0).astype(np.int8)


class Explainer:
    """Explains the numbers of one op: its output, the gradients of its inputs, and of its weights.

    Subclasses say what the terms are. ``forward`` and ``backward`` are the reference's functions, each with a part of
    the line that computes the number.
    """

    forward: tuple[Any, str]
    backward: tuple[Any, str]

    def __init__(self, scope: Scope, node: Node) -> None:
        self.scope, self.node = scope, node
        self.op: Any = node.op
        self.use = scope.use_of(node)

    # Names

    @property
    def layer(self) -> str:
        return self.node.where or self.op.name

    def out_name(self) -> str:
        return name_in(self.scope.record, self.use, self.node.number)

    def x_name(self, k: int = 0) -> str:
        """How the layer calls this op's input."""
        if self.use is not None and self.node.number != self.use.nodes[0]:
            return name_in(self.scope.record, self.use, self.node.reads[k])
        return "input" if len(self.node.reads) == 1 else f"input_{k}"

    # Explanations

    def output(self, place: Place) -> Explanation:
        raise NotImplementedError

    def dinput(self, k: int, place: Place) -> Explanation:
        raise NotImplementedError

    def dweight(self, name: str, place: Place) -> Explanation:
        raise NotImplementedError

    def zeros(self) -> Array:
        """For every number of the output why it would be zero: a number of ZEROS. 0: as a sum that happens to be."""
        return np.zeros(self.node.out.shape, np.int8)

    def lost(self, k: int) -> Array:
        """The same of the gradient of an input: where all outputs of a sample have one reason, so do its inputs."""
        x, out = self.node.inputs[k], self.scope.lost(self.node.number).reshape(self.node.batch_size, -1)
        same = np.where((out == out[:, :1]).all(axis=1), out[:, 0], 0)
        return np.broadcast_to(same.reshape(-1, *(1,) * (x.ndim - 1)), x.shape)

    # Parts of them

    def explain(
        self,
        what: str,
        place: Place,
        value: Any,
        rows: Sequence[Rows],
        formula: str,
        sentences: Sequence[str],
        reference: Reference,
        then: Sequence[Then] = (),
        facts: Sequence[Fact] = (),
    ) -> Explanation:
        said = tuple(sentence for sentence in sentences if sentence)
        return Explanation(
            self.layer, what, place, float(value), tuple(rows), formula, said, reference, tuple(then), tuple(facts)
        )

    @property
    def dout(self) -> Array:
        assert self.node.dout is not None
        return self.node.dout

    def x_at(self, places: Array, k: int = 0) -> Column:
        return Column(self.x_name(k), taken(self.node.inputs[k], places), places)

    def dout_at(self, places: Array) -> Column:
        return Column(f"d{self.out_name()}", taken(self.dout, places), places)

    def weight(self, name: str) -> Array:
        return self.scope.record.weights[f"{self.op.name}/{name}"].value

    def weight_at(self, name: str, places: Array) -> Column:
        return Column(name, taken(self.weight(name), places), places)

    def why_x(self, column: Column, k: int = 0) -> Callable[[int], str]:
        """Of the rows of :meth:`x_at`, why they are zero."""
        return lambda row: ZEROS[self.scope.zeros(self.node.reads[k])[_place(column, row)]]

    def why_dout(self, column: Column) -> Callable[[int], str]:
        """Of the rows of :meth:`dout_at`, why they are zero."""
        return lambda row: ZEROS[self.scope.lost(self.node.number)[_place(column, row)]]

    def siblings(self) -> list[Node]:
        """This op in all uses of its layer, whose weights are the same."""
        nodes = self.scope.record.nodes.values()
        same = (type(self.op), self.op.name, self.op.label, getattr(self.op, "weights", ()))
        return [
            node
            for node in nodes
            if (type(node.op), node.op.name, node.op.label, getattr(node.op, "weights", ())) == same
        ]

    def penalties(self, name: str, place: Place) -> list[Rows]:
        """What regularisers add to the gradient of a weight."""
        weight = self.scope.record.weights[f"{self.op.name}/{name}"]
        value, rows = float(weight.value[place]), []
        for power, strength in weight.penalty.items():
            factor = (
                (f"2 × {strength:g} (L2)", None, 2 * strength) if power == 2 else (f"{strength:g} (L1)", None, strength)
            )
            other = (name, place, value) if power == 2 else (f"the sign of {name}{list(place)}", None, np.sign(value))
            rows.append(single(factor, other))
        return rows


def name_in(record: Record, use: Use | None, number: int) -> str:
    """How a layer calls the value of one of its nodes: "output"; "z", what its activation starts from; or the op's
    kind."""
    if use is None or number == use.gives:
        return "output"
    last = record.nodes[use.nodes[-1]]
    if isinstance(last.op, ACTIVATIONS) and last.reads == (number,):
        return "z"
    return record.nodes[number].op.label


def taken(array: Array, places: Array) -> Array:
    """The numbers at these places, and 0 for places outside."""
    inside = np.all((places >= 0) & (places < array.shape), axis=1)
    at = np.where(np.asarray(inside)[:, None], places, 0)
    return np.asarray(np.where(inside, array[tuple(at.T)], 0.0))


def _place(column: Column, row: int) -> Place:
    assert column.places is not None
    return tuple(column.places[row].tolist())


def listed(place: Sequence[int]) -> str:
    """A place for a sentence: 3, 4."""
    return ", ".join(map(str, place))


def counted(number: int, what: str) -> str:
    """1 pixel, 2 pixels."""
    return f"{number} {what}" + ("" if number == 1 else "s")
