"""The same step in Keras: every layer of a Keras model is given what ours was given, and the results are compared."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyconv.checking import invalid
from tinyconv.checking.tables import Table, Tabled
from tinyconv.kernels.reference.dropout import STEP
from tinyconv.plan import ops
from tinyconv.trace.explanation import number
from tinyconv.trace.record import Array, Record, Use


@dataclass(frozen=True)
class Compared:
    """The largest difference of an array from Keras', and the largest number in it."""

    tensor: str
    difference: float
    size: float

    @property
    def relative(self) -> float:
        return self.difference / max(self.size, 1e-30)


class Comparison(Tabled):
    """What :meth:`Trace.compare` found: ``rows``, and their ``largest`` relative difference."""

    def __init__(self, rows: Sequence[Compared], notes: Sequence[str]) -> None:
        self.rows, self.notes = list(rows), list(notes)

    @property
    def largest(self) -> float:
        return max((each.relative for each in self.rows), default=0.0)

    def table(self) -> Table:
        """Every array, and how far it is from Keras'."""
        cells = [(e.tensor, number(e.difference), number(e.size), f"{e.relative:.1e}") for e in self.rows]
        columns = ("array", "largest difference", "largest number", "relative")
        return Table("Beside Keras, layer by layer", columns, cells, self.notes, right=(1, 2, 3))

    def __repr__(self) -> str:
        return f"<{len(self.rows)} arrays compared with Keras, largest relative difference {self.largest:.1e}>"


def compared(record: Record, keras_model: Any) -> Comparison:
    """Each array of a step beside Keras': outputs, gradients of inputs and of weights, moving statistics, new weights.

    Every layer of Keras gets our weights, our input and our gradient of the output, so that differences do not add up.
    Its own weights are put back at the end.
    """
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(keras_model, keras.Model):
        raise invalid("compare", "keras_model", "a model of Keras with the same layers", keras_model)
    theirs, kept = _paired(record, keras_model), keras_model.get_weights()
    can_differentiate = record.training and keras.backend.backend() == "tensorflow"
    notes = [] if can_differentiate or not record.training else ["Gradients are compared on TensorFlow only."]
    gradients: dict[str, Array] = {}
    rows: list[Compared] = []
    try:
        for use in record.uses:
            if use.path not in theirs:
                continue
            if any(_draws(record.nodes[node].op) for node in use.nodes) and record.training:
                notes.append(f"{use.name} draws at random, in Keras from another generator: not compared.")
                continue
            rows += _layer(record, use, theirs[use.path], gradients if can_differentiate else None)
    finally:
        keras_model.set_weights(kept)
    for name, gradient in gradients.items():
        weight = record.weights[name]
        ours = weight.gradient
        if ours is not None:
            for power, strength in weight.penalty.items():
                ours = ours - strength * (2 * weight.value if power == 2 else np.sign(weight.value))
            layer, _, own = name.rpartition("/")
            rows.append(_difference(f"{layer}, d{own}", ours, gradient))
    return Comparison([*rows, *_losses(record, keras, keras_model), *_steps(record, keras)], notes)


def _draws(op: ops.Op) -> bool:
    return isinstance(op, ops.TrainingOnly)


def _paired(record: Record, keras_model: Any) -> Mapping[str, Any]:
    """Keras' layers by the names of ours: those of the same names, or in the same order."""
    theirs = dict(_leaves(keras_model, ""))
    layers = {use.path: type(use.layer).__name__ for use in record.uses if use.reads}
    ours = [path for path in record.order if path in layers]
    if set(ours) != set(theirs):
        theirs = dict(zip(ours, theirs.values(), strict=False)) if len(ours) == len(theirs) else theirs
    kinds = {path: type(layer).__name__ for path, layer in theirs.items()}
    if kinds != layers:
        raise ValueError(
            f"The layers differ. Expected {', '.join(f'{kind} {path!r}' for path, kind in layers.items())}. "
            f"Received: {', '.join(f'{kind} {path!r}' for path, kind in kinds.items())}."
        )
    return theirs


def _leaves(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _leaves(layer, f"{prefix}{layer.name}/")
        elif type(layer).__name__ != "InputLayer":
            yield f"{prefix}{layer.name}", layer


def _layer(record: Record, use: Use, layer: Any, gradients: dict[str, Array] | None) -> list[Compared]:
    """One use of a layer; the gradients of its weights are added to ``gradients``, if these are wanted."""
    own = [weight for name, weight in record.weights.items() if name.rpartition("/")[0] == use.path]
    layer.set_weights([weight.value for weight in own])
    xs = [record.nodes[read].out for read in use.reads]
    given = record.nodes[use.gives]
    if gradients is None or given.dout is None:
        out = layer(xs if len(xs) > 1 else xs[0], training=record.training)
        return [_difference(f"{use.name}, output", given.out, out)]
    import tensorflow as tf

    tensors = [tf.convert_to_tensor(x) for x in xs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        out = layer(tensors if len(tensors) > 1 else tensors[0], training=True)
    variables = [variable.value for variable in layer.trainable_weights]
    found = tape.gradient(out, [*tensors, *variables], output_gradients=given.dout, unconnected_gradients="zero")
    rows = [_difference(f"{use.name}, output", given.out, out)]
    dinputs = record.nodes[use.nodes[0]].dinputs if use.nodes else (given.dout,)
    for k, (ours, theirs) in enumerate(zip(dinputs, found, strict=False)):
        name = "dinput" if len(xs) == 1 else f"dinput_{k}"
        if ours is not None:
            rows.append(_difference(f"{use.name}, {name}", ours, theirs))
    trained = [weight for weight, array in zip(own, layer.weights, strict=True) if array.trainable]
    for weight, gradient in zip(trained, found[len(xs) :], strict=True):
        gradients[weight.name] = gradients.get(weight.name, 0) + np.asarray(gradient)
    for weight, after in zip(own, layer.get_weights(), strict=True):
        if weight.gradient is None:
            rows.append(_difference(f"{use.name}, new_{weight.name.rpartition('/')[2]}", weight.new, after))
    return rows


def _losses(record: Record, keras: Any, keras_model: Any) -> Iterator[Compared]:
    """The loss, of a model with one, that Keras' model is compiled with too."""
    loss = keras_model.loss if getattr(keras_model, "compiled", False) else None
    targets, weights = record.given[1:]
    if loss is None or len(targets) != 1 or weights or isinstance(loss, list | dict):
        return
    (node,) = record.losses.values()
    function = keras.losses.get(loss)
    out = record.nodes[record.setting.graph.outputs[0]].out
    truth = targets[0].reshape(out.shape)
    sparse = "sparse" in getattr(function, "__name__", type(function).__name__).lower()
    found = np.asarray(function(truth.argmax(axis=-1) if sparse else truth, out))
    losses = node.own[f"{node.op.label}_forward"]["losses"]
    yield _difference("loss", losses.mean(keepdims=True), np.mean(found, keepdims=True).reshape(1))


def _steps(record: Record, keras: Any) -> Iterator[Compared]:
    """What Keras' optimiser, at the same step with the same moments, makes of the same gradients."""
    trained = [weight for weight in record.weights.values() if weight.gradient is not None]
    if record.optimizer_config is None or not trained:
        return
    optimizer = keras.optimizers.deserialize(dict(record.optimizer_config))
    variables = [keras.Variable(weight.value, name=weight.name.replace("/", "_")) for weight in trained]
    optimizer.build(variables)
    optimizer.iterations.assign(record.counters[STEP])
    for slot in trained[0].moments_before:
        plural = f"{slot.removesuffix('y')}ies" if slot.endswith("y") else f"{slot}s"
        theirs = getattr(optimizer, f"_{plural}", None) or getattr(optimizer, plural)
        for variable, weight in zip(theirs, trained, strict=True):
            variable.assign(weight.moments_before[slot])
    optimizer.apply([keras.ops.convert_to_tensor(weight.gradient) for weight in trained], variables)
    for variable, weight in zip(variables, trained, strict=True):
        layer, _, own = weight.name.rpartition("/")
        yield _difference(f"{layer}, new_{own}", weight.new, variable)


def _difference(name: str, ours: Array, theirs: Any) -> Compared:
    other = np.asarray(theirs)
    return Compared(name, float(np.abs(ours - other).max(initial=0)), float(np.abs(other).max(initial=0)))
