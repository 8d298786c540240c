"""A network as a plan sees it: ops, and which values each of them reads.

Node ``i`` computes value ``i``; it reads values of smaller number, so the list is in topological order. A stack of
layers is the special case in which every node reads the one before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tinyconv.checking.arguments import Shape
from tinyconv.plan import ops
from tinyconv.plan.builder import latest
from tinyconv.plan.ops import Op


class Lowerable(Protocol):
    """What a plan wants of a layer."""

    def ops(self, input_shape: Shape) -> list[Op]: ...


@dataclass(frozen=True)
class Node:
    """An op and the numbers of the values that it reads."""

    op: Op
    reads: tuple[int, ...]


@dataclass
class Graph:
    """Nodes in topological order; ``inputs`` and ``outputs`` are numbers of nodes.

    While rules rewrite it (:mod:`tinyconv.plan.fusion`), a node that is gone leaves a None: numbers stay what they are.
    """

    nodes: list[Node | None] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def add(self, op: Op, *reads: int) -> int:
        """Append a node; the number of its value."""
        self.nodes.append(Node(op, reads))
        return len(self.nodes) - 1

    def add_input(self, name: str, shape: Shape) -> int:
        self.inputs.append(self.add(ops.Source(name, shape, shape)))
        return self.inputs[-1]

    def add_chain(self, sequence: Sequence[Op], *reads: int) -> int:
        """Append ops, of which the first reads ``reads`` and each other one the one before it; none of them: nothing
        happens to the (only) value."""
        for op in sequence:
            reads = (self.add(op, *reads),)
        (result,) = reads
        return result

    def __iter__(self) -> Iterator[tuple[int, Node]]:
        return ((number, node) for number, node in enumerate(self.nodes) if node is not None)

    def __getitem__(self, number: int) -> Node:
        node = self.nodes[number]
        assert node is not None
        return node

    def readers(self, number: int) -> list[int]:
        """The nodes that read a value, in order (twice if they read it twice)."""
        return [other for other, node in self for read in node.reads if read == number]

    def ends(self) -> dict[int, list[int | None]]:
        """For each value, and each of its readers, outputs being some too, the last node that reads it or the same
        memory in another shape; None stands for somebody outside. He reads outputs, and whenever he likes inputs, which
        have no other end than that."""
        found: dict[int, list[int | None]] = {}
        for number, node in reversed(list(self)):
            own = [latest(found[each]) if self[each].op.is_view else each for each in self.readers(number)]
            ends = [*own, *[None] * self.outputs.count(number)]
            found[number] = ends if node.reads else [None] * max(1, len(ends))
        return found

    def reread(self) -> set[int]:
        """The values that some backward pass reads: that of the op which computed one, or of those that read it, or the
        same memory in another shape."""
        kept: set[int] = set()
        for number, node in reversed(list(self)):
            if "out" in node.op.rereads or any(
                reader in kept if self[reader].op.is_view else self._rereads(reader, number)
                for reader in self.readers(number)
            ):
                kept.add(number)
        return kept

    def _rereads(self, reader: int, number: int) -> bool:
        """Whether a node's backward pass reads a value that the forward pass has read."""
        node = self[reader]
        names = {"others" if place else "x" for place, read in enumerate(node.reads) if read == number}
        return not names.isdisjoint(node.op.rereads)

    def chain_from(self, number: int, length: int, joins: bool = False) -> list[int] | None:
        """The nodes of a chain of that length which nothing else reads the inside of, if one begins at ``number``.
        ``joins``: whether its nodes but the first may read values from outside too."""
        chain = [number]
        while len(chain) < length:
            readers = self.readers(chain[-1])
            if len(readers) != 1 or chain[-1] in self.outputs:
                return None
            chain += readers
        return chain if joins or not self.joined(chain) else None

    def joined(self, chain: Sequence[int]) -> tuple[int, ...]:
        """What the nodes of a chain but the first read from outside of it."""
        return tuple(read for number in chain[1:] for read in self[number].reads if read not in chain)

    def replace_chain(self, chain: Sequence[int], sequence: Sequence[Op]) -> None:
        """Put other ops, at most as many, in the place of a chain's: the last keeps its number, and so its readers. The
        first reads what the chain has joined, too."""
        reads = (*self[chain[0]].reads, *self.joined(chain))
        kept = chain[len(chain) - len(sequence) :]
        for number in chain:
            self.nodes[number] = None
        for number, op in zip(kept, sequence, strict=True):
            self.nodes[number] = Node(op, reads)
            reads = (number,)

    def copy(self) -> "Graph":
        return Graph(self.nodes[:], self.inputs[:], self.outputs[:])

    def without(self, *kinds: type[Op]) -> "Graph":
        """The same graph, in which ops of these kinds hand their only value on."""
        stands_for = list(range(len(self.nodes)))
        nodes: list[Node | None] = []
        for number, node in enumerate(self.nodes):
            if node is not None:
                node = replace(node, reads=tuple(stands_for[read] for read in node.reads))
                if isinstance(node.op, kinds):
                    (stands_for[number],) = node.reads
                    node = None
            nodes.append(node)
        return Graph(nodes, self.inputs[:], [stands_for[number] for number in self.outputs])

    def at_inference(self) -> "Graph":
        """The same graph, behaving as at inference in a plan for training too: its backward pass is inference's."""
        graph = self.without(ops.TrainingOnly)
        graph.nodes = [node and Node(ops.settled(node.op), node.reads) for node in graph.nodes]
        return graph

    def last_op(self) -> Op:
        """What the first output is computed by; reshaping, and what only training does, aside."""
        node = self[self.outputs[0]]
        while isinstance(node.op, ops.Reshape | ops.TrainingOnly):
            node = self[node.reads[0]]
        return node.op

    def pruned(self) -> "Graph":
        """The same graph without what no output depends on; inputs stay."""
        needed = {*self.outputs, *self.inputs}
        for number in reversed(range(len(self.nodes))):
            node = self.nodes[number]
            if node is not None and number in needed:
                needed.update(node.reads)
        nodes = [node if number in needed else None for number, node in enumerate(self.nodes)]
        return Graph(nodes, self.inputs[:], self.outputs[:])


def chain_of(layers: Sequence[Lowerable], input_shape: Shape) -> Graph:
    """Layers one on top of another, as a graph with one input and one output."""
    graph = Graph()
    value, shape = graph.add_input("input", input_shape), input_shape
    for layer in layers:
        sequence = layer.ops(shape)
        value = graph.add_chain(sequence, value)
        shape = sequence[-1].out_shape if sequence else shape
    graph.outputs.append(value)
    return graph
