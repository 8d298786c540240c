"""On a real GPU: ``pytest -m gpu``. Parity on full shapes, repeatability, graphs, accuracy, and the sanitizer.

Skipped where there is none; the simulator, the offline compiler and the fake driver test the same kernels there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyconv
from tests import sanitize
from tests.cuda_sim.compare import Work, compare, floats, nothing
from tinyconv import layers
from tinyconv.kernels import cuda
from tinyconv.kernels.cuda.runtime import device, memory

USABLE, REASON = device.available()
ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not USABLE or device.SIMULATED, reason=f"no GPU: {REASON}"),
]


def mnist_network(seed=0, dropout=0.5):
    tinyconv.utils.set_random_seed(seed)
    model = tinyconv.Sequential(
        [
            tinyconv.Input(shape=(28, 28, 1)),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return model


def compiled(backend="cuda", **options):
    model = mnist_network(**options)
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"], backend=backend)
    return model


def digits(samples):
    (x, y), test = tinyconv.datasets.mnist.load_data()
    return x[:samples, ..., np.newaxis].astype(np.float32) / 255, y[:samples], test


def test_the_simulators_tests_on_the_device():
    files = [f"tests/cuda_sim/{name}.py" for name in ("families", "convolutions", "training")]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# image (N, H, W, C), filters (KH, KW, F), strides, padding, dilation, size of the output
SHAPES = {
    "MNIST 1": ((128, 28, 28, 1), (3, 3, 32), (1, 1), (0, 0), (1, 1), (26, 26)),
    "MNIST 2": ((128, 13, 13, 32), (3, 3, 64), (1, 1), (0, 0), (1, 1), (11, 11)),
    "64 -> 64 same": ((32, 32, 32, 64), (3, 3, 64), (1, 1), (1, 1), (1, 1), (32, 32)),
    "7 x 7, stride 2": ((8, 64, 64, 3), (7, 7, 64), (2, 2), (2, 2), (1, 1), (32, 32)),
    "odd channels, dilated": ((16, 17, 19, 37), (5, 3, 53), (1, 1), (4, 2), (2, 2), (17, 19)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_convolutions_of_full_size(case):
    x_shape, (KH, KW, F), strides, padding, dilation, (OH, OW) = SHAPES[case]
    random = np.random.default_rng(1)
    N, _, _, C = x_shape
    x, w, b = floats(random, *x_shape), floats(random, KH, KW, C, F) / (KH * KW * C) ** 0.5, floats(random, F)
    dout = floats(random, N, OH, OW, F)
    geometry = strides, padding, dilation
    work = Work("conv2d_workspace", dout.shape, x.shape, w.shape, *geometry)
    compare("conv2d_forward", nothing(N, OH, OW, F), x, w, b, work, *geometry, True, tolerance=1e-5)
    outputs = nothing(*x.shape), nothing(*w.shape), nothing(F)
    compare("conv2d_backward", *outputs, dout, x, w, work, *geometry, tolerance=1e-4)


@pytest.mark.parametrize(("size", "C", "F"), [(28, 1, 32), (13, 32, 64), (30, 5, 40)])
def test_fused_steps_of_full_size(size, C, F):
    random = np.random.default_rng(2)
    N, P = 128, (size - 2) // 2
    shape = N, P, P, F
    x, w, b = (random.integers(-2, 3, s).astype(np.float32) for s in ((N, size, size, C), (3, 3, C, F), (F,)))
    work = Work("conv2d_relu_max_pool2d_workspace", shape, x.shape, w.shape, (0, 0))
    argmax = np.full(shape, 9, np.int8)
    _, argmax, *_ = compare("conv2d_relu_max_pool2d_forward", nothing(*shape), argmax, x, w, b, work, (0, 0))
    dout = floats(random, *shape) * (random.random(shape) < 0.3)
    outputs = nothing(*x.shape), nothing(*w.shape), nothing(F)
    arguments = *outputs, dout, argmax, x, w, work, (0, 0), 2.0
    compare("conv2d_relu_max_pool2d_backward", *arguments, tolerance=1e-4)


def test_training_follows_the_cpu():
    x, y, _ = digits(1000)
    histories = [compiled(b, dropout=0.5).fit(x, y, batch_size=128, verbose=0).history for b in ("cuda", "cpu")]
    for name in histories[1]:
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-4)


def weights_after(epochs=2, samples=1000):
    x, y, _ = digits(samples)
    model = compiled()
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    return b"".join(w.tobytes() for w in model.get_weights())


def test_same_seed_same_bits():
    assert weights_after() == weights_after()


def test_replaying_a_graph_gives_the_bits_of_eager_launches(monkeypatch):
    replayed = weights_after()

    def refuse(launch_all):
        raise RuntimeError("refused by the test")

    monkeypatch.setattr(memory, "_captured", refuse)
    assert weights_after() == replayed


def test_fifteen_epochs_reach_99_percent():
    x, y, (test_x, test_y) = digits(60_000)
    model = compiled()
    model.fit(x, y, batch_size=128, epochs=15, validation_split=0.1, verbose=0)
    _, accuracy = model.evaluate(test_x[..., np.newaxis].astype(np.float32) / 255, test_y, verbose=0)
    assert accuracy >= 0.990


@pytest.mark.parametrize("framework", ["torch", "cupy"])
def test_arrays_of_other_frameworks_are_taken_without_a_copy(framework):
    module = pytest.importorskip(framework)
    if framework == "torch":
        if not module.cuda.is_available():
            pytest.skip("this PyTorch has no CUDA")
        x = module.arange(6, dtype=module.float32, device="cuda").reshape(2, 3)
        place = x.data_ptr()
    else:
        x = module.arange(6, dtype="float32").reshape(2, 3)
        place = x.data.ptr
    array = cuda.as_device_array(x)
    assert array.__cuda_array_interface__["data"][0] == place
    host = np.empty((2, 3), np.float32)
    cuda.download(host, array)
    assert host.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_training_is_clean_under_the_sanitizer(tool):
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("compute-sanitizer is not installed")
    command = sanitize.command(tool, sanitize.TRAINING)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
