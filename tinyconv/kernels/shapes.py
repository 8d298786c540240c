"""What every kernel of the contract must be given: the shape and type of each array, stated once for all kernel sets.

Kernels trust their arguments: they turn shapes into addresses. So whoever makes a plan has :func:`check` look at every
call first, once, when the plan is made; running it costs nothing.

A rule lists a kernel's arguments. ``x: N H W C`` is an array of floats with these axes, each at least 1 long; a letter
stands for the same number wherever it occurs in the call. ``argmax: int8 N C`` has that type. A question mark,
``dx?: N C``, says that an array of size zero means "not wanted". ``work: dense_workspace`` is a flat array of at
least as many floats as that function says. An argument without a colon is a parameter (see ``PARAMETERS``).
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from types import ModuleType
from typing import Any, NamedTuple

from tinyconv.kernels.reference.activation import FORMULAS
from tinyconv.kernels.reference.warp import FILL_MODES, INTERPOLATIONS

Shape = tuple[int, ...]

_CONV = "strides; padding; dilation"
_POOL = "pool_size; strides; padding"
_RANDOM = "counters: int64 3; seed; layer; rate"

RULES = {
    "activation_forward": "out: M; x: M; kind; options",
    "activation_backward": "dx: M; dout: M; x: M; out: M; kind; options",
    "softmax_forward": "out: M C; x: M C",
    "softmax_backward": "dx: M C; dout: M C; out: M C",
    **dict.fromkeys(
        ("conv2d_prepare", "conv2d_transpose_prepare"),
        f"work: conv2d_workspace; w: KH KW C F; out_shape: N OH OW F; x_shape: N H W C; {_CONV}",
    ),
    "conv2d_forward": f"out: N OH OW F; x: N H W C; w: KH KW C F; b: F; work: conv2d_workspace; {_CONV}; relu",
    "conv2d_backward": "dx?: N H W C; dw: KH KW C F; db: F; dout: N OH OW F; x: N H W C; w: KH KW C F; "
    f"work: conv2d_workspace; {_CONV}",
    "conv2d_relu_max_pool2d_prepare": "work: conv2d_relu_max_pool2d_workspace; w: KH KW C F",
    "conv2d_relu_max_pool2d_forward": "out: N PH PW F; argmax?: int8 N PH PW F; x: N H W C; w: KH KW C F; b: F; "
    "work: conv2d_relu_max_pool2d_workspace; padding",
    "conv2d_relu_max_pool2d_backward": "dx?: N H W C; dw: KH KW C F; db: F; dout: N PH PW F; argmax: int8 N PH PW F; "
    "x: N H W C; w: KH KW C F; work: conv2d_relu_max_pool2d_workspace; padding; scale",
    "conv2d_transpose_forward": f"out: N H W C; x: N OH OW F; w: KH KW C F; b: C; work: conv2d_workspace; {_CONV}",
    "conv2d_transpose_backward": "dx?: N OH OW F; dw: KH KW C F; db: C; dout: N H W C; x: N OH OW F; w: KH KW C F; "
    f"work: conv2d_workspace; {_CONV}",
    "depthwise_conv2d_forward": f"out: N OH OW CD; x: N H W C; w: KH KW C DM; b: CD; {_CONV}",
    "depthwise_conv2d_backward": "dx?: N H W C; dw: KH KW C DM; db: CD; dout: N OH OW CD; x: N H W C; w: KH KW C DM; "
    f"{_CONV}",
    "pad2d_forward": "out: N BH BW C; x: N IH IW C; corner",
    "pad2d_backward": "dx: N IH IW C; dout: N BH BW C; corner",
    "upsample2d_forward": "out: N BH BW C; x: N IH IW C",
    "upsample2d_backward": "dx: N IH IW C; dout: N BH BW C",
    "gather_rows": "out: N D; x: S D; order: int64 S; counters: int64 3",
    "gather_one_hot": "out: M C; labels: int64 L; order: int64 S; counters: int64 3",
    "scatter_rows": "result: S D; x: N D; counters: int64 3",
    "advance": "counters: int64 3; steps; samples",
    "dense_prepare": "work: dense_workspace; w: K F",
    "dense_forward": "out: N F; x: N K; w: K F; b: F; work: dense_workspace; relu",
    "dense_backward": "dx?: N K; dw: K F; db: F; dout: N F; x: N K; w: K F; work: dense_workspace",
    "dropout_forward": f"out: N U; x: N U; {_RANDOM}",
    "dropout_backward": f"dx: N U; dout: N U; {_RANDOM}",
    "dropout_pooled_forward": f"out: N U; argmax: int8 N U; {_RANDOM}",
    "draw_warps": "warps: N 6; counters: int64 3; moves: int64 L 2; ranges: float64 L 4; size; seed",
    "warp_forward": "out: N H W C; x: N H W C; warps: N 6; work: warp_workspace; fill_mode; fill_value; interpolation",
    "warp_backward": "dx: N H W C; dout: N H W C; warps: N 6; work: warp_workspace; fill_mode; interpolation",
    "softmax_cross_entropy_forward": "losses: M; probs: M C; logits: M C; targets: M C",
    "softmax_cross_entropy_backward": "dlogits: M C; probs: M C; targets: M C",
    "cross_entropy_forward": "losses: M; probs: M C; targets: M C",
    "cross_entropy_backward": "dprobs: M C; probs: M C; targets: M C",
    "sigmoid_cross_entropy_forward": "losses: M; probs: M C; logits: M C; targets: M C",
    "sigmoid_cross_entropy_backward": "dlogits: M C; probs: M C; targets: M C",
    "binary_cross_entropy_forward": "losses: M; probs: M C; targets: M C",
    "binary_cross_entropy_backward": "dprobs: M C; probs: M C; targets: M C",
    "mean_squared_error_forward": "losses: M; predictions: M C; targets: M C",
    "mean_squared_error_backward": "dpredictions: M C; predictions: M C; targets: M C",
    "mean_absolute_error_forward": "losses: M; predictions: M C; targets: M C",
    "mean_absolute_error_backward": "dpredictions: M C; predictions: M C; targets: M C",
    "huber_forward": "losses: M; predictions: M C; targets: M C; delta",
    "huber_backward": "dpredictions: M C; predictions: M C; targets: M C; delta",
    "smooth_targets": "out: M C; targets: M C; smoothing; level",
    "weigh": "values: M C; weights?: M; factor; normalize",
    "count_correct": "correct: M; predictions: M C; targets: M C",
    "count_binary_correct": "correct: M; predictions: M C; targets: M C",
    "count_top_k": "correct: M; predictions: M C; targets: M C; k",
    "count_outcomes": "totals: float64 T; predictions: M C; targets: M C; weights?: M; thresholds: K; slot; column",
    "accumulate": "totals: float64 T; values: M; weights?: M; slot; weight",
    **dict.fromkeys(
        ("batch_norm_forward", "batch_norm_relu_forward"),
        "out: M C; mean: C; inv_std: C; moving_mean: C; moving_variance: C; x: M C; gamma: C; beta: C; momentum; "
        "epsilon",
    ),
    "batch_norm_backward": "dx?: M C; dgamma: C; dbeta: C; dout: M C; x: M C; gamma: C; mean: C; inv_std: C",
    "batch_norm_relu_backward": "dx?: M C; dgamma: C; dbeta: C; dout: M C; x: M C; gamma: C; beta: C; mean: C; "
    "inv_std: C",
    "batch_norm_add_relu_forward": "out: M C; mean: C; inv_std: C; moving_mean: C; moving_variance: C; x: M C; "
    "other: M C; gamma: C; beta: C; momentum; epsilon",
    "batch_norm_add_relu_backward": "dx?: M C; dother: M C; dgamma: C; dbeta: C; dout: M C; x: M C; out: M C; "
    "gamma: C; mean: C; inv_std: C",
    **dict.fromkeys(
        ("batch_norm_inference", "batch_norm_relu_inference"),
        "out: M C; x: M C; gamma: C; beta: C; moving_mean: C; moving_variance: C; epsilon",
    ),
    "batch_norm_inference_backward": "dx: M C; dout: M C; gamma: C; moving_variance: C; epsilon",
    "batch_norm_fold": "w_folded: K F; b_folded: F; w: K F; b: F; gamma: F; beta: F; moving_mean: F; "
    "moving_variance: F; epsilon",
    "add_to": "out: M; x: M",
    **{f"{kind}_forward": "out: M; a: M; b: M" for kind in ("add", "multiply", "maximum")},
    "add_backward": "da?: M; db?: M; dout: M",
    **{f"{kind}_backward": "da?: M; db?: M; dout: M; a: M; b: M" for kind in ("multiply", "maximum")},
    "concatenate_forward": "out: M D; x: M C; offset",
    "concatenate_backward": "dx: M C; dout: M D; offset",
    "rescale_forward": "out: M; x: M; scale; shift",
    "rescale_backward": "dx: M; dout: M; scale",
    "layer_norm_forward": "out: M C; mean: M; inv_std: M; x: M C; gamma: C; beta: C; epsilon",
    "layer_norm_backward": "dx?: M C; dgamma: C; dbeta: C; dout: M C; x: M C; gamma: C; mean: M; inv_std: M",
    "max_pool2d_forward": f"out: N OH OW C; argmax?: int32 N OH OW C; x: N H W C; {_POOL}",
    "max_pool2d_backward": f"dx: N H W C; dout: N OH OW C; argmax: int32 N OH OW C; {_POOL}",
    "batch_norm_relu_max_pool2d_forward": "out: N OH OW C; argmax: int8 N OH OW C; picked: N OH OW C; mean: C; "
    "inv_std: C; moving_mean: C; moving_variance: C; x: N H W C; gamma: C; beta: C; momentum; epsilon; " + _POOL,
    "batch_norm_relu_max_pool2d_backward": "dx?: N H W C; dgamma: C; dbeta: C; dout: N OH OW C; "
    "argmax: int8 N OH OW C; picked: N OH OW C; x: N H W C; gamma: C; beta: C; mean: C; inv_std: C; " + _POOL,
    "average_pool2d_forward": f"out: N OH OW C; x: N H W C; {_POOL}",
    "average_pool2d_backward": f"dx: N H W C; dout: N OH OW C; {_POOL}",
    "clip_values": "grads: P; limit",
    "clip_norms": "grads: P; sums: float64 S; parts: int64 S 3; limit",
    "adam_update": "params: P; m: P; v: P; grads: P; counters: int64 3; learning_rate: 1; beta_1; beta_2; epsilon; "
    "weight_decay",
    "rmsprop_update": "params: P; mean_squares: P; velocity?: P; means?: P; grads: P; learning_rate: 1; rho; momentum; "
    "epsilon; weight_decay",
    "sgd_update": "params: P; velocity?: P; grads: P; learning_rate: 1; momentum; nesterov; weight_decay",
    "penalty_forward": "penalty: 1; params: P; strength: P; power",
    "penalty_backward": "grads: P; params: P; strength: P; power",
}


class Argument(NamedTuple):
    """One argument of a rule, read."""

    name: str
    axes: tuple[str, ...]  # of a parameter or of work: none
    dtype: str = ""  # "": a float
    optional: bool = False
    workspace: str = ""


def read(rule: str) -> list[Argument]:
    """The arguments that a rule lists, in order."""
    arguments = []
    for part in rule.split("; "):
        name, _, what = part.partition(": ")
        words = tuple(what.split())
        if what.endswith("_workspace"):
            arguments.append(Argument(name, (), workspace=what))
        else:
            dtype = words[0] if words and re.fullmatch(r"(int|float)\d+", words[0]) else ""
            axes = words[1:] if dtype else words
            arguments.append(Argument(name.removesuffix("?"), axes, dtype, name.endswith("?")))
    return arguments


def _integer(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and low <= value < high  # type: ignore[operator]


def _pair(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(_integer(low), value))


def _number(low: float = -math.inf) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and float(value) >= low

    return fits


def _options(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 3 and all(map(_number(), value))


PARAMETERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("strides", "dilation", "pool_size", "size"), ("a pair of integers >= 1", _pair(1))),
    **dict.fromkeys(("padding", "corner"), ("a pair of integers >= 0", _pair(0))),
    **dict.fromkeys(("relu", "nesterov", "normalize"), ("a bool", lambda value: isinstance(value, bool))),
    **dict.fromkeys(("slot", "layer", "steps", "samples", "offset"), ("an integer >= 0", _integer(0))),
    "k": ("an integer >= 1", _integer(1)),
    "power": ("1 or 2", _integer(1, 3)),
    "kind": ("the name of an activation", lambda value: isinstance(value, str) and value in FORMULAS),
    "fill_value": ("a finite number", _number()),
    "fill_mode": ("the name of a fill mode", lambda value: isinstance(value, str) and value in FILL_MODES),
    "interpolation": ("'bilinear' or 'nearest'", lambda value: isinstance(value, str) and value in INTERPOLATIONS),
    "options": ("a tuple of finite numbers", _options),
    "column": ("an integer >= -1", _integer(-1)),
    "seed": ("an integer of 64 bits, >= 0", _integer(0, 2**64)),
    "rate": ("a number with 0 <= rate < 1", lambda value: _number(0)(value) and value < 1),
    **dict.fromkeys(("epsilon", "weight_decay", "limit"), ("a finite number >= 0", _number(0))),
    **dict.fromkeys(
        ("beta_1", "beta_2", "delta", "factor", "level", "momentum", "rho", "scale", "shift", "smoothing", "weight"),
        ("a finite number", _number()),
    ),
}


def check(kernel_set: ModuleType, kernel: str, arguments: Mapping[str, Any]) -> None:
    """Hold one call to its rule; ValueError names the kernel, the argument, what was expected and what was given."""
    sizes: dict[str, Any] = {}  # what the letters stand for, and "float" for the type of all floats of the call
    rule = _READ[kernel]
    assert [argument.name for argument in rule] == list(arguments), f"{kernel} and its rule differ"
    for argument in rule:
        value = arguments[argument.name]
        if argument.axes:
            _check_array(kernel_set, kernel, argument, value, sizes)
        elif not argument.workspace:
            expected, fits = PARAMETERS[argument.name]
            if not fits(value):
                raise _wrong(kernel, argument.name, expected, repr(value))
    if "padding" in arguments:
        _check_windows(kernel, arguments, sizes)
    _check_relation(kernel, arguments, sizes)
    for argument in rule:
        if argument.workspace:
            needed = _workspace(kernel_set, argument.workspace, arguments, sizes)
            _check_work(kernel, argument.name, arguments[argument.name], sizes["float"], needed)


def _check_array(kernel_set: ModuleType, kernel: str, argument: Argument, value: Any, sizes: dict[str, Any]) -> None:
    axes, is_shape = argument.axes, argument.name.endswith("_shape")
    shape = value if is_shape and isinstance(value, tuple) else getattr(value, "shape", None)
    if is_shape:
        right_type = isinstance(value, tuple) and all(map(_integer(1), value))
    else:
        right_type = _is_flat_memory(value) and _fits_dtype(kernel_set, argument.dtype, value.dtype)
    right_shape = shape is not None and len(shape) == len(axes)
    if right_type and not is_shape and not argument.dtype:
        right_type = str(value.dtype) == sizes.setdefault("float", str(value.dtype))
    if right_type and right_shape and argument.optional and not value.size:
        return
    if right_type and right_shape:
        for axis, size in zip(axes, shape, strict=True):  # type: ignore[arg-type]
            right_shape &= size >= 1 and size == (int(axis) if axis.isdigit() else sizes.setdefault(axis, size))
    if not (right_type and right_shape):
        known = ", ".join(f"{axis} = {sizes[axis]}" for axis in dict.fromkeys(axes) if axis in sizes)
        wanted = argument.dtype or sizes.get("float") or " or ".join(_floats(kernel_set))
        dtype = "" if is_shape else f"a C-contiguous array of {wanted}, "
        zero = ", or an array of that type of size 0" if argument.optional else ""
        expected = f"{dtype}shape ({', '.join(axes)}){' with ' + known if known else ''}{zero}"
        raise _wrong(kernel, argument.name, expected, _described(value))


def _check_windows(kernel: str, arguments: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Every window begins in the image or above it, ends in it or below, and has a pixel of it; none is left out."""
    pooled = "PH" in sizes  # the fused step: two outputs of the convolution for each of the pooling
    for axis, name in enumerate("HW"):
        outputs = 2 * sizes[f"P{name}"] if pooled else sizes[f"O{name}"]
        window = arguments["pool_size"][axis] if "pool_size" in arguments else sizes[f"K{name}"]
        reach = (window - 1) * arguments.get("dilation", (1, 1))[axis] + 1
        stride, before = arguments.get("strides", (1, 1))[axis], arguments["padding"][axis]
        behind = (outputs - 1) * stride + reach - before - sizes[name]
        if not (before < reach and -(2 if pooled else stride) < behind < reach):
            raise _wrong(
                kernel,
                "padding",
                f"windows that all meet the image and leave none of it out, with less padding than the {reach} pixels "
                f"that a window reaches over",
                f"{before} before and {behind} behind, for {outputs} windows with stride {stride} on {sizes[name]} "
                "pixels",
            )


def _check_relation(kernel: str, arguments: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """What the letters of a rule cannot say."""
    if kernel.startswith("activation"):
        wanted = inspect.signature(FORMULAS[arguments["kind"]][0]).parameters.keys() - {"x"}
        if len(arguments["options"]) != len(wanted):
            raise _wrong(kernel, "options", f"{len(wanted)} of {arguments['kind']!r}", repr(arguments["options"]))
    if kernel.startswith("depthwise") and sizes["CD"] != sizes["C"] * sizes["DM"]:
        channels = f"{sizes['C'] * sizes['DM']} channels, {sizes['DM']} for each of the {sizes['C']} of x"
        raise _wrong(kernel, "w", f"filters that make {sizes['CD']} channels", channels)
    if kernel.startswith(("pad2d", "upsample2d")):
        for axis, before in zip("HW", arguments.get("corner", (0, 0)), strict=True):
            small, large = sizes[f"I{axis}"], sizes[f"B{axis}"]
            if before + small > large:
                raise _wrong(kernel, "corner", f"at most {large - small}, for {small} of {large} pixels", repr(before))
            if kernel.startswith("upsample2d") and large % small:
                image = "out" if "out" in arguments else "dout"
                raise _wrong(kernel, image, f"a multiple of the {small} pixels of the smaller image", f"{large}")
    if kernel.startswith("concatenate") and arguments["offset"] + sizes["C"] > sizes["D"]:
        most = f"at most {sizes['D'] - sizes['C']}, for {sizes['C']} of {sizes['D']} columns"
        raise _wrong(kernel, "offset", most, repr(arguments["offset"]))
    if "slot" in arguments:
        taken = 2 * sizes["K"] + 2 if kernel == "count_outcomes" else 2
        if arguments["slot"] + taken > sizes["T"]:
            raise _wrong(kernel, "slot", f"{taken} of the {sizes['T']} totals from there on", repr(arguments["slot"]))
    if "column" in arguments and arguments["column"] >= sizes["C"]:
        raise _wrong(kernel, "column", f"less than the {sizes['C']} columns", repr(arguments["column"]))
    if kernel in ("gather_rows", "scatter_rows") and sizes["N"] > sizes["S"]:
        batch = "out" if kernel == "gather_rows" else "x"
        raise _wrong(kernel, batch, f"at most the {sizes['S']} rows of the data set", f"{sizes['N']} rows")
    if kernel == "gather_one_hot":
        labels, samples, rows = sizes["L"], sizes["S"], sizes["M"]
        if labels % samples:
            raise _wrong(kernel, "labels", f"a multiple of the {samples} samples", f"{labels} labels")
        if rows > labels or rows % (labels // samples):
            raise _wrong(
                kernel, "out", f"{labels // samples} rows for each of at most {samples} samples", f"{rows} rows"
            )


def _workspace(kernel_set: ModuleType, name: str, arguments: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    """How many floats ``work`` must have. The preparations that know only the filters get the least there can be."""
    function = getattr(kernel_set, name)
    if name == "dense_workspace":
        N, K, F = (sizes.get(axis, 1) for axis in "NKF")
        return function((N, F), (N, K), (K, F))
    if name == "warp_workspace":
        return function(tuple(sizes[axis] for axis in "NHWC"))
    KH, KW, C, F = w_shape = tuple(sizes[axis] for axis in ("KH", "KW", "C", "F"))
    if name == "conv2d_relu_max_pool2d_workspace":
        if "N" not in sizes:
            return function((1, 1, 1, F), (1, KH + 1, KW + 1, C), w_shape, (0, 0))
        N, PH, PW, H, W = (sizes[axis] for axis in ("N", "PH", "PW", "H", "W"))
        return function((N, PH, PW, F), (N, H, W, C), w_shape, arguments["padding"])
    N, OH, OW, H, W = (sizes[axis] for axis in ("N", "OH", "OW", "H", "W"))
    geometry = (arguments[name] for name in ("strides", "padding", "dilation"))
    return function((N, OH, OW, F), (N, H, W, C), w_shape, *geometry)


def _check_work(kernel: str, name: str, work: Any, dtype: str, needed: int) -> None:
    right = _is_flat_memory(work) and str(work.dtype) == dtype and len(work.shape) == 1
    if not (right and work.size >= needed):
        raise _wrong(kernel, name, f"a C-contiguous array of {dtype}, one axis, size >= {needed}", _described(work))


def _floats(kernel_set: ModuleType) -> tuple[str, ...]:
    """The types of floats that a set can compute with: in double precision gradients are checked."""
    return ("float32", "float64") if kernel_set.__name__.endswith(".reference") else ("float32",)


def _fits_dtype(kernel_set: ModuleType, expected: str, dtype: Any) -> bool:
    return str(dtype) in ((expected,) if expected else _floats(kernel_set))


def _is_flat_memory(value: Any) -> bool:
    """Whether it is an array whose numbers lie one behind the other, in C order; on a device too."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return False
    return value.is_c_contiguous() if hasattr(value, "is_c_contiguous") else value.flags.c_contiguous


def _described(value: Any) -> str:
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return repr(value)
    return f"{'' if _is_flat_memory(value) else 'not contiguous, '}{value.dtype}, shape {tuple(value.shape)}"


def _wrong(kernel: str, argument: str, expected: str, received: str) -> ValueError:
    return ValueError(f"Kernel {kernel}: wrong {argument!r}. Expected {expected}. Received: {received}.")


_READ = {kernel: read(rule) for kernel, rule in RULES.items()}
