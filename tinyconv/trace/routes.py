"""Explanations of ops without weights that hand numbers on: each output is a sum of inputs times known factors.

Padding, dropout, reshaping, and with files of their own pools and merges: what differs is which input goes where, and
times what. Backward every gradient goes the same ways home, times the same factors.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tinyconv.kernels import reference
from tinyconv.kernels.reference.dropout import STEP, keep_mask
from tinyconv.plan import ops
from tinyconv.trace.explainer import BORDER, DROPPED, Explainer, counted, listed
from tinyconv.trace.explanation import Column, Explanation, Fact, Place, Rows, reference_to, single
from tinyconv.trace.record import Array
from tinyconv.trace.windows import places


@dataclass(frozen=True)
class Ways:
    """Where numbers come from or go to (rows, axes), times which factors, and why those are zero that are."""

    places: Array
    factors: Array
    why: tuple[str, ...] = ()

    @classmethod
    def one(cls, place: Any, factor: float = 1.0, why: str = "") -> "Ways":
        return cls(np.array([place], np.int64), np.array([factor]), (why,))

    @classmethod
    def none(cls, rank: int) -> "Ways":
        return cls(np.zeros((0, rank), np.int64), np.zeros(0))

    @property
    def real(self) -> list[Place]:
        """Those whose factor is not zero."""
        return [tuple(place) for place in self.places[self.factors != 0].tolist()]


class Route(Explainer):
    """An op that hands numbers on. ``factor`` is what the factors are called, "" where all are 1."""

    factor = ""
    formula: tuple[str, str]

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        """Of an output: by the number of the input, from where."""
        raise NotImplementedError

    def targets(self, k: int, place: Place) -> Ways:
        """Of a number of input ``k``: to which outputs."""
        raise NotImplementedError

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        """Two or three sentences about a number of the output or, ``backward``, of an input's gradient."""
        raise NotImplementedError

    def extra(self, place: Place) -> list[Rows]:
        """Terms of an output that come from no input."""
        return []

    def facts(self, place: Place) -> list[Fact]:
        return []

    def output(self, place: Place) -> Explanation:
        found = self.sources(place)
        rows = []
        for k, ways in found:
            x = self.x_at(ways.places, k)
            reasons = self.why_x(x, k)
            rows.append(self._rows(x, ways, reasons))
        ways = found[0][1] if found else Ways.none(len(place))
        code = reference_to(*self.forward)
        said = self.say(place, False, ways)
        value, facts = self.node.out[place], self.facts(place)
        rows += self.extra(place)
        return self.explain(self.out_name(), place, value, rows, self.formula[0], said, code, facts=facts)

    def dinput(self, k: int, place: Place) -> Explanation:
        ways = self.targets(k, place)
        dout = self.dout_at(ways.places)
        rows = [self._rows(dout, ways, self.why_dout(dout))]
        gradient = self.node.dinputs[k]
        assert gradient is not None
        said, code = self.say(place, True, ways), reference_to(*self.backward)
        return self.explain(f"d{self.x_name(k)}", place, gradient[place], rows, self.formula[1], said, code)

    def _rows(self, column: Column, ways: Ways, why: Any) -> Rows:
        columns = (column, Column(self.factor, ways.factors)) if self.factor else (column,)
        return Rows(columns, lambda row: (ways.why[row] if ways.why else "") or why(row))


class Upsample2D(Route):
    forward = (reference.upsample2d_forward, "out[...] = ")
    backward = (reference.upsample2d_backward, "dx[...] = ")
    formula = (r"out_{n,i,j,c} = x_{n,i / rows,j / columns,c}", r"dx_{n,u,v,c} = \sum_{block} dout_{n,i,j,c}")

    def _block(self) -> tuple[int, int]:
        return tuple(a // b for a, b in zip(self.op.out_shape[:2], self.op.x_shape[:2], strict=True))  # type: ignore[return-value]

    def zeros(self) -> Array:
        rows, columns = self._block()
        return self.scope.zeros(self.node.reads[0]).repeat(rows, axis=1).repeat(columns, axis=2)

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        n, i, j, c = place
        rows, columns = self._block()
        return [(0, Ways.one((n, i // rows, j // columns, c)))]

    def targets(self, k: int, place: Place) -> Ways:
        n, u, v, c = place
        rows, columns = self._block()
        i, j = np.ogrid[u * rows : (u + 1) * rows, v * columns : (v + 1) * columns]
        found = places(n, i, j, c)
        return Ways(found, np.ones(len(found)))

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        rows, columns = self._block()
        if not backward:
            return [f"A copy: every pixel is repeated in a block of {rows} × {columns}."]
        return [f"The pixel was repeated {counted(len(ways.factors), 'time')}, and gets the sum of their gradients."]


class Pad2D(Route):
    forward = (reference.pad2d_forward, "out[_inside")
    backward = (reference.pad2d_backward, "dx[...] = ")
    formula = (
        r"out_{n,i,j,c} = x_{n,i - top,j - left,c} \text{ inside, else 0}",
        r"dx_{n,u,v,c} = dout_{n,u + top,v + left,c}",
    )

    def _inside(self) -> tuple:
        (top, left), (height, width) = self.op.corner, self.op.x_shape[:2]
        return slice(None), slice(top, top + height), slice(left, left + width)

    def zeros(self) -> Array:
        found = np.full(self.node.out.shape, BORDER, np.int8)
        found[self._inside()] = self.scope.zeros(self.node.reads[0])
        return found

    def lost(self, k: int) -> Array:
        return self.scope.lost(self.node.number)[self._inside()]

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        n, i, j, c = place
        u, v = i - self.op.corner[0], j - self.op.corner[1]
        inside = 0 <= u < self.op.x_shape[0] and 0 <= v < self.op.x_shape[1]
        return [(0, Ways.one((n, u, v, c)))] if inside else []

    def targets(self, k: int, place: Place) -> Ways:
        n, u, v, c = place
        return Ways.one((n, u + self.op.corner[0], v + self.op.corner[1], c))

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        if not len(ways.factors):
            return ["A zero of the border that was put around the image."]
        return ["A copy of the pixel, with the same gradient." if backward else "A copy of the pixel."]


class Rescale(Route):
    factor = "scale"
    forward = (reference.rescale_forward, "out[...] = ")
    backward = (reference.rescale_backward, "dx[...] = ")
    formula = (r"out = x \cdot scale + shift", r"dx = dout \cdot scale")

    def zeros(self) -> Array:
        found = self.scope.zeros(self.node.reads[0])
        return np.zeros_like(found) if self.op.shift else found

    def lost(self, k: int) -> Array:
        return self.scope.lost(self.node.number)

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        return [(0, self.targets(0, place))]

    def targets(self, k: int, place: Place) -> Ways:
        return Ways.one(place, self.op.scale)

    def extra(self, place: Place) -> list[Rows]:
        return [single(("shift", None, self.op.shift))] if self.op.shift else []

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        return ["The derivative of a product with a constant is the constant."] if backward else ["Times a constant."]


class Reshape(Route):
    forward = (ops.Reshape.emit, "return x.reshape")
    backward = (ops.Reshape.emit, "return x.reshape")
    formula = (r"out = x \text{ in another shape}", r"dx = dout \text{ in another shape}")

    def zeros(self) -> Array:
        return self.scope.zeros(self.node.reads[0]).reshape(self.node.out.shape)

    def lost(self, k: int) -> Array:
        return self.scope.lost(self.node.number).reshape(self.node.inputs[0].shape)

    def _moved(self, place: Place, shape: Any, other: Any) -> Ways:
        flat = np.ravel_multi_index(place[1:], shape)
        return Ways.one((place[0], *(int(i) for i in np.unravel_index(flat, other))))

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        return [(0, self._moved(place, self.op.out_shape, self.op.x_shape))]

    def targets(self, k: int, place: Place) -> Ways:
        return self._moved(place, self.op.x_shape, self.op.out_shape)

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        other = ways.real[0]
        shapes = (self.op.x_shape, self.op.out_shape) if backward else (self.op.out_shape, self.op.x_shape)
        at, shape = max((place[1:], shapes[0]), (other[1:], shapes[1]), key=lambda pair: len(pair[1]))
        index = " + ".join(f"{i} · {int(np.prod(shape[axis + 1 :]))}" for axis, i in enumerate(at))
        flat = int(np.ravel_multi_index(at, shape))
        return [
            f"Nothing is computed: the number {'came from' if not backward else 'went to'} place {listed(other[1:])}.",
            f"Counted row by row it is number {index} = {flat} of sample {place[0]}.",
        ]


class Dropout(Route):
    factor = "1 / (1 − rate)"
    forward = (reference.dropout_forward, "out[...] = ")
    backward = (reference.dropout_backward, "dropout_forward(dx")
    formula = (
        r"out = x \cdot \frac{1}{1 - rate} \text{ where kept, else 0}",
        r"dx = dout \cdot \frac{1}{1 - rate} \text{ where kept, else 0}",
    )

    @cached_property
    def kept(self) -> Array:
        """Which units live, by the generator that the kernels ask."""
        record, shape = self.scope.record, self.node.out.shape
        if not record.training:
            return np.ones(shape, bool)
        counters, layer = np.array(record.counters, np.int64), self.op.stream
        rows = (shape[0], self.node.out[0].size)
        return keep_mask(rows, counters, record.seed, layer, self.op.rate).reshape(shape)

    def zeros(self) -> Array:
        return np.where(self.kept, self.scope.zeros(self.node.reads[0]), DROPPED)

    def lost(self, k: int) -> Array:
        return np.where(self.kept, self.scope.lost(self.node.number), DROPPED)

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        return [(0, self.targets(0, place))]

    def targets(self, k: int, place: Place) -> Ways:
        rate = self.op.rate if self.scope.record.training else 0.0
        kept = bool(self.kept[place])
        return Ways.one(place, 1 / (1 - rate) if kept else 0.0, "" if kept else "dropped")

    def facts(self, place: Place) -> list[Fact]:
        record = self.scope.record
        if not record.training:
            return []
        unit = int(np.ravel_multi_index(place[1:], self.node.out.shape[1:]))
        return [
            Fact("rate", self.op.rate, "of the units are dropped"),
            Fact(
                "step", record.counters[STEP], f"before this one; drawn for sample {place[0]} and each unit by itself"
            ),
            Fact("unit", unit, "of the sample"),
            Fact("seed", record.seed, "of the model"),
        ]

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        what = "its gradient" if backward else "it"
        if not self.scope.record.training:
            return ["At inference nothing is dropped."]
        if not ways.real:
            return [f"The unit is dropped in this step, and so is its {'gradient' if backward else 'number'}."]
        return [
            f"The unit is kept, and {what} is multiplied by 1 / (1 − {self.op.rate:g}).",
            "So its mean over many steps is what it would be without dropout.",
        ]


class Concatenate(Route):
    forward = (reference.concatenate_forward, "out[:, offset")
    backward = (reference.concatenate_backward, "dx[...] = ")
    formula = (r"out = x_0, x_1, \text{... along an axis}", r"dx_k = \text{its part of } dout")

    def _offsets(self) -> list[int]:
        axis = self.op.axis + 1
        return np.cumsum([0, *(x.shape[axis] for x in self.node.inputs)]).tolist()

    def zeros(self) -> Array:
        return np.concatenate([self.scope.zeros(number) for number in self.node.reads], axis=self.op.axis + 1)

    def lost(self, k: int) -> Array:
        begin, end = self._offsets()[k : k + 2]
        return self.scope.lost(self.node.number).take(range(begin, end), axis=self.op.axis + 1)

    def sources(self, place: Place) -> list[tuple[int, Ways]]:
        axis, offsets = self.op.axis + 1, self._offsets()
        k = int(np.searchsorted(offsets, place[axis], side="right")) - 1
        return [(k, Ways.one((*place[:axis], place[axis] - offsets[k], *place[axis + 1 :])))]

    def targets(self, k: int, place: Place) -> Ways:
        axis = self.op.axis + 1
        return Ways.one((*place[:axis], place[axis] + self._offsets()[k], *place[axis + 1 :]))

    def say(self, place: Place, backward: bool, ways: Ways) -> list[str]:
        where = f"place {listed(ways.real[0])}"
        return [f"It was copied to {where}, and gets the gradient from there." if backward else f"A copy of {where}."]


ROUTES: dict[type[ops.Op], type[Explainer]] = {
    ops.Upsample2D: Upsample2D,
    ops.Pad2D: Pad2D,
    ops.Rescale: Rescale,
    ops.Reshape: Reshape,
    ops.Dropout: Dropout,
    ops.Concatenate: Concatenate,
}
