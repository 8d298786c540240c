"""The sections of the comparison. Each function measures one, and returns its rows with their targets."""

import functools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import network, peers, report
from benchmarks.measure import Timing, interleave
from benchmarks.peers import Contender
from benchmarks.report import Result
from benchmarks.worker import ROOT, Worker

BATCH = 128
LEARNT = 0.3  # below this loss, chance may lead upwards again
PART = 6_000  # a ninth of the training images, with the same ragged last batch: 54,000 and 6,000 are both 112 mod 128


class Session:
    """The contenders' processes, each started when it is first needed, and checked to be correct before it is timed.

    Args:
        folder: where the training data is (see ``network.save_data``).
        contenders: the peers that take part; tinyconv always does.
        remarks: lines for the report.
        threads: the number of threads for each.
        rounds: the number of turns of each.
        quick: tiny amounts of work, to see that everything runs; the times mean nothing.
        backend: tinyconv's kernel set.
    """

    def __init__(
        self,
        folder: Path,
        contenders: Sequence[Contender],
        remarks: Sequence[str] = (),
        threads: int = 1,
        rounds: int = 5,
        quick: bool = False,
        backend: str = "cpu",
    ) -> None:
        self.folder, self.threads, self.rounds, self.quick, self.backend = folder, threads, rounds, quick, backend
        self.contenders, self.remarks = list(contenders), list(remarks)
        self.facts: dict[str, str] = {}
        self.finalists: list[Contender] = []
        self.trained: set[tuple[str, int]] = set()
        self.workers: dict[str, Worker] = {}
        self.expected = reference_outputs(folder)

    @property
    def trainers(self) -> list[Contender]:
        return [peer for peer in self.contenders if peer.trains]

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def remark(self, text: str) -> None:
        """A line for the report."""
        print(text, flush=True)
        self.remarks.append(text)

    def processor_seconds(self) -> float:
        """Processor time of this process and of all contenders so far."""
        return report.own_seconds() + sum(worker.call("processor_seconds") for worker in self.workers.values())

    def samples(self, count: int, quick: int = 256) -> int:
        return quick if self.quick else count

    def start(self, contender: Contender, keep_memory: bool = True) -> Worker:
        """A new process for a contender, with the data."""
        ours = {"backend": self.backend} if contender is peers.TINYCONV else {}
        worker = contender.start(self.threads, keep_memory, **ours)
        worker.call("load", folder=str(self.folder))
        return worker

    def worker(self, contender: Contender) -> Worker:
        """The contender's process. One that does not compute the same as the reference is not timed."""
        if contender.name not in self.workers:
            print(f"Starting {contender.name} ...", flush=True)
            worker = self.workers[contender.name] = self.start(contender)
            outputs = worker.call("outputs", samples=len(self.expected))
            np.testing.assert_allclose(outputs, self.expected, atol=1e-5, err_msg=contender.name)
            self.facts |= worker.call("facts")
        return self.workers[contender.name]

    def warm_up(self, contender: Contender, batch_size: int, samples: int) -> None:
        """Train on a few batches, twice: whatever compiles does so now, and the loss must fall."""
        if (contender.name, batch_size) in self.trained:
            return
        worker = self.worker(contender)
        some = min(samples, max(4, -(-512 // batch_size)) * batch_size + samples % batch_size)
        (first_time, first), (second_time, second) = (
            worker.call("train", samples=some, batch_size=batch_size) for _ in range(2)
        )
        if not (second < first or second < LEARNT):
            raise AssertionError(f"{contender.name} does not learn: its loss went from {first} to {second}.")
        if first_time - second_time > 1:
            compiling = first_time - second_time
            self.remark(f"{contender.name}, batch {batch_size}: {compiling:.1f} s to compile, before any clock ran")
        self.trained.add((contender.name, batch_size))

    def race(
        self, contenders: Iterable[Contender], turn: Callable[[Worker], float], rounds: int = 0
    ) -> dict[str, Timing]:
        """Each contender in turn, ``rounds`` times."""
        turns = {c.name: functools.partial(turn, self.worker(c)) for c in contenders}
        return interleave(turns, rounds or self.rounds)

    def train(
        self, contenders: Sequence[Contender], samples: int, batch_size: int, rounds: int = 0
    ) -> dict[str, Timing]:
        """Time a pass through the first ``samples`` images."""
        for contender in contenders:
            self.warm_up(contender, batch_size, samples)
        return self.race(contenders, lambda w: w.call("train", samples=samples, batch_size=batch_size)[0], rounds)


def reference_outputs(folder: Path, samples: int = 64) -> np.ndarray:
    """The correct outputs of the network, from the reference kernels."""
    import tinyconv

    model = network.keras_model(tinyconv)
    model.compile(loss="categorical_crossentropy", backend="reference")
    model.set_weights(network.weights())
    return model(network.load_data(str(folder))[0][:samples])


def against_fastest(section: str, work: str, times: dict[str, Timing], target: float) -> Result:
    """tinyconv's time against the fastest peer's."""
    ours = times[peers.TINYCONV.name]
    rest = {name: timing for name, timing in times.items() if name != peers.TINYCONV.name}
    seconds = {name: timing.seconds for name, timing in times.items()}
    if not rest:
        return Result(section, work, float("nan"), "x", None, ours=str(ours), theirs="no peer", seconds=seconds)
    name = min(rest, key=lambda n: rest[n].median)
    value = rest[name].median / ours.median
    return Result(section, work, value, "x", target, ours=str(ours), theirs=f"{name} {rest[name]}", seconds=seconds)


def epoch(s: Session) -> list[Result]:
    """One epoch. All qualify on a ninth of it; the full epoch is for those that may be the fastest."""
    part, whole = s.samples(PART), s.samples(network.TRAINING_SAMPLES)
    contenders = [peers.TINYCONV, *s.trainers]
    qualifying = s.train(contenders, part, BATCH)
    fastest = min((t.median for name, t in qualifying.items() if name != peers.TINYCONV.name), default=0)
    final = s.finalists = [c for c in contenders if c is peers.TINYCONV or qualifying[c.name].median < 1.3 * fastest]
    results = []
    for contender in contenders:
        if contender not in final:
            scaled = Timing(tuple(t * whole / part for t in qualifying[contender.name].seconds))
            work = f"an epoch of {contender.name}, from {part:,} images"
            times = {contender.name: scaled.seconds}
            results.append(Result("epoch", work, scaled.median, "s", theirs=str(scaled), seconds=times))
    before = {c.name: s.worker(c).call("processor_seconds") for c in final}
    times = s.train(final, whole, BATCH)
    for contender in final:
        timing = times[contender.name]
        used = (s.worker(contender).call("processor_seconds") - before[contender.name]) / s.rounds
        text = f"{timing}, {used:.1f} s of processor time"
        where = {"ours" if contender is peers.TINYCONV else "theirs": text}
        runs = {contender.name: timing.seconds}
        results.append(Result("epoch", f"an epoch of {contender.name}", timing.median, "s", **where, seconds=runs))
    return [against_fastest("epoch", f"training epoch, {whole:,} images, batch {BATCH}", times, 5.0), *results]


def conv(s: Session) -> list[Result]:
    """Each pass of each convolution, unfused, against PyTorch in its better memory format."""
    torch = [c for c in s.contenders if c in (peers.TORCH, peers.TORCH_CHANNELS_LAST)]
    contenders = [peers.TINYCONV, *torch]
    peak = sgemm_peak(s, contenders)
    raced: dict[tuple[network.Convolution, str], dict[str, Timing]] = {}
    shapes = [c._replace(N=2) for c in network.CONVOLUTIONS[:2]] if s.quick else network.CONVOLUTIONS
    for shape in shapes:
        check_convolution(s, shape, contenders)
        for what in network.PASSES:
            at_least = s.samples(100, 1) / 1000
            turn = functools.partial(convolve, shape=shape, what=what, at_least=at_least)
            raced[shape, what] = s.race(contenders, turn)
    peak = max(peak, sgemm_peak(s, contenders))  # before and after: processors change their clock
    results = []
    for (shape, what), times in raced.items():
        speed = shape.flops / times[peers.TINYCONV.name].median
        result = against_fastest("conv", f"{what}, {shape.name}", times, 0.8)
        share = f"{speed / 1e9:.0f} GFLOP/s, {100 * speed / peak:.0f} % of sgemm's peak"
        results.append(replace(result, ours=f"{result.ours}, {share}"))
    return conv_summary(s, results, shapes, peak) + results


def convolve(worker: Worker, **arguments: Any) -> float:
    """A turn of one pass of a convolution."""
    return worker.call("convolve", **arguments)


def conv_summary(s: Session, results: list[Result], shapes: Sequence[network.Convolution], peak: float) -> list[Result]:
    """The geometric mean, the slowest, and the smallest share of the peak where channels fill whole vectors."""
    lanes = int(s.facts.get("vector lanes", "16"))
    shares = {
        result.work: 100 * shape.flops / statistics.median(result.seconds[peers.TINYCONV.name]) / peak
        for result, shape in zip(results, (shape for shape in shapes for _ in network.PASSES), strict=True)
        if shape.C % lanes == 0 and shape.F % lanes == 0
    }
    rows = []
    if not np.isnan(results[0].value):
        mean, worst = statistics.geometric_mean(r.value for r in results), min(results, key=lambda r: r.value)
        rows.append(Result("conv", f"conv2d, geometric mean of {len(results)}", mean, "x", 1.0, theirs="PyTorch"))
        rows.append(Result("conv", f"conv2d, slowest: {worst.work}", worst.value, "x", 0.8, theirs="PyTorch"))
    if shares:
        low = min(shares, key=shares.__getitem__)
        middle = statistics.median(shares.values())
        machine = f"sgemm, {peak / 1e9:.0f} GFLOP/s"
        rows.append(Result("conv", f"conv2d of whole vectors, lowest: {low}", shares[low], "%", 80, theirs=machine))
        rows.append(Result("conv", "conv2d of whole vectors, median share of peak", middle, "%", theirs=machine))
    return rows


def sgemm_peak(s: Session, contenders: Sequence[Contender]) -> float:
    """The machine's speed in FLOP/s: the fastest large matrix product that any contender achieves."""
    size = s.samples(2048, 128)
    times = s.race(contenders, lambda w: w.call("matrix_product", size=size))
    best = min(min(timing.seconds) for timing in times.values())  # the peak is the best, not the usual
    return 2 * size**3 / best


def check_convolution(s: Session, shape: network.Convolution, contenders: Sequence[Contender]) -> None:
    """All passes of every contender must equal the reference kernels'."""
    from benchmarks.peers import tiny
    from tinyconv import kernels

    expected, passes = tiny.convolution(kernels.load("reference"), shape)
    passes["forward"]()
    passes["dW and dX"]()
    for contender in contenders:
        found = s.worker(contender).call("convolved", shape=shape)
        for what, array in expected.items():
            error = np.abs(found[what] - array).max() / np.abs(array).max()
            if not error < 1e-4:
                raise AssertionError(
                    f"{contender.name}: {what} of {shape.name} is wrong by {error:.1e} of its maximum."
                )


def inference(s: Session) -> list[Result]:
    """``model(x)`` for a batch."""
    contenders = [peers.TINYCONV, *(c for c in s.contenders if c.infers)]
    at_least = s.samples(200, 1) / 1000
    results = []
    for batch_size in (1, 32, 1000):
        size = min(batch_size, s.samples(batch_size, 64))
        times = s.race(contenders, lambda w: w.call("infer", batch_size=size, at_least=at_least))  # noqa: B023
        results.append(against_fastest("inference", f"inference, batch {size}", times, 1.5))
    return results


def batches(s: Session) -> list[Result]:
    """Training at other batch sizes. Those that compile for each take part only if they were fast at the epoch."""
    slow_starters = (peers.KERAS_JAX, peers.TORCH_COMPILED)
    contenders = [peers.TINYCONV, *(c for c in s.trainers if c not in slow_starters or c in s.finalists)]
    samples = s.samples(8192)
    results = []
    for batch_size in (16, 32, 512, 4096):
        size = min(batch_size, samples // 2)
        times = s.train(contenders, samples, size)
        results.append(against_fastest("batches", f"training at batch {size}, {samples:,} images", times, 3.0))
    return results


def threads(s: Session) -> list[Result]:
    """An epoch on one thread, and on all; and, for what the machine allows, a large product of matrices."""
    if s.threads == 1:
        s.remark("threads: one thread cannot be compared with more")
        return []
    s.warm_up(peers.TINYCONV, BATCH, s.samples(PART))
    samples, size = s.samples(network.TRAINING_SAMPLES), s.samples(2048, 128)

    def turn(contender: Contender, count: int) -> float:
        worker = s.worker(contender)
        worker.call("set_threads", threads=count)
        try:
            if contender is peers.TINYCONV:
                return worker.call("train", samples=samples, batch_size=BATCH)[0]
            return worker.call("matrix_product", size=size)
        finally:
            worker.call("set_threads", threads=s.threads)

    who = [peers.TINYCONV, *(c for c in s.contenders if c is peers.TORCH)]
    turns = {(c.name, n): functools.partial(turn, c, n) for c in who for n in (s.threads, 1)}
    times = interleave(turns, s.rounds)
    results = []
    for contender in who:
        many, one = times[contender.name, s.threads], times[contender.name, 1]
        value, seconds = one.median / many.median, {"all": many.seconds, "one": one.seconds}
        work, target, ours = f"{s.threads} threads against one, epoch", 0.9 * s.threads, str(many)
        theirs = f"one thread {one}"
        if contender is peers.TORCH:
            work, target = f"{s.threads} threads against one, a matrix product by PyTorch, {size} x {size}", None
            ours, theirs = "", f"{many}, {theirs}"
        results.append(Result("threads", work, value, "x", target, ours=ours, theirs=theirs, seconds=seconds))
    return results


def busy(s: Session) -> list[Result]:
    """An epoch while another process keeps one processor busy."""
    s.warm_up(peers.TINYCONV, BATCH, s.samples(PART))
    worker, samples = s.worker(peers.TINYCONV), s.samples(network.TRAINING_SAMPLES)

    def turn(noisy: bool) -> float:
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if noisy else None
        try:
            return worker.call("train", samples=samples, batch_size=BATCH)[0]
        finally:
            if other is not None:
                other.kill()
                other.wait()

    times = interleave({"quiet": lambda: turn(False), "beside": lambda: turn(True)}, s.rounds)
    value = times["beside"].median / times["quiet"].median
    seconds = {name: timing.seconds for name, timing in times.items()}
    ours, theirs = str(times["beside"]), f"its quiet time {times['quiet']}"
    return [Result("busy", "beside one busy process, epoch", value, "x", 2.5, True, ours, theirs, seconds)]


def memory(s: Session) -> list[Result]:
    """The most memory that the example takes, and that the same training takes in Keras. One run each."""
    mib = 2**20
    command = [sys.executable, "examples/mnist.py", "--epochs=1", "--report=", f"--backend={s.backend}"]
    found = {}
    if not s.quick:
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError("examples/mnist.py failed.")
        found["tinyconv"] = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / mib
    for contender in (peers.TINYCONV, peers.KERAS_TENSORFLOW):
        if contender.name not in found and contender in [peers.TINYCONV, *s.contenders]:
            with s.start(contender, keep_memory=False) as worker:
                samples = s.samples(network.TRAINING_SAMPLES)
                worker.call("train", samples=samples, batch_size=BATCH)
                worker.call("outputs", samples=min(samples, 10_000))
                found[contender.name] = worker.call("peak_memory") / mib
    ours, theirs = found["tinyconv"], found.get(peers.KERAS_TENSORFLOW.name)
    if theirs is None:
        return [Result("memory", "peak memory of the example", ours, "MB")]
    columns = f"{ours:.0f} MB", f"Keras on TensorFlow {theirs:.0f} MB"
    return [Result("memory", "peak memory of the example", 100 * ours / theirs, "%", 50, True, *columns)]


def python(code: str, environment: dict[str, str] | None = None) -> list[str]:
    """Run some Python in a process of its own, and return the lines that it prints."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=settings, check=True, capture_output=True, text=True
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
    """The first training step of a process, with an empty compile cache and with a full one."""
    code = FIRST_STEP.format(backend=s.backend)
    announced = []

    def turns() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (python(code, {"NUMBA_CACHE_DIR": cache}) for _ in range(2))
        announced.append(any("ompil" in line for line in cold))
        return float(cold[-1]), float(warm[-1])

    cold, warm = (Timing(times) for times in zip(*(turns() for _ in range(s.rounds)), strict=True))
    said = "announced" if all(announced) else "not announced"
    works = (("first step, warm cache", warm, 2), (f"first step, cold cache ({said})", cold, 15))
    return [
        Result("first step", work, times.median, "s", target, True, str(times), seconds={work: times.seconds})
        for work, times, target in works
    ]


SECTIONS: dict[str, Callable[[Session], list[Result]]] = {
    "epoch": epoch,
    "conv": conv,
    "inference": inference,
    "batches": batches,
    "threads": threads,
    "busy": busy,
    "memory": memory,
    "import": imports,
    "first-step": first_step,
}
