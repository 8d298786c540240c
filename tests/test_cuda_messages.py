"""What a user hears who asks for CUDA where it cannot be had, on any machine and without Numba's CUDA packages."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinyconv.kernels.cuda.runtime import package

ROOT = Path(__file__).parent.parent

WITHOUT_THE_PACKAGE = """
import importlib.util, sys
import tinyconv
found = importlib.util.find_spec
packages = "numba_cuda", "numba_cuda_mlir"
importlib.util.find_spec = lambda name, *rest: None if name in packages else found(name, *rest)
"""


def run(code, **settings):
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0", "TINYCONV_CUDA_PACKAGE": "", **settings}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_numba_cuda_compile_or_the_first_use_says_what_to_install():
    code = """
model = tinyconv.Sequential([tinyconv.Input((4,)), tinyconv.layers.Dense(1)])
try:
    model.compile(loss="mse", backend="cuda")
    model.predict([[1.0, 2.0, 3.0, 4.0]])
except RuntimeError as error:
    print(error)
"""
    assert run(WITHOUT_THE_PACKAGE + code) == (
        'backend="cuda" cannot be used here: the package numba-cuda (or its successor numba-cuda-mlir) is not '
        "installed. "
        "Fix: pip install 'tinyconv[cuda]', or use backend=\"cpu\".\n"
    )


def test_available_says_why_not_and_never_raises():
    code = "from tinyconv.kernels.cuda.runtime import device\nprint(device.available())"
    assert "the package numba-cuda (or its successor numba-cuda-mlir) is not installed" in run(
        WITHOUT_THE_PACKAGE + code
    )
    failing = "device._problem = lambda: 1 / 0\nprint(device.available())"
    assert "the CUDA driver failed: division by zero." in run(
        f"from tinyconv.kernels.cuda.runtime import device\n{failing}"
    )


@pytest.mark.long
def test_without_numbas_cuda_target_loading_says_what_to_install():
    code = """
import sys
sys.modules["numba.cuda"] = None
from tinyconv import kernels
try:
    kernels.load("cuda")
except RuntimeError as error:
    print(error)
"""
    assert "the package numba-cuda (or its successor numba-cuda-mlir) is not installed" in run(
        WITHOUT_THE_PACKAGE + code
    )


BOTH = {"numba-cuda": "0.30.4", "numba-cuda-mlir": "0.6.0"}
OLD = {"numba-cuda": "0.24.0", "numba-cuda-mlir": "0.10.0"}


@pytest.mark.parametrize(
    ("versions", "wanted", "chosen"),
    [
        (BOTH, "", "numba-cuda-mlir |"),
        (BOTH, "numba-cuda", "numba-cuda |"),
        (BOTH, "numba-cuda-mlir", "numba-cuda-mlir |"),
        ({"numba-cuda": "0.30.9"}, "", "numba-cuda |"),
        (BOTH | {"numba-cuda-mlir": "0.7.0"}, "", "numba-cuda |"),
        (OLD, "", "| numba-cuda-mlir has version 0.10.0. Expected 0.6.*. Fix: pip install 'tinyconv[cuda-mlir]'"),
        (OLD, "numba-cuda", "| numba-cuda has version 0.24.0. Expected 0.30.*. Fix: pip install 'tinyconv[cuda]'"),
        ({"numba-cuda": "0.30.4"}, "numba-cuda-mlir", "| the package numba-cuda-mlir is not installed. Fix: pip ins"),
        (BOTH, "numba", "| TINYCONV_CUDA_PACKAGE names an unknown package. Expected 'numba-cuda' or 'numba-cuda-mli"),
    ],
)
def test_the_package_is_what_is_installed_and_what_the_environment_names(monkeypatch, versions, wanted, chosen):
    monkeypatch.setenv("TINYCONV_CUDA_PACKAGE", wanted)
    monkeypatch.setattr(package, "SIMULATED", False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: versions.get(name.replace("_", "-")))
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    name, problem = package._chosen()
    assert f"{name} | {problem}".strip().startswith(chosen)


@pytest.mark.long
def test_a_package_that_cannot_be_imported_says_why():
    code = """
import importlib.metadata, importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: name == "numba_cuda_mlir" or found(name, *rest)
importlib.metadata.version = lambda name: "0.6.0"
sys.modules["numba_cuda_mlir.cuda"] = None
from tinyconv import kernels
try:
    kernels.load("cuda")
except RuntimeError as error:
    print(error)
"""
    printed = run(code)
    assert "the package numba-cuda-mlir cannot be imported: import of numba_cuda_mlir.cuda halted" in printed
    assert "Fix: pip install 'tinyconv[cuda-mlir]', or use backend=\"cpu\"." in printed


@pytest.mark.long
def test_the_successor_has_no_simulator():
    code = "from tinyconv.kernels.cuda import available; print(available()[1])"
    printed = run(code, NUMBA_ENABLE_CUDASIM="1", TINYCONV_CUDA_PACKAGE="numba-cuda-mlir")
    assert "numba-cuda-mlir has no simulator. Fix: unset NUMBA_ENABLE_CUDASIM or TINYCONV_CUDA_PACKAGE." in printed


def test_dlpack_describes_an_array_without_copying_it():
    import numpy as np

    from tinyconv.kernels.cuda.runtime import dlpack

    x = np.arange(12, dtype=np.float32).reshape(3, 4)[1:]
    description, owner = dlpack.describe(x, None, device_type=1)
    assert description["shape"] == (2, 4)
    assert description["typestr"] == "<f4"
    assert description["data"] == (x.ctypes.data, False)
    assert description["strides"] in (None, (16, 4))
    del owner
    with pytest.raises(TypeError, match="Received one on DLPack device type 1"):
        dlpack.describe(x, None)


def test_the_owner_of_a_dlpack_array_keeps_its_memory_until_it_is_gone():
    import weakref

    import numpy as np

    from tinyconv.kernels.cuda.runtime import dlpack

    class Tracked(np.ndarray):
        pass

    x = np.zeros(3, np.float32).view(Tracked)
    alive = weakref.ref(x)
    _, owner = dlpack.describe(x, None, device_type=1)
    del x
    assert alive() is not None
    del owner
    assert alive() is None
