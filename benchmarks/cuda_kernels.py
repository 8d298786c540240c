"""Compile every CUDA kernel offline and record what it needs: registers, spills and shared memory, for each target.

    python benchmarks/cuda_kernels.py --record

Needs numba-cuda or numba-cuda-mlir and a CUDA 13 toolkit from PyPI (the extra ``cuda`` or ``cuda-mlir``); neither a
driver nor a GPU. The contract's functions are called on NumPy arrays, and instead of being launched, each kernel is
compiled for the types of its arguments. ``--record`` writes benchmarks/results/cuda_kernels.md and .json; the rows of
the package that is not used this time stay as they are. tests/test_cuda_compile.py holds the table to the kernels.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from tinyconv import kernels
from tinyconv.kernels.cuda.runtime import package

FAMILIES = (
    "activation",
    "conv",
    "conv_pool",
    "convolution.product",
    "data",
    "depthwise",
    "dropout",
    "image",
    "layer_norm",
    "loss",
    "merge",
    "normalization",
    "pool",
    "update",
    "warp",
)
TARGETS = {"sm_80": (8, 0), "sm_90": (9, 0), "sm_100": (10, 0)}
NAME = "cuda_kernels"
TOOLS = "nvidia-nvvm", "nvidia-nvjitlink"  # what, besides the package, decides on a kernel's figures


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def calls():
    """One call of every kernel of the contract: the MNIST network's convolutions, small arrays for the others."""
    counters, order, one = zeros(3, dtype=np.int64), zeros(8, dtype=np.int64), zeros(1)
    row, rows, channels = zeros(8), zeros(8, 4), zeros(4)
    image, pooled = zeros(2, 4, 4, 3), zeros(2, 2, 2, 3)
    winners, pooling = zeros(2, 2, 2, 3, dtype=np.int32), ((2, 2), (2, 2), (0, 0))
    # Of the activations' kernels, which differ by a formula alone, one that takes many registers stands for all.
    yield "activation_forward", row, row, "gelu", ()
    yield "activation_backward", row, row, row, row, "gelu", ()
    for name in ("add", "multiply", "maximum"):
        yield f"{name}_forward", row, row, row
        yield f"{name}_backward", row, row, row, *(() if name == "add" else (row, row))
    yield "add_to", row, row
    yield "concatenate_forward", rows, rows, 0
    yield "concatenate_backward", rows, rows, 0
    yield "rescale_forward", row, row, 1.0, 0.0
    yield "rescale_backward", row, row, 1.0
    yield "softmax_forward", rows, rows
    yield "softmax_backward", rows, rows, rows
    for name in ("softmax_cross_entropy", "sigmoid_cross_entropy"):
        yield f"{name}_forward", row, rows, rows, rows
        yield f"{name}_backward", rows, rows, rows
    for name in ("cross_entropy", "binary_cross_entropy", "mean_squared_error", "mean_absolute_error"):
        yield f"{name}_forward", row, rows, rows
        yield f"{name}_backward", rows, rows, rows
    yield "count_correct", row, rows, rows
    yield "count_binary_correct", row, rows, rows
    yield "count_top_k", row, rows, rows, 5
    yield "huber_forward", row, rows, rows, 1.0
    yield "huber_backward", rows, rows, rows, 1.0
    yield "smooth_targets", rows, rows, 0.1, 0.25
    yield "weigh", rows, row, 1.0, True
    yield "count_outcomes", zeros(8, dtype=np.float64), rows, rows, row, zeros(2), 1, -1
    yield "accumulate", zeros(4, dtype=np.float64), row, row, 1, 1.0
    yield "dropout_forward", rows, rows, counters, 7, 1, 0.5
    yield "dropout_backward", rows, rows, counters, 7, 1, 0.5
    yield "dropout_pooled_forward", rows, zeros(8, 4, dtype=np.int8), counters, 7, 1, 0.5
    maps, beyond = zeros(2, 6), ("reflect", 0.0, "bilinear")
    yield "draw_warps", maps, counters, zeros(3, 2, dtype=np.int64), zeros(3, 4, dtype=np.float64), (4, 4), 7
    yield "warp_forward", image, image, maps, zeros(0), *beyond
    yield "warp_backward", image, image, maps, zeros(0), "reflect", "bilinear"
    yield "gather_rows", rows, rows, order, counters
    yield "gather_one_hot", rows, order, order, counters
    yield "scatter_rows", rows, rows, counters
    yield "advance", counters, 1, 8
    yield "max_pool2d_forward", pooled, winners, image, *pooling
    yield "max_pool2d_backward", image, pooled, winners, *pooling
    yield "average_pool2d_forward", pooled, image, *pooling
    yield "average_pool2d_backward", image, pooled, *pooling
    yield "pad2d_forward", image, pooled, (1, 1)
    yield "pad2d_backward", pooled, image, (1, 1)
    yield "upsample2d_forward", image, pooled
    yield "upsample2d_backward", pooled, image
    yield "layer_norm_forward", rows, row, row, rows, channels, channels, 1e-3
    yield "layer_norm_backward", rows, channels, channels, rows, rows, channels, row, row
    yield "batch_norm_forward", rows, *(channels,) * 4, rows, channels, channels, 0.9, 1e-3
    yield "batch_norm_backward", rows, channels, channels, rows, rows, channels, channels, channels
    yield "batch_norm_inference", rows, rows, *(channels,) * 4, 1e-3
    yield "batch_norm_relu_forward", rows, *(channels,) * 4, rows, channels, channels, 0.9, 1e-3
    yield "batch_norm_relu_backward", rows, channels, channels, rows, rows, *(channels,) * 4
    yield "batch_norm_relu_inference", rows, rows, *(channels,) * 4, 1e-3
    yield "batch_norm_inference_backward", rows, rows, channels, channels, 1e-3
    yield "batch_norm_add_relu_forward", rows, *(channels,) * 4, rows, rows, channels, channels, 0.9, 1e-3
    yield "batch_norm_add_relu_backward", rows, rows, channels, channels, rows, rows, rows, *(channels,) * 3
    small = zeros(*pooled.shape, dtype=np.int8)
    kept, affine = (small, pooled), (image, *(zeros(image.shape[-1]),) * 2)
    few = (affine[1],) * 2
    yield "batch_norm_relu_max_pool2d_forward", pooled, *kept, *few, *few, *affine, 0.9, 1e-3, *pooling
    yield "batch_norm_relu_max_pool2d_backward", image, *few, pooled, *kept, *affine, *few, *pooling
    yield "batch_norm_fold", rows, channels, rows, *(channels,) * 5, 1e-3
    yield "adam_update", row, row, row, row, counters, one, 0.9, 0.999, 1e-7, 0.0
    yield "clip_values", row, 1.0
    yield "clip_norms", row, zeros(8, dtype=np.float64), zeros(8, 3, dtype=np.int64), 1.0
    yield "rmsprop_update", row, row, row, row, row, one, 0.9, 0.9, 1e-7, 0.0
    yield "sgd_update", row, row, row, one, 0.9, True, 0.0
    yield "penalty_forward", one, row, row, 2
    yield "penalty_backward", row, row, row, 2
    yield from convolutions()


def convolutions():
    """The products and the fused step, at the sizes of the MNIST network (batch 128)."""
    from tinyconv.kernels import cuda

    nothing, geometry = zeros(0), ((1, 1), (0, 0), (1, 1))
    for H, C, F in ((28, 1, 32), (13, 32, 64)):
        x, w, b = zeros(128, H, H, C), zeros(3, 3, C, F), zeros(F)
        out = zeros(128, H - 2, H - 2, F)
        work = zeros(cuda.conv2d_workspace(out.shape, x.shape, w.shape, *geometry))
        yield "conv2d_prepare", work, w, out.shape, x.shape, *geometry
        yield "conv2d_forward", out, x, w, b, work, *geometry, True
        yield "conv2d_backward", x, w, b, out, x, w, work, *geometry
        yield "conv2d_transpose_prepare", work, w, out.shape, x.shape, *geometry
        yield "conv2d_transpose_forward", x, out, w, zeros(C), work, *geometry
        yield "conv2d_transpose_backward", out, w, zeros(C), x, out, w, work, *geometry
        filters, of_depth, both = zeros(3, 3, C, 2), zeros(2 * C), zeros(*out.shape[:3], 2 * C)
        yield "depthwise_conv2d_forward", both, x, filters, of_depth, *geometry
        yield "depthwise_conv2d_backward", x, filters, of_depth, both, x, filters, *geometry
        P = (H - 2) // 2
        out, argmax = zeros(128, P, P, F), zeros(128, P, P, F, dtype=np.int8)
        work = zeros(cuda.conv2d_relu_max_pool2d_workspace(out.shape, x.shape, w.shape, (0, 0)))
        yield "conv2d_relu_max_pool2d_prepare", work, w
        yield "conv2d_relu_max_pool2d_forward", out, argmax, x, w, b, work, (0, 0)
        dx = x if C > 1 else nothing
        yield "conv2d_relu_max_pool2d_backward", dx, w, b, out, argmax, x, w, work, (0, 0), 2.0
    x, w, b, out = zeros(128, 1600), zeros(1600, 10), zeros(10), zeros(128, 10)
    work = zeros(cuda.dense_workspace(out.shape, x.shape, w.shape))
    yield "dense_prepare", work, w
    yield "dense_forward", out, x, w, b, work, False
    yield "dense_backward", x, w, b, out, x, w, work


class Launch:
    """A kernel, the arguments of one launch, and the size of its grid and blocks."""

    def __init__(self, kernel: Any, blocks: Any, threads: Any, arguments: tuple[Any, ...]) -> None:
        self.kernel, self.blocks, self.arguments = kernel, blocks, arguments
        self.name = kernel.py_func.__name__
        self.threads = int(np.prod(threads))
        self.made_for = _made_for(kernel.py_func)


def _made_for(function: Any) -> str:
    """The numbers for which a function made this kernel, if one did; of functions, the first tells one from another."""
    maker, made, _ = function.__qualname__.partition(".<locals>")
    if not made:
        return ""
    arguments = inspect.signature(getattr(sys.modules[function.__module__], maker)).parameters
    used = _constants(function)
    found = {name: used[name] for name in arguments if isinstance(used.get(name), int)}
    functions = [getattr(value, "py_func", value).__qualname__ for value in used.values() if callable(value)]
    outside = [name for name in functions if "<locals>" not in name]
    if outside:
        found = {"of": outside[0]} | found
    return ", ".join(f"{name}={value}" for name, value in found.items())


def _constants(function: Any) -> dict[str, Any]:
    """What a function made inside another has of it, then what the functions among it have in their turn."""
    own = inspect.getclosurevars(function).nonlocals
    used = dict(own)
    for value in own.values():
        inner = _constants(getattr(value, "py_func", value)) if callable(value) else {}
        used = used | {name: value for name, value in inner.items() if name not in used}
    return used


def launches() -> list[Launch]:
    """Everything that the calls would launch, each kernel once for the same types of arguments."""
    from tinyconv.kernels import cuda

    found: dict[Any, Launch] = {}
    called = set()

    def note(kernel: Any, blocks: Any, threads: Any, *arguments: Any) -> None:
        found.setdefault((kernel, tuple(map(_kind, arguments))), Launch(kernel, blocks, threads, arguments))

    modules = [importlib.import_module(f"tinyconv.kernels.cuda.{family}") for family in FAMILIES]
    with contextlib.ExitStack() as stack:
        for module in modules:
            if hasattr(module, "launch"):
                stack.enter_context(mock.patch.object(module, "launch", note))
            if hasattr(module, "together"):  # which wants streams, and so a driver
                stack.enter_context(mock.patch.object(module, "together", lambda one, other: (one(), other())))
        for name, *arguments in calls():
            getattr(cuda, name)(*arguments)
            called.add(name)
    missing = {name for name in kernels.contract() if not name.endswith("workspace")} - called
    if missing:
        raise RuntimeError(f"Every function of the contract must be called here. Missing: {sorted(missing)}.")
    return sorted(found.values(), key=lambda launch: (launch.name, launch.made_for))


def _kind(argument: Any) -> Any:
    """What the compiler sees of an argument."""
    if isinstance(argument, np.ndarray):
        return argument.dtype, argument.ndim
    return tuple(map(_kind, argument)) if isinstance(argument, tuple) else type(argument)


def assembled(ptx: str, target: str) -> tuple[str, bytes]:
    """The assembler's report on a kernel, and its machine code."""
    from cuda.bindings import nvjitlink

    link = nvjitlink.create(3, [f"-arch={target}", "-Xptxas=-v", "-verbose"])
    text = ptx.encode()
    nvjitlink.add_data(link, nvjitlink.InputType.PTX, text, len(text), "kernel")
    nvjitlink.complete(link)
    words = bytearray(nvjitlink.get_info_log_size(link))
    nvjitlink.get_info_log(link, words)
    cubin = bytearray(nvjitlink.get_linked_cubin_size(link))
    nvjitlink.get_linked_cubin(link, cubin)
    nvjitlink.destroy(link)
    return words.decode(), bytes(cubin)


def measure(launch: Launch, target: str, folder: str | None = None) -> dict[str, Any]:
    """One row of the table: a kernel compiled for a target. ``folder`` keeps what was compiled, for a disassembler."""
    ptx = package.ptx(launch.kernel, launch.arguments, TARGETS[target])
    words, cubin = assembled(ptx, target)
    if folder:
        path = Path(folder, f"{launch.name}_{target}_{abs(hash(launch.made_for)) % 10_000}")
        path.with_suffix(".cubin").write_bytes(cubin)
        path.with_suffix(".ptx").write_text(ptx)
    spilled = _number(r"(\d+) bytes spill stores", words) + _number(r"(\d+) bytes spill loads", words)
    return {
        "target": target,
        "kernel": launch.name,
        "made for": launch.made_for,
        "threads": launch.threads,
        "registers": _number(r"Used (\d+) registers", words),
        "stack": _number(r"(\d+) bytes stack frame", words),
        "spills": spilled,
        "shared": _number(r"(\d+) bytes smem", words),
        "float64": bool(re.search(r"\.f64\b", ptx)),
    }


def _number(pattern: str, text: str) -> int:
    """The largest such number: of the report's two parts, the first leaves out what only the second has placed."""
    return max(map(int, re.findall(pattern, text)), default=0)


def versions() -> dict[str, str]:
    """Of the package and of the tools that make machine code of its PTX."""
    return {name: importlib.metadata.version(name) for name in (package.NAME, *TOOLS)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    report.add_output(parser)
    parser.add_argument("--keep", help="a folder for the PTX and machine code of every kernel")
    options = parser.parse_args(arguments)
    if not package.NAME:
        print(package.PROBLEM or "The simulator compiles nothing.", file=sys.stderr)
        return 2
    print(package.NAME, versions())
    rows = [measure(launch, target, options.keep) for launch in launches() for target in TARGETS]
    content = read(options.out or report.RESULTS)
    content[package.NAME] = {"versions": versions(), "rows": rows}
    content = {name: content[name] for name in sorted(content)}
    report.write(options.out, NAME, "The CUDA kernels, compiled offline", markdown(content), content)
    return 0


def read(folder: Path = report.RESULTS) -> dict[str, Any]:
    """What is recorded: for each package its versions and rows."""
    path = folder / f"{NAME}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def markdown(content: dict[str, Any]) -> str:
    """A line for each kernel, a column for each package and target."""
    columns = [(name, target) for name in content for target in TARGETS]
    lines: dict[tuple[str, str, int], dict[tuple[str, str], dict[str, Any]]] = {}
    for name, found in content.items():
        for row in found["rows"]:
            kernel = row["kernel"], row["made for"], row["threads"]
            lines.setdefault(kernel, {})[name, row["target"]] = row
    table = []
    for (kernel, made_for, threads), cells in sorted(lines.items()):
        figures = (f"{cells[c]['registers']} / {cells[c]['shared']:,}" if c in cells else "-" for c in columns)
        table.append((f"`{kernel}`{f' ({made_for})' if made_for else ''}", str(threads), *figures))
    odd = sorted(
        f"{row['kernel']} ({name}, {row['target']}): {row['stack']} bytes of stack, {row['spills']} of spills"
        for name, found in content.items()
        for row in found["rows"]
        if row["stack"] or row["spills"]
    )
    used = {name: ", ".join(f"{k} {v}" for k, v in found["versions"].items()) for name, found in content.items()}
    names = "kernel", "threads", *(f"{name} {target}" for name, target in columns)
    return "\n\n".join(
        [
            "Registers of a thread / bytes of shared memory of a block; on sm_90 the system adds 1,024 to any.",
            report.facts_list(used),
            report.table(names, table, right=range(1, len(names))),
            "Stack and spills: " + ("; ".join(odd) if odd else "none in any kernel."),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
