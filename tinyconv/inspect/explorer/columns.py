"""A model as the page draws it: a column for each use of a layer, and how its numbers hang on those before it."""

from collections.abc import Sequence
from typing import Any

from tinyconv.network import Network
from tinyconv.plan import ops
from tinyconv.plan.graph import Graph
from tinyconv.trace.record import Use
from tinyconv.trace.step import laid_out

WINDOWS = ops.Conv2D | ops.DepthwiseConv2D | ops.Conv2DTranspose | ops.MaxPool2D | ops.AveragePool2D
SAME = ops.Activation | ops.Dropout | ops.Rescale | ops.Merge | ops.BatchNorm


def columns(model: Network) -> list[dict[str, Any]]:
    """For every input and every use of a layer, in order: its name, the shape of a sample, the columns it reads, and
    for each of these the links, the way from its numbers to that column's."""
    graph, uses = laid_out(model)
    gives = {use.gives: number for number, use in reversed(list(enumerate(uses)))}
    weights = {name: list(layer._arrays[spec.name].shape) for name, layer, spec in model._specs()}  # type: ignore[attr-defined]
    return [_column(graph, use, gives, weights) for use in uses]


def _column(graph: Graph, use: Use, gives: dict[int, int], weights: dict[str, list[int]]) -> dict[str, Any]:
    last = graph[use.gives].op
    shape = list(last.out_shape)
    own = {name.rpartition("/")[2]: each for name, each in weights.items() if name.rpartition("/")[0] == use.path}
    found = [graph[number].op for number in use.nodes]
    return {
        "name": use.name,
        "kind": type(use.layer).__name__,
        "shape": shape,
        "input": not use.reads,
        "reads": [gives[read] for read in use.reads],
        "links": [_links(graph, use, read) for read in use.reads],
        "weights": own,
        "activation": _activation(found),
        "z": len(found) > 1 and isinstance(found[-1], ops.Activation | ops.Softmax),
        "rate": next((op.rate for op in found if isinstance(op, ops.Dropout)), None),
    }


def _activation(found: Sequence[ops.Op]) -> str | None:
    last = found[-1] if found else None
    if isinstance(last, ops.Softmax):
        return "softmax"
    return last.kind if isinstance(last, ops.Activation) else None


def _links(graph: Graph, use: Use, read: int) -> list[dict[str, Any]]:
    """From a value that the layer reads to what it gives, op by op; of several that read it, the first."""
    links, at = [], read
    for number in use.nodes:
        node = graph[number]
        if at in node.reads:
            links.append(_link(node.op, graph[at].op.out_shape, _offset(graph, node.op, node.reads, at)))
            at = number
    return links


def _offset(graph: Graph, op: ops.Op, reads: Sequence[int], at: int) -> int:
    """Where in a concatenation a value begins, along its axis."""
    if not isinstance(op, ops.Concatenate):
        return 0
    before = reads[: list(reads).index(at)]
    return sum(graph[read].op.out_shape[op.axis] for read in before)


def _link(op: ops.Op, x_shape: Sequence[int], offset: int) -> dict[str, Any]:
    link: dict[str, Any] = {"kind": "any", "from": list(x_shape), "to": list(op.out_shape)}
    if isinstance(op, WINDOWS) and len(op.out_shape) == 3:
        pool = isinstance(op, ops.MaxPool2D | ops.AveragePool2D)
        channels = "same" if pool else "depthwise" if isinstance(op, ops.DepthwiseConv2D) else "all"
        link |= {"kind": "window", "channels": channels, "transposed": isinstance(op, ops.Conv2DTranspose)}
        link |= {"size": op.pool_size if pool else op.kernel_size, "strides": op.strides, "padding": op.padding}  # type: ignore[union-attr]
        link |= {"dilation": (1, 1) if pool else op.dilation, "max": isinstance(op, ops.MaxPool2D)}  # type: ignore[union-attr]
    elif isinstance(op, ops.Reshape):
        link["kind"] = "reshape"
    elif isinstance(op, SAME):
        link["kind"] = "same"
    elif isinstance(op, ops.Dense | ops.Softmax | ops.LayerNorm):
        link |= {"kind": "last", "axes": op.axes if isinstance(op, ops.LayerNorm) else 1}
    elif isinstance(op, ops.Concatenate):
        link |= {"kind": "part", "axis": op.axis, "offset": offset}
    elif isinstance(op, ops.Pad2D):
        link |= {"kind": "pad", "corner": op.corner}
    elif isinstance(op, ops.Upsample2D):
        link |= {"kind": "upsample", "size": [op.out_shape[0] // x_shape[0], op.out_shape[1] // x_shape[1]]}
    elif len(op.out_shape) == 1 and len(x_shape) == 3 and op.out_shape[0] == x_shape[2]:
        link["kind"] = "global"
    return link
