"""``tinyconv warmup``: compile the kernels now, so that no training has to wait for it."""

import argparse
import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv import kernels
from tinyconv.commands import course
from tinyconv.commands.common import Result, say

SAMPLES, BATCH = 300, 128  # two whole batches and a smaller one
FAMILIES = ("x86-64-v3", "x86-64-v4")  # importing the CPU kernels, which know more of them, takes a second


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument("--backend", choices=("cpu", "cuda"), default="cpu", help="whose kernels to compile (cpu)")
    command.add_argument(
        "--for",
        dest="families",
        nargs="+",
        choices=FAMILIES,
        default=[],
        metavar="FAMILY",
        help="compile the CPU kernels for other machines, and put them beside the sources, for a wheel or an image: "
        f"{', '.join(FAMILIES)} (with AVX2, with AVX-512)",
    )


def run(options: argparse.Namespace) -> Result:
    say(options, "Compiling ...")
    start = time.perf_counter()
    result: Result = {"backend": options.backend}
    if options.families:
        if options.backend != "cpu":
            raise ValueError("--for is for the CPU kernels. Expected: --backend cpu. Received: --backend cuda.")
        result |= {"files": {family: _ship(family) for family in options.families}}
        for family, files in result["files"].items():
            say(options, f"{files['count']} kernels for {family} in {files['folder']}: {files['bytes'] / 1e6:.1f} MB.")
    else:
        result |= {"functions": _compile(options.backend)}
        say(options, f"{result['functions']} functions compiled, the others were there already.")
    result |= {"seconds": time.perf_counter() - start}
    say(options, f"It took {result['seconds']:.1f} s.")
    return result


def _compile(backend: str) -> int:
    """Compile what the course's networks need on this machine; on a GPU their steps run for it. Returns how many
    functions were not there yet."""
    kernel_set: Any = kernels.load(backend)
    only: Any = getattr(kernel_set, "compiling_only", contextlib.nullcontext)
    watch: Any = getattr(kernel_set, "compile_watch", contextlib.nullcontext)
    with watch() as found, only():
        for model, optimizer, loss in course.networks():
            train(model, optimizer, loss, backend)
    return len(getattr(found, "functions", ()))


def _ship(family: str) -> Result:
    """Compile for a family of processors, in a process that takes this one for such, and put the files where the cache
    looks for what came with the installation."""
    from tinyconv.kernels.cpu.runtime import shipped

    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise RuntimeError(f"Kernels for {family} are compiled on x86-64. This is {platform.machine()}.")
    folder = shipped.FOLDER / family
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()  # what cannot be written fails now, not after a minute
    with tempfile.TemporaryDirectory() as cache:
        asked = {"NUMBA_CPU_NAME": family, "NUMBA_CPU_FEATURES": shipped.FAMILIES[family].settings}
        start = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _compile; _compile('cpu')"
        command = [sys.executable, "-c", start]
        done = subprocess.run(
            command, env={**os.environ, **asked, "NUMBA_CACHE_DIR": cache}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"The kernels could not be compiled for {family}: {done.stderr.strip()[-2000:]}")
        for old in folder.iterdir():
            old.unlink()
        sizes = [shutil.copyfile(file, folder / file.name).stat().st_size for file in Path(cache).rglob("*.nbc")]
    return {"folder": str(folder), "count": len(sizes), "bytes": sum(sizes)}


def train(model: Any, optimizer: Any, loss: str, backend: str) -> None:
    """Train, evaluate and predict, for a step of each kind; the numbers mean nothing."""
    x: Any = np.zeros((SAMPLES, *model.input_shape[1:]), np.float32)
    y: Any = np.arange(SAMPLES) % 10
    if loss == "categorical_crossentropy":
        y = np.eye(10, dtype=np.float32)[y]
    elif loss != "sparse_categorical_crossentropy":
        y = np.zeros((SAMPLES, 1), np.float32)
    model.compile(optimizer, loss, metrics=["accuracy"], backend=backend)
    model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0, validation_data=(x, y))
    for batch in (1, 32, 256):
        model.predict(x[:batch], batch_size=batch, verbose=0)
