"""The CPU kernels one by one, under pytest-benchmark.

    pytest benchmarks/ --benchmark-only
    pytest benchmarks/ --benchmark-only -k "conv2d and forward" --benchmark-columns=median,iqr

A group is one kernel in one direction, over its shapes: what does different work is not ranked. Before a kernel is
timed, its outputs are compared with the reference's, which also compiles it. A second table, and ``extra_info`` in the
JSON file, give GFLOP/s (of the median round), the bytes of all arrays, and the time it took to compile.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")

from benchmarks import measure, network, report
from tinyconv import kernels

CPU, REFERENCE = kernels.load("cpu"), kernels.load("reference")
N = 128  # images; the shapes below are those of the MNIST network


class Case(NamedTuple):
    """A kernel call: arguments in the contract's order, which of them are outputs, and the FLOPs of the work."""

    shape: str
    work: str
    kernel: str
    arguments: Callable[[], dict[str, Any]]
    outputs: tuple[str, ...]
    flops: int = 0

    @property
    def id(self) -> str:
        return f"{self.group}: {self.shape}".replace("→", "-")  # pytest shows ASCII only

    @property
    def group(self) -> str:
        """What is ranked together: the same work on several shapes."""
        return f"{self.kernel.rpartition('_')[0]}, {self.work}"


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def empty(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


NOTHING = empty(0, 0, 0, 0)


def convolution_cases(shape: network.Convolution) -> list[Case]:
    """Forward, dW, and dW with dX."""
    settings = {"strides": (shape.stride,) * 2, "padding": (shape.padding,) * 2, "dilation": (1, 1)}
    shapes = shape.shapes

    def forward() -> dict[str, Any]:
        a = shape.arrays()
        return {"out": empty(*shapes["out"]), **{n: a[n] for n in "xwb"}, "work": None, **settings, "relu": False}

    def backward(dx: np.ndarray) -> dict[str, Any]:
        a = shape.arrays()
        outputs = {"dx": dx, "dw": empty(*shapes["w"]), "db": empty(shape.F)}
        return {**outputs, **{n: a[n] for n in ("dout", "x", "w")}, "work": None, **settings}

    name = f"{shape.name}, batch {shape.N}"
    return [
        Case(name, "forward", "conv2d_forward", forward, ("out",), shape.flops),
        Case(name, "dW", "conv2d_backward", lambda: backward(NOTHING), ("dw", "db"), shape.flops),
        Case(
            name,
            "dW and dX",
            "conv2d_backward",
            lambda: backward(empty(*shapes["x"])),
            ("dx", "dw", "db"),
            2 * shape.flops,
        ),
    ]


def pooled_cases(shape: network.Convolution) -> list[Case]:
    """The fused conv → ReLU → pool, and its sparse backward pass."""
    pooled = (shape.N, shape.out_size // 2, shape.out_size // 2, shape.F)

    def forward() -> dict[str, Any]:
        a = shape.arrays()
        outputs = {"out": empty(*pooled), "argmax": empty(*pooled, dtype=np.int8)}
        return {**outputs, **{n: a[n] for n in "xwb"}, "work": None, "padding": (shape.padding,) * 2}

    def backward() -> dict[str, Any]:
        a, f = shape.arrays(), forward()
        REFERENCE.conv2d_relu_max_pool2d_forward(*f.values())
        dx = NOTHING if shape.C == 1 else empty(*shape.shapes["x"])
        outputs = {"dx": dx, "dw": empty(*shape.shapes["w"]), "db": empty(shape.F)}
        inputs = {"dout": random(*pooled), "argmax": f["argmax"], "x": a["x"], "w": a["w"], "work": None}
        return {**outputs, **inputs, "padding": f["padding"], "scale": 1.0}

    name = f"{shape.name}, batch {shape.N}"
    used = shape.flops * (2 * pooled[1]) ** 2 // shape.out_size**2
    sparse = used // 4 * (1 if shape.C == 1 else 2)  # one position of four; ReLU takes away more
    return [
        Case(name, "forward", "conv2d_relu_max_pool2d_forward", forward, ("out",), used),
        Case(name, "backward", "conv2d_relu_max_pool2d_backward", backward, ("dx", "dw", "db"), sparse),
    ]


def dense_cases(K: int, F: int) -> list[Case]:
    def forward() -> dict[str, Any]:
        return {"out": empty(N, F), "x": random(N, K), "w": random(K, F), "b": random(F), "work": None, "relu": False}

    def backward() -> dict[str, Any]:
        outputs = {"dx": empty(N, K), "dw": empty(K, F), "db": empty(F)}
        return {**outputs, "dout": random(N, F), "x": random(N, K, seed=1), "w": random(K, F), "work": None}

    name = f"{K}→{F}, batch {N}"
    return [
        Case(name, "forward", "dense_forward", forward, ("out",), 2 * N * K * F),
        Case(name, "backward", "dense_backward", backward, ("dx", "dw", "db"), 4 * N * K * F),
    ]


def other_cases() -> list[Case]:
    """What is bound by memory."""
    pixels, units, parameters = (N, 26, 26, 32), (N, 1600), 34_826
    pooled = (N, 13, 13, 32)
    window = {"pool_size": (2, 2), "strides": (2, 2), "padding": (0, 0)}
    counters = np.zeros(3, np.int64)
    drop = {"counters": counters, "seed": 1, "layer": 0, "rate": 0.5}
    adam = {"learning_rate": np.full(1, 1e-3, np.float32), "beta_1": 0.9, "beta_2": 0.999}
    moments = {"params": random(parameters), "m": empty(parameters), "v": empty(parameters)}

    def max_pool() -> dict[str, Any]:
        return {"out": empty(*pooled), "argmax": empty(*pooled, dtype=np.int32), "x": random(*pixels), **window}

    def dropout() -> dict[str, Any]:
        return {"out": empty(*units), "x": random(*units), **drop}

    def softmax() -> dict[str, Any]:
        targets = np.eye(10, dtype=np.float32)[np.arange(N) % 10]
        return {"losses": empty(N), "probs": empty(N, 10), "logits": random(N, 10), "targets": targets}

    def update() -> dict[str, Any]:
        state = {name: array.copy() for name, array in moments.items()}
        return {
            **state,
            "grads": random(parameters),
            "counters": counters,
            **adam,
            "epsilon": 1e-7,
            "weight_decay": 0.0,
        }

    return [
        Case(f"2x2 of 26x26x32, batch {N}", "forward", "max_pool2d_forward", max_pool, ("out", "argmax")),
        Case(f"1600, batch {N}", "forward", "dropout_forward", dropout, ("out",)),
        Case(f"10 classes, batch {N}", "forward", "softmax_cross_entropy_forward", softmax, ("losses", "probs")),
        Case(f"{parameters:,} parameters", "update", "adam_update", update, ("params", "m", "v")),
    ]


ALL = [
    *(case for shape in network.CONVOLUTIONS for case in convolution_cases(shape)),
    *pooled_cases(network.Convolution(N, 28, 1, 32, 3)),
    *pooled_cases(network.Convolution(N, 13, 32, 64, 3)),
    *dense_cases(1600, 10),
    *dense_cases(1024, 512),
    *other_cases(),
]
CASES = {case.id: case for case in ALL}


def placed(arguments: dict[str, Any], kernel: str) -> dict[str, Any]:
    """The arguments as a plan would have them: in aligned memory, with a workspace that has seen the filters."""
    found = {}
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            found[name] = CPU.allocate(value.shape, value.dtype)
            found[name][...] = value
        else:
            found[name] = value
    if "work" in found:
        found["work"] = workspace(found, kernel.rpartition("_")[0])
    return found


def workspace(arguments: dict[str, Any], family: str) -> np.ndarray:
    """Scratch for a kernel of that family, prepared."""
    x, w = arguments["x"], arguments["w"]
    out = arguments["out"] if "out" in arguments else arguments["dout"]
    settings = [arguments[name] for name in ("strides", "padding", "dilation") if name in arguments]
    size = getattr(CPU, f"{family}_workspace")(out.shape, x.shape, w.shape, *settings)
    work = CPU.allocate((size,), np.float32)
    shapes = (out.shape, x.shape, *settings) if family == "conv2d" else ()
    getattr(CPU, f"{family}_prepare")(work, w, *shapes)
    return work


def check(case: Case, found: dict[str, Any]) -> None:
    """The outputs must be the reference's, within 1e-4 of the largest number."""
    expected = case.arguments()
    getattr(REFERENCE, case.kernel)(*expected.values())
    for name in case.outputs:
        scale = np.abs(expected[name]).max(initial=1e-30)
        error = np.abs(found[name].astype(np.float64) - expected[name]).max(initial=0) / scale
        assert error < 1e-4, f"{case.kernel}: {name} is wrong by {error:.1e} of its maximum"


@pytest.mark.parametrize("name", CASES)
def test_kernel(benchmark, record_property, name: str) -> None:
    case = CASES[name]
    benchmark.group = case.group
    function = getattr(CPU, case.kernel)
    with CPU.compile_watch() as compiled:
        found = placed(case.arguments(), case.kernel)
        function(*found.values())
    check(case, found)
    watch = report.LoadWatch()
    benchmark(function, *found.values())
    arrays = (value for name, value in found.items() if isinstance(value, np.ndarray) and name != "work")
    facts = {"compile seconds": round(compiled.seconds, 2), "bytes": sum(array.nbytes for array in arrays)}
    if benchmark.stats:
        median = benchmark.stats["median"]
        facts["GFLOP/s"] = round(case.flops / median / 1e9, 1) if case.flops else None
        timing = f"{measure.duration(median)} ± {50 * benchmark.stats['iqr'] / median:.0f} %"
        rate, speed = f"{facts['bytes'] / median / 1e9:.1f}", facts["GFLOP/s"]
        rounds, load = benchmark.stats["rounds"], watch.share()
        record_property("kernel", (case.group, case.shape, rounds, timing, "" if speed is None else speed, rate, load))
    benchmark.extra_info |= {name: fact for name, fact in facts.items() if fact is not None}
