"""Export to ONNX, the exchange format that other runtimes execute.

ONNX puts channels second where tinyconv (as Keras on TensorFlow) puts them last. So images are transposed once on the
way in, filters are transposed here, and the graph stays channels-first until a layer needs the other order again: a
dense layer, a softmax or a flatten, whose weights depend on it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyconv.checking.arguments import Shape
from tinyconv.checking.extras import need
from tinyconv.files import atomic
from tinyconv.network import Network
from tinyconv.plan import ops

OLDEST_OPSET, NEWEST_OPSET = 15, 28  # the operations used here mean the same in all of these
# Activations that are one operation, and its name for each of tinyconv's options
ACTIVATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "relu": ("Relu", ()),
    "leaky_relu": ("LeakyRelu", ("alpha",)),
    "elu": ("Elu", ("alpha",)),
    "selu": ("Selu", ()),
    "sigmoid": ("Sigmoid", ()),
    "tanh": ("Tanh", ()),
    "exponential": ("Exp", ()),
    "softplus": ("Softplus", ()),
    "softsign": ("Softsign", ()),
    "hard_silu": ("HardSwish", ()),
}


def to_onnx(model: Network, path: str | os.PathLike | None = None, opset: int | None = None) -> Any:
    """Export a model's inference to ONNX, for any batch size; written to ``path`` if one is given.

    ``opset`` is the version of ONNX's operations, for an older runtime; None: the newest that is known here.

    The input is called "input", of shape (batch, ...) as in :meth:`Model.predict`; the output "output". Several have
    the names of their layers. Dropout and augmentation are left out, as they do nothing at inference. Returns the
    ``onnx.ModelProto``. Needs the extra ``onnx``.
    """
    onnx = need("Exporting needs", "onnx")
    if path is not None:
        atomic.probe(path)
    model._need_built()
    graph = Graph(onnx, _opset(onnx, opset))
    several_in, several_out = len(model._inputs) > 1, len(model._outputs) > 1
    network = model._graph().without(ops.TrainingOnly)
    weights = {f"{path}/{name}": array for path, layer in model._leaves for name, array in layer.arrays.items()}
    flows: dict[int, Flow] = {}
    inputs, outputs = {}, {}
    for number, node in network:
        op = node.op
        if isinstance(op, ops.Source):
            name = op.name if several_in else "input"
            inputs[name] = op.out_shape
            flows[number] = Flow(name, op.out_shape, False)
            continue
        writer = WRITERS.get(type(op))
        if writer is None:
            kind = next(type(layer).__name__ for path, layer in model._leaves if path == op.name)
            raise ValueError(
                f"Layer {op.name!r} ({kind}) cannot be exported: ONNX has no such operation. "
                "Expected one of tinyconv's own layers."
            )
        flows[number] = writer(graph, op, *(flows[read] for read in node.reads), weights=weights)
    for name, number in zip(model.output_names, network.outputs, strict=True):
        value = graph.channels_last(flows[number])
        name = name if several_out else "output"
        graph.add("Identity", [value.name], name, name)
        outputs[name] = value.shape
    proto = graph.finish(model.name, inputs, outputs)
    onnx.checker.check_model(proto, full_check=True)
    if path is not None:
        atomic.write(path, proto.SerializeToString())
    return proto


def _opset(onnx: Any, opset: int | None) -> int:
    newest = min(NEWEST_OPSET, onnx.defs.onnx_opset_version())
    if opset is None:
        return newest
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(f"Invalid opset. Expected one from {OLDEST_OPSET} to {newest}. Received: {opset!r}.")
    return opset


@dataclass(frozen=True)
class Flow:
    """What flows between operations: its name, the shape of a sample with channels last, and its actual layout."""

    name: str
    shape: Shape
    channels_first: bool


class Graph:
    """Collects ONNX nodes and weights."""

    def __init__(self, onnx: Any, opset: int) -> None:
        self.onnx, self.opset = onnx, opset
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}

    def add(self, kind: str, inputs: Sequence[str], name: str, out: str = "", **attributes: Any) -> str:
        """Add a node. Returns the name of its output, which is unique."""
        out = out or f"{name}/{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def channels_last(self, value: Flow) -> Flow:
        rank = len(value.shape) + 1
        return self._transposed(value, False, [0, *range(2, rank), 1])

    def channels_first(self, value: Flow) -> Flow:
        rank = len(value.shape) + 1
        return self._transposed(value, True, [0, rank - 1, *range(1, rank - 1)])

    def _transposed(self, value: Flow, first: bool, order: list[int]) -> Flow:
        if value.channels_first == first or len(value.shape) < 2:  # of (batch, numbers) both orders are the same
            return Flow(value.name, value.shape, first)
        return Flow(self.add("Transpose", [value.name], value.name, perm=order), value.shape, first)

    def finish(self, name: str, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> Any:
        """The model that these nodes are, from its inputs to its outputs: their names and shapes of a sample."""
        helper, numbers = self.onnx.helper, self.onnx.TensorProto.FLOAT
        sources, results = (
            [helper.make_tensor_value_info(key, numbers, ["batch", *shape]) for key, shape in ends.items()]
            for ends in (inputs, outputs)
        )
        graph = helper.make_graph(self.nodes, name, sources, results, list(self.weights.values()))
        opset = [helper.make_opsetid("", self.opset)]
        ir_version = helper.find_min_ir_version_for(opset)
        return helper.make_model(graph, opset_imports=opset, ir_version=ir_version, producer_name="tinyconv")


Weights = dict[str, np.ndarray]


def _conv2d(graph: Graph, op: ops.Conv2D, x: Flow, weights: Weights) -> Flow:
    return _conv(graph, op, x, _affine(graph, op, weights, lambda kernel: kernel.transpose(3, 2, 0, 1)))


def _depthwise_conv2d(graph: Graph, op: ops.DepthwiseConv2D, x: Flow, weights: Weights) -> Flow:
    def turned(kernel: np.ndarray) -> np.ndarray:  # from (KH, KW, C, D) to (C * D, 1, KH, KW)
        return kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])

    return _conv(graph, op, x, _affine(graph, op, weights, turned), group=op.x_shape[-1])


def _conv(graph: Graph, op: Any, x: Flow, inputs: list[str], group: int = 1) -> Flow:
    inputs = [graph.channels_first(x).name, *inputs]
    pads = _pads(op, op.kernel_size, op.dilation)
    out = graph.add("Conv", inputs, op.name, strides=op.strides, dilations=op.dilation, pads=pads, group=group)
    return Flow(out, op.out_shape, True)


def _conv2d_transpose(graph: Graph, op: ops.Conv2DTranspose, x: Flow, weights: Weights) -> Flow:
    x = graph.channels_first(x)
    inputs = [x.name, *_affine(graph, op, weights, lambda kernel: kernel.transpose(3, 2, 0, 1))]  # (in, out, KH, KW)
    # What the windows reach over below and to the right is cut off; what they do not reach is zero.
    reach = [(op.x_shape[a] - 1) * op.strides[a] + (op.kernel_size[a] - 1) * op.dilation[a] + 1 for a in (0, 1)]
    behind = [reach[a] - op.padding[a] - op.out_shape[a] for a in (0, 1)]
    geometry: dict[str, Any] = {"strides": op.strides, "dilations": op.dilation}
    geometry |= {"pads": [*op.padding, *(max(b, 0) for b in behind)], "output_padding": [max(-b, 0) for b in behind]}
    return Flow(graph.add("ConvTranspose", inputs, op.name, **geometry), op.out_shape, True)


def _affine(graph: Graph, op: Any, weights: Weights, turned: Callable[[np.ndarray], np.ndarray]) -> list[str]:
    """The names of an op's filters, ``turned`` as ONNX has them, and of its bias if it has one."""
    kernel, bias = (f"{op.name}/{name}" for name in op.weights)
    inputs = [graph.weight(kernel, turned(weights[kernel]))]
    return [*inputs, graph.weight(bias, weights[bias])] if op.use_bias else inputs


def _pads(op: Any, window: ops.Pair, dilation: ops.Pair = (1, 1)) -> list[int]:
    """Zeros above, to the left, below and to the right. The last two are what the output's size takes; where the
    window's last position leaves pixels over, none are."""
    after = []
    for axis in (0, 1):
        reach = (window[axis] - 1) * dilation[axis] + 1
        needed = (op.out_shape[axis] - 1) * op.strides[axis] + reach
        after.append(max(needed - op.x_shape[axis] - op.padding[axis], 0))
    return [*op.padding, *after]


def _dense(graph: Graph, op: ops.Dense, x: Flow, weights: Weights) -> Flow:
    x = graph.channels_last(x)
    kernel, bias = f"{op.name}/kernel", f"{op.name}/bias"
    out = graph.add("MatMul", [x.name, graph.weight(kernel, weights[kernel])], op.name)
    if op.use_bias:
        out = graph.add("Add", [out, graph.weight(bias, weights[bias])], op.name)
    return Flow(out, op.out_shape, False)


def _max_pool2d(graph: Graph, op: ops.MaxPool2D, x: Flow, weights: Weights) -> Flow:
    return _pool2d(graph, op, x, "Max")


def _average_pool2d(graph: Graph, op: ops.AveragePool2D, x: Flow, weights: Weights) -> Flow:
    return _pool2d(graph, op, x, "Average", count_include_pad=0)


def _pool2d(graph: Graph, op: Any, x: Flow, kind: str, **options: Any) -> Flow:
    x = graph.channels_first(x)
    if op.pool_size == op.x_shape[:2] and op.padding == (0, 0):
        out = Flow(graph.add(f"Global{kind}Pool", [x.name], op.name), (1, 1, op.x_shape[-1]), True)
        return out if len(op.out_shape) == 3 else _reshape(graph, op, out, {})
    window: dict[str, Any] = {"kernel_shape": op.pool_size, "strides": op.strides, "pads": _pads(op, op.pool_size)}
    return Flow(graph.add(f"{kind}Pool", [x.name], op.name, **window, **options), op.out_shape, True)


def _reshape(graph: Graph, op: ops.Op, x: Flow, weights: Weights) -> Flow:
    x = graph.channels_last(x)
    if len(op.out_shape) == 1:
        return Flow(graph.add("Flatten", [x.name], op.name), op.out_shape, False)
    shape = graph.weight(f"{op.name}/shape", np.array([0, *op.out_shape]))  # 0: as it is
    return Flow(graph.add("Reshape", [x.name, shape], op.name), op.out_shape, False)


def _pad2d(graph: Graph, op: ops.Pad2D, x: Flow, weights: Weights) -> Flow:
    before = [*op.corner, 0]
    behind = [out - size - b for out, size, b in zip(op.out_shape, op.x_shape, before, strict=True)]
    order = (2, 0, 1) if x.channels_first else (0, 1, 2)
    pads = np.array([0, *(before[a] for a in order), 0, *(behind[a] for a in order)])
    out = graph.add("Pad", [x.name, graph.weight(f"{op.name}/pads", pads)], op.name)
    return Flow(out, op.out_shape, x.channels_first)


def _upsample2d(graph: Graph, op: ops.Upsample2D, x: Flow, weights: Weights) -> Flow:
    x = graph.channels_first(x)
    scales = np.array([1, 1, *(op.out_shape[a] / op.x_shape[a] for a in (0, 1))], np.float32)
    inputs = [x.name, "", graph.weight(f"{op.name}/scales", scales)]
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return Flow(graph.add("Resize", inputs, op.name, **nearest), op.out_shape, True)


def _layer_norm(graph: Graph, op: ops.LayerNorm, x: Flow, weights: Weights) -> Flow:
    if graph.opset < 17:
        raise ValueError(
            f"Layer {op.name!r}: layer normalisation is an operation of ONNX since opset 17. Received: {graph.opset}."
        )
    x, shape = graph.channels_last(x), op.x_shape[-op.axes :]
    gamma = weights.get(f"{op.name}/gamma", np.ones(shape, np.float32))
    inputs = [x.name, graph.weight(f"{op.name}/gamma", gamma)]
    if op.center:
        inputs.append(graph.weight(f"{op.name}/beta", weights[f"{op.name}/beta"]))
    out = graph.add("LayerNormalization", inputs, op.name, axis=-op.axes, epsilon=op.epsilon)
    return Flow(out, x.shape, False)


def _rescale(graph: Graph, op: ops.Rescale, x: Flow, weights: Weights) -> Flow:
    scale = graph.weight(f"{op.name}/scale", np.array(op.scale, np.float32))
    shift = graph.weight(f"{op.name}/shift", np.array(op.shift, np.float32))
    out = graph.add("Add", [graph.add("Mul", [x.name, scale], op.name), shift], op.name)
    return Flow(out, x.shape, x.channels_first)


def _activation(graph: Graph, op: ops.Activation, x: Flow, weights: Weights) -> Flow:
    def add(kind: str, *inputs: str | float, **attributes: Any) -> str:
        """A node; its inputs are names and numbers."""
        names = [
            each if isinstance(each, str) else graph.weight(f"{op.name}/{each:.9g}", np.array(each, np.float32))
            for each in inputs
        ]
        return graph.add(kind, names, op.name, **attributes)

    v = x.name
    if op.kind in ACTIVATIONS:
        kind, names = ACTIVATIONS[op.kind]
        out = add(kind, v, **dict(zip(names, op.options, strict=True)))
    elif op.kind == "bounded_relu":
        slope, most, threshold = op.options
        below = add("Mul", add("Sub", v, threshold), slope)
        out = add("Where", add("Greater", v, threshold), add("Min", v, most), below)
    elif op.kind == "hard_sigmoid":
        out = add("HardSigmoid", v, alpha=1 / 6, beta=0.5)
    elif op.kind == "silu":
        out = add("Mul", v, add("Sigmoid", v))
    elif op.kind == "mish":
        out = add("Mul", v, add("Tanh", add("Softplus", v)))
    else:
        assert op.kind == "gelu", op.kind
        out = add("Mul", v, add("Mul", add("Add", add("Erf", add("Mul", v, 0.5**0.5)), 1.0), 0.5))
    return Flow(out, x.shape, x.channels_first)


def _softmax(graph: Graph, op: ops.Softmax, x: Flow, weights: Weights) -> Flow:
    return Flow(graph.add("Softmax", [graph.channels_last(x).name], op.name, axis=-1), x.shape, False)


def _batch_norm(graph: Graph, op: ops.BatchNorm, x: Flow, weights: Weights) -> Flow:
    x = graph.channels_first(x)
    channels = x.shape[-1]
    defaults = {"gamma": np.ones(channels, np.float32), "beta": np.zeros(channels, np.float32)}
    inputs = [x.name]
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        key = f"{op.name}/{name}"
        inputs.append(graph.weight(key, weights[key] if key in weights else defaults[name]))
    return Flow(graph.add("BatchNormalization", inputs, op.name, epsilon=op.epsilon), x.shape, True)


def _merge(graph: Graph, op: ops.Merge, *values: Flow, weights: Weights) -> Flow:
    rank = len(op.out_shape)
    first = all(value.channels_first and len(value.shape) == rank for value in values)
    joined = [value if first else graph.channels_last(value) for value in values]
    for number, value in enumerate(joined):
        if len(value.shape) < rank:
            missing = [1] * (rank - len(value.shape))
            shape = graph.weight(f"{op.name}/shape_{number}", np.array([0, *missing, *value.shape]))
            joined[number] = Flow(graph.add("Reshape", [value.name, shape], op.name), op.out_shape, False)
    kind = {"add": "Sum", "subtract": "Sub", "multiply": "Mul", "maximum": "Max", "minimum": "Min"}[op.kind]
    out = joined[0].name
    for value in joined[1:]:
        out = graph.add(kind, [out, value.name], op.name)
    if op.scale != 1:
        scale = graph.weight(f"{op.name}/scale", np.array(op.scale, np.float32))
        out = graph.add("Mul", [out, scale], op.name)
    return Flow(out, op.out_shape, first)


def _concatenate(graph: Graph, op: ops.Concatenate, *values: Flow, weights: Weights) -> Flow:
    names = [graph.channels_last(value).name for value in values]
    return Flow(graph.add("Concat", names, op.name, axis=op.axis + 1), op.out_shape, False)


WRITERS: dict[type[ops.Op], Callable[..., Flow]] = {
    ops.Activation: _activation,
    ops.AveragePool2D: _average_pool2d,
    ops.BatchNorm: _batch_norm,
    ops.Concatenate: _concatenate,
    ops.Conv2D: _conv2d,
    ops.Conv2DTranspose: _conv2d_transpose,
    ops.Dense: _dense,
    ops.DepthwiseConv2D: _depthwise_conv2d,
    ops.LayerNorm: _layer_norm,
    ops.MaxPool2D: _max_pool2d,
    ops.Merge: _merge,
    ops.Pad2D: _pad2d,
    ops.Rescale: _rescale,
    ops.Reshape: _reshape,
    ops.Softmax: _softmax,
    ops.Upsample2D: _upsample2d,
}
