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
from tinyconv.kernels import memory, shapes
from tinyconv.plan import ops
from tinyconv.plan.arena import Shape, Storage
from tinyconv.plan.fusion import fuse as apply_fusion
from tinyconv.plan.state import State

PHASES = ("prepare", "forward", "backward", "update")


class Lowerable(Protocol):
    """What :func:`lower` wants of a layer."""

    def ops(self, input_shape: Shape) -> list[ops.Op]: ...


class Updater(Protocol):
    """What :func:`lower` wants of an optimiser."""

    def steps(self, state: State) -> list[tuple[str, dict[str, Any]]]: ...


@dataclass(frozen=True)
class Step:
    """One kernel call, with everything it needs."""

    phase: str
    name: str  # of the layer, or of those that are fused
    what: str  # the op, as the fusion left it
    kernel_name: str
    kernel: Callable[..., None]
    arguments: dict[str, Any]
    flops: int

    @property
    def call(self) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return self.kernel, tuple(self.arguments.values())

    @property
    def arrays(self) -> dict[str, Any]:
        return {name: value for name, value in self.arguments.items() if hasattr(value, "shape")}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays the step reads or writes."""
        return sum(array.size * array.dtype.itemsize for array in self.arrays.values())


@dataclass(frozen=True)
class Value:
    """What flows between ops: a buffer, and the buffer of its gradient (of size zero where nobody needs it)."""

    data: Any
    grad: Any
    nothing: Callable[[int], Any]  # an array of that rank and of size zero

    @property
    def wanted(self) -> bool:
        """Whether anything needs the gradient: something that this value was computed from learns."""
        return self.grad.size > 0

    def reshape(self, shape: Shape) -> "Value":
        grad = self.grad.reshape(shape) if self.wanted else self.nothing(len(shape))
        return Value(self.data.reshape(shape), grad, self.nothing)

    @property
    def flat(self) -> "Value":
        return self.reshape((self.data.size,))


class Builder:
    """Collects the steps and buffers of a plan while its ops emit themselves."""

    def __init__(self, state: State, storage: Storage, batch_size: int, training: bool) -> None:
        self.state, self.storage, self.batch_size, self.training = state, storage, batch_size, training
        self.kernels = state.kernels
        self.contract = kernel_sets.contract()
        self.buffers: dict[str, Any] = {}
        self.steps: dict[str, list[Step]] = {phase: [] for phase in PHASES}
        self.target_buffer: Any = None

    # Buffers

    def buffer(self, op: ops.Op, name: str, shape: Shape, dtype: Any, fill: float = 0) -> Any:
        """A buffer called ``op/name``."""
        array = self.storage.get(f"{op.name}/{name}", shape, dtype)
        if fill:
            self.kernels.upload(array, np.full(shape, fill, dtype))
        self.buffers[f"{op.name}/{name}"] = array
        return array

    def nothing(self, rank: int) -> Any:
        """An array of size zero: "not wanted"."""
        return self.storage.get(f"nothing/{rank}", (0,) * rank, self.state.dtype)

    def value(self, op: ops.Op, name: str, shape: Shape, needs_grad: bool) -> Value:
        """A buffer for a batch of arrays of ``shape``, and, if needed, one for its gradient."""
        full = (self.batch_size, *shape)
        data = self.buffer(op, name, full, self.state.dtype)
        grad = self.buffer(op, f"d{name}", full, self.state.dtype) if needs_grad else self.nothing(len(full))
        return Value(data, grad, self.nothing)

    def output(self, op: ops.Op, needs_grad: bool = False) -> Value:
        """The buffer of an op's output.

        In training its gradient is needed if the op has weights that learn, or if it has to hand it on, since its
        input's gradient is wanted. So nothing below the first weights that learn is ever differentiated.
        """
        return self.value(op, f"{op.label.split()[0]}.out", op.out_shape, self.training and needs_grad)

    def scratch(self, op: ops.Op, size: int) -> Any:
        return self.buffer(op, "work", (size,), self.state.dtype)

    def targets(self, shape: Shape) -> Any:
        self.target_buffer = self.buffers["targets"] = self.storage.get("targets", shape, self.state.dtype)
        return self.target_buffer

    def weight(self, op: ops.Op, name: str) -> Any:
        key = f"{op.name}/{name}"
        return self.state.params[key] if key in self.state.params else self.state.moving[key]

    def learns(self, op: ops.Op, *names: str) -> bool:
        """Whether training changes any of these weights."""
        return any(f"{op.name}/{name}" in self.state.grads for name in names)

    def gradient(self, op: ops.Op, name: str, shape: Shape) -> Any:
        """Where the gradient of a weight goes: a scrap buffer for one that does not learn, or is not there."""
        key = f"{op.name}/{name}"
        if key in self.state.grads:
            return self.state.grads[key]
        shape = shape or self.weight(op, name).shape
        return self.buffer(op, f"unused_d{name}", shape, self.state.dtype)

    # Steps

    def prepare(self, op: ops.Op, kernel: str, **arguments: Any) -> None:
        self._kernel("prepare", op.layers, op.label, kernel, 0, arguments)

    def forward(self, op: ops.Op, kernel: str, flops: int, **arguments: Any) -> None:
        self._kernel("forward", op.layers, op.label, kernel, flops, arguments)

    def backward(self, op: ops.Op, kernel: str, flops: int, **arguments: Any) -> None:
        if self.training:
            self._kernel("backward", op.layers, op.label, kernel, flops, arguments)

    def call(self, phase: str, op: ops.Op, function: Callable[..., None], arguments: dict[str, Any]) -> None:
        """A step that is not a kernel of the contract: a user's own layer."""
        self.steps[phase].append(Step(phase, op.name, op.label, function.__name__, function, arguments, 0))

    def _kernel(self, phase: str, name: str, what: str, kernel: str, flops: int, arguments: dict[str, Any]) -> None:
        ordered = {argument: arguments.pop(argument) for argument in self.contract[kernel]}
        if arguments:
            raise TypeError(f"{kernel} takes no {', '.join(arguments)}.")
        shapes.check(self.kernels, kernel, ordered)
        self.steps[phase].append(Step(phase, name, what, kernel, getattr(self.kernels, kernel), ordered, flops))

    def emit(self, sequence: Sequence[ops.Op], x: Value) -> Value:
        """Let every op write its steps; backward steps end up in reverse order of the ops."""
        backward: list[Step] = []
        for op in sequence:
            x = op.emit(self, x)
            backward = self.steps["backward"] + backward
            self.steps["backward"] = []
        self.steps["backward"] = backward
        return x


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
        from tinyconv.checking.tables import plan_table

        return str(plan_table(self))

    def __repr__(self) -> str:
        from tinyconv.checking.tables import plan_title, plan_totals

        return f"<{plan_title(self)}: {plan_totals(self)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows of a plan."""
        from tinyconv.checking.tables import plan_table

        return plan_table(self).to_html()


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
    if loss is not None and state.l2_strength is not None:
        _penalise(b, state)
    if optimizer is not None:
        for kernel, arguments in optimizer.steps(state):
            b._kernel("update", "optimizer", "all parameters", kernel, 0, arguments)
    steps = {phase: tuple(found) for phase, found in b.steps.items()}
    targets = b.target_buffer if b.target_buffer is not None else b.nothing(2)
    return Plan(state.kernels, batch_size, x.data, x.grad, targets, out.data, out.grad, steps, b.buffers)


def _penalise(b: Builder, state: State) -> None:
    """Add the L2 penalty to the loss, of training and of evaluation, and its gradient to the gradients."""
    penalty = b.storage.get("penalty", (1,), state.dtype)
    arrays = {"params": state.params.flat, "strength": state.l2_strength}
    b._kernel("forward", "regularizers", "l2", "l2_forward", 0, {"penalty": penalty, **arrays})
    totals = {"totals": state.totals, "values": penalty, "slot": 0, "weight": float(b.batch_size)}
    b._kernel("forward", "regularizers", "l2", "accumulate", 0, totals)
    if b.training and state.grads.shapes:
        b._kernel("backward", "regularizers", "l2", "l2_backward", 0, {"grads": state.grads.flat, **arrays})
