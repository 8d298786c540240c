"""What ``model.trace(x, y)`` gives: a step of training, layer by layer."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from tinyconv import checking
from tinyconv.checking import unknown
from tinyconv.checking.tables import Table, Tabled, dims
from tinyconv.trace.check import Exact, GradientCheck, Nudged, checked, nudged
from tinyconv.trace.compare import Comparison, compared
from tinyconv.trace.explain import Explained, explained_loss, scope_of
from tinyconv.trace.explainer import Scope
from tinyconv.trace.explanation import Explanation
from tinyconv.trace.losses import whole_loss
from tinyconv.trace.record import Array, Node, Record, Use, Weight


class LayerTrace:
    """A use of a layer in a step. All arrays are read-only, and begin with the batch axis.

    ``input`` and ``output``; backward ``doutput``, the derivative of the loss with respect to the output, and
    ``dinput``, that with respect to the input by way of this layer alone. Of a layer with an activation of its own also
    ``z`` and ``dz``, the numbers that the activation starts from. Of a layer that joins several values ``inputs`` and
    ``dinputs``, or ``input_0``, ``dinput_0`` and so on. Weights have their names: ``kernel``, its gradient ``dkernel``
    (of the whole loss, penalties and the layer's other uses included), and what the step makes of it, ``new_kernel``.

    What there is not is None: gradients of a pass that was forward only, or of what does not learn.
    """

    def __init__(self, scope: Scope, use: Use, exact: Callable[[], Exact]) -> None:
        self._record, self._use, self._exact = scope.record, use, exact
        self._explained = Explained(scope, use)
        self.name, self.layer = use.name, use.layer
        self.weights: Mapping[str, Weight] = self._explained.weights

    @property
    def _nodes(self) -> list[Node]:
        """The ops that the layer consists of, in order: of some layers none, of most one."""
        return [self._record.nodes[number] for number in self._use.nodes]

    @property
    def inputs(self) -> tuple[Array, ...]:
        return tuple(self._record.nodes[number].out for number in self._use.reads)

    @property
    def dinputs(self) -> tuple[Array | None, ...]:
        return self._nodes[0].dinputs if self._nodes else (self.doutput,) * len(self._use.reads)

    @property
    def input(self) -> Any:
        """The input; of several, the tuple."""
        return self.inputs[0] if len(self.inputs) == 1 else self.inputs

    @property
    def dinput(self) -> Any:
        """The gradient of the input by way of this layer; of several, the tuple."""
        return self.dinputs[0] if len(self.dinputs) == 1 else self.dinputs

    @property
    def output(self) -> Array:
        return self._record.nodes[self._use.gives].out

    @property
    def doutput(self) -> Array | None:
        return self._record.nodes[self._use.gives].dout

    def explain(self, what: str, *where: Any) -> Explanation:
        """Where one number comes from: the sum that makes it, term by term.

        >>> trace["conv2d"].explain("output", (0, 3, 4, 7))
        >>> trace["conv2d"].explain("dkernel", (1, 1, 0, 5))
        >>> trace["conv2d"].explain("step", "kernel", (1, 1, 0, 5))

        Args:
            what: the name of an array: "output", "dinput", "dkernel", "new_kernel" ...; or, of a weight, "step" or one
                of the optimiser's moments, such as "momentum".
            where: a place in the array; for a step or a moment, the weight's name and a place in it.
        """
        return self._explained.explain(what, where)

    def nudge(self, what: str, place: Any, tolerance: float = 1e-4) -> Nudged:
        """Measure one gradient: the slopes of the loss to both sides of a number, in double precision.

        >>> trace["conv2d"].nudge("dkernel", (1, 1, 0, 5))

        Args:
            what: the name of a gradient: "doutput", "dz", "dkernel"; "dinput" where nothing else reads the input.
            place: a place in the array.
            tolerance: see :meth:`Trace.check`.
        """
        return nudged(self._exact(), *self._explained.nudged(what, place), tolerance)

    def zeros(self, what: str) -> Array:
        """For every number of "output", "z", "doutput", "dinput", "dz" ... why it is zero, as a number of
        :data:`tinyconv.trace.explainer.ZEROS`; 0 where it is not, or where a sum happens to be."""
        return self._explained.zeros(what)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        arrays = self._explained.names
        if name not in arrays:
            raise AttributeError(str(unknown(f"layer {self.name!r}", "array", name, self.__dir__())))
        return arrays[name]

    def __dir__(self) -> list[str]:
        """The names of the arrays that there are, each of which can be explained."""
        return [name for name, array in self._explained.names.items() if array is not None]

    def __repr__(self) -> str:
        shown = (f"{name} {array.shape}" for name, array in self._explained.names.items() if array is not None)
        return f"<{type(self.layer).__name__} {self.name!r}: {', '.join(shown)}>"


class LossTrace:
    """The loss of an output: ``input``, the predictions or the scores that it starts from, ``dinput``, their gradient,
    ``targets`` (as rows, smoothed if the loss smooths), and ``losses``, one for each row, weights included."""

    def __init__(self, scope: Scope, node: Node) -> None:
        self._scope, self._node = scope, node
        self.name, self.kind = node.op.name, node.op.label
        own = node.own[f"{self.kind}_forward"]
        self.input, self.dinput = node.inputs[0], node.dinputs[0]
        self.targets, self.losses = own["targets"].reshape(self.input.shape), own["losses"]
        self.probs: Array | None = own["probs"].reshape(self.input.shape) if "probs" in own else None

    def explain(self, what: str, *where: Any) -> Explanation:
        """Where a number of "losses" (by its row) or of "dinput" comes from."""
        return explained_loss(self._scope, self._node, what, where)

    def __repr__(self) -> str:
        return f"<loss {self.name!r}, {self.kind}, of {len(self.losses)} rows>"


class NoSuchLayer(ValueError, KeyError):
    """A ValueError as anywhere, and what a mapping has to raise."""

    __str__ = Exception.__str__


class Trace(Tabled, Mapping[str, Any]):
    """One step of training: every array of it, by the names of the layers in the model.

    ``trace["conv2d"]`` is a :class:`LayerTrace`; in a model within a model "encoder/conv2d"; of a layer that is called
    several times "dense", "dense:1", "dense:2". The inputs come first, under their layers' names: ``output`` is the
    batch, ``doutput`` its gradient. ``trace["loss"]`` is a :class:`LossTrace`. ``trace.weights`` has each weight's
    value, gradient, moments, step and new value, by "layer/weight".

    ``loss`` and ``loss_after``: of the batch, before the step and after it, with the same dropout. Without targets, or
    of a model without a loss, both are None and so are all gradients, and the pass is as at inference.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        scope = scope_of(record)
        self._exact = cache(lambda: Exact(record))
        self._layers = {use.name: LayerTrace(scope, use, self._exact) for use in record.uses}
        self._losses = {name: LossTrace(scope, node) for name, node in record.losses.items()}

    @property
    def loss(self) -> float | None:
        return self._record.loss

    def explain_loss(self) -> Explanation:
        """Where the loss of the batch comes from."""
        if self.loss is None:
            raise ValueError(
                f"The trace of model {self._record.model!r} has no loss. Fix: trace(x, y), after compile()."
            )
        return whole_loss(self._record)

    def check(self, n: int = 3, seed: int = 0, tolerance: float = 1e-4) -> GradientCheck:
        """Compare the gradients with central differences, in double precision, at ``n`` random places of every array
        that has one: of weights, of inputs, and of what every layer computes.

        >>> print(trace.check())

        Args:
            n: places of each array.
            seed: which places.
            tolerance: the largest difference allowed, relative to the array's largest gradient.
        """
        who = "trace.check"
        n, seed = checking.integer(who, "n", n), checking.integer(who, "seed", seed, at_least=0)
        tolerance = checking.number(who, "tolerance", tolerance, at_least=0)
        if not self.training:
            raise ValueError(f"{self!r} has no gradients. Fix: trace(x, y), after compile().")
        return checked(self._exact(), n, seed, tolerance)

    def compare(self, keras_model: Any) -> Comparison:
        """Compare every array with Keras': outputs, gradients (on TensorFlow), moving statistics, loss, new weights.

        Args:
            keras_model: a model of Keras with the same layers, of the same names or in the same order. Each layer is
                given this trace's weights, input and gradient; the model's own weights are put back.
        """
        return compared(self._record, keras_model)

    @property
    def loss_after(self) -> float | None:
        return self._record.loss_after

    @property
    def weights(self) -> Mapping[str, Weight]:
        return self._record.weights

    @property
    def losses(self) -> Mapping[str, LossTrace]:
        return self._losses

    @property
    def training(self) -> bool:
        """Whether this is a step of training, and not a forward pass as at inference."""
        return self._record.training

    @property
    def step(self) -> int:
        """The number of steps before this one."""
        return self._record.counters[0]

    def __getitem__(self, name: str) -> Any:
        if name not in self._layers and name not in self._losses:
            raise NoSuchLayer(unknown(f"the trace of model {self._record.model!r}", "layer", name, list(self)))
        return self._layers[name] if name in self._layers else self._losses[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._layers, *(name for name in self._losses if name not in self._layers)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        what = f"step {self.step + 1}" if self.training else "forward only"
        loss = f", loss {self.loss:.6g} → {self.loss_after:.6g}" if self.loss is not None else ""
        return f"<Trace of model {self._record.model!r}, {what}: {len(self._record.uses)} layers{loss}>"

    @property
    def first_broken(self) -> tuple[str, str] | None:
        """The layer and the array in which a NaN or an infinity comes first: forward, then backward from the loss."""
        places = [(name, what) for name, each in self._layers.items() for what in (*each.weights, "output")]
        places += [(name, "doutput") for name in reversed(self._layers)] if self.training else []
        return next(((n, what) for n, what in places if not np.isfinite(getattr(self._layers[n], what)).all()), None)

    def table(self) -> Table:
        """Each layer: shapes, and how large its numbers are."""
        rows = []
        for name, each in self._layers.items():
            kernel = max(
                (w.gradient for w in each.weights.values() if w.gradient is not None), key=np.size, default=None
            )
            step = [np.abs(w.step).max() for w in each.weights.values() if w.gradient is not None and w.step.size]
            row = [
                name,
                type(each.layer).__name__,
                dims(each.output.shape[1:]),
                _range(each.output),
                _zeros(each.output),
            ]
            row += [_size(each.doutput), _size(kernel), f"{max(step):.2g}" if step else ""]
            rows.append(row)
        columns = ("layer", "kind", "output", "from … to", "zeros", "|doutput| ≤", "|dweights| ≤", "|step| ≤")
        notes = []
        if self.loss is not None:
            notes.append(f"Loss {self.loss:.6g} before the step, {self.loss_after:.6g} after it, on the same batch.")
            notes.append(f"Step {self.step + 1} of {self._record.optimizer}.")
        broken = self.first_broken
        notes += [f"The first NaN or infinity is in {broken[0]}, {broken[1]}."] if broken else []
        size = len(next(iter(self._layers.values())).output)
        title = f"{'A step of training' if self.training else 'A forward pass'} of {self._record.model!r}, batch {size}"
        return Table(title, columns, rows, notes, right=(3, 4, 5, 6, 7), needs={1: 70, 4: 80, 7: 90})


def _range(array: Array) -> str:
    return f"{array.min():.3g} … {array.max():.3g}"


def _zeros(array: Array) -> str:
    return f"{np.mean(array == 0):.0%}"


def _size(array: Array | None) -> str:
    return "" if array is None or not array.size else f"{np.abs(array).max():.2g}"
