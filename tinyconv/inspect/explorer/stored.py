"""What a page without a program needs: the model's ops for its own engine, whole traces, and what explains them."""

import base64
import gzip
from dataclasses import fields
from typing import Any

import numpy as np

from tinyconv.inspect.explorer.look import Look
from tinyconv.inspect.explorer.server import framed
from tinyconv.kernels import reference
from tinyconv.optimizers.base import CLIPS
from tinyconv.plan import ops
from tinyconv.trace.explain import scope_of
from tinyconv.trace.explainer import name_in
from tinyconv.trace.explanation import reference_to
from tinyconv.trace.formula import as_mathml, as_text
from tinyconv.trace.normal import FIXED_FORMULA
from tinyconv.trace.record import Array, Node, Record

# What the engine calls an op's fields.
CALLED = {
    "kernel_size": "size",
    "pool_size": "size",
    "strides": "strides",
    "padding": "padding",
    "dilation": "dilation",
    "use_bias": "bias",
    "kind": "kind",
    "options": "options",
    "rate": "rate",
    "scale": "scale",
    "shift": "shift",
    "corner": "corner",
    "axis": "axis",
    "axes": "axes",
    "epsilon": "epsilon",
    "center": "centers",
}


class Blob:
    """Arrays one behind the other in float32, each found by its name."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.places: dict[str, tuple[int, int]] = {}
        self._size = 0

    def add(self, name: str, array: Array | None) -> None:
        if array is not None:
            self._parts.append(np.ascontiguousarray(array, np.float32).tobytes())
            self.places[name] = self._size, array.size
            self._size += array.size

    def framed(self, header: dict[str, Any]) -> bytes:
        """All of it behind a header, which says where each array is."""
        return framed({**header, "places": self.places}, self._parts)


def packed(content: bytes) -> str:
    """Compressed, as text."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


class Network:
    """A model as the page's engine runs it, from a trace of it (of a step of training, if it has a loss)."""

    def __init__(self, model: Any, look: Look) -> None:
        self.model, self.look = model, look
        self.record: Record = look.trace._record
        self._scope = scope_of(self.record)
        self.blob = Blob()

    def described(self) -> dict[str, Any]:
        """All but the numbers of the weights, which are in the ``blob``."""
        return {
            "nodes": [self._node(node) for node in self.record.nodes.values() if not isinstance(node.op, ops.Loss)],
            "uses": [
                {"name": use.name, "path": use.path, "nodes": use.nodes, "gives": use.gives} for use in self.record.uses
            ],
            "losses": [self._loss(node) for node in self.record.losses.values()],
            "weights": {name: self._weight(name) for name in self.record.weights},
            "update": self._update(),
            "theory": self._theory(),
            "seed": self.record.seed,
            "step": self.record.counters[0],
        }

    def _node(self, node: Node) -> dict[str, Any]:
        record, op = self.record, node.op
        use = self._scope.use_of(node)
        found: dict[str, Any] = {
            CALLED[field.name]: getattr(op, field.name) for field in fields(op) if field.name in CALLED
        }
        if isinstance(op, ops.BatchNorm | ops.LayerNorm):
            found["scales"] = found.pop("scale")
        if isinstance(op, ops.Source):
            found["input"] = record.setting.graph.inputs.index(node.number)
        if isinstance(op, ops.Conv2D | ops.DepthwiseConv2D):
            found["names"] = dict(zip(("kernel", "bias"), op.weights, strict=True))
        takes = [self._scope.explainer(node.number).x_name(k) for k in range(len(node.reads))]
        return {
            "n": node.number,
            "op": type(op).__name__,
            "path": op.name,
            "where": node.where or op.name,
            "layer": type(use.layer).__name__ if use is not None else type(op).__name__,
            "reads": node.reads,
            "shape": op.out_shape,
            "x": op.x_shape,
            "shapes": [record.nodes[read].op.out_shape for read in node.reads],
            "called": name_in(record, use, node.number),
            "takes": takes,
            "weights": self._weights_of(op),
            **found,
        }

    def _weights_of(self, op: ops.Op) -> list[str]:
        """Those that an op of a layer has: of several with a kernel each, its own."""
        names = [name for name in self.record.weights if name.rpartition("/")[0] == op.name]
        own = getattr(op, "weights", None)
        return names if own is None else [name for name in names if name.rpartition("/")[2] in own]

    def _loss(self, node: Node) -> dict[str, Any]:
        op = node.op
        assert isinstance(op, ops.Loss)
        shape = op.x_shape
        return {
            "name": op.name,
            "kind": op.kind,
            "read": node.reads[0],
            "absorbed": op.absorbed,
            "options": op.options,
            "weight": op.weight,
            "summed": op.summed,
            "smoothing": op.smoothing,
            "columns": shape[-1],
            "shape": shape,
        }

    def _weight(self, name: str) -> dict[str, Any]:
        weight = self.record.weights[name]
        self.blob.add(name, weight.value)
        for slot, moment in weight.moments_before.items():
            self.blob.add(f"{name} {slot}", moment)
        return {
            "shape": weight.value.shape,
            "trained": weight.gradient is not None,
            "penalty": weight.penalty,
            "slots": list(weight.moments_before),
        }

    def _update(self) -> dict[str, Any] | None:
        if not self.record.update:
            return None
        kernel, numbers = self.record.update[-1]
        optimizer = self.model.optimizer
        clip = next((name for name in CLIPS if getattr(optimizer, name) is not None), None)
        plain = {name: value for name, value in numbers.items() if isinstance(value, bool | int | float)}
        clipping = {
            "clip": clip,
            "clipping": self.record.update[0][0],
            "limit": getattr(optimizer, clip) if clip else None,
        }
        about = {"kernel": kernel, "t": self.record.counters[0] + 1, "optimizer": self.record.optimizer}
        return {**plain, **about, **clipping}

    # What is the same for all numbers of an array: its formula, and the lines of the reference

    def _theory(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number, column in enumerate(self.look.columns):
            for what in [*self.look.names(number).values(), *(["z"] if column["z"] else [])]:
                array = self.look.array(column["name"], what)
                if array.size:
                    place = tuple(int(i) for i in np.unravel_index(int(np.abs(array).argmax()), array.shape))
                    found[f"{column['name']} {what}"] = self.look.explanation(column["name"], what, place).theory()
        for name, loss in self.look.trace.losses.items():
            found[f"{name} losses"] = loss.explain("losses", (0,)).theory()
        if self.record.loss is not None:
            found["loss"] = self.look.whole_loss().theory()
        return found | _fixed(self.record, found)


def _fixed(record: Record, said: dict[str, Any]) -> dict[str, Any]:
    """Of a batch normalisation as at inference, where mean and deviation are constants."""
    found = {}
    for node in record.nodes.values():
        if isinstance(node.op, ops.BatchNorm):
            forward, backward = reference.batch_norm_inference, reference.batch_norm_inference_backward
            own = f"{node.where} output"
            found[f"{own} fixed"] = {**said[own], "reference": _plain(forward, "out[...] =")}
            before = next(use.name for use in record.uses if use.gives == node.reads[0])
            found[f"{before} doutput fixed"] = {
                "formula": as_text(FIXED_FORMULA),
                "mathml": as_mathml(FIXED_FORMULA),
                "reference": _plain(backward, "dx[...] ="),
            }
    return found


def of_look(look: Look, blob: Blob) -> dict[str, Any]:
    """What a trace has computed, of its first sample; arrays go to the ``blob``."""
    record: Record = look.trace._record
    scope, scores = scope_of(record), {record.nodes[node.reads[0]].reads[0] for node in _absorbing(record)}
    shown = {use.gives for use in record.uses} | scores
    for number, node in record.nodes.items():
        if number in shown and not isinstance(node.op, ops.Reshape):
            blob.add(f"out {number}", node.out[0])
        if number in shown and node.dout is not None:
            blob.add(f"dout {number}", node.dout[0])
        if isinstance(node.op, ops.Dropout) and record.training:
            blob.add(f"kept {number}", scope.explainer(number).kept[0])  # type: ignore[attr-defined]
        if isinstance(node.op, ops.BatchNorm) and record.training and not node.op.frozen:
            _statistics(record, node, blob)
    for name, weight in record.weights.items():
        if weight.gradient is not None:
            blob.add(f"gradient {name}", weight.gradient)
    for number, loss in enumerate(look.trace.losses.values()):
        blob.add(f"targets {number}", loss.targets[0])
    return {
        "training": record.training,
        "batch": look.batch,
        "loss": look.loss(),
        "losses": {name: each.losses.tolist() for name, each in look.trace.losses.items()},
        "penalty": record.penalty,
        "broken": look.trace.first_broken,
    }


def _absorbing(record: Record) -> list[Node]:
    return [node for node in record.losses.values() if node.op.absorbed]  # type: ignore[attr-defined]


def _statistics(record: Record, node: Node, blob: Blob) -> None:
    """Of a batch normalisation in training what it has taken over the batch: mean, 1 / deviation, and, of the gradients
    times gamma, their mean, and their mean with x̂."""
    mean, inverse = node.array("mean"), node.array("inv_std")
    assert mean is not None
    assert inverse is not None
    blob.add(f"mean {node.number}", mean)
    blob.add(f"inverse {node.number}", inverse)
    if node.dout is None:
        return
    gamma = record.weights.get(f"{node.op.name}/gamma")
    gradients = node.dout.astype(np.float64) * (1 if gamma is None else gamma.value)
    axes = tuple(range(gradients.ndim - 1))
    blob.add(f"gradient {node.number}", gradients.mean(axis=axes))
    blob.add(f"slope {node.number}", (gradients * (node.inputs[0] - mean) * inverse).mean(axis=axes))


def _plain(function: Any, mark: str) -> dict[str, Any]:
    return reference_to(function, mark).to_dict()
