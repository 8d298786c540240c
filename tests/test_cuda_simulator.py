"""Every CUDA kernel against the reference, in Numba's simulator: no GPU, no driver, in processes of their own.

Each launch is also watched for races (``tests/cuda_sim/races.py``), which "planted" shows to be found. The simulator is
chosen when numba is imported, so it cannot run in this process. ``tests/cuda_sim`` holds the tests;
``NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/cuda_sim/families.py`` runs one of its files by hand.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.strategies import few

ROOT = Path(__file__).parent.parent


def in_the_simulator(*arguments):
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTEST_ADDOPTS": "", "PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_XDIST")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", few(["planted", "families", "convolutions", "training"]))
def test_kernels_in_the_simulator(file):
    done = in_the_simulator("-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", f"tests/cuda_sim/{file}.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_the_simulator_counts_as_usable():
    done = in_the_simulator("-c", "from tinyconv.kernels.cuda import available; print(available())")
    assert done.stdout.strip() == """(True, "Numba's CUDA simulator")""", done.stderr
