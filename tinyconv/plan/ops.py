"""What a layer asks for, in terms that a plan can lower: the operations between layers and kernels.

An op knows its shapes and which kernels it needs forward and backward, with which buffers. It computes nothing: when
a plan is built, :meth:`Op.emit` writes the op's steps into it through a :class:`~tinyconv.plan.builder.Builder`.

Shapes of ops have no batch axis; the buffers have it.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tinyconv.checking.arguments import Shape
from tinyconv.kernels.reference.warp import KINDS
from tinyconv.plan.builder import Builder, Meeting, Value
from tinyconv.plan.state import LOSSES

Pair = tuple[int, int]
PLACES = 128  # of a window, at most, that an argmax of type int8 can name: from 0 to 127


@dataclass(frozen=True)
class Op:
    """One operation of a layer called ``name``: from arrays of ``x_shape`` to arrays of ``out_shape``."""

    name: str
    x_shape: Shape
    out_shape: Shape
    call: int = field(default=0, kw_only=True)  # of a layer that is called more than once: which of its calls

    label: ClassVar[str] = "op"
    is_view: ClassVar[bool] = False  # whether the value may lie in the memory of what it was computed from

    @property
    def rereads(self) -> tuple[str, ...]:
        """What of "x", the value this is computed from, "others", if there are more, and "out" the backward pass reads
        once more, at most."""
        return "x", "others", "out"

    @property
    def layers(self) -> str:
        """The layers that its steps are listed under: more than one where they are fused."""
        return self.name

    def emit(self, b: Builder, *values: Any) -> Value:
        """Write the steps into the plan, and return the value that they compute from those values."""
        raise TypeError(f"{type(self).__name__} does not say which steps it consists of.")


@dataclass(frozen=True)
class Source(Op):
    """An input: its values come from outside. ``wanted``: whether its gradient is asked for."""

    wanted: bool = False

    label = "input"

    def emit(self, b: Builder) -> Value:  # type: ignore[override]
        return b.value(self, "x", self.out_shape, self.wanted)


@dataclass(frozen=True)
class Conv2D(Op):
    """Convolution and bias; with ``relu``, ReLU; with ``norm``, an inference-time batch normalisation folded in."""

    kernel_size: Pair
    strides: Pair
    padding: Pair  # zeros above and to the left
    dilation: Pair
    use_bias: bool
    relu: bool = False
    norm: "BatchNorm | None" = None
    weights: tuple[str, str] = ("kernel", "bias")  # their names in the layer

    label = "conv2d"

    @property
    def rereads(self) -> tuple[str, ...]:
        return ("x", "out") if self.relu else ("x",)

    def macs(self) -> int:
        """Multiply-adds for one image, forward; as many again for each of dW and dX."""
        return math.prod(self.out_shape) * math.prod(self.kernel_size) * self.x_shape[-1]

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        geometry = {"strides": self.strides, "padding": self.padding, "dilation": self.dilation}
        out = b.output(self, x.wanted or b.learns(self, *self.weights))
        w, bias = affine_weights(self, b)
        shapes = {"out_shape": out.data.shape, "x_shape": x.data.shape}
        size = b.kernels.conv2d_workspace(**shapes, w_shape=w.shape, **geometry)
        work = b.prepared(self, "conv2d_prepare", size, w=w, **shapes, **geometry)
        flops = 2 * b.batch_size * self.macs()
        tensors = {"x": x.data, "w": w, **geometry}
        b.forward(self, "conv2d_forward", flops, out=out.data, b=bias, work=work, relu=self.relu, **tensors)
        if out.wanted:
            if self.relu:
                in_place_relu_backward(self, b, out)
            gradients = {"dx": x.grad, **affine_gradients(self, b, w, bias), "dout": out.grad}
            gradients["work"] = b.work("backward", self, size)
            b.backward(self, "conv2d_backward", flops * 2 if x.wanted else flops, **gradients, **tensors)
        return out


@dataclass(frozen=True)
class Conv2DReluMaxPool2D(Op):
    """The fused step: convolution (stride 1), ReLU and 2 x 2 max-pooling, and the dropout behind it if there is one."""

    conv: Conv2D
    dropout: "Dropout | None" = None

    label = "conv2d + relu + max_pool2d"
    rereads = ("x",)

    @property
    def layers(self) -> str:
        return f"{self.conv.name} + {self.name}"

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        conv, padding = self.conv, self.conv.padding
        out = b.output(self, x.wanted or b.learns(conv, *conv.weights))
        needs_argmax = out.wanted or self.dropout is not None
        argmax = b.buffer(self, "argmax", out.data.shape if needs_argmax else (0, 0, 0, 0), np.int8)
        w, bias = affine_weights(conv, b)
        work = b.scratch(
            self, b.kernels.conv2d_relu_max_pool2d_workspace(out.data.shape, x.data.shape, w.shape, padding)
        )
        b.prepare(self, "conv2d_relu_max_pool2d_prepare", work=work, w=w)
        # Of the convolution only what is pooled is computed. Backward at most one in four of these has a gradient.
        flops = 2 * b.batch_size * 4 * math.prod(self.out_shape) * math.prod(conv.kernel_size) * self.x_shape[-1]
        tensors = {"x": x.data, "w": w, "work": work, "padding": padding}
        b.forward(self, "conv2d_relu_max_pool2d_forward", flops, out=out.data, argmax=argmax, b=bias, **tensors)
        scale = 1.0
        if self.dropout is not None:
            flat = (b.batch_size, math.prod(self.out_shape))
            drop, scale = self.dropout, 1 / (1 - self.dropout.rate)
            arrays = {"out": out.data.reshape(flat), "argmax": argmax.reshape(flat)}
            b.forward(drop, "dropout_pooled_forward", 0, **arrays, **drop.randomness(b))
        if out.wanted:
            gradients = {"dx": x.grad, **affine_gradients(conv, b, w, bias), "dout": out.grad}
            flops = flops // 4 * (2 if x.wanted else 1)
            tensors |= {"argmax": argmax, "scale": scale}
            b.backward(self, "conv2d_relu_max_pool2d_backward", flops, **gradients, **tensors)
        return out


@dataclass(frozen=True)
class Dense(Op):
    """Matrix product and bias over the last axis; ``relu`` and ``norm`` as in :class:`Conv2D`."""

    use_bias: bool
    relu: bool = False
    norm: "BatchNorm | None" = None

    label = "dense"

    @property
    def rereads(self) -> tuple[str, ...]:
        return ("x", "out") if self.relu else ("x",)

    weights: ClassVar[tuple[str, str]] = ("kernel", "bias")

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        out = b.output(self, x.wanted or b.learns(self, "kernel", "bias"))
        w, bias = affine_weights(self, b)
        rows = b.batch_size * math.prod(self.x_shape[:-1])
        x_rows, out_rows = x.reshape((rows, self.x_shape[-1])), out.reshape((rows, self.out_shape[-1]))
        size = b.kernels.dense_workspace(out_rows.data.shape, x_rows.data.shape, w.shape)
        work = b.prepared(self, "dense_prepare", size, w=w)
        flops = 2 * rows * w.shape[0] * w.shape[1]
        tensors = {"x": x_rows.data, "w": w}
        b.forward(self, "dense_forward", flops, out=out_rows.data, b=bias, work=work, relu=self.relu, **tensors)
        if out.wanted:
            if self.relu:
                in_place_relu_backward(self, b, out)
            gradients = {"dx": x_rows.grad, **affine_gradients(self, b, w, bias), "dout": out_rows.grad}
            gradients["work"] = b.work("backward", self, size)
            b.backward(self, "dense_backward", flops * 2 if x.wanted else flops, **gradients, **tensors)
        return out


def own_weights(op: "Affine", b: Builder) -> tuple[Any, Any]:
    """Filters and bias of an op; zeros for a bias that it has not."""
    kernel, bias = op.weights
    w = b.weight(op, kernel)
    return w, b.weight(op, bias) if op.use_bias else b.buffer(op, f"no_{bias}", op.out_shape[-1:], w.dtype)


def affine_weights(op: "Conv2D | Dense", b: Builder) -> tuple[Any, Any]:
    """Filters and bias of a convolution or dense op: its own, or (inference only) with a normalisation folded in."""
    w, bias = own_weights(op, b)
    if op.norm is None:
        return w, bias
    w_folded, b_folded = b.buffer(op, "w_folded", w.shape, w.dtype), b.buffer(op, "b_folded", bias.shape, w.dtype)
    rows = (math.prod(w.shape[:-1]), w.shape[-1])
    b.prepare(
        op.norm,
        "batch_norm_fold",
        w_folded=w_folded.reshape(rows),
        b_folded=b_folded,
        w=w.reshape(rows),
        b=bias,
        **op.norm.affine(b),
        **op.norm.moving(b),
        epsilon=op.norm.epsilon,
    )
    return w_folded, b_folded


def affine_gradients(op: "Affine", b: Builder, w: Any, bias: Any) -> dict[str, Any]:
    """Where the gradients of filters and bias go."""
    return {"dw": b.gradient(op, op.weights[0], w.shape), "db": b.gradient(op, op.weights[1], bias.shape)}


def in_place_relu_backward(op: Op, b: Builder, out: Value) -> None:
    """Zero the gradient where a fused ReLU's output is zero, before the rest of the op's backward pass."""
    arrays = {"dx": out.flat.grad, "dout": out.flat.grad, "x": out.flat.data, "out": out.flat.data}
    b.backward(op, "activation_backward", 0, **arrays, kind="relu", options=())


@dataclass(frozen=True)
class DepthwiseConv2D(Op):
    """A convolution of every channel by itself, and bias."""

    kernel_size: Pair
    strides: Pair
    padding: Pair
    dilation: Pair
    use_bias: bool
    weights: tuple[str, str] = ("kernel", "bias")

    label = "depthwise_conv2d"
    rereads = ("x",)

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        geometry = {"strides": self.strides, "padding": self.padding, "dilation": self.dilation}
        out = b.output(self, x.wanted or b.learns(self, *self.weights))
        w, bias = own_weights(self, b)
        flops = 2 * b.batch_size * math.prod(self.out_shape) * math.prod(self.kernel_size)
        b.forward(self, "depthwise_conv2d_forward", flops, out=out.data, x=x.data, w=w, b=bias, **geometry)
        if out.wanted:
            tensors = {**affine_gradients(self, b, w, bias), "dout": out.grad, "x": x.data, "w": w}
            flops = flops * 2 if x.wanted else flops
            b.backward(self, "depthwise_conv2d_backward", flops, dx=x.grad, **tensors, **geometry)
        return out


@dataclass(frozen=True)
class Conv2DTranspose(Op):
    """A convolution's dx as the forward pass, and bias; strides, padding and dilation are that convolution's."""

    kernel_size: Pair
    strides: Pair
    padding: Pair
    dilation: Pair
    use_bias: bool

    label = "conv2d_transpose"
    rereads = ("x",)
    weights: ClassVar[tuple[str, str]] = ("kernel", "bias")

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        geometry = {"strides": self.strides, "padding": self.padding, "dilation": self.dilation}
        out = b.output(self, x.wanted or b.learns(self, *self.weights))
        w, bias = own_weights(self, b)
        shapes = {"out_shape": x.data.shape, "x_shape": out.data.shape}
        size = b.kernels.conv2d_workspace(**shapes, w_shape=w.shape, **geometry)
        flops = 2 * b.batch_size * math.prod(self.x_shape) * math.prod(w.shape[:3])
        work = b.prepared(self, "conv2d_transpose_prepare", size, w=w, **shapes, **geometry)
        tensors = {"x": x.data, "w": w, **geometry}
        b.forward(self, "conv2d_transpose_forward", flops, out=out.data, b=bias, work=work, **tensors)
        if out.wanted:
            gradients = {"dx": x.grad, **affine_gradients(self, b, w, bias), "dout": out.grad}
            flops = flops * 2 if x.wanted else flops
            gradients["work"] = b.work("backward", self, size)
            b.backward(self, "conv2d_transpose_backward", flops, **gradients, **tensors)
        return out


Affine = Conv2D | Dense | DepthwiseConv2D | Conv2DTranspose


@dataclass(frozen=True)
class MaxPool2D(Op):
    pool_size: Pair
    strides: Pair
    padding: Pair

    label = "max_pool2d"
    rereads = ()

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        geometry = {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}
        out = b.output(self, x.wanted)
        image = pooled_image(b, out)
        argmax = b.buffer(self, "argmax", image.data.shape if out.wanted else (0, 0, 0, 0), np.int32)
        b.forward(self, "max_pool2d_forward", 0, out=image.data, argmax=argmax, x=x.data, **geometry)
        if x.wanted:
            b.backward(self, "max_pool2d_backward", 0, dx=x.grad, dout=image.grad, argmax=argmax, **geometry)
        return out


@dataclass(frozen=True)
class AveragePool2D(Op):
    pool_size: Pair
    strides: Pair
    padding: Pair

    label = "average_pool2d"
    rereads = ()

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        geometry = {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}
        out = b.output(self, x.wanted)
        image = pooled_image(b, out)
        b.forward(self, "average_pool2d_forward", 0, out=image.data, x=x.data, **geometry)
        if x.wanted:
            b.backward(self, "average_pool2d_backward", 0, dx=x.grad, dout=image.grad, **geometry)
        return out


def pooled_image(b: Builder, out: Value) -> Value:
    """A pooling's output as its kernel sees it: global pooling has no spatial axes, which are of size 1 there."""
    return out if len(out.data.shape) == 4 else out.reshape((b.batch_size, 1, 1, out.data.shape[-1]))


@dataclass(frozen=True)
class Rescale(Op):
    """Every number times ``scale``, plus ``shift``."""

    scale: float
    shift: float

    label = "rescale"
    rereads = ()

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        out = b.output(self, x.wanted)
        b.forward(self, "rescale_forward", 0, out=out.flat.data, x=x.flat.data, scale=self.scale, shift=self.shift)
        if x.wanted:
            b.backward(self, "rescale_backward", 0, dx=x.flat.grad, dout=out.flat.grad, scale=self.scale)
        return out


@dataclass(frozen=True)
class Reshape(Op):
    """The same memory under another shape: no step at all."""

    label = "view"
    is_view = True

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        return x.reshape((b.batch_size, *self.out_shape))


@dataclass(frozen=True)
class Pad2D(Op):
    """Zeros around an image, of which ``corner`` rows and columns stand before it."""

    corner: Pair

    label = "pad2d"
    rereads = ()

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        out = b.output(self, x.wanted)
        b.forward(self, "pad2d_forward", 0, out=out.data, x=x.data, corner=self.corner)
        if x.wanted:
            b.backward(self, "pad2d_backward", 0, dx=x.grad, dout=out.grad, corner=self.corner)
        return out


@dataclass(frozen=True)
class Upsample2D(Op):
    """Every pixel repeated, as often as the output is larger."""

    label = "upsample2d"
    rereads = ()

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        out = b.output(self, x.wanted)
        b.forward(self, "upsample2d_forward", 0, out=out.data, x=x.data)
        if x.wanted:
            b.backward(self, "upsample2d_backward", 0, dx=x.grad, dout=out.grad)
        return out


@dataclass(frozen=True)
class TrainingOnly(Op):
    """An op that draws at random in training, and is left out at inference; ``index`` is the number of its layer in the
    model, so that each draws for itself."""

    index: int

    @property
    def stream(self) -> int:
        """The number under which it draws: each call of a layer has one of its own."""
        return self.index ^ (self.call << 20)


@dataclass(frozen=True)
class Dropout(TrainingOnly):
    """Random zeros."""

    rate: float

    label = "dropout"
    rereads = ()

    def randomness(self, b: Builder) -> dict[str, Any]:
        return {"counters": b.state.counters, "seed": b.state.seed, "layer": self.stream, "rate": self.rate}

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        rows = (b.batch_size, math.prod(self.x_shape))
        out = b.output(self, x.wanted)
        x_rows, out_rows = x.reshape(rows), out.reshape(rows)
        b.forward(self, "dropout_forward", 0, out=out_rows.data, x=x_rows.data, **self.randomness(b))
        if x.wanted:
            b.backward(self, "dropout_backward", 0, dx=x_rows.grad, dout=out_rows.grad, **self.randomness(b))
        return out


class Beyond(NamedTuple):
    """How a warp's kernels see a place that is no pixel: beyond the edge of the image, or between pixels."""

    fill_mode: str
    fill_value: float
    interpolation: str


@dataclass(frozen=True)
class Warp(TrainingOnly):
    """Images seen through affine maps that are drawn for each: of a ``kind``, with two numbers from ``ranges``, (low,
    high, low, high). ``before``: the warps of layers before it that are one with it. ``beyond``: None if every place is
    a pixel's, as in a mirror."""

    kind: str
    ranges: tuple[float, float, float, float]
    beyond: Beyond | None
    before: tuple["Warp", ...] = ()

    label = "warp"

    @property
    def layers(self) -> str:
        return " + ".join(warp.name for warp in (*self.before, self))

    @property
    def seen(self) -> Beyond:
        """``beyond``, or anything if it does not matter."""
        return self.beyond or Beyond("constant", 0.0, "bilinear")

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        drawn = (*self.before, self)
        out = b.output(self, x.wanted)
        warps = b.buffer(self, "warps", (b.batch_size, 6), b.state.dtype)
        moves = b.constants(self, "moves", [(KINDS.index(warp.kind), warp.stream) for warp in drawn], np.int64)
        ranges = b.constants(self, "ranges", [warp.ranges for warp in drawn], np.float64)
        random = {"counters": b.state.counters, "seed": b.state.seed, "moves": moves, "ranges": ranges}
        b.forward(self, "draw_warps", 0, warps=warps, size=self.x_shape[:2], **random)
        beyond = self.seen._asdict()
        arrays = {"warps": warps, "work": b.scratch(self, b.kernels.warp_workspace(x.data.shape))}
        b.forward(self, "warp_forward", 0, out=out.data, x=x.data, **arrays, **beyond)
        if x.wanted:
            del beyond["fill_value"]
            b.backward(self, "warp_backward", 0, dx=x.grad, dout=out.grad, **arrays, **beyond)
        return out


@dataclass(frozen=True)
class Activation(Op):
    """An element-wise activation: ``kind`` and ``options`` as its kernels take them."""

    kind: str
    options: tuple[float, ...] = ()

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.kind

    @property
    def rereads(self) -> tuple[str, ...]:
        return ("out",) if self.kind == "relu" else ("x", "out")  # both say as well where a ReLU is 0

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        out = b.output(self, x.wanted)
        arrays = {"x": x.flat.data, "out": out.flat.data}
        formula = {"kind": self.kind, "options": self.options}
        b.forward(self, "activation_forward", 0, **arrays, **formula)
        if "x" not in self.rereads:
            arrays["x"] = out.flat.data
        if x.wanted:
            b.backward(self, "activation_backward", 0, dx=x.flat.grad, dout=out.flat.grad, **arrays, **formula)
        return out


@dataclass(frozen=True)
class Softmax(Op):
    """Softmax over the last axis."""

    label = "softmax"
    rereads = ("out",)

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        rows = (b.batch_size * math.prod(self.x_shape[:-1]), self.x_shape[-1])
        out = b.output(self, x.wanted)
        x_rows, out_rows = x.reshape(rows), out.reshape(rows)
        b.forward(self, "softmax_forward", 0, out=out_rows.data, x=x_rows.data)
        if x.wanted:
            b.backward(self, "softmax_backward", 0, dx=x_rows.grad, dout=out_rows.grad, out=out_rows.data)
        return out


@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch normalisation over all axes but the last; with ``relu``, ReLU."""

    momentum: float
    epsilon: float
    center: bool
    scale: bool
    frozen: bool = False  # whether it goes by its moving statistics, and leaves them, in training too
    relu: bool = False

    label = "batch_norm"

    @property
    def rereads(self) -> tuple[str, ...]:
        return ("x", "out") if self.relu and self.frozen else ("x",)

    def affine(self, b: Builder) -> dict[str, Any]:
        """gamma and beta: the layer's weights, or a constant 1 and 0 where the layer has none."""
        shape = self.x_shape[-1:]
        gamma = b.weight(self, "gamma") if self.scale else b.buffer(self, "gamma", shape, b.state.dtype, fill=1)
        beta = b.weight(self, "beta") if self.center else b.buffer(self, "beta", shape, b.state.dtype)
        return {"gamma": gamma, "beta": beta}

    def moving(self, b: Builder) -> dict[str, Any]:
        return {name: b.weight(self, name) for name in ("moving_mean", "moving_variance")}

    def statistics(self, b: Builder) -> dict[str, Any]:
        """Those of the batch, which the forward pass leaves for the backward pass."""
        return {name: b.buffer(self, name, self.x_shape[-1:], b.state.dtype) for name in ("mean", "inv_std")}

    def gradients(self, b: Builder) -> dict[str, Any]:
        """Where those of gamma and beta go."""
        return {f"d{name}": b.gradient(self, name, self.x_shape[-1:]) for name in ("gamma", "beta")}

    def kernel(self, name: str) -> str:
        return f"batch_norm_relu_{name}" if self.relu else f"batch_norm_{name}"

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        channels = self.x_shape[-1:]
        rows = (b.batch_size * math.prod(self.x_shape[:-1]), *channels)
        out = b.output(self, x.wanted or (not self.frozen and b.learns(self, "gamma", "beta")))
        x_rows, out_rows = x.reshape(rows), out.reshape(rows)
        arrays = {"out": out_rows.data, "x": x_rows.data, **self.affine(b), **self.moving(b), "epsilon": self.epsilon}
        if self.frozen or not b.training:
            b.forward(self, self.kernel("inference"), 0, **arrays)
            if out.wanted:
                if self.relu:
                    in_place_relu_backward(self, b, out)
                factor = {name: arrays[name] for name in ("gamma", "moving_variance", "epsilon")}
                b.backward(self, "batch_norm_inference_backward", 0, dx=x_rows.grad, dout=out_rows.grad, **factor)
            return out
        statistics = self.statistics(b)
        if b.state.whole:
            return self._emit_shard(b, x, out, statistics)
        b.forward(self, self.kernel("forward"), 0, **arrays, **statistics, momentum=self.momentum)
        if not out.wanted:
            return out
        gradients = self.gradients(b)
        tensors = {name: arrays[name] for name in (("x", "gamma", "beta") if self.relu else ("x", "gamma"))}
        tensors |= {"dx": x_rows.grad, "dout": out_rows.grad}
        b.backward(self, self.kernel("backward"), 0, **gradients, **tensors, **statistics)
        return out

    def _emit_shard(self, b: Builder, x: Value, out: Value, statistics: dict[str, Any]) -> Value:
        """The same where the plan's samples are a shard of the batch, whose statistics only all shards know.

        Forward: the shard's mean and variance, a meeting, and the normalisation by those of the batch, which is that of
        inference. Backward: the shard's dgamma and dbeta, a meeting that adds them, and with their sums

            dx = gamma inv_std (dout - (dbeta + normal dgamma) / M)

        as the gradient of inference, plus a normalisation whose factor is -gamma inv_std dgamma / M and whose shift is
        -gamma inv_std dbeta / M. M: the rows of the whole batch."""
        channels, affine, epsilon = self.x_shape[-1:], self.affine(b), self.epsilon
        rows = (b.batch_size * math.prod(self.x_shape[:-1]), *channels)
        x_rows, out_rows = x.reshape(rows), out.reshape(rows)
        own = {name: b.buffer(self, f"shard_{name}", channels, b.state.dtype) for name in ("mean", "variance")}
        batch = {"moving_mean": statistics["mean"]}
        batch["moving_variance"] = b.buffer(self, "variance", channels, b.state.dtype)
        into = {"moving_mean": own["mean"], "moving_variance": own["variance"]}  # with momentum 0: as they are
        tensors = {"out": out_rows.data, "x": x_rows.data, **affine, "epsilon": epsilon}
        b.forward(self, "batch_norm_forward", 0, **tensors, **statistics, **into, momentum=0.0)
        combine = functools.partial(whole_statistics, self.moving(b), self.momentum, epsilon)
        taken = (*batch.values(), statistics["inv_std"])
        b.meet("forward", self, Meeting(tuple(own.values()), taken, combine, cleared=True))
        b.forward(self, self.kernel("inference"), 0, **tensors, **batch)
        if not out.wanted:
            return out
        if self.relu:
            in_place_relu_backward(self, b, out)
        gradients = self.gradients(b)
        tensors = {"dout": out_rows.grad, "x": x_rows.data, "gamma": affine["gamma"], **statistics}
        b.backward(self, "batch_norm_backward", 0, dx=b.nothing(2), **gradients, **tensors)
        if x.wanted:
            M = b.state.whole * math.prod(self.x_shape[:-1])
            pull = {name: b.buffer(self, f"pull_{name}", channels, b.state.dtype) for name in ("gamma", "beta")}
            pulled = b.buffer(self, "pulled", rows, b.state.dtype)
            combine = functools.partial(whole_pull, M, affine["gamma"], statistics["inv_std"])
            b.meet("backward", self, Meeting(tuple(gradients.values()), tuple(pull.values()), combine))
            factor = {"gamma": affine["gamma"], "moving_variance": batch["moving_variance"], "epsilon": epsilon}
            b.backward(self, "batch_norm_inference_backward", 0, dx=x_rows.grad, dout=out_rows.grad, **factor)
            tensors = {"out": pulled, "x": x_rows.data, "epsilon": epsilon}
            b.backward(self, "batch_norm_inference", 0, **tensors, **pull, **batch)
            b.backward(self, "add_to", 0, out=x.flat.grad, x=pulled.reshape((pulled.size,)))
        return out


@dataclass(frozen=True)
class BatchNormReluMaxPool2D(Op):
    """The fused step: batch normalisation by the statistics of the batch, ReLU, and max-pooling."""

    norm: BatchNorm
    pool: MaxPool2D

    label = "batch_norm + relu + max_pool2d"
    rereads = ("x",)

    @property
    def layers(self) -> str:
        return f"{self.norm.name} + {self.name}"

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        norm = self.norm
        out = b.output(self, x.wanted or b.learns(norm, "gamma", "beta"))
        argmax = b.buffer(self, "argmax", out.data.shape, np.int8)
        picked = b.buffer(self, "picked", out.data.shape, b.state.dtype)
        statistics = norm.statistics(b)
        tensors = {"argmax": argmax, "picked": picked, "x": x.data, **norm.affine(b), **statistics}
        tensors |= {name: getattr(self.pool, name) for name in ("pool_size", "strides", "padding")}
        moving = {**norm.moving(b), "momentum": norm.momentum, "epsilon": norm.epsilon}
        b.forward(self, "batch_norm_relu_max_pool2d_forward", 0, out=out.data, **moving, **tensors)
        if out.wanted:
            gradients = norm.gradients(b)
            b.backward(self, "batch_norm_relu_max_pool2d_backward", 0, dx=x.grad, **gradients, dout=out.grad, **tensors)
        return out


def whole_statistics(
    moving: Mapping[str, np.ndarray], momentum: float, epsilon: float, given: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    """Mean, variance and 1 / sigma of a batch, from the means and variances of its shards (Chan, Golub and LeVeque,
    1979), in double precision and in their order. The moving statistics are moved."""
    means, variances = given[:, 0].astype(np.float64), given[:, 1].astype(np.float64)
    share = shares[:, None]
    mean = (share * means).sum(axis=0)
    variance = (share * (variances + (means - mean) ** 2)).sum(axis=0)
    for name, new in (("moving_mean", mean), ("moving_variance", variance)):
        moving[name][...] = moving[name] * momentum + new * (1 - momentum)
    return np.stack([mean, variance, 1 / np.sqrt(variance + epsilon)])


def whole_pull(M: int, gamma: np.ndarray, inv_std: np.ndarray, given: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """From the shards' dgamma and dbeta, the factor and the shift of what the batch's statistics contribute to dx."""
    return given.astype(np.float64).sum(axis=0) * (-gamma.astype(np.float64) * inv_std / M)


@dataclass(frozen=True)
class LayerNorm(Op):
    """Layer normalisation over the last axes, as many as ``axes``."""

    axes: int
    epsilon: float
    center: bool
    scale: bool

    label = "layer_norm"
    rereads = ("x",)

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        shape = self.x_shape[-self.axes :]
        columns = math.prod(shape)
        rows = (b.batch_size * math.prod(self.x_shape[: -self.axes]), columns)
        out = b.output(self, x.wanted or b.learns(self, "gamma", "beta"))
        x_rows, out_rows = x.reshape(rows), out.reshape(rows)
        gamma = b.weight(self, "gamma") if self.scale else b.buffer(self, "gamma", shape, b.state.dtype, fill=1)
        beta = b.weight(self, "beta") if self.center else b.buffer(self, "beta", shape, b.state.dtype)
        arrays = {"x": x_rows.data, "gamma": gamma.reshape((columns,))}
        arrays |= {name: b.buffer(self, name, rows[:1], b.state.dtype) for name in ("mean", "inv_std")}
        moved = {"beta": beta.reshape((columns,)), "epsilon": self.epsilon}
        b.forward(self, "layer_norm_forward", 0, out=out_rows.data, **arrays, **moved)
        if out.wanted:
            gradients = {f"d{name}": b.gradient(self, name, shape).reshape((columns,)) for name in ("gamma", "beta")}
            b.backward(self, "layer_norm_backward", 0, dx=x_rows.grad, **gradients, dout=out_rows.grad, **arrays)
        return out


NEGATED = {"subtract": "add", "minimum": "maximum"}  # merges by the kernels of another, of negatives


@dataclass(frozen=True)
class Merge(Op):
    """Values joined two by two from the left by the kernels of ``kind``: "add", "multiply", "maximum"; or "subtract",
    which adds the negative, and "minimum", the negative of the negatives' maximum. ``x_shape`` is the first one's
    shape; ``scale`` multiplies the result: 1/n makes a mean of a sum. Where an axis of a value is 1 and the output's is
    longer, it is repeated."""

    kind: str
    scale: float = 1.0

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.kind

    @property
    def rereads(self) -> tuple[str, ...]:
        return () if NEGATED.get(self.kind, self.kind) == "add" else ("x", "others", "out")

    def emit(self, b: Builder, *values: Value) -> Value:
        whole = [self._repeated(b, number, x) for number, x in enumerate(values)]
        kind = NEGATED.get(self.kind, self.kind)
        if kind != self.kind:
            first = 1 if kind == "add" else 0
            whole[first:] = [self._negated(b, number, x) for number, x in enumerate(whole[first:], first)]
        joined = whole[0]
        for number, x in enumerate(whole[1:]):
            a, joined = joined, b.value(self, f"joined_{number}", self.out_shape, b.training and any_wanted(joined, x))
            arrays = {"a": a.flat.data, "b": x.flat.data}
            b.forward(self, f"{kind}_forward", 0, out=joined.flat.data, **arrays)
            if joined.wanted:
                gradients = {"da": a.flat.grad, "db": x.flat.grad, "dout": joined.flat.grad}
                b.backward(self, f"{kind}_backward", 0, **gradients, **({} if kind == "add" else arrays))
        scale = -1.0 if self.kind == "minimum" else self.scale
        if scale != 1:
            b.forward(self, "rescale_forward", 0, out=joined.flat.data, x=joined.flat.data, scale=scale, shift=0.0)
            if joined.wanted:
                grad = joined.flat.grad
                b.backward(self, "rescale_backward", 0, dx=grad, dout=grad, scale=scale)
        b.steps["backward"].reverse()  # what was joined last is taken apart first
        return joined

    def _repeated(self, b: Builder, number: int, x: Value) -> Value:
        """The value in the shape of the output. To repeat neighbouring axes is to make one pixel a column of them, so
        the kernels that repeat pixels do it, and add up the gradients."""
        sizes = x.data.shape[1:]
        shape = [1] * (len(self.out_shape) - len(sizes)) + list(sizes)
        first = 0
        while shape != list(self.out_shape):
            first = next(axis for axis in range(first, len(shape)) if shape[axis] != self.out_shape[axis])
            last = first
            while last < len(shape) and shape[last] == 1:
                shape[last] = self.out_shape[last]
                last += 1
            rows, columns = b.batch_size * math.prod(shape[:first]), math.prod(shape[last:])
            times = math.prod(shape[first:last])
            out = b.value(self, f"repeated_{number}_{first}", tuple(shape), x.wanted)
            pixel, column = x.reshape((rows, 1, 1, columns)), out.reshape((rows, times, 1, columns))
            b.forward(self, "upsample2d_forward", 0, out=column.data, x=pixel.data)
            if x.wanted:
                b.backward(self, "upsample2d_backward", 0, dx=pixel.grad, dout=column.grad)
            x = out
        return x.reshape((b.batch_size, *shape))

    def _negated(self, b: Builder, number: int, x: Value) -> Value:
        out = b.value(self, f"negated_{number}", self.out_shape, x.wanted)
        b.forward(self, "rescale_forward", 0, out=out.flat.data, x=x.flat.data, scale=-1.0, shift=0.0)
        if x.wanted:
            b.backward(self, "rescale_backward", 0, dx=x.flat.grad, dout=out.flat.grad, scale=-1.0)
        return out


def any_wanted(*values: Value) -> bool:
    return any(value.wanted for value in values)


@dataclass(frozen=True)
class Concatenate(Op):
    """Values one behind the other along an axis of a sample; ``x_shape`` is the first one's shape."""

    axis: int

    label = "concatenate"
    rereads = ()

    def emit(self, b: Builder, *values: Value) -> Value:
        out = b.output(self, any_wanted(*values))
        rows = b.batch_size * math.prod(self.out_shape[: self.axis])
        whole = out.reshape((rows, out.data.size // rows))
        offset = 0
        for x in values:
            part = x.reshape((rows, x.data.size // rows))
            b.forward(self, "concatenate_forward", 0, out=whole.data, x=part.data, offset=offset)
            if x.wanted:
                b.backward(self, "concatenate_backward", 0, dx=part.grad, dout=whole.grad, offset=offset)
            offset += part.data.shape[1]
        return out


@dataclass(frozen=True)
class Custom(Op):
    """A user's own layer: its ``forward`` and ``backward`` methods are the kernels (see :class:`layers.Layer`)."""

    layer: Any
    weights: tuple[str, ...]

    label = "custom"

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        if not b.state.on_host:
            raise ValueError(
                f"Layer {self.name!r} ({type(self.layer).__name__}) computes with NumPy, which cannot reach the memory "
                'of the backend "cuda". Fix: use backend="cpu" or "reference".'
            )
        out = b.output(self, x.wanted or b.learns(self, *self.weights))
        x_data, arrays = _read_only(x.data), {name: b.weight(self, name) for name in self.weights}
        weights = {name: _read_only(array) for name, array in arrays.items()}
        # Statistics of its own are the forward pass's to move.
        moving = {spec.name for spec in self.layer.weight_specs(self.x_shape) if not spec.trainable}
        forward = {name: arrays[name] if name in moving else weights[name] for name in self.weights}
        method = OwnMethod(self, "forward", {"out": out.data}, b.training)
        b.call("forward", self, method, {"out": out.data, "x": x_data, "weights": forward})
        if out.wanted:
            gradients = {name: b.gradient(self, name, weights[name].shape) for name in self.weights}
            fills = {"dx": x.grad} if x.wanted else {}
            fills |= {f"dweights[{name!r}]": gradients[name] for name in self.weights if b.learns(self, name)}
            inputs = {"dout": _read_only(out.grad), "x": x_data, "out": _read_only(out.data), "weights": weights}
            method = OwnMethod(self, "backward", fills, b.training)
            b.call("backward", self, method, {"dx": x.grad, "dweights": gradients, **inputs})
        return out


@dataclass(frozen=True)
class BatchNormAddRelu(Op):
    """The fused step of a residual block's end: batch normalisation by the statistics of the batch, another value added
    to it, and ReLU."""

    norm: BatchNorm
    merge: Merge

    label = "batch_norm + add + relu"
    rereads = ("x", "out")

    @property
    def layers(self) -> str:
        return f"{self.norm.name} + {self.merge.name} + {self.name}"

    def emit(self, b: Builder, x: Value, other: Value) -> Value:  # type: ignore[override]
        norm, rows = self.norm, (b.batch_size * math.prod(self.x_shape[:-1]), self.x_shape[-1])
        out = b.output(self, x.wanted or other.wanted or b.learns(norm, "gamma", "beta"))
        x_rows, other_rows, out_rows = (value.reshape(rows) for value in (x, other, out))
        statistics = norm.statistics(b)
        tensors, affine = {"out": out_rows.data, "x": x_rows.data, **statistics}, norm.affine(b)
        moving = {**norm.moving(b), "momentum": norm.momentum, "epsilon": norm.epsilon}
        b.forward(self, "batch_norm_add_relu_forward", 0, **tensors, other=other_rows.data, **affine, **moving)
        if out.wanted:
            gradients = norm.gradients(b)
            gradients |= {"dx": x_rows.grad, "dother": (other_rows if other.wanted else out_rows).grad}
            tensors |= {"dout": out_rows.grad, "gamma": affine["gamma"]}
            b.backward(self, "batch_norm_add_relu_backward", 0, **gradients, **tensors)
        return out


def settled(op: Op) -> Op:
    """The op as it behaves at inference, in a plan for training too."""
    return replace(op, frozen=True) if isinstance(op, BatchNorm) else op


class OwnMethod:
    """``forward`` or ``backward`` of a user's own layer, as a kernel.

    Nobody has checked that it fills what it should. So the first call finds a NaN there that no computation gives, and
    none of these may be left. (Later calls do not look: that would cost another pass over memory.)
    """

    def __init__(self, op: Custom, name: str, fills: dict[str, np.ndarray], training: bool) -> None:
        self.layer, self.method, self.__name__ = op.layer, getattr(op.layer, name), name
        self.training = training
        self.who = f"Layer {op.name!r}: {type(op.layer).__name__}.{name}"
        self.fills = fills
        self.seen = False

    def __call__(self, first: np.ndarray, *rest: Any) -> None:
        if not self.seen:
            for array in self.fills.values():
                _bits(array)[...] = _bits(_UNFILLED.astype(array.dtype))
        given = [dict(argument) if isinstance(argument, dict) else argument for argument in rest]
        self.layer._is_training = self.training
        try:
            returned = self.method(first, *given)
        except ValueError as error:
            if "read-only" in str(error):
                raise ValueError(f"{self.who} wrote to one of its inputs. Expected it only to read them.") from error
            raise
        target = "out" if self.__name__ == "forward" else "dx"
        if returned is not None and returned is not first:
            raise ValueError(
                f"{self.who} returned a {type(returned).__name__}. Expected None: it has to fill the arrays it is "
                f"given. Fix: {target}[...] = result."
            )
        for kept, now in zip(rest, given, strict=True):
            if isinstance(kept, dict) and (
                kept.keys() != now.keys() or any(kept[name] is not now[name] for name in kept)
            ):
                raise ValueError(
                    f"{self.who} put other arrays in place of those it was given. "
                    "Expected it to fill them. Fix: dweights[name][...] = result."
                )
        if not self.seen:
            unfilled = [name for name, array in self.fills.items() if _is_unfilled(array)]
            if unfilled:
                raise ValueError(
                    f"{self.who} did not fill {', '.join(unfilled)}, or not all of it. "
                    f"Fix: assign every number, as in {unfilled[0]}[...] = result."
                )
            self.seen = True


_UNFILLED = np.array(0x7FC5A3E1, np.uint32).view(np.float32)  # a NaN that no computation gives


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.dtype.itemsize}")


def _is_unfilled(array: np.ndarray) -> bool:
    return bool((_bits(array) == _bits(_UNFILLED.astype(array.dtype))).any())


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True)
class Measure:
    """What is measured beside the loss: kernels that add to the totals, from ``slot`` on.

    ``kernel`` gives a value for each row, whose mean is wanted: two totals, of values and of weights. Or it counts
    outcomes for ``thresholds``. ``weighted``: whether rows count by their weights.
    """

    kernel: str
    options: dict[str, Any]
    slot: int = 0
    weighted: bool = False
    thresholds: tuple[float, ...] = ()

    def steps(
        self, contract: Mapping[str, tuple[str, ...]], scratch: Any, weight: float, weights: Any, **arrays: Any
    ) -> list[tuple[str, dict[str, Any]]]:
        """The kernels and their arguments. ``arrays``: totals, predictions and targets; ``scratch``: the thresholds, or
        an array for a value for each row; ``weight``: of a row without a weight of its own."""
        adding = {"totals": arrays.pop("totals"), "weights": weights, "slot": self.slot}
        if self.thresholds:
            return [(self.kernel, {**adding, **arrays, "thresholds": scratch, **self.options})]
        values = {contract[self.kernel][0]: scratch}
        return [
            (self.kernel, {**values, **arrays, **self.options}),
            ("accumulate", {**adding, "values": scratch, "weight": weight}),
        ]


@dataclass(frozen=True)
class Loss(Op):
    """The loss and the metrics, at the end of a plan. ``kind`` names the loss's kernels.

    "softmax_cross_entropy" and "sigmoid_cross_entropy" start from scores, and give the probabilities too. If the fusion
    has made them so, these are the network's output (``absorbed``).
    """

    kind: str
    options: Mapping[str, float] = field(default_factory=dict)  # of these kernels
    measures: tuple[Measure, ...] = ()
    slot: int = LOSSES  # where in the totals the loss is added up
    weight: float = 1.0  # in the sum of several losses: of its gradient
    summed: bool = False  # the loss of a batch is the sum over its rows instead of their mean
    normalize: bool = False  # divide by the sum of the weights instead of the number of rows
    weighted: bool = False
    smoothing: tuple[float, float] | None = None  # of the targets: how much, and towards which level
    absorbed: bool = False

    is_view = True

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.kind

    @property
    def from_scores(self) -> bool:
        return self.kind in ("softmax_cross_entropy", "sigmoid_cross_entropy")

    def emit(self, b: Builder, x: Value) -> Value:  # type: ignore[override]
        columns = self.x_shape[-1]
        rows = b.batch_size * math.prod(self.x_shape[:-1])
        x_rows, out, nothing = x.reshape((rows, columns)), x, b.nothing(1)
        share = b.batch_size / (b.state.whole or b.batch_size)  # of the batch's samples
        losses = b.buffer(self, "losses", (rows,), b.state.dtype)
        targets = b.target(self, (rows, columns))
        weights = b.weights(self, rows) if self.weighted else nothing
        arrays, first = {"targets": self._smoothed(b, targets), **self.options}, {}
        name = "probs" if self.kind.endswith("cross_entropy") else "predictions"
        if self.from_scores:
            probs = b.output(self)
            arrays["probs"], first["logits"], name = probs.reshape((rows, columns)).data, x_rows.data, "logits"
            out = probs if self.absorbed else x
        else:
            arrays[name] = x_rows.data
        b.forward(self, f"{self.kind}_forward", 0, losses=losses, **first, **arrays)
        parts = [weights, *self._over_sum(b, weights)]
        self._weigh(b.forward, losses.reshape((rows, 1)), parts, 1.0, rows / share)
        if x.wanted:
            b.backward(self, f"{self.kind}_backward", 0, **{f"d{name}": x_rows.grad}, **arrays)
            self._weigh(b.backward, x_rows.grad, parts, self.weight * share, rows / share)
        # The totals count samples; a sample of several rows (an image of predictions, say) contributes their mean.
        adding = {"totals": b.state.totals, "weight": b.batch_size / rows}
        b.forward(self, "accumulate", 0, values=losses, weights=nothing, slot=self.slot, **adding)
        arrays = {"predictions": out.reshape((rows, columns)).data, "targets": targets}
        for measure in self.measures:
            if measure.thresholds:
                scratch = b.constants(self, f"thresholds_{measure.slot}", measure.thresholds, b.state.dtype)
            else:
                scratch = b.buffer(self, f"values_{measure.slot}", (rows,), b.state.dtype)
            own = weights if measure.weighted else nothing
            for kernel, arguments in measure.steps(b.contract, scratch, weights=own, **adding, **arrays):
                b.forward(self, kernel, 0, **arguments)
        return out

    def _smoothed(self, b: Builder, targets: Any) -> Any:
        """Less sure targets, for the loss alone."""
        if self.smoothing is None:
            return targets
        out = b.buffer(self, "smoothed", targets.shape, b.state.dtype)
        smoothing, level = self.smoothing
        b.forward(self, "smooth_targets", 0, out=out, targets=targets, smoothing=smoothing, level=level)
        return out

    def _over_sum(self, b: Builder, weights: Any) -> list[Any]:
        """Of a shard, where the loss is divided by the sum of the weights: M / sum for each row, as all shards know it
        when they have told each other their sums."""
        if not (b.state.whole and self.meets):
            return []
        sums = b.buffer(self, "sums", (2,), np.float64)
        factors = b.buffer(self, "over_sum", weights.shape, weights.dtype)
        b.forward(self, "accumulate", 0, totals=sums, values=weights, weights=b.nothing(1), slot=0, weight=1.0)
        b.meet("forward", self, Meeting((sums,), (factors,), rows_by_sum, cleared=True))
        return [factors]

    @property
    def meets(self) -> bool:
        """Whether a shard must know what weights the others have."""
        return self.normalize and self.weighted

    def _weigh(
        self, phase: Callable[..., None], values: Any, parts: Sequence[Any], factor: float, whole: float
    ) -> None:
        """Multiply losses, or their gradients, by the weights of their rows, if there are any, and by a factor.
        ``parts``: the weights, and what else rows are multiplied by. ``whole``: the rows of the batch."""
        factor *= whole if self.summed else 1
        alone = {"normalize": self.normalize and len(parts) == 1}
        for weights in parts:
            if weights.size or factor != 1:
                phase(self, "weigh", 0, values=values, weights=weights, factor=factor, **alone)
            factor = 1.0


def rows_by_sum(given: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """From the sums of the shards' weights and the numbers of their rows, what a weighted mean multiplies a row by;
    0 if the weights add up to 0."""
    total, rows = given.astype(np.float64)[:, 0].sum(axis=0)
    return np.array([[rows / total if total else 0.0]])
