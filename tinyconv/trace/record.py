"""What is kept of a step: arrays of the computer's own memory, beside the ops that computed them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyconv.plan import ops
from tinyconv.plan.fusion import Rule
from tinyconv.plan.graph import Graph
from tinyconv.plan.ops import Op

Array = np.ndarray

# Of the losses that start from scores, those that start from probabilities.
FROM_PROBABILITIES = {"softmax_cross_entropy": "cross_entropy", "sigmoid_cross_entropy": "binary_cross_entropy"}


@dataclass(frozen=True, eq=False)
class Node:
    """An op of the step. ``dinputs``: of each input, the gradient by way of this op alone."""

    number: int
    op: Op
    reads: tuple[int, ...]
    inputs: tuple[Array, ...]
    dinputs: tuple[Array | None, ...]
    out: Array
    dout: Array | None
    own: Mapping[str, Mapping[str, Array]]  # what its kernels read and wrote beside, by kernel and argument
    where: str = ""  # the use of a layer that it is a part of

    def array(self, argument: str) -> Array | None:
        """What its kernels call so, if they have it."""
        return next((each[argument] for each in self.own.values() if argument in each), None)

    @property
    def batch_size(self) -> int:
        return len(self.out)


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight in a step: its value before and after, and, if it is trained, why it has moved.

    ``gradient`` is that of the whole loss, penalties included; ``clipped`` is what the optimiser has made of it before
    it stepped. ``moments`` are the optimiser's, by slot, after the step.
    """

    name: str  # "layer/weight"
    value: Array
    new: Array
    gradient: Array | None = None
    clipped: Array | None = None
    penalty: Mapping[int, float] = field(default_factory=dict)  # by power, its strength
    moments_before: Mapping[str, Array] = field(default_factory=dict)
    moments: Mapping[str, Array] = field(default_factory=dict)

    @property
    def step(self) -> Array:
        """What the update has added."""
        return self.new - self.value

    def __repr__(self) -> str:
        return f"<Weight {self.name!r} of shape {self.value.shape}>"


@dataclass(frozen=True, eq=False)
class Use:
    """A use of a layer: the numbers of the nodes it reads, of those it consists of, and of the one it gives."""

    name: str  # "conv2d"; of a layer's further uses "conv2d:1", "conv2d:2" ...
    path: str  # the layer's name, which its weights begin with
    layer: Any
    reads: tuple[int, ...]
    nodes: tuple[int, ...]
    gives: int


@dataclass(frozen=True, eq=False)
class Setting:
    """What is computed: the model's graph, the loss of each output (None: it has none), and the rules of fusion."""

    graph: Graph
    losses: Sequence[ops.Loss | None]
    rules: Sequence[Rule]


@dataclass(frozen=True, eq=False)
class Record:
    """A step, as it was computed."""

    model: str
    backend: str
    training: bool  # or as at inference, and forward only
    counters: tuple[int, ...]  # step, cursor, first sample
    seed: int
    setting: Setting
    given: tuple[tuple[Array, ...], ...]  # inputs, targets and weights of rows, in the plan's order
    nodes: Mapping[int, Node]  # in the order of the forward pass
    uses: Sequence[Use]
    order: Sequence[str]  # the layers in Keras' order
    weights: Mapping[str, Weight]
    update: Sequence[
        tuple[str, Mapping[str, Any]]
    ] = ()  # the optimiser's kernels, and those arguments that are numbers
    optimizer: str = ""
    optimizer_config: Mapping[str, Any] | None = None  # in Keras' notation
    penalty: float = 0.0  # of the loss, the part that is the regularisers'
    loss: float | None = None
    loss_after: float | None = None

    @property
    def losses(self) -> dict[str, Node]:
        """The losses, by their names in the trace."""
        return {node.op.name: node for node in self.nodes.values() if isinstance(node.op, ops.Loss)}

    def readers(self, number: int) -> list[tuple[Node, int]]:
        """The nodes that read a node's value, in the order in which their gradients are added, and as which input."""
        return [(node, i) for node in self.nodes.values() for i, read in enumerate(node.reads) if read == number]


def row_factors(loss: Node, of_output: bool = True) -> Array:
    """What each row's loss is multiplied by before the mean is taken: its weight, and the output's. In float64."""
    op = loss.op
    assert isinstance(op, ops.Loss)
    rows = len(loss.own[f"{op.kind}_forward"]["losses"])
    weights = loss.own.get("weigh", {}).get("weights")
    factors = np.full(rows, (op.weight if of_output else 1.0) * (rows if op.summed else 1))
    if weights is not None and weights.size:
        total = weights.astype(np.float64).sum()
        mean = (rows / total if total else 0.0) if op.normalize else 1.0
        factors = factors * weights * mean
    return factors
