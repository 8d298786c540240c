"""Explanations of ops that multiply by weights: dense layers and convolutions of all kinds.

Each output is a sum of x times w and a bias. An x, a w and an output meet in one product; so the gradient of x collects
dout times w over all products that x is in, and that of w collects x times dout.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyconv.kernels import reference
from tinyconv.plan import ops
from tinyconv.trace.explainer import Explainer, Scope, counted
from tinyconv.trace.explanation import Column, Explanation, Place, Rows, reference_to, single
from tinyconv.trace.record import Array, Node
from tinyconv.trace.windows import REASONS, Filters, Link, Windows, places


@dataclass(frozen=True)
class Products:
    """Products x times w that make up outputs: where x, w and out of each stand, and a reason (see REASONS) where they
    do not meet."""

    x: Array
    w: Array
    out: Array
    status: Array


class Linear(Explainer):
    """A sum of products with weights."""

    formulas: tuple[str, str, str, str]  # of the output, and of the gradients of x, of w and of the bias

    @property
    def kernel(self) -> str:
        return self.op.weights[0]

    @property
    def bias(self) -> str:
        return self.op.weights[1]

    def of_out(self, place: Place) -> Products:
        raise NotImplementedError

    def of_x(self, place: Place) -> Products:
        raise NotImplementedError

    def of_w(self, place: Place) -> Products:
        raise NotImplementedError

    def sentences(self, what: str, place: Place, products: Products) -> list[str]:
        """Two or three sentences about an output ("out"), or a gradient of "x" or "w"."""
        raise NotImplementedError

    def say_bias(self, place: Place) -> list[str]:
        """The same about the gradient of a bias."""
        return [f"Bias {place[-1]} is added at every place of its map, so it collects the gradients of all of them."]

    def output(self, place: Place) -> Explanation:
        found = self.of_out(place)
        x, w = self.x_at(found.x), self.weight_at(self.kernel, found.w)
        rows = [Rows((x, w), _first(found.status, self.why_x(x), _weightless(w)))]
        if self.op.use_bias:
            rows.append(single((self.bias, place[-1:], self.weight(self.bias)[place[-1]])))
        said = self.sentences("out", place, found)
        code = reference_to(*self.forward)
        return self.explain(self.out_name(), place, self.node.out[place], rows, self.formulas[0], said, code)

    def dinput(self, k: int, place: Place) -> Explanation:
        found = self.of_x(place)
        dout, w = self.dout_at(found.out), self.weight_at(self.kernel, found.w)
        rows = [Rows((dout, w), _first(found.status, self.why_dout(dout), _weightless(w)))]
        gradient = self.node.dinputs[0]
        assert gradient is not None
        said = self.sentences("x", place, found)
        code = reference_to(*self.backward)
        return self.explain(f"d{self.x_name()}", place, gradient[place], rows, self.formulas[1], said, code)

    def dweight(self, name: str, place: Place) -> Explanation:
        rows = []
        nodes = self.siblings()
        for node in nodes:
            each = self if node is self.node else type(self)(self.scope, node)
            rows.append(each.bias_rows(place) if name == self.bias else each.weight_rows(place))
        value = self.scope.record.weights[f"{self.op.name}/{name}"].gradient
        assert value is not None
        penalties = self.penalties(name, place)
        said = self.say_bias(place) if name == self.bias else self.sentences("w", place, self.of_w(place))
        said += [f"The layer is used {counted(len(nodes), 'time')}, and all uses add to it."] if len(nodes) > 1 else []
        said += ["What its regularizer adds stands at the end."] if penalties else []
        mark = "db[...] =" if name == self.bias else "dw[...] ="
        formula = self.formulas[3 if name == self.bias else 2]
        code = reference_to(self.backward[0], mark)
        return self.explain(f"d{name}", place, value[place], [*rows, *penalties], formula, said, code)

    def weight_rows(self, place: Place) -> Rows:
        found = self.of_w(place)
        x, dout = self.x_at(found.x), self.dout_at(found.out)
        return Rows((x, dout), _first(found.status, self.why_dout(dout), self.why_x(x)))

    def bias_rows(self, place: Place) -> Rows:
        rows = np.indices(self.node.out.shape[:-1]).reshape(self.node.out.ndim - 1, -1)
        dout = self.dout_at(places(*rows, place[-1]))
        return Rows((dout,), self.why_dout(dout))


def _first(status: Array, *reasons: Callable[[int], str]) -> Callable[[int], str]:
    """Why a product is zero: its numbers do not meet, or the first reason that any of them has."""
    return lambda row: REASONS[status[row]] or next(filter(None, (each(row) for each in reasons)), "")


def _weightless(w: Column) -> Callable[[int], str]:
    return lambda row: "" if w.values[row] else "the weight is 0"


class Dense(Linear):
    forward = (reference.dense_forward, "x @ w + b")
    backward = (reference.dense_backward, "np.matmul(dout, w.T")
    formulas = (
        r"out_{n,f} = b_f + \sum_k x_{n,k} \cdot w_{k,f}",
        r"dx_{n,k} = \sum_f dout_{n,f} \cdot w_{k,f}",
        r"dw_{k,f} = \sum_n x_{n,k} \cdot dout_{n,f}",
        r"db_f = \sum_n dout_{n,f}",
    )

    def of_out(self, place: Place) -> Products:
        k = np.arange(self.node.inputs[0].shape[-1])
        return self._products(k, places(k, place[-1]), place[:-1], np.int64(place[-1]))

    def of_x(self, place: Place) -> Products:
        f = np.arange(self.node.out.shape[-1])
        return self._products(np.int64(place[-1]), places(place[-1], f), place[:-1], f)

    def of_w(self, place: Place) -> Products:
        rows = np.indices(self.node.out.shape[:-1]).reshape(self.node.out.ndim - 1, -1)
        w = np.broadcast_to(np.array(place), (rows.shape[1], 2))
        return self._products(np.int64(place[0]), w, rows, np.int64(place[1]))

    @property
    def _row(self) -> str:
        return "sample" if self.node.out.ndim == 2 else "row of every sample"

    @staticmethod
    def _products(k, w, row, f):  # type: ignore[no-untyped-def]
        return Products(places(*row, k), w, places(*row, f), np.zeros(len(w), np.int64))

    def sentences(self, what: str, place: Place, products: Products) -> list[str]:
        count = counted(len(products.w), "product")
        if what == "out":
            end = " and a bias" if self.op.use_bias else ""
            return [
                f"Unit {place[-1]} of sample {place[0]} is the sum of {count}{end}.",
                f"Each of the {counted(self.node.inputs[0].shape[-1], 'number')} of the sample is multiplied by the "
                f"weight that leads from it to this unit.",
            ]
        if what == "x":
            return [
                f"Number {place[-1]} of sample {place[0]} counts in all {counted(self.node.out.shape[-1], 'unit')}.",
                "Each unit's gradient comes back over the weight that the number went out by.",
            ]
        return [
            f"This weight leads from number {place[0]} to unit {place[1]}, once in every {self._row}.",
            "From each it collects the number that it multiplied, times the gradient of the unit.",
        ]

    def say_bias(self, place: Place) -> list[str]:
        return [
            f"The bias of unit {place[-1]} is added once in every {self._row}, so it collects the unit's gradients."
        ]


class Convolution(Linear):
    """What the convolutions share: windows. ``transposed``: the output is on the large grid."""

    transposed = False
    depthwise = False

    def __init__(self, scope: Scope, node: Node) -> None:
        super().__init__(scope, node)
        op = self.op
        shapes = (op.x_shape, op.out_shape) if self.transposed else (op.out_shape, op.x_shape)
        small, large = ((shape[0], shape[1]) for shape in shapes)
        windows = Windows(small, large, op.kernel_size, op.strides, op.padding, op.dilation)
        self.filters = Filters(windows, node.batch_size, self.weight(self.kernel).shape, self.depthwise)  # type: ignore[arg-type]

    def of_out(self, place: Place) -> Products:
        return self._products((self.filters.of_large if self.transposed else self.filters.of_small)(*place))

    def of_x(self, place: Place) -> Products:
        return self._products((self.filters.of_small if self.transposed else self.filters.of_large)(*place))

    def of_w(self, place: Place) -> Products:
        return self._products(self.filters.of_weight(*place))

    def _products(self, link: Link) -> Products:
        x, out = (link.small, link.large) if self.transposed else (link.large, link.small)
        return Products(x, link.weight, out, link.status)

    def sentences(self, what: str, place: Place, products: Products) -> list[str]:
        k, l = self.op.kernel_size
        meet = products.status == 0
        if what == "out":
            return [
                f"Map {place[3]} of image {place[0]}, row {place[1]}, column {place[2]}.",
                self._reach(products.x[meet], f"It is computed from {self.x_name()}"),
                f"That is {counted(len(products.w), 'product')} with a filter of {k} × {l}"
                f"{' and a bias' if self.op.use_bias else ''}"
                f"{f'; {int((~meet).sum())} of them meet no number' if not meet.all() else ''}.",
            ]
        if what == "x":
            return [
                f"Row {place[1]}, column {place[2]} of channel {place[3]} in image {place[0]}.",
                self._reach(products.out[meet], "It took part in the outputs at")
                if meet.any()
                else "No window has it.",
                "Each of these outputs sends its gradient back over the weight by which it saw this number.",
            ]
        return [
            f"This weight stands in row {place[0]}, column {place[1]} of its filter.",
            f"It met a number at {counted(int(meet.sum()), 'place')} of {counted(self.node.batch_size, 'image')}, and "
            "collects from each that number, times the gradient of what came of it.",
        ]

    @staticmethod
    def _reach(found: Array, begin: str) -> str:
        if not len(found):
            return ""
        low, high = found.min(axis=0).tolist(), found.max(axis=0).tolist()
        names = zip(("row", "column", "channel"), low[1:], high[1:], strict=True)
        reach = [f"{name} {a}" if a == b else f"{name}s {a} to {b}" for name, a, b in names]
        return f"{begin} {', '.join(reach)}."


class Conv2D(Convolution):
    forward = (reference.conv2d_forward, "np.tensordot")
    backward = (reference.conv2d_backward, "_scatter(dx")
    formulas = (
        r"out_{n,i,j,f} = b_f + \sum_{k,l,c} x_{n,u,v,c} \cdot w_{k,l,c,f}, \quad u = i s_0 + k d_0 - p_0,\; "
        r"v = j s_1 + l d_1 - p_1",
        r"dx_{n,u,v,c} = \sum_{k,l,f} dout_{n,i,j,f} \cdot w_{k,l,c,f}, \quad i s_0 = u + p_0 - k d_0,\; "
        r"j s_1 = v + p_1 - l d_1",
        r"dw_{k,l,c,f} = \sum_{n,i,j} x_{n,u,v,c} \cdot dout_{n,i,j,f}, \quad u = i s_0 + k d_0 - p_0,\; "
        r"v = j s_1 + l d_1 - p_1",
        r"db_f = \sum_{n,i,j} dout_{n,i,j,f}",
    )


class DepthwiseConv2D(Convolution):
    depthwise = True
    forward = (reference.depthwise_conv2d_forward, "np.einsum")
    backward = (reference.depthwise_conv2d_backward, '+= np.einsum("nijcd,cd->nijc"')
    formulas = (
        r"out_{n,i,j,cD+d} = b_{cD+d} + \sum_{k,l} x_{n,u,v,c} \cdot w_{k,l,c,d}",
        r"dx_{n,u,v,c} = \sum_{k,l,d} dout_{n,i,j,cD+d} \cdot w_{k,l,c,d}",
        r"dw_{k,l,c,d} = \sum_{n,i,j} x_{n,u,v,c} \cdot dout_{n,i,j,cD+d}",
        r"db_{cD+d} = \sum_{n,i,j} dout_{n,i,j,cD+d}",
    )


class Conv2DTranspose(Convolution):
    transposed = True
    forward = (reference.conv2d_transpose_forward, "_scatter(out")
    backward = (reference.conv2d_transpose_backward, "dx[...] = np.tensordot")
    formulas = (
        r"out_{n,u,v,c} = b_c + \sum_{k,l,f} x_{n,i,j,f} \cdot w_{k,l,c,f}, \quad i s_0 = u + p_0 - k d_0,\; "
        r"j s_1 = v + p_1 - l d_1",
        r"dx_{n,i,j,f} = \sum_{k,l,c} dout_{n,u,v,c} \cdot w_{k,l,c,f}",
        r"dw_{k,l,c,f} = \sum_{n,i,j} x_{n,i,j,f} \cdot dout_{n,u,v,c}",
        r"db_c = \sum_{n,u,v} dout_{n,u,v,c}",
    )


LINEAR: dict[type[ops.Op], type[Explainer]] = {
    ops.Dense: Dense,
    ops.Conv2D: Conv2D,
    ops.DepthwiseConv2D: DepthwiseConv2D,
    ops.Conv2DTranspose: Conv2DTranspose,
}
