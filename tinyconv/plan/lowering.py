"""The plan says *when* and *where*: a network lowered to flat lists of kernel calls over buffers allocated once.

:func:`lower` asks each layer for its ops, fuses neighbours (:mod:`tinyconv.plan.fusion`), and lets every op write its
steps and name its buffers. The result is four lists of steps:

* ``prepare``: whatever kernels need to know about the weights in advance; run again whenever the weights change (in
  training that is every time, and most of it stands in ``forward``, right before it is needed);
* ``forward``, from the input to the output (and the loss);
* ``backward``, from the loss to the gradients of the parameters;
* ``update``: the optimiser.

Running them needs no branch and no allocation: the kernel set turns a list of steps into one callable. ``print(plan)``
shows all of it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from tinyconv import kernels as kernel_sets
from tinyconv.kernels import memory, shapes
from tinyconv.plan import ops, tables
from tinyconv.plan.arena import Storage
from tinyconv.plan.builder import PHASES, Builder, Step, Value
from tinyconv.plan.fusion import RULES, Rule
from tinyconv.plan.fusion import fuse as apply_fusion
from tinyconv.plan.graph import Graph, Node
from tinyconv.plan.state import PENALTY, State


@dataclass(frozen=True)
class Emitted:
    """What one op has written into a plan: the values it reads (each with the gradient that this reader computes) and
    gives, and its steps. ``joins`` add the gradients of the value's other readers to that of the first."""

    op: ops.Op
    reads: tuple[int, ...]  # numbers of nodes
    inputs: tuple[Value, ...]
    out: Value
    forward: tuple[Step, ...]
    joins: tuple[Step, ...]
    backward: tuple[Step, ...]


class Updater(Protocol):
    """What :func:`lower` wants of an optimiser."""

    def steps(self, state: State) -> list[tuple[str, dict[str, Any]]]: ...


@dataclass(frozen=True, repr=False)
class Plan:
    """A network lowered for one batch size on one kernel set. Made by :func:`lower`."""

    kernels: ModuleType
    batch_size: int
    xs: tuple[Any, ...]
    dxs: tuple[Any, ...]  # the gradients with respect to the inputs; of size zero unless they were asked for
    all_targets: tuple[Any, ...]  # for each loss
    all_weights: tuple[Any, ...]  # of the rows, for each loss that has weights
    outs: tuple[Any, ...]
    douts: tuple[Any, ...]  # the outputs' gradients, where a plan without a loss expects them; else of size zero
    steps: dict[str, tuple[Step, ...]]
    buffers: dict[str, Any] = field(repr=False)
    emitted: dict[int, Emitted] = field(repr=False)  # by the number of the node, in order

    # Of a network with one input and one output:

    @property
    def x(self) -> Any:
        return self.xs[0]

    @property
    def dx(self) -> Any:
        return self.dxs[0]

    @property
    def targets(self) -> Any:
        return self.all_targets[0]

    @property
    def weights(self) -> Any:
        return self.all_weights[0]

    @property
    def out(self) -> Any:
        return self.outs[0]

    @property
    def dout(self) -> Any:
        return self.douts[0]

    def program(self, *phases: str, before: Sequence[Any] = (), after: Sequence[Any] = ()) -> Callable[[], None]:
        """One callable that runs these phases' steps; ``before`` and ``after`` are further (kernel, arguments)."""
        for kernel, arguments in (*before, *after):
            name = getattr(kernel, "__name__", "")
            if getattr(self.kernels, name, None) is kernel:
                named = zip(kernel_sets.contract()[name], arguments, strict=True)
                shapes.check(self.kernels, name, dict(named))
        calls = [step.call for phase in phases for step in self.steps[phase]]
        return memory.watched(self.kernels.record([*before, *calls, *after]))

    def all_steps(self) -> list[Step]:
        return [step for phase in PHASES for step in self.steps[phase]]

    def profile(self, repeats: int = 20) -> list[tuple[Step, float]]:
        """The median time of each step in seconds, over ``repeats`` runs of the whole plan (after one to warm up)."""
        steps = self.all_steps()
        programs = [self.kernels.record([step.call]) for step in steps]
        times = np.zeros((repeats + 1, len(steps)))
        for run in range(repeats + 1):
            for i, program in enumerate(programs):
                start = time.perf_counter()
                program()
                self.kernels.synchronize()
                times[run, i] = time.perf_counter() - start
        return list(zip(steps, np.median(times[1:], axis=0).tolist(), strict=True))

    def __str__(self) -> str:
        return str(tables.plan_table(self))

    def __repr__(self) -> str:
        return f"<{tables.plan_title(self)}: {tables.plan_totals(self)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows of a plan."""
        return tables.plan_table(self).to_html()


def lower(
    network: Graph,
    batch_size: int,
    state: State,
    *,
    training: bool | None,
    losses: Sequence[ops.Loss | None] = (),
    optimizer: Updater | None = None,
    fuse: bool | Sequence[Rule] = True,
    storage: Storage | None = None,
    input_gradient: bool = False,
    apart: bool = False,
) -> Plan:
    """Turn a network into a :class:`Plan`.

    Args:
        network: what to compute; :func:`~tinyconv.plan.graph.chain_of` makes it of layers.
        batch_size: how many samples a run takes.
        state: the parameters, gradients and counters to work on, and with them the kernel set.
        training: whether to drop units and to warp images, use batch statistics, and compute gradients;
            None: not, but images are warped.
        losses: what to compute of each output at the end; None: nothing, and its gradient is 0.
        optimizer: how to update the parameters (training only).
        fuse: whether to apply the fusion table, or which of its rules.
        storage: buffers to share with other plans of the same model.
        input_gradient: whether the gradients with respect to the inputs are wanted too (``plan.dxs``).
        apart: whether each value has memory of its own, for somebody who reads it after the run.
    """
    left_out = {True: (), False: (ops.TrainingOnly,), None: (ops.Dropout,)}[training]
    graph = network.without(*left_out)
    if losses:
        pairs = zip(losses, graph.outputs, strict=True)
        graph.outputs = [out if loss is None else graph.add(loss, out) for loss, out in pairs]
    graph = graph.pruned()
    training = bool(training)
    wanted = training and input_gradient
    for number in graph.inputs:
        source = graph[number].op
        graph.nodes[number] = Node(ops.Source(source.name, source.x_shape, source.out_shape, wanted), ())
    if fuse:
        apply_fusion(graph, training, RULES if fuse is True else fuse, sharded=bool(state.whole))
    b = Builder(state, storage or Storage(state.kernels), batch_size, training, apart)
    emitted, outs = _emit(b, graph)
    xs = [emitted[number].out for number in graph.inputs]
    _close(b, optimizer, bool(losses))
    steps = {phase: tuple(found) for phase, found in b.steps.items()}
    data, grads = ([getattr(value, part) for value in (*xs, *outs)] for part in ("data", "grad"))
    split = len(xs)
    given = tuple(b.targets), tuple(b.all_weights)
    arrays = tuple(data[:split]), tuple(grads[:split]), *given, tuple(data[split:]), tuple(grads[split:])
    return Plan(state.kernels, batch_size, *arrays, steps, b.buffers, emitted)


def _emit(b: Builder, graph: Graph) -> tuple[dict[int, Emitted], list[Value]]:
    """Let every op write its steps; what each has written, and the values of the outputs.

    Backward steps end up in reverse order of the ops. Where a value has several readers, an output of the network
    being one too, the sum of their gradients stands before the backward pass of the op that computed it.
    """
    waiting: dict[int, list[Value]] = {}  # of each value, one for each reader that is still to come
    emitted: dict[int, Emitted] = {}
    ends, kept = graph.ends(), graph.reread()
    if b.state.whole:  # a shard's batch normalisation looks at its output to see where a ReLU was 0
        kept = set(ends)
    for number, node in graph:
        b.now, b.ends, b.kept = number, ends[number], number in kept
        inputs, before = tuple(waiting[read].pop(0) for read in node.reads), len(b.steps["forward"])
        out = node.op.emit(b, *inputs)
        own, b.steps["backward"] = tuple(b.steps["backward"]), []
        waiting[number] = b.fork(node.op, out)
        joins, b.steps["backward"] = tuple(b.steps["backward"]), []
        forward = tuple(b.steps["forward"][before:])
        emitted[number] = Emitted(node.op, node.reads, inputs, out, forward, joins, own)
    b.add_shared()
    backward = [step for each in reversed(emitted.values()) for step in (*each.joins, *each.backward)]
    b.steps["backward"] = backward + b.steps["backward"]
    return emitted, [waiting[number].pop(0) for number in graph.outputs]


def closing_steps(state: State, storage: Storage, batch_size: int, optimizer: Updater | None) -> list[Step]:
    """What is done once for a whole batch, where its shards have plans of their own: penalties and the update."""
    b = Builder(state, storage, batch_size, optimizer is not None)
    _close(b, optimizer, scored=True)
    return [step for phase in PHASES for step in b.steps[phase]]


def _close(b: Builder, optimizer: Updater | None, scored: bool) -> None:
    for power, strength in b.state.penalties.items() if scored else ():
        _penalise(b, b.state, power, strength)
    for kernel, arguments in optimizer.steps(b.state) if optimizer is not None else ():
        b._kernel("update", "optimizer", "all parameters", kernel, 0, arguments)


def _penalise(b: Builder, state: State, power: int, strength: Any) -> None:
    """Add a penalty to the loss, of training and of evaluation, and its gradient to the gradients."""
    name = f"l{power}"
    penalty = b.storage.get(f"{name} penalty", (1,), state.dtype)
    arrays = {"params": state.params.flat, "strength": strength, "power": power}
    b._kernel("forward", "regularizers", name, "penalty_forward", 0, {"penalty": penalty, **arrays})
    adding = {"totals": state.totals, "values": penalty, "weights": b.nothing(1), "slot": PENALTY}
    b._kernel("forward", "regularizers", name, "accumulate", 0, {**adding, "weight": float(b.batch_size)})
    if b.training and state.grads.shapes:
        b._kernel("backward", "regularizers", name, "penalty_backward", 0, {"grads": state.grads.flat, **arrays})
