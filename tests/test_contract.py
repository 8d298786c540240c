"""The contract between the plan and its kernels, the direction of imports, and the random numbers all sets share."""

import ast
import functools
import importlib
import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyconv
from tinyconv import kernels
from tinyconv.kernels import reference
from tinyconv.kernels.reference.activation import FORMULAS
from tinyconv.kernels.reference.dropout import keep_mask, philox

PACKAGE = Path(tinyconv.__file__).parent
KERNELS = PACKAGE / "kernels"
KERNEL_FILES = sorted(KERNELS.glob("*/**/*.py"))
SETS = [name for name in kernels.NAMES if (PACKAGE / "kernels" / name / "__init__.py").exists()]


def kernel_set(file):
    return file.relative_to(KERNELS).parts[0]


def signatures(name):
    """What the kernel set offers: each public function and the names of its arguments, in order."""
    program = f"""
import inspect, json
from tinyconv import kernels
module = kernels.load({name!r})
found = {{}}
for name in set(kernels.contract()) | set(kernels.MEMORY):
    function = getattr(module, name, None)
    found[name] = function and list(inspect.signature(getattr(function, "py_func", function)).parameters)
print(json.dumps(found))
"""
    environment = os.environ | ({"NUMBA_ENABLE_CUDASIM": "1"} if name == "cuda" else {})
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [name for name in SETS if name != "reference"])
def test_kernel_sets_have_equal_signatures(name):
    """The CUDA set is imported into the simulator, in its own process, so that this needs no GPU."""
    found = signatures(name)
    expected = {kernel: list(arguments) for kernel, arguments in kernels.contract().items()}
    assert {kernel: found[kernel] for kernel in expected} == expected
    for function in kernels.MEMORY:
        assert found[function] == list(inspect.signature(getattr(reference, function)).parameters), function


def test_the_contract_is_every_public_kernel_of_the_reference():
    defined = {function.name for file in KERNEL_FILES if kernel_set(file) == "reference" for function in public(file)}
    helpers = {"philox", "keep_mask", "keep_threshold"}  # the random numbers behind dropout, public to be read
    helpers |= {"padded", "patches", "tap"}  # the windows of a convolution
    helpers |= {"corners"}  # the pixels around a place
    helpers |= {formula.__name__ for formulas in FORMULAS.values() for formula in formulas}
    assert set(reference.__all__) == defined - helpers - set(kernels.MEMORY)
    assert reference.__all__ == sorted(reference.__all__)


@pytest.mark.parametrize("name", [name for name in SETS if name != "reference"])
def test_every_set_has_every_activation(name):
    """In the same order, value and gradient."""
    file = KERNELS / name / "activation.py"
    (table,) = (
        node.value
        for node in parsed(file).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FORMULAS"
    )
    found = {
        key.value: [each.id for each in value.elts[:2]] for key, value in zip(table.keys, table.values, strict=True)
    }
    expected = {kind: [formula.__name__ for formula in formulas] for kind, formulas in FORMULAS.items()}
    assert list(found.items()) == list(expected.items())


def test_an_unknown_kernel_set_is_named():
    with pytest.raises(ValueError, match=r"Expected one of 'reference', 'cpu', 'cuda'.*Received: 'gpu'"):
        kernels.load("gpu")


def public(file):
    """The functions at the top level of a file whose names do not start with an underscore."""
    tree = parsed(file)
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


@pytest.mark.parametrize("file", KERNEL_FILES, ids=lambda file: str(file.relative_to(KERNELS)))
def test_backward_follows_forward(file):
    """In every kernel file, so that a reader finds a layer's two halves next to each other."""
    names = [function.name for function in public(file) if function.name in reference.__all__]
    for position, name in enumerate(names):
        if name.endswith("_backward"):
            forward = name.removesuffix("_backward")
            assert names[position - 1] in (f"{forward}_forward", forward), f"{name} in {file}"


@pytest.mark.parametrize("file", KERNEL_FILES, ids=lambda file: str(file.relative_to(KERNELS)))
def test_kernel_sets_tell_their_story_in_the_same_order(file):
    """The order of the functions in each chapter of the reference is their order everywhere."""
    here = [function.name for function in public(file)]
    for told in (file for file in KERNEL_FILES if kernel_set(file) == "reference"):
        names = [function.name for function in public(told) if function.name in reference.__all__]
        assert [name for name in here if name in names] == [name for name in names if name in here]


@functools.cache
def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def imports(file, inside=True):
    """The tinyconv modules that a file imports, those for the type checker too; ``inside``: also within functions."""
    waiting, found = [parsed(file)], []
    while waiting:
        node = waiting.pop()
        if inside or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "tinyconv"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            if node.module.split(".")[0] == "tinyconv":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found += [name if is_module(name) else node.module for name in names]
    return found


def is_module(name):
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.parametrize("file", KERNEL_FILES, ids=lambda file: str(file.relative_to(KERNELS)))
def test_kernels_import_nothing_from_the_rest(file):
    own = f"tinyconv.kernels.{kernel_set(file)}"
    allowed = (own, "tinyconv.kernels.reference", "tinyconv.kernels.memory")
    for name in imports(file):
        assert name == "tinyconv.kernels" or name.startswith(allowed), f"{file} imports {name}"


# The rooms of the house, from the ground up. A room imports itself and what lies below it.
LEVELS = [
    {"checking"},
    {"kernels"},
    {"plan"},
    {"random", "activations", "initializers", "regularizers"},
    {"layers"},
    {"losses", "metrics", "optimizers"},
    {"network"},
    {"files"},
    {"callbacks"},
    {"distribution"},
    {"training"},
    {"trace"},
    {"models"},
    {"saving", "export", "inspect", "datasets", "utils"},
    {"tinyconv"},
    {"commands"},
    {"__main__"},
]
CPU = "tinyconv.kernels.cpu."
FLOORS = ["environment", "runtime", "registers", "convolution"]  # of the CPU kernels; above them the families
# The kernel set that a user names, and what the command line and set_threads load late, since it loads Numba.
LATE = {"__init__", "kernels/__init__"}


def room(module):
    return module.split(".")[1] if "." in module else "tinyconv"


def level(module):
    (found,) = (number for number, rooms in enumerate(LEVELS) if room(module) in rooms)
    return found


def floor(module):
    name = module.removeprefix(CPU).split(".")[0]
    return FLOORS.index(name) if name in FLOORS else len(FLOORS)


def module_of(file):
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_imports_go_strictly_downward():
    """From room to room, and in the CPU kernels from floor to floor; imports for the type checker included."""
    for file in PACKAGE.rglob("*.py"):
        here = module_of(file)
        for name in imports(file):
            assert level(name) < level(here) or room(name) == room(here), f"{here} imports {name}"
            if here.startswith(CPU) and name.startswith(CPU):
                assert floor(name) <= floor(here), f"{here} imports {name}"


def test_no_file_imports_itself_by_way_of_others():
    graph = {module_of(file): set(imports(file)) for file in PACKAGE.rglob("*.py")}
    for module in graph:
        assert module not in reachable(graph, module), f"{module}: {reachable(graph, module)}"


def test_imports_stand_at_the_top():
    """But those of optional packages, which are not tinyconv's."""
    for file in PACKAGE.rglob("*.py"):
        if str(file.relative_to(PACKAGE).with_suffix("")) not in LATE and file.parent.name != "commands":
            late = set(imports(file)) - set(imports(file, inside=False))
            assert not late, f"{module_of(file)} imports {late} in a function"


def reachable(graph, module):
    """Everything a module imports, directly and through others."""
    found, waiting = set(), [module]
    while waiting:
        for needed in graph.get(waiting.pop(), ()):
            if needed not in found:
                found.add(needed)
                waiting.append(needed)
    return found


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, 0xFFFFFFFF_FFFFFFFF, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0_A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    """From the known-answer file of Random123, the authors' own implementation (philox4x32, 10 rounds)."""
    words = philox(*counter, key)
    assert " ".join(f"{int(word):08x}" for word in words) == expected


def masks(seed=1, layer=0, rate=0.5, samples=64, units=1001, step=0, first=0):
    return keep_mask((samples, units), np.array([step, 0, first]), seed, layer, rate)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_dropout_mask_has_its_rate(rate):
    """Over all units, over each unit's column and over each sample's row, within five standard deviations."""
    mask = masks(rate=rate, samples=1000)
    deviation = math.sqrt(rate * (1 - rate))
    assert abs(mask.mean() - (1 - rate)) <= 5 * deviation / math.sqrt(mask.size)
    for axis in (0, 1):
        assert np.abs(mask.mean(axis=axis) - (1 - rate)).max() <= 5 * deviation / math.sqrt(mask.shape[axis])


@pytest.mark.parametrize("other", [{"seed": 2}, {"layer": 1}, {"step": 1}, {"first": 64}, {"seed": 1 + 2**32}])
def test_dropout_masks_are_independent(other):
    """Two masks that differ in one part of their key agree in as many places as chance makes them."""
    agree = (masks() == masks(**other)).mean()
    assert abs(agree - 0.5) < 5 * 0.5 / math.sqrt(64 * 1001)


def test_dropout_mask_belongs_to_the_sample():
    """Not to its batch: sample 40 has the same mask in a batch that starts with it, and in a shorter layer."""
    whole = masks()
    np.testing.assert_array_equal(masks(samples=24, first=40), whole[40:])
    np.testing.assert_array_equal(masks(units=333), whole[:, :333])
    assert not np.array_equal(whole[0], whole[1])


@pytest.mark.parametrize(("name", "dtype"), [("reference", np.float64), ("reference", np.float32), ("cpu", np.float32)])
def test_dropout_keeps_the_expectation(name, dtype):
    """What lives is multiplied by 1 / (1 - rate), what does not is exactly zero; and every set draws the same mask."""
    module = importlib.import_module(f"tinyconv.kernels.{name}")
    x = np.ones((64, 1001), dtype)
    out, counters = np.empty_like(x), np.array([3, 0, 128], np.int64)
    module.dropout_forward(out, x, counters, 99, 4, 0.25)
    expected = np.where(keep_mask(x.shape, counters, 99, 4, 0.25), dtype(1 / (1 - 0.25)), 0)
    np.testing.assert_array_equal(out, expected)
    assert abs(out.mean() - 1) < 5 * math.sqrt(0.25 / 0.75 / x.size)


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_memory_functions(name):
    """Arrays of zeros on a cache line, copies both ways, and a recorded list of calls that runs in order."""
    module = importlib.import_module(f"tinyconv.kernels.{name}")
    array = module.allocate((3, 5), np.float32)
    assert array.shape == (3, 5)
    assert array.dtype == np.float32
    assert array.ctypes.data % 64 == 0
    assert not array.any()
    module.upload(array, np.arange(15, dtype=np.float32).reshape(3, 5))
    host = np.empty((3, 5), np.float32)
    order = []
    run = module.record([(order.append, (1,)), (order.append, (2,))])
    run()
    run()
    module.synchronize()
    module.download(host, array)
    assert order == [1, 2, 1, 2]
    np.testing.assert_array_equal(host, np.arange(15).reshape(3, 5))


def test_no_function_is_longer_than_a_page():
    """60 lines, its docstring aside."""
    long = []
    for file in sorted(Path(tinyconv.__file__).parent.rglob("*.py")):
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.FunctionDef):
                told = (ast.get_docstring(node, clean=False) or "").count("\n") + bool(ast.get_docstring(node))
                if node.end_lineno - node.lineno + 1 - told > 60:
                    long.append(f"{file}:{node.lineno} {node.name}")
    assert not long
