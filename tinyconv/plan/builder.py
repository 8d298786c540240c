"""Writing a plan: its steps and buffers, which the ops (:mod:`tinyconv.plan.ops`) add one after another."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tinyconv import kernels as kernel_sets
from tinyconv.checking import Shape
from tinyconv.kernels import memory, shapes
from tinyconv.plan.arena import Piece, Storage
from tinyconv.plan.state import State

PHASES = ("prepare", "forward", "backward", "update")


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
class Meeting:
    """Where the shards of a batch must wait for each other, as a step's kernel: what one of them has computed, and what
    it needs to know of all of them before it can go on. ``size`` stands for both: numbers of each array.

    ``combine`` is called once, with an array (shards, arrays, size) of what was given and the share that each shard has
    of the batch's samples; it returns (arrays, size), to be taken. ``cleared``: whether what was given is set to 0
    then, for kernels that move it instead of overwriting it.
    """

    given: tuple[Any, ...]
    taken: tuple[Any, ...]
    combine: Callable[[np.ndarray, np.ndarray], np.ndarray]
    cleared: bool = False

    __name__ = "meet"

    def __call__(self, *arrays: Any) -> None:
        raise RuntimeError("The shards of a batch meet here, and one was run on its own.")


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


class Operation(Protocol):
    """An op, as the builder sees it."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def layers(self) -> str: ...
    @property
    def out_shape(self) -> Shape: ...
    @property
    def call(self) -> int: ...


def latest(ends: Sequence[int | None]) -> int | None:
    """Of some readers the last, or None if one of them is outside, or if there is none."""
    return None if None in ends else max((end for end in ends if end is not None), default=None)


class Turns:
    """Memory that several values have in turn, each from its op's number to that of its last reader.

    A value that no backward pass reads is written by its op's forward pass, and read for the last time by that of its
    last reader; a gradient the other way round, in the backward pass, by the reader that it is from. So memory is free
    for whatever begins later, and what one phase leaves in it is nothing to the other. Values come in the order of
    their ops, and each gets the piece that has to grow least, of these the smallest (linear scan, as compilers hand out
    registers: Poletto and Sarkar, 1999). If none has room, one that this plan has not used yet is made larger.
    """

    def __init__(self, pieces: list[Piece], allocate: Callable[[int], Any]) -> None:
        """``pieces``: what there is already; other plans have it while this one does not run."""
        self.pieces, self.allocate = pieces, allocate
        self.taken: dict[int, dict[str, float]] = {}  # of a piece: until when, by phase

    def take(self, phase: str, size: int, now: float, until: int) -> int:
        """The number of a piece with room for that size that nobody has in a phase from ``now`` on; the caller's until
        ``until``."""
        free = [
            (max(0, size - piece.size), piece.size, number)  # that grows least, and then the smallest
            for number, piece in enumerate(self.pieces)
            if piece.memory.size >= size and self.taken.get(number, {}).get(phase, -1) < now
        ]
        number = min(free)[-1] if free else self._larger(size)
        self.pieces[number].size = max(self.pieces[number].size, size)
        self.taken.setdefault(number, {})[phase] = until
        return number

    def _larger(self, size: int) -> int:
        """A piece with room for that size: the largest of those that this plan does not use, made anew, or one more.
        Plans that have the old memory keep it, as long as there are such plans."""
        others = [number for number in range(len(self.pieces)) if number not in self.taken]
        number = max(others, key=lambda each: self.pieces[each].memory.size, default=len(self.pieces))
        self.pieces[number : number + 1] = [Piece(self.allocate(size))]
        return number


class Builder:
    """Collects the steps and buffers of a plan while its ops emit themselves."""

    def __init__(self, state: State, storage: Storage, batch_size: int, training: bool, apart: bool = False) -> None:
        self.state, self.storage, self.batch_size, self.training = state, storage, batch_size, training
        self.apart = apart  # whether each value has memory of its own
        self.kernels = state.kernels
        self.contract = kernel_sets.contract()
        self.buffers: dict[str, Any] = {}
        self.owners: dict[str, int] = {}  # of buffers: the number of the op
        self.steps: dict[str, list[Step]] = {phase: [] for phase in PHASES}
        self.targets: list[Any] = []
        self.all_weights: list[Any] = []  # of the rows of each loss that has weights
        self.shared: list[tuple[Operation, Any, Any]] = []  # gradients of a shared layer's further calls
        self.turns = Turns(storage.pieces, lambda size: storage.room(size, state.dtype))
        self.now = 0  # the number of the op that emits itself
        self.ends: list[int | None] = [None]  # of the readers of its output; see Graph.ends
        self.kept = True  # whether a backward pass reads its output

    # Buffers

    def buffer(self, op: Operation, name: str, shape: Shape, dtype: Any, fill: float = 0) -> Any:
        """A buffer called ``op/name``; of a layer's further calls ``op:1/name``, ``op:2/name`` ..."""
        key = f"{op.name}:{op.call}/{name}" if op.call else f"{op.name}/{name}"
        if self.owners.setdefault(key, self.now) != self.now:
            raise RuntimeError(f"Two ops of a plan have the buffer {key!r}, and each would overwrite the other's.")
        array = self.storage.get(key, shape, dtype)
        if fill:
            self.kernels.upload(array, np.full(shape, fill, dtype))
        self.buffers[key] = array
        return array

    def nothing(self, rank: int) -> Any:
        """An array of size zero: "not wanted"."""
        return self.storage.get(f"nothing/{rank}", (0,) * rank, self.state.dtype)

    def value(self, op: Operation, name: str, shape: Shape, needs_grad: bool) -> Value:
        """A buffer for a batch of arrays of ``shape``, and, if needed, one for its gradient."""
        full, dtype = (self.batch_size, *shape), self.state.dtype
        kept, end = self.training and self.kept, latest(self.ends)
        data = self.buffer(op, name, full, dtype) if kept else self.in_turn("forward", op, name, full, end)
        grad = self.in_turn("backward", op, f"d{name}", full, self.ends[0]) if needs_grad else self.nothing(len(full))
        return Value(data, grad, self.nothing)

    def in_turn(self, phase: str, op: Operation, name: str, shape: Shape, until: int | None, after: float = 0) -> Any:
        """A buffer that others have before and after, which is taken until the op of that number, from this one's on
        (``after`` it, counted in ops); one of its own, if somebody outside writes or reads it, or if there are to be
        guard zones around it."""
        dtype = self.state.dtype
        if until is None or self.apart or memory.guarding():
            return self.buffer(op, name, shape, dtype)
        size = math.prod(shape)
        number = self.turns.take(phase, size, self.now + after, until)
        key, array = f"in turn/{number}", self.turns.pieces[number].memory[:size]
        self.buffers[key] = max(array, self.buffers.get(key, array), key=lambda each: each.size)
        return array.reshape(shape)

    def output(self, op: Operation, needs_grad: bool = False) -> Value:
        """The buffer of an op's output.

        In training its gradient is needed if the op has weights that learn, or if it has to hand it on, since its
        input's gradient is wanted. So nothing below the first weights that learn is ever differentiated.
        """
        return self.value(op, f"{op.label.split()[0]}.out", op.out_shape, self.training and needs_grad)

    def scratch(self, op: Operation, size: int) -> Any:
        return self.buffer(op, "work", (size,), self.state.dtype)

    def work(self, phase: str, op: Operation, size: int) -> Any:
        """Scratch for one of an op's passes. In training others have it before and after."""
        return self.in_turn(phase, op, "work", (size,), self.now) if self.training else self.scratch(op, size)

    def prepared(self, op: Operation, kernel: str, size: int, **arguments: Any) -> Any:
        """Scratch for an op's forward pass, with what the kernel puts there: at inference, and for all shards of a
        batch, in advance; in training, where the weights change with every pass and memory is dear, right before it."""
        changes = self.training and not self.state.whole
        work, phase = (self.work("forward", op, size), "forward") if changes else (self.scratch(op, size), "prepare")
        self._kernel(phase, op.layers, op.label, kernel, 0, {"work": work, **arguments})
        return work

    def target(self, op: Operation, shape: Shape) -> Any:
        """Where the targets of a loss go."""
        key = f"targets of {op.name}" if self.targets else "targets"
        array = self.buffers[key] = self.storage.get(key, shape, self.state.dtype)
        self.targets.append(array)
        return array

    def weights(self, op: Operation, rows: int) -> Any:
        """Where the weights of a loss's rows go."""
        key = f"weights of {op.name}" if self.all_weights else "weights"
        array = self.buffers[key] = self.storage.get(key, (rows,), self.state.dtype)
        self.all_weights.append(array)
        return array

    def constants(self, op: Operation, name: str, values: Sequence[Any], dtype: Any) -> Any:
        """An array of numbers that stay what they are."""
        host = np.array(values, dtype)
        array = self.buffer(op, name, host.shape, dtype)
        self.kernels.upload(array, host)
        return array

    def weight(self, op: Operation, name: str) -> Any:
        key = f"{op.name}/{name}"
        return self.state.params[key] if key in self.state.params else self.state.moving[key]

    def learns(self, op: Operation, *names: str) -> bool:
        """Whether training changes any of these weights."""
        return any(f"{op.name}/{name}" in self.state.grads for name in names)

    def gradient(self, op: Operation, name: str, shape: Shape) -> Any:
        """Where the gradient of a weight goes: a scrap buffer for one that does not learn, or is not there.

        Backward kernels overwrite. So each further call of a shared layer has a buffer of its own, which is added at
        the end of the backward pass.
        """
        key = f"{op.name}/{name}"
        learns = key in self.state.grads
        if learns and not op.call:
            return self.state.grads[key]
        shape = shape or self.weight(op, name).shape
        array = self.buffer(op, f"d{name}" if learns else f"unused_d{name}", shape, self.state.dtype)
        if learns:
            self.shared.append((op, self.state.grads[key], array))
        return array

    def fork(self, op: Operation, value: Value) -> list[Value]:
        """A value for each of its readers. Each fills a gradient of its own; before the backward pass of ``op``, which
        computed the value, they are added to the first, in the order of the readers."""
        if not value.wanted:
            return [value] * len(self.ends)
        forks = [value]
        for reader, end in enumerate(self.ends[1:], 1):  # their memory is free when they have been added
            grad = self.in_turn("backward", op, f"dout_{reader}", value.grad.shape, end, after=0.5)
            forks.append(Value(value.data, grad, self.nothing))
            self.backward(op, "add_to", 0, out=value.flat.grad, x=forks[-1].flat.grad)
        return forks

    def add_shared(self) -> None:
        """Add the gradients of a shared layer's further calls to that of its first."""
        for op, grad, array in self.shared:
            self.backward(op, "add_to", 0, out=grad.reshape((grad.size,)), x=array.reshape((array.size,)))

    # Steps

    def prepare(self, op: Operation, kernel: str, **arguments: Any) -> None:
        self._kernel("prepare", op.layers, op.label, kernel, 0, arguments)

    def forward(self, op: Operation, kernel: str, flops: int, **arguments: Any) -> None:
        self._kernel("forward", op.layers, op.label, kernel, flops, arguments)

    def backward(self, op: Operation, kernel: str, flops: int, **arguments: Any) -> None:
        if self.training:
            self._kernel("backward", op.layers, op.label, kernel, flops, arguments)

    def call(self, phase: str, op: Operation, function: Callable[..., None], arguments: dict[str, Any]) -> None:
        """A step that is not a kernel of the contract: a user's own layer."""
        self.steps[phase].append(Step(phase, op.name, op.label, function.__name__, function, arguments, 0))

    def meet(self, phase: str, op: Operation, meeting: Meeting) -> None:
        """A step that waits for the other shards of the batch."""
        names = [f"{which}_{i}" for which in ("given", "taken") for i in range(len(getattr(meeting, which)))]
        if self.training or phase == "forward":
            self.call(phase, op, meeting, dict(zip(names, (*meeting.given, *meeting.taken), strict=True)))

    def _kernel(self, phase: str, name: str, what: str, kernel: str, flops: int, arguments: dict[str, Any]) -> None:
        ordered = {argument: arguments.pop(argument) for argument in self.contract[kernel]}
        if arguments:
            raise TypeError(f"{kernel} takes no {', '.join(arguments)}.")
        shapes.check(self.kernels, kernel, ordered)
        self.steps[phase].append(Step(phase, name, what, kernel, getattr(self.kernels, kernel), ordered, flops))
