"""What a whole process costs: its memory, its import, its first step."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import network, peers
from benchmarks.measure import Timing, interleave
from benchmarks.report import Result
from benchmarks.sections.session import BATCH, Session
from benchmarks.worker import ROOT

EXAMPLE = """
import runpy
import sys
from benchmarks.measure import peak_memory
sys.argv = ["examples/mnist.py", "--epochs=1", "--report=", "--backend={backend}"]
runpy.run_path(sys.argv[0], run_name="__main__")
print(peak_memory())
"""


def memory(s: Session) -> list[Result]:
    """The most memory that the example takes, and that the same training takes in Keras. One run each."""
    mib = 2**20
    found = {}
    if not s.quick:
        found["tinyconv"] = int(python(EXAMPLE.format(backend=s.backend))[-1]) / mib
    for contender in (peers.TINYCONV, peers.KERAS_TENSORFLOW):
        if contender.name not in found and contender in [peers.TINYCONV, *s.contenders]:
            with s.start(contender, keep_memory=False) as worker:
                worker.call("load", folder=str(s.folder))
                samples = s.samples(network.TRAINING_SAMPLES)
                worker.call("train", samples=samples, batch_size=BATCH)
                worker.call("outputs", samples=min(samples, 10_000))
                found[contender.name] = worker.call("peak_memory") / mib
    ours, theirs = found["tinyconv"], found.get(peers.KERAS_TENSORFLOW.name)
    if theirs is None:
        return [Result("memory", "peak memory of the example", ours, "MB")]
    columns = f"{ours:.0f} MB", f"Keras on TensorFlow {theirs:.0f} MB"
    return [Result("memory", "peak memory of the example", 100 * ours / theirs, "%", 50, True, *columns)]


def python(code: str, environment: dict[str, str] | None = None, root: Path | None = None) -> list[str]:
    """Run some Python in a process of its own, with the tinyconv of a folder (this one's), and return the lines that it
    prints."""
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root or ROOT), str(ROOT)]), **(environment or {})}
    settings.pop("PYTHONDONTWRITEBYTECODE", None)  # others' modules have been compiled by pip
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root or ROOT, env=settings, check=True, capture_output=True, text=True
    ).stdout.splitlines()


def imports(s: Session) -> list[Result]:
    """``import tinyconv``, against importing what it depends on."""

    def turn(modules: str) -> float:
        code = f"import time; start = time.perf_counter(); import {modules}; print(time.perf_counter() - start)"
        return float(python(code)[-1])

    for modules in ("tinyconv", "numpy, numba"):
        turn(modules)  # from the disk, once
    times = interleave({m: lambda m=m: turn(m) for m in ("tinyconv", "numpy, numba")}, s.rounds)
    ours, theirs = times["tinyconv"], times["numpy, numba"]
    value = 1000 * (ours.median - theirs.median)
    seconds = {name: timing.seconds for name, timing in times.items()}
    work, columns = "import tinyconv, over numpy and numba", (str(ours), f"numpy and numba {theirs}")
    return [Result("import", work, value, "ms", 50, True, *columns, seconds)]


FIRST_STEP = """
import time
import numpy as np
import tinyconv
from benchmarks import network
model = network.keras_model(tinyconv)
model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"], backend={backend!r})
x, y = np.zeros((128, 28, 28, 1), np.float32), np.eye(10, dtype=np.float32)[np.arange(128) % 10]
start = time.perf_counter()
model.fit(x, y, batch_size=128, epochs=1, verbose=2)
print(time.perf_counter() - start)
"""


def first_step(s: Session) -> list[Result]:
    """The first training step of a process: with an empty compile cache and with a full one; and with an empty one
    where the installation carries machine code for processors like this."""
    from tinyconv.kernels.cpu.runtime import shipped

    code = FIRST_STEP.format(backend=s.backend)
    announced = []

    def turn(carrier: Path | None) -> tuple[float, float, float]:
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (python(code, {"NUMBA_CACHE_DIR": cache}) for _ in range(2))
        announced.append(any("ompil" in line for line in cold))
        with tempfile.TemporaryDirectory() as cache:
            carried = python(code, {"NUMBA_CACHE_DIR": cache}, carrier) if carrier else ["nan"]
        if any("ompil" in line for line in carried):
            raise RuntimeError(f"Something was compiled in spite of the machine code that is there: {carried}")
        return float(cold[-1]), float(warm[-1]), float(carried[-1])

    family = shipped.family_here()
    with tempfile.TemporaryDirectory() as folder:
        carrier = _with_machine_code(Path(folder), family) if family and s.backend == "cpu" and not s.quick else None
        cold, warm, carried = (Timing(times) for times in zip(*(turn(carrier) for _ in range(s.rounds)), strict=True))
    said = "announced" if all(announced) else "not announced"
    works = [("first step, warm cache", warm, 2), (f"first step, cold cache ({said})", cold, 6)]
    if carrier:
        works.append((f"first step, machine code shipped for {family}", carried, 1))
    return [
        Result("first step", work, times.median, "s", target, True, str(times), seconds={work: times.seconds})
        for work, times, target in works
    ]


def _with_machine_code(folder: Path, family: str) -> Path:
    """An installation in that folder that carries its kernels compiled for a family of processors."""
    shutil.copytree(ROOT / "tinyconv", folder / "tinyconv", ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    python(f"from tinyconv.__main__ import main; main(['warmup', '--for', {family!r}])", root=folder)
    return folder
