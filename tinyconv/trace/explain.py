"""Who explains what: from the name of an array to the op that computed it."""

import operator
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tinyconv.checking import unknown
from tinyconv.checking.messages import received
from tinyconv.kernels import reference
from tinyconv.plan import ops
from tinyconv.trace.explainer import ZEROS, Explainer, Scope, name_in
from tinyconv.trace.explanation import Explanation, Place, Rows, reference_to, single
from tinyconv.trace.linear import LINEAR
from tinyconv.trace.losses import Loss, of_probabilities
from tinyconv.trace.merges import merge
from tinyconv.trace.normal import NORMAL, BatchNorm
from tinyconv.trace.own import Custom
from tinyconv.trace.pointwise import POINTWISE, Activation
from tinyconv.trace.pools import POOLS
from tinyconv.trace.record import Array, Node, Record, Use, Weight
from tinyconv.trace.routes import ROUTES
from tinyconv.trace.updates import explained_update
from tinyconv.trace.warps import Warp

# Of every op that a plan without fusion has.
EXPLAINERS: dict[type[ops.Op], Any] = {
    **LINEAR,
    **ROUTES,
    **POOLS,
    **POINTWISE,
    **NORMAL,
    ops.Merge: merge,
    ops.Custom: Custom,
    ops.Warp: Warp,
    ops.Loss: Loss,
}


def scope_of(record: Record) -> Scope:
    """A step with its explainers, each made once."""
    made: dict[int, Explainer] = {}

    def explainers(node: Node) -> Explainer:
        if node.number not in made:
            made[node.number] = EXPLAINERS[type(node.op)](scope, node)
        return made[node.number]

    scope = Scope(record, explainers)
    return scope


class Explained:
    """The arrays of a use of a layer, by name, and the explanations of their numbers."""

    def __init__(self, scope: Scope, use: Use) -> None:
        self.scope, self.record, self.use = scope, scope.record, use
        self.nodes = [self.record.nodes[number] for number in use.nodes]
        weights = [weight for name, weight in self.record.weights.items() if name.rpartition("/")[0] == use.path]
        self.weights = {weight.name.rpartition("/")[2]: weight for weight in weights}

    def explain(self, what: str, where: Sequence[Any]) -> Explanation:
        """``where``: a place; of a "step" or a moment, the name of a weight and a place in it."""
        slots = {slot for weight in self.weights.values() for slot in weight.moments}
        if what in ("step", "new", *slots):
            weight, name, place = self._weight(what, where)
            return self._update(what, weight, name, place)
        place = self._place(what, where)
        for prefix in ("d", "new_", ""):
            name = what.removeprefix(prefix)
            if what.startswith(prefix) and name in self.weights:
                return self._of_weight(prefix, name, place)
        if what in ("output", "doutput"):
            return self.gradient_of(self.use.gives, place) if what == "doutput" else self.output(place)
        if what.startswith(("input", "dinput")):
            k = int(what.rpartition("_")[2]) if "_" in what else 0
            return self.dinput(k, place) if what.startswith("d") else self.input(k, place)
        if what in self._inners:
            return self.scope.explainers(self.nodes[self._inners.index(what)]).output(place)
        return self.scope.explainers(self.nodes[self._inners.index(what.removeprefix("d")) + 1]).dinput(0, place)

    # By kind

    def output(self, place: Place) -> Explanation:
        """An activation behind the sum of the same layer is what is done with that sum."""
        if not self.nodes:
            return self._handed_on("output", self.record.nodes[self.use.gives].out, place)
        last = self.scope.explainers(self.nodes[-1])
        if not isinstance(last, Activation) or len(self.nodes) == 1:
            return last.output(place)
        inner, after = self.scope.explainers(self.nodes[-2]).output(place), last.output(place)
        then = (*inner.then, last.then(place, inner.result))
        said, facts = (*inner.sentences, *after.sentences), (*inner.facts, *after.facts)
        of_z = re.sub(r"(?<![A-Za-z\\])x(?![A-Za-z])", "z", last.formulas[0])
        formula = rf"{inner.formula.replace('out', 'z', 1)}, \quad {of_z}"
        return replace(inner, what="output", value=after.value, then=then, sentences=said, facts=facts, formula=formula)

    def input(self, k: int, place: Place) -> Explanation:
        number = self.use.reads[k]
        giver = next((use for use in self.record.uses if use.gives == number and use.nodes), None)
        if giver is None:
            return self.scope.explainer(number).output(place)
        return Explained(self.scope, giver).output(place)

    def dinput(self, k: int, place: Place) -> Explanation:
        if self.nodes:
            return self.scope.explainers(self.nodes[0]).dinput(k, place)
        return replace(self.gradient_of(self.use.gives, place), what="dinput", layer=self.use.name)

    def gradient_of(self, number: int, place: Place) -> Explanation:
        """What the readers of a value hand back, in the order in which it is added."""
        node = self.record.nodes[number]
        assert node.dout is not None
        readers = self.record.readers(number)
        if len(readers) == 1 and not isinstance(readers[0][0].op, ops.Loss):
            found = self.scope.explainers(readers[0][0]).dinput(readers[0][1], place)
            said = (*found.sentences, f"The only reader is {found.layer}, so this is the gradient of its input.")
            return replace(found, layer=self.use.name, what="doutput", sentences=said)
        if len(readers) == 1:
            loss = readers[0][0]
            explainer = of_probabilities(self.scope, loss) if loss.op.absorbed else self.scope.explainers(loss)  # type: ignore[attr-defined]
            return replace(explainer.dinput(0, place), layer=self.use.name, what="doutput")
        rows: list[Rows] = []
        for reader, k in readers:
            each = self.scope.explainers(reader)
            gradient = reader.dinputs[k] if not isinstance(reader.op, ops.Loss) else node.dout
            assert gradient is not None
            why = ZEROS[each.lost(k)[place]]
            rows.append(single((f"{each.layer}: d{each.x_name(k)}", place, float(gradient[place])), why=why))
        said = (f"The value has {len(readers)} readers; each hands a gradient back, and they are added in this order.",)
        if not readers:
            said = ("No loss depends on it.",)
        value, code = float(node.dout[place]), reference_to(reference.add_to, "out += x")
        return Explanation(self.use.name, "doutput", place, value, tuple(rows), r"dout = \sum_r dx_r", said, code)

    def _handed_on(self, what: str, array: Array, place: Place) -> Explanation:
        rows = (single(("input", place, float(array[place]))),)
        code = reference_to(type(self.use.layer).ops) if self.use.layer is not None else reference_to(ops.Source.emit)
        said = ("The layer changes nothing.",)
        return Explanation(self.use.name, what, place, float(array[place]), rows, "out = x", said, code)

    def _of_weight(self, prefix: str, name: str, place: Place) -> Explanation:
        weight = self.weights[name]
        if prefix == "d":
            return self._explainer_with(name).dweight(name, place)
        if prefix == "new_" and weight.clipped is not None:
            return self._update("new", weight, name, place)
        first = self.scope.explainers(self.nodes[0]) if self.nodes else None
        if prefix == "new_" and isinstance(first, BatchNorm) and name.startswith("moving_"):
            return first.moved(name, place)
        value = float(weight.value[place])
        said = "It is not trained, so it stays what it was." if prefix else "A weight, as it is before the step."
        rows, code = (single((name, place, value)),), reference_to(type(self.use.layer).weight_specs)
        return Explanation(self.use.name, f"{prefix}{name}", place, value, rows, r"\theta", (said,), code)

    def _update(self, what: str, weight: Weight, name: str, place: Place) -> Explanation:
        if weight.clipped is None:
            raise ValueError(f"{weight.name!r} is not trained in this step. Expected a weight that is.")
        found = explained_update(self.record, weight, what, place)
        return replace(found, layer=self.use.name, weight=name if what not in ("new",) else "")

    def _explainer_with(self, name: str) -> Explainer:
        """The op that the weight belongs to."""
        for node in self.nodes:
            weights = getattr(node.op, "weights", None)
            if weights is None or name in weights:
                return self.scope.explainers(node)
        raise AssertionError(name)

    # Of whole arrays, and by nudging

    def _value(self, what: str) -> int:
        """The node that gives an array, or whose gradient it is."""
        name = what.removeprefix("d") if what not in self._inners else what
        if name == "output":
            return self.use.gives
        if name in self._inners:
            return self.nodes[self._inners.index(name)].number
        return self.use.reads[int(name.rpartition("_")[2]) if "_" in name else 0]

    def zeros(self, what: str) -> Array:
        """Why each number of an array of values or of their gradients is zero, as a number of ZEROS."""
        array = self._array(what)
        if what.removeprefix("d") in self.weights or what.removeprefix("new_") in self.weights:
            return np.zeros(array.shape, np.int8)
        number = self._value(what)
        if what in self._inners or not what.startswith("d"):
            return self.scope.zeros(number)
        if what.startswith("dinput") and self.nodes:
            k = self.use.reads.index(number)
            return np.where(array == 0, self.scope.explainers(self.nodes[0]).lost(k), 0).astype(np.int8)
        return self.scope.lost(number)

    def nudged(self, what: str, place: Any) -> tuple[int | str, Place]:
        """Whose gradient an array is: a node's value, or a weight, by its whole name; and the place, checked."""
        array = self._array(what)
        at = checked_place(f"{self.use.name!r}, {what}", place, array.shape)
        if what.removeprefix("d") in self.weights and what not in self.weights:
            return self.weights[what.removeprefix("d")].name, at
        if not what.startswith("d") or what in (*self.weights, *self._inners):
            raise ValueError(f'{what!r} is not a gradient. Expected one, such as "doutput".')
        number = self._value(what)
        if what.startswith("dinput") and len(self.record.readers(number)) > 1:
            raise ValueError(
                f"The input of {self.use.name!r} has other readers too, and to nudge it nudges all. "
                'Fix: nudge "doutput" of the layer before it.'
            )
        return number, at

    # Names and places

    @cached_property
    def _inners(self) -> list[str]:
        return [name_in(self.record, self.use, node.number) for node in self.nodes[:-1]]

    @cached_property
    def names(self) -> dict[str, Array | None]:
        """Every array by its name; None where the step has not computed it."""
        found: dict[str, Array | None] = {"output": self.record.nodes[self.use.gives].out}
        found["doutput"] = self.record.nodes[self.use.gives].dout
        several = len(self.use.reads) > 1
        for k, number in enumerate(self.use.reads):
            name = f"input_{k}" if several else "input"
            given = self.record.nodes[number]
            found[name] = given.out
            found[f"d{name}"] = self.nodes[0].dinputs[k] if self.nodes else found["doutput"]
        for name, node, after in zip(self._inners, self.nodes, self.nodes[1:], strict=False):
            found[name], found[f"d{name}"] = node.out, after.dinputs[0]
        for name, weight in self.weights.items():
            found |= {name: weight.value, f"d{name}": weight.gradient, f"new_{name}": weight.new}
        return found

    def _array(self, what: str) -> Array:
        array = self.names.get(what)
        if array is None:
            known = [name for name, array in self.names.items() if array is not None]
            moments = {slot for weight in self.weights.values() for slot in weight.moments}
            known += ["step", *sorted(moments)] if moments else []
            raise unknown(f"layer {self.use.name!r}", "array", what, known)
        return array

    def _place(self, what: str, where: Sequence[Any]) -> Place:
        shape = self._array(what).shape
        if len(where) != 1:
            raise TypeError(f"explain({what!r}, place) takes one place. Received: {received(tuple(where))}.")
        return checked_place(f"{self.use.name!r}, {what}", where[0], shape)

    def _weight(self, what: str, where: Sequence[Any]) -> tuple[Weight, str, Place]:
        if len(where) != 2:
            expected = f'explain({what!r}, "kernel", place): the name of a weight, and a place in it'
            raise TypeError(f"Expected {expected}. Received: {received(tuple(where))}.")
        name = where[0].removeprefix(f"{self.use.path}/") if isinstance(where[0], str) else where[0]
        if name not in self.weights:
            raise unknown(f"layer {self.use.name!r}", "weight", where[0], list(self.weights))
        weight = self.weights[name]
        return weight, name, checked_place(f"{self.use.name!r}, {name}", where[1], weight.value.shape)


def checked_place(who: str, place: Any, shape: tuple[int, ...]) -> Place:
    """A place in an array of that shape, as integers from 0 on."""
    given = place if isinstance(place, list | tuple | np.ndarray) else (place,)
    try:
        found = tuple(operator.index(i) for i in given)
    except TypeError:
        found = ()
    if len(found) != len(shape) or not all(-size <= i < size for i, size in zip(found, shape, strict=True)):
        raise ValueError(
            f"No such place in {who}, an array of shape {shape}. Expected {len(shape)} integers, each below its size. "
            f"Received: {received(place)}."
        )
    return tuple(i % size for i, size in zip(found, shape, strict=True))


def explained_loss(scope: Scope, node: Node, what: str, where: Sequence[Any]) -> Explanation:
    """A number of a loss: "losses" at a row, or "dinput"."""
    explainer = scope.explainers(node)
    assert isinstance(explainer, Loss)
    arrays = {"losses": explainer.losses, "dinput": node.dinputs[0]}
    if what not in arrays or arrays[what] is None:
        raise unknown(f"loss {node.op.name!r}", "array", what, list(arrays))
    if len(where) != 1:
        raise TypeError(f"explain({what!r}, place) takes one place. Received: {received(tuple(where))}.")
    place = checked_place(f"{node.op.name!r}, {what}", where[0], arrays[what].shape)  # type: ignore[union-attr]
    return explainer.output(place) if what == "losses" else explainer.dinput(0, place)
