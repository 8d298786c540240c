"""Everything around the CUDA kernels on a machine without a GPU: memory, launches, graphs, and what goes wrong.

Needs the extra ``cuda`` and a C compiler. ``tests/fake_cuda/driver.c`` becomes a CUDA driver whose kernels do nothing
and which writes down what it is asked for; each test runs a few lines of Python on it, in a process of their own.
"""

import collections
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinyconv.kernels.cuda.runtime import package

ROOT = Path(__file__).parent.parent
COMPILER = shutil.which("cc") or shutil.which("gcc")

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fake driver is a Linux library"),
    pytest.mark.skipif(COMPILER is None, reason="a C compiler builds the fake driver"),
    pytest.mark.skipif(not package.NAME, reason=package.PROBLEM or "the simulator needs no driver"),
]

FIT = """
import numpy as np
import tinyconv
from tinyconv import layers

model = tinyconv.Sequential([
    tinyconv.Input(shape=(28, 28, 1)),
    layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2),
    layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2),
    layers.Flatten(), layers.Dropout(0.5), layers.Dense(10, activation="softmax"),
])
model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"], backend="cuda")
"""

# After a full batch and a ragged one, fits of whole batches, of which the last has five times as many steps.
FITS = """
import sys

for samples, epochs in ((10, 3), (8, 2), (40, 2)):
    x, y = np.zeros((samples, 28, 28, 1), np.float32), np.zeros(samples, np.int64)
    print("driver: fit", file=sys.stderr)
    model.fit(x, y, batch_size=4, epochs=epochs, verbose=0)
"""

# Without what takes long to compile.
DENSE = """
import numpy as np
import tinyconv

model = tinyconv.Sequential([tinyconv.Input(shape=(6,)), tinyconv.layers.Dense(2, activation="softmax")])
model.compile(loss="sparse_categorical_crossentropy", optimizer="sgd", backend="cuda")
x, y = np.zeros((10, 6), np.float32), np.zeros(10, np.int64)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The fake driver, compiled."""
    path = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    source = ROOT / "tests" / "fake_cuda" / "driver.c"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-w", "-o", path, source, "-ldl"], check=True)
    return path


@pytest.fixture(scope="module")
def on_driver(library):
    """Run Python code on the fake driver: (what it printed, what the driver was asked for)."""

    def run(code, **settings):
        paths = {"LD_LIBRARY_PATH": str(library.parent), "FAKE_LIBRARY": str(library), "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0", **paths, **settings}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        log = [line.removeprefix("driver: ") for line in lines if line.startswith("driver: ")]
        return done.stdout, log, [line for line in lines if not line.startswith("driver: ")]

    return run


@pytest.fixture(scope="module")
def fits(on_driver):
    """What the driver was asked for in each of the fits, and what else was said."""
    _, log, rest = on_driver(FIT + FITS)
    begins = [place for place, line in enumerate(log) if line == "fit"]
    return [log[begin + 1 : end] for begin, end in zip(begins, [*begins[1:], len(log)], strict=True)], rest


def count(log):
    """How often the driver was asked for what."""
    return collections.Counter(line.split()[0] for line in log)


def test_allocate_upload_download_and_empty_arrays(on_driver):
    code = """
import numpy as np
from tinyconv import kernels
cuda = kernels.load("cuda")
array = cuda.allocate((2, 3), np.float32)
host = np.empty((2, 3), np.float32)
cuda.download(host, array)
assert not host.any()
cuda.upload(array, np.arange(6).reshape(2, 3))
part = array.reshape(6)[2:4].reshape((2, 1))
host = np.empty((2, 1), np.float32)
cuda.download(host, part)
assert host.tolist() == [[2], [3]]
nothing = cuda.allocate((0,), np.float32)
assert nothing.size == 0 and nothing[:0].reshape((0, 0, 0, 0)).shape == (0, 0, 0, 0)
cuda.activation_forward(nothing, nothing, "relu", ())
print(cuda.as_device_array(array).shape)
"""
    printed, log, rest = on_driver(code)
    assert printed == "(2, 3)\n"
    assert not any("launch" in line for line in log)
    assert rest == []


def test_a_step_is_launched_once_then_captured_then_replayed(fits):
    (log, *_), rest = fits
    kinds = count(log)
    graphs = [int(re.search(r"\d+", line).group()) for line in log if line.startswith("graph of")]
    assert len(graphs) == 2  # a full batch and the ragged last one
    assert kinds["capture"] == sum(graphs)
    assert kinds["launch"] == sum(graphs)  # the first run of each, which compiles
    assert kinds["replay"] == 9  # every step: the launches were to warm up
    assert not any(re.search("while capturing|default stream|not been joined", line) for line in log)
    assert rest == []


def test_what_may_run_at_the_same_time_is_captured_from_both_streams_and_joined(on_driver):
    code = """
from functools import partial
import numpy as np
from tinyconv.kernels import cuda
from tinyconv.kernels.cuda.runtime.device import together

array = cuda.allocate((4,), np.float32)
add, multiply = (partial(kernel, array, array, array) for kernel in (cuda.add_forward, cuda.multiply_forward))
run = cuda.record([(together, (add, partial(together, multiply, multiply)))])
for _ in range(3):
    run()
"""
    _, log, rest = on_driver(code)
    assert rest == []
    assert [line.split(" _Z")[0] for line in log[1:]] == [
        *("launch", "launch", "launch", "capture", "capture", "capture"),
        *("graph of 3 launches", "replay 3 launches", "replay 3 launches"),
    ]


def test_numbas_warning_of_a_small_grid_is_not_shown_in_colour_either(on_driver):
    code = """
import warnings
from tinyconv.kernels import cuda
words = "Grid size 5 will likely result in GPU under-utilization due to low occupancy."
for message in (words, f"\\x1b[1m{words}\\x1b[0m"):  # as where colorama is installed
    warnings.warn(message)
"""
    assert on_driver(code)[2] == []


def test_training_allocates_and_copies_nothing_per_step(fits):
    (_, *logs), _ = fits
    few, many = map(count, logs)
    for kind in ("allocate", "upload", "download"):
        assert 0 < many[kind] <= few[kind]
    assert many["allocate"] == 3  # the new data set: samples, labels, order
    assert few["replay"] == 3  # warm already: the first step of a fit is launched
    assert many["replay"] == 19


def test_without_graphs_every_kernel_is_launched_and_one_line_says_so(on_driver):
    fit = DENSE + "model.fit(x, y, batch_size=5, epochs=2, verbose=2)"
    printed, log, rest = on_driver(fit, FAKE_NO_GRAPHS="1")
    assert not any(line.startswith("replay") for line in log)
    assert sum("gather_rows" in line for line in log) == 5  # one to warm up
    assert "Running on: CUDA, Fake GPU." in printed
    assert "Compiling the kernels for this machine ..." in printed
    assert re.search(r"Compiled [1-9]\d* functions in \d+\.\d s\.", printed)
    assert len([line for line in rest if "CUDA graphs cannot be used here" in line]) == 1


def test_what_other_threads_launch_is_not_recorded(on_driver):
    code = """
import threading
import numpy as np
from tinyconv.kernels import cuda

array = cuda.allocate((4,), np.float32)
cuda.activation_forward(array, array, "relu", ())


def beside():
    other = threading.Thread(target=cuda.activation_forward, args=(array, array, "relu", ()))
    other.start()
    other.join()


run = cuda.record([(cuda.activation_forward, (array, array, "relu", ())), (beside, ())])
for _ in range(3):
    run()
"""
    _, log, rest = on_driver(code)
    assert rest == []
    assert [line.split(" _Z")[0] for line in log[1:]] == [
        *("launch", "launch", "launch"),  # outside, and the first run
        *("capture", "launch", "graph of 1 launches", "replay 1 launches"),
        "replay 1 launches",
    ]


def test_the_benchmark_runs_to_its_end(on_driver, tmp_path):
    code = f"""
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else found(name, *rest)
sys.modules["jax"] = None
from benchmarks import train_gpu
train_gpu.Tinyconv.accuracy = lambda *_: accuracy  # kernels that do nothing learn nothing
accuracy = 0.5
assert train_gpu.main(["--samples", "300"]) == 1
accuracy = 0.99
assert train_gpu.main(["--samples", "300", "--rounds", "2", "--quick", "--out", {str(tmp_path / "results")!r}]) == 0
"""
    smi = tmp_path / "nvidia-smi"  # 100 MiB more each time it is asked
    smi.write_text(f'#!/bin/sh\necho x >> {tmp_path}/asked\nexpr 100 "*" $(wc -l < {tmp_path}/asked)\n')
    smi.chmod(0o755)
    printed, _, rest = on_driver(code, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert "PyTorch is not installed: left out." in rest
    assert "JAX is not installed: left out." in rest
    assert "tinyconv is left out: it does not learn, so that its times would mean nothing." in rest
    assert re.search(r"^\| tinyconv .* \| +1.00x \| +100 MiB \|$", printed, re.MULTILINE)
    assert re.search(r"conv2d_relu_max_pool2d_forward +\| +50.0 µs", printed)  # a millisecond over twenty runs
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"gpu-fake-gpu.md", "gpu-fake-gpu.json"}


AVAILABLE = "from tinyconv.kernels.cuda import available; print(available())"


def test_a_device_is_found_by_name(on_driver):
    assert on_driver(AVAILABLE)[0] == "(True, 'Fake GPU')\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"FAKE_NO_DEVICE": "1"}, "no GPU was found. Fix: make one visible (CUDA_VISIBLE_DEVICES)"),
        ({"FAKE_VERSION": "12040"}, "the NVIDIA driver is too old: it supports CUDA 12.4"),
        ({"NUMBA_DISABLE_CUDA": "1"}, "CUDA is switched off by NUMBA_DISABLE_CUDA=1. Fix: unset it."),
    ],
)
def test_what_keeps_the_gpu_from_being_used_is_said_before_any_training(on_driver, settings, message):
    printed, _, _ = on_driver(AVAILABLE, **settings)
    assert message in printed
    code = "import tinyconv.kernels as k\ntry: k.load('cuda')\nexcept RuntimeError as error: print(error)"
    printed, _, _ = on_driver(code, **settings)
    assert printed.startswith('backend="cuda" cannot be used here: ' + message)


def test_too_little_memory_is_said_with_what_is_free(on_driver):
    code = """
import numpy as np
from tinyconv.kernels import cuda
cuda.allocate((2**20,), np.float32)
try:
    cuda.allocate((4, 2**20), np.float32)
except RuntimeError as error:
    print(error)
"""
    printed, _, _ = on_driver(code, FAKE_MEMORY=str(10 * 2**20))
    assert printed == (
        "Not enough memory on Fake GPU: an array of shape (4, 1048576) needs 16 MiB, and 6 of 10 MiB are free. "
        'Fix: use a smaller batch_size, end other programs on the GPU, or use backend="cpu".\n'
    )


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver here")
def test_without_a_driver():
    code = [sys.executable, "-c", AVAILABLE]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "no NVIDIA driver was found. Fix: install the driver" in done.stdout
