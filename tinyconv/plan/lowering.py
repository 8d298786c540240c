"""The plan says *when* and *where*: a network lowered to flat lists of kernel calls over buffers allocated once.

:func:`lower` asks each layer for its ops, fuses neighbours (:mod:`tinyconv.plan.fusion`), and lets every op write its
steps and name its buffers. The result is four lists of steps:

* ``prepare``: whatever kernels need to know about the weights in advance; run again whenever the weights change;
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
from tinyconv.checking.arguments import Shape
from tinyconv.kernels import memory, shapes
from tinyconv.plan import ops, tables
from tinyconv.plan.arena import Storage
from tinyconv.plan.builder import PHASES, Builder, Step
from tinyconv.plan.fusion import fuse as apply_fusion
from tinyconv.plan.state import State


class Lowerable(Protocol):
    """What :func:`lower` wants of a layer."""

    def ops(self, input_shape: Shape) -> list[ops.Op]: ...


class Updater(Protocol):
    """What :func:`lower` wants of an optimiser."""

    def steps(self, state: State) -> list[tuple[str, dict[str, Any]]]: ...


@dataclass(frozen=True, repr=False)
class Plan:
    """A network lowered for one batch size on one kernel set. Made by :func:`lower`."""

    kernels: ModuleType
    batch_size: int
    x: Any
    dx: Any  # the gradient of the loss with respect to the input; of size zero unless it was asked for
    targets: Any
    out: Any
    dout: Any  # the output's gradient, where a plan without a loss expects it; of size zero if nothing below learns
    steps: dict[str, tuple[Step, ...]]
    buffers: dict[str, Any] = field(repr=False)

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

    def trace(self) -> dict[str, np.ndarray]:
        """A copy of every buffer, by name, as the last run left it."""
        copies = {}
        for name, array in self.buffers.items():
            copies[name] = np.empty(array.shape, array.dtype)
            self.kernels.download(copies[name], array)
        return copies

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
    layers: Sequence[Lowerable],
    input_shape: Shape,
    batch_size: int,
    state: State,
    *,
    training: bool,
    loss: ops.Loss | None = None,
    optimizer: Updater | None = None,
    fuse: bool = True,
    storage: Storage | None = None,
    input_gradient: bool = False,
) -> Plan:
    """Turn layers into a :class:`Plan`.

    Args:
        layers: what to compute, in order; each gives its :mod:`~tinyconv.plan.ops`.
        input_shape: the shape of one sample.
        batch_size: how many samples a run takes.
        state: the parameters, gradients and counters to work on, and with them the kernel set.
        training: whether to drop units, use batch statistics, and compute gradients.
        loss: what to compute at the end.
        optimizer: how to update the parameters (training only).
        fuse: whether to apply the fusion table.
        storage: buffers to share with other plans of the same model.
        input_gradient: whether the gradient with respect to the input is wanted too (``plan.dx``).
    """
    storage = storage or Storage(state.kernels)
    sequence: list[ops.Op] = []
    shape = input_shape
    for layer in layers:
        sequence += layer.ops(shape)
        shape = sequence[-1].out_shape if sequence else shape
    if not training:
        sequence = [op for op in sequence if not isinstance(op, ops.Dropout)]
    if loss is not None:
        sequence.append(loss)
    if fuse:
        sequence = apply_fusion(sequence, training)
    b = Builder(state, storage, batch_size, training)
    source = ops.Op("input", input_shape, input_shape)
    x = b.value(source, "x", input_shape, training and input_gradient)
    out = b.emit(sequence, x)
    if loss is not None:
        for power, strength in state.penalties.items():
            _penalise(b, state, power, strength)
    if optimizer is not None:
        for kernel, arguments in optimizer.steps(state):
            b._kernel("update", "optimizer", "all parameters", kernel, 0, arguments)
    steps = {phase: tuple(found) for phase, found in b.steps.items()}
    targets = b.target_buffer if b.target_buffer is not None else b.nothing(2)
    return Plan(state.kernels, batch_size, x.data, x.grad, targets, out.data, out.grad, steps, b.buffers)


def _penalise(b: Builder, state: State, power: int, strength: Any) -> None:
    """Add a penalty to the loss, of training and of evaluation, and its gradient to the gradients."""
    name = f"l{power}"
    penalty = b.storage.get(f"{name} penalty", (1,), state.dtype)
    arrays = {"params": state.params.flat, "strength": strength, "power": power}
    b._kernel("forward", "regularizers", name, "penalty_forward", 0, {"penalty": penalty, **arrays})
    totals = {"totals": state.totals, "values": penalty, "slot": 0, "weight": float(b.batch_size)}
    b._kernel("forward", "regularizers", name, "accumulate", 0, totals)
    if b.training and state.grads.shapes:
        b._kernel("backward", "regularizers", name, "penalty_backward", 0, {"grads": state.grads.flat, **arrays})
