"""What a layer asks for, in terms that a plan can lower: the operations between layers and kernels.

An op knows its shapes and which kernels it needs forward and backward, with which buffers. It computes nothing: when
a plan is built, :meth:`Op.emit` writes the op's steps into it through a :class:`~tinyconv.plan.Builder`.

Shapes of ops have no batch axis; the buffers have it.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinyconv.arena import Shape

if TYPE_CHECKING:
    from tinyconv.plan import Builder, Value

Pair = tuple[int, int]


@dataclass(frozen=True)
class Op:
    """One operation of a layer called ``name``: from arrays of ``x_shape`` to arrays of ``out_shape``."""

    name: str
    x_shape: Shape
    out_shape: Shape

    label: ClassVar[str] = "op"

    def emit(self, b: "Builder", x: "Value") -> "Value":
        """Write the steps into the plan and return the value they compute."""
        raise TypeError(f"{type(self).__name__} does not say which steps it consists of.")


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

    label = "conv2d"

    def macs(self) -> int:
        """Multiply-adds for one image, forward; as many again for each of dW and dX."""
        return math.prod(self.out_shape) * math.prod(self.kernel_size) * self.x_shape[-1]

    def emit(self, b: "Builder", x: "Value") -> "Value":
        geometry = {"strides": self.strides, "padding": self.padding, "dilation": self.dilation}
        out = b.output(self)
        w, bias = affine_weights(self, b)
        shapes = {"out_shape": out.data.shape, "x_shape": x.data.shape}
        work = b.scratch(self, b.kernels.conv2d_workspace(**shapes, w_shape=w.shape, **geometry))
        b.prepare(self, "conv2d_prepare", work=work, w=w, **shapes, **geometry)
        flops = 2 * b.batch_size * self.macs()
        tensors = {"x": x.data, "w": w, "work": work}
        b.forward(self, "conv2d_forward", flops, out=out.data, b=bias, relu=self.relu, **tensors, **geometry)
        if self.relu:
            in_place_relu_backward(self, b, out)
        gradients = {"dx": x.grad, "dw": b.gradient(self, "kernel"), "db": b.gradient(self, "bias", bias.shape)}
        flops = flops * 2 if x.grad.size else flops
        b.backward(self, "conv2d_backward", flops, **gradients, dout=out.grad, **tensors, **geometry)
        return out


@dataclass(frozen=True)
class Conv2DReluMaxPool2D(Op):
    """The fused step: convolution (stride 1), ReLU and 2 x 2 max-pooling, and the dropout behind it if there is one."""

    conv: Conv2D
    dropout: "Dropout | None" = None

    label = "conv2d + relu + max_pool2d"

    def emit(self, b: "Builder", x: "Value") -> "Value":
        conv, padding = self.conv, self.conv.padding
        out = b.output(self)
        argmax = b.buffer(self, "argmax", out.data.shape if b.training else (0, 0, 0, 0), np.int8)
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
        gradients = {"dx": x.grad, "dw": b.gradient(conv, "kernel"), "db": b.gradient(conv, "bias", bias.shape)}
        b.backward(
            self,
            "conv2d_relu_max_pool2d_backward",
            flops // 4 * (2 if x.grad.size else 1),
            **gradients,
            dout=out.grad,
            argmax=argmax,
            **tensors,
            scale=scale,
        )
        return out


@dataclass(frozen=True)
class Dense(Op):
    """Matrix product and bias over the last axis; ``relu`` and ``norm`` as in :class:`Conv2D`."""

    use_bias: bool
    relu: bool = False
    norm: "BatchNorm | None" = None

    label = "dense"

    def emit(self, b: "Builder", x: "Value") -> "Value":
        out = b.output(self)
        w, bias = affine_weights(self, b)
        rows = b.batch_size * math.prod(self.x_shape[:-1])
        x_rows, out_rows = x.reshape((rows, self.x_shape[-1])), out.reshape((rows, self.out_shape[-1]))
        work = b.scratch(self, b.kernels.dense_workspace(out_rows.data.shape, x_rows.data.shape, w.shape))
        b.prepare(self, "dense_prepare", work=work, w=w)
        flops = 2 * rows * w.shape[0] * w.shape[1]
        tensors = {"x": x_rows.data, "w": w, "work": work}
        b.forward(self, "dense_forward", flops, out=out_rows.data, b=bias, relu=self.relu, **tensors)
        if self.relu:
            in_place_relu_backward(self, b, out)
        gradients = {"dx": x_rows.grad, "dw": b.gradient(self, "kernel"), "db": b.gradient(self, "bias", bias.shape)}
        flops = flops * 2 if x.grad.size else flops
        b.backward(self, "dense_backward", flops, **gradients, dout=out_rows.grad, **tensors)
        return out


def affine_weights(op: "Conv2D | Dense", b: "Builder") -> tuple[Any, Any]:
    """Filters and bias of a convolution or dense op: its own, or (inference only) with a normalisation folded in."""
    w = b.weight(op, "kernel")
    channels = w.shape[-1]
    bias = b.weight(op, "bias") if op.use_bias else b.buffer(op, "no_bias", (channels,), w.dtype)
    if op.norm is None:
        return w, bias
    w_folded, b_folded = b.buffer(op, "w_folded", w.shape, w.dtype), b.buffer(op, "b_folded", bias.shape, w.dtype)
    rows = (math.prod(w.shape[:-1]), channels)
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


def in_place_relu_backward(op: Op, b: "Builder", out: "Value") -> None:
    """Zero the gradient where a fused ReLU's output is zero, before the rest of the op's backward pass."""
    b.backward(op, "relu_backward", 0, dx=out.flat.grad, dout=out.flat.grad, out=out.flat.data)


@dataclass(frozen=True)
class MaxPool2D(Op):
    pool_size: Pair
    strides: Pair
    padding: Pair

    label = "max_pool2d"

    def emit(self, b: "Builder", x: "Value") -> "Value":
        geometry = {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}
        out = b.output(self)
        argmax = b.buffer(self, "argmax", out.data.shape if b.training else (0, 0, 0, 0), np.int32)
        b.forward(self, "max_pool2d_forward", 0, out=out.data, argmax=argmax, x=x.data, **geometry)
        if x.grad.size:
            b.backward(self, "max_pool2d_backward", 0, dx=x.grad, dout=out.grad, argmax=argmax, **geometry)
        return out


@dataclass(frozen=True)
class AveragePool2D(Op):
    pool_size: Pair
    strides: Pair
    padding: Pair

    label = "average_pool2d"

    def emit(self, b: "Builder", x: "Value") -> "Value":
        geometry = {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}
        out = b.output(self)
        # Global pooling has no spatial axes in its output; its kernel sees them, with size 1.
        image = out if len(self.out_shape) == 3 else out.reshape((b.batch_size, 1, 1, self.out_shape[-1]))
        b.forward(self, "average_pool2d_forward", 0, out=image.data, x=x.data, **geometry)
        if x.grad.size:
            b.backward(self, "average_pool2d_backward", 0, dx=x.grad, dout=image.grad, **geometry)
        return out


@dataclass(frozen=True)
class Reshape(Op):
    """The same memory under another shape: no step at all."""

    label = "view"

    def emit(self, b: "Builder", x: "Value") -> "Value":
        return x.reshape((b.batch_size, *self.out_shape))


@dataclass(frozen=True)
class Dropout(Op):
    """Random zeros; ``index`` numbers the dropouts of a model, so that each draws its own mask."""

    rate: float
    index: int

    label = "dropout"

    def randomness(self, b: "Builder") -> dict[str, Any]:
        return {"counters": b.state.counters, "seed": b.state.seed, "layer": self.index, "rate": self.rate}

    def emit(self, b: "Builder", x: "Value") -> "Value":
        rows = (b.batch_size, math.prod(self.x_shape))
        out = b.output(self)
        x_rows, out_rows = x.reshape(rows), out.reshape(rows)
        b.forward(self, "dropout_forward", 0, out=out_rows.data, x=x_rows.data, **self.randomness(b))
        if x.grad.size:
            b.backward(self, "dropout_backward", 0, dx=x_rows.grad, dout=out_rows.grad, **self.randomness(b))
        return out


@dataclass(frozen=True)
class Activation(Op):
    """An element-wise activation: ``kind`` names its kernels, ``options`` their further arguments."""

    kind: str
    options: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.kind

    def emit(self, b: "Builder", x: "Value") -> "Value":
        out = b.output(self)
        b.forward(self, f"{self.kind}_forward", 0, out=out.flat.data, x=x.flat.data, **self.options)
        if x.grad.size:
            arrays = {"dx": x.flat.grad, "dout": out.flat.grad, "out": out.flat.data}
            b.backward(self, f"{self.kind}_backward", 0, **arrays, **self.options)
        return out


@dataclass(frozen=True)
class Softmax(Op):
    """Softmax over the last axis."""

    label = "softmax"

    def emit(self, b: "Builder", x: "Value") -> "Value":
        rows = (b.batch_size * math.prod(self.x_shape[:-1]), self.x_shape[-1])
        out = b.output(self)
        x_rows, out_rows = x.reshape(rows), out.reshape(rows)
        b.forward(self, "softmax_forward", 0, out=out_rows.data, x=x_rows.data)
        if x.grad.size:
            b.backward(self, "softmax_backward", 0, dx=x_rows.grad, dout=out_rows.grad, out=out_rows.data)
        return out


@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch normalisation over all axes but the last."""

    momentum: float
    epsilon: float
    center: bool
    scale: bool

    label = "batch_norm"

    def affine(self, b: "Builder") -> dict[str, Any]:
        """gamma and beta: the layer's weights, or a constant 1 and 0 where the layer has none."""
        shape = self.x_shape[-1:]
        gamma = b.weight(self, "gamma") if self.scale else b.buffer(self, "gamma", shape, b.state.dtype, fill=1)
        beta = b.weight(self, "beta") if self.center else b.buffer(self, "beta", shape, b.state.dtype)
        return {"gamma": gamma, "beta": beta}

    def moving(self, b: "Builder") -> dict[str, Any]:
        return {name: b.weight(self, name) for name in ("moving_mean", "moving_variance")}

    def emit(self, b: "Builder", x: "Value") -> "Value":
        channels = self.x_shape[-1:]
        rows = (b.batch_size * math.prod(self.x_shape[:-1]), *channels)
        out = b.output(self)
        x_rows, out_rows = x.reshape(rows), out.reshape(rows)
        arrays = {"out": out_rows.data, "x": x_rows.data, **self.affine(b), **self.moving(b), "epsilon": self.epsilon}
        if not b.training:
            b.forward(self, "batch_norm_inference", 0, **arrays)
            return out
        statistics = {name: b.buffer(self, name, channels, b.state.dtype) for name in ("mean", "inv_std")}
        b.forward(self, "batch_norm_forward", 0, **arrays, **statistics, momentum=self.momentum)
        gradients = {f"d{name}": b.gradient(self, name, channels) for name in ("gamma", "beta")}
        tensors = {"dout": out_rows.grad, "x": x_rows.data, "gamma": arrays["gamma"]}
        b.backward(self, "batch_norm_backward", 0, dx=x_rows.grad, **gradients, **tensors, **statistics)
        return out


@dataclass(frozen=True)
class Custom(Op):
    """A user's own layer: its ``forward`` and ``backward`` methods are the kernels (see :class:`layers.Layer`)."""

    layer: Any
    weights: tuple[str, ...]

    label = "custom"

    def emit(self, b: "Builder", x: "Value") -> "Value":
        out = b.output(self)
        weights = {name: b.weight(self, name) for name in self.weights}
        b.call("forward", self, self.layer.forward, {"out": out.data, "x": x.data, "weights": weights})
        if b.training:
            gradients = {name: b.gradient(self, name, weights[name].shape) for name in self.weights}
            arrays = {"dx": x.grad, "dweights": gradients, "dout": out.grad, "x": x.data, "out": out.data}
            b.call("backward", self, self.layer.backward, {**arrays, "weights": weights})
        return out


@dataclass(frozen=True)
class Loss(Op):
    """The loss and the metrics, at the end of a plan. ``kind`` names the loss's kernels.

    "softmax_cross_entropy" and "sigmoid_cross_entropy" have absorbed the activation before them: they start from
    scores, and give the probabilities too.
    """

    kind: str
    metrics: tuple[tuple[str, dict[str, int]], ...] = ()  # (kernel, its further arguments)

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.kind

    @property
    def from_scores(self) -> bool:
        return self.kind in ("softmax_cross_entropy", "sigmoid_cross_entropy")

    def emit(self, b: "Builder", x: "Value") -> "Value":
        columns = self.x_shape[-1]
        rows = b.batch_size * math.prod(self.x_shape[:-1])
        x_rows = x.reshape((rows, columns))
        targets = b.targets((rows, columns))
        losses = b.buffer(self, "losses", (rows,), b.state.dtype)
        if self.from_scores:
            probs = b.output(self)
            arrays = {"probs": probs.reshape((rows, columns)).data, "targets": targets}
            b.forward(self, f"{self.kind}_forward", 0, losses=losses, logits=x_rows.data, **arrays)
            b.backward(self, f"{self.kind}_backward", 0, dlogits=x_rows.grad, **arrays)
        else:
            probs, name = x, "predictions" if self.kind == "mean_squared_error" else "probs"
            arrays = {name: x_rows.data, "targets": targets}
            b.forward(self, f"{self.kind}_forward", 0, losses=losses, **arrays)
            b.backward(self, f"{self.kind}_backward", 0, **{f"d{name}": x_rows.grad}, **arrays)
        # The totals count samples; a sample of several rows (an image of predictions, say) contributes their mean.
        weight = b.batch_size / rows
        b.forward(self, "accumulate", 0, totals=b.state.totals, values=losses, slot=0, weight=weight)
        for slot, (kernel, options) in enumerate(self.metrics, start=1):
            correct = b.buffer(self, f"correct_{slot}", (rows,), b.state.dtype)
            predictions = probs.reshape((rows, columns)).data
            b.forward(self, kernel, 0, correct=correct, predictions=predictions, targets=targets, **options)
            b.forward(self, "accumulate", 0, totals=b.state.totals, values=correct, slot=slot, weight=weight)
        return probs
