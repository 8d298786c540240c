"""Every CUDA kernel compiles offline for sm_80, sm_90 and sm_100: no float64, no spills, little enough shared memory.

The compiler's tests run where the extra ``cuda`` or ``cuda-mlir`` is installed (the package and a CUDA 13 toolkit from
PyPI; a driver or a GPU they do not need), with whichever package the kernels use there. That the recorded table names
the kernels there are, and that one module alone imports either package, is tested everywhere.
"""

import ast
import re
from pathlib import Path

import pytest

from benchmarks import cuda_kernels, report
from tinyconv.kernels.cuda.runtime import package

FOLDER = Path(package.__file__).parents[1]
IN_DOUBLE_PRECISION = {
    "_accumulate",
    "_count_outcomes",
    "_draw",
    "_penalty_forward",
    "_scale",
    "_sum_squares",
    "_weigh",
}  # by their definition
SHARED_LIMIT = 48 * 1024
RECORDED = cuda_kernels.read()

compiler = pytest.mark.skipif(
    not package.NAME,
    reason=package.PROBLEM + " (no GPU is needed)" if package.PROBLEM else "the simulator compiles nothing",
)


def problems(row):
    """What is wrong with a row of the table."""
    if row["stack"] or row["spills"]:
        yield f"{row['stack']} bytes of stack, {row['spills']} of spills"
    if row["float64"] and row["kernel"] not in IN_DOUBLE_PRECISION:
        yield "float64 instructions"
    if row["shared"] > SHARED_LIMIT:
        yield f"{row['shared']} bytes of static shared memory"
    if row["registers"] * row["threads"] > 65_536 or row["threads"] > 1024:
        yield f"{row['registers']} registers times {row['threads']} threads do not fit on a multiprocessor"


def kernels_defined():
    """The names of the set's kernels: functions under a bare ``@cuda.jit``."""
    for file in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "cuda.jit" in map(ast.unparse, node.decorator_list):
                yield node.name


def test_the_table_has_every_kernel_with_both_packages_and_for_every_target_within_the_limits():
    assert set(RECORDED) == set(package.SUPPORTED)
    names = sorted(kernels_defined())
    for name, found in RECORDED.items():
        for target in cuda_kernels.TARGETS:
            there = {row["kernel"] for row in found["rows"] if row["target"] == target}
            assert sorted(there) == names, f"{name}, {target}. Fix: python benchmarks/cuda_kernels.py --record"
        wrong = [f"{name}, {row['target']}, {row['kernel']}: {p}" for row in found["rows"] for p in problems(row)]
        assert not wrong, "\n".join(wrong)


def test_the_page_shows_the_recorded_figures():
    page = (report.RESULTS / f"{cuda_kernels.NAME}.md").read_text(encoding="utf-8")
    assert cuda_kernels.markdown(RECORDED) in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stack": 8}, "8 bytes of stack, 0 of spills"),
        ({"spills": 4}, "0 bytes of stack, 4 of spills"),
        ({"float64": True}, "float64 instructions"),
        ({"shared": 49_153}, "49153 bytes of static shared memory"),
        ({"registers": 255, "threads": 512}, "255 registers times 512 threads do not fit on a multiprocessor"),
        ({"threads": 1056}, "32 registers times 1056 threads do not fit on a multiprocessor"),
        ({"float64": True, "kernel": "_accumulate"}, None),
    ],
)
def test_a_figure_beyond_its_limit_is_found(change, message):
    row = {"kernel": "k", "stack": 0, "spills": 0, "float64": False, "shared": 49_152, "registers": 32, "threads": 1024}
    assert list(problems(row)) == []
    assert list(problems(row | change)) == ([message] if message else [])


@compiler
@pytest.mark.parametrize(
    "target", [pytest.param(t, marks=[] if t == "sm_90" else pytest.mark.slow) for t in cuda_kernels.TARGETS]
)
def test_every_kernel_compiles(target):
    """Where the versions are the recorded ones, to the recorded figures. A kernel that has changed since it was
    recorded shows on any target; so one is enough for every day."""
    rows = [cuda_kernels.measure(launch, target) for launch in cuda_kernels.launches()]
    wrong = [f"{row['kernel']}: {problem}" for row in rows for problem in problems(row)]
    assert not wrong, "\n".join(wrong)
    recorded = RECORDED[package.NAME]
    if recorded["versions"] == cuda_kernels.versions():
        assert rows == [row for row in recorded["rows"] if row["target"] == target]


def imported(file):
    """The names of the modules that a file imports, in statements and by name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant))


def of_cuda(name):
    return bool(re.match(r"numba\.cuda\b|numba_cuda", str(name)))


@pytest.mark.long
def test_one_module_alone_imports_either_package():
    assert of_cuda("numba_cuda_mlir.cuda")
    assert of_cuda("numba.cuda.simulator")
    assert not of_cuda("numba.config")
    root = FOLDER.parent.parent
    files = [*root.rglob("*.py"), *(root.parent / "benchmarks").rglob("*.py")]
    found = {file for file in files if any(map(of_cuda, imported(file)))}
    assert found == {Path(package.__file__)}
