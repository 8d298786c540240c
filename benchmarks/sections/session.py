"""What every section of the comparison works with: the contenders' processes, checked before they are timed."""

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import network, networks, peers, report
from benchmarks.measure import Timing, interleave
from benchmarks.peers import Contender
from benchmarks.report import Result
from benchmarks.worker import Worker

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
        self.others: dict[str, tuple[str, Worker]] = {}  # with another network than the seed's: its name, the process
        self.answers: dict[str, networks.Answers] = {}
        self.fastest: dict[str, str | None] = {}  # by a network's name: the peer that trains it fastest, if any
        self.expected = reference_outputs(folder)

    @property
    def trainers(self) -> list[Contender]:
        return [peer for peer in self.contenders if peer.trains]

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.processes():
            worker.close()

    def processes(self) -> list[Worker]:
        return [*self.workers.values(), *(worker for _, worker in self.others.values())]

    def remark(self, text: str) -> None:
        """A line for the report."""
        print(text, flush=True)
        self.remarks.append(text)

    def processor_seconds(self) -> float:
        """Processor time of this process and of all contenders so far."""
        return report.own_seconds() + sum(worker.call("processor_seconds") for worker in self.processes())

    def samples(self, count: int, quick: int = 256) -> int:
        return quick if self.quick else count

    def start(self, contender: Contender, keep_memory: bool = True) -> Worker:
        """A new process for a contender, without a network."""
        ours = {"backend": self.backend} if contender is peers.TINYCONV else {}
        return contender.start(self.threads, keep_memory, **ours)

    def worker(self, contender: Contender) -> Worker:
        """The contender's process. One that does not compute the same as the reference is not timed."""
        if contender.name not in self.workers:
            print(f"Starting {contender.name} ...", flush=True)
            worker = self.workers[contender.name] = self.start(contender)
            worker.call("load", folder=str(self.folder))
            outputs = worker.call("outputs", samples=len(self.expected))
            np.testing.assert_allclose(outputs, self.expected, atol=1e-5, err_msg=contender.name)
            self.facts |= worker.call("facts")
        return self.workers[contender.name]

    def other(self, contender: Contender, other: networks.Network) -> Worker:
        """The contender's process for networks beside the seed's, with this one, checked."""
        held, worker = self.others.get(contender.name) or ("", self.start(contender))
        self.others[contender.name] = other.name, worker
        if held != other.name:
            self.take(worker, contender, other)
            self.facts |= worker.call("facts")
        return worker

    def take(self, worker: Worker, contender: Contender, other: networks.Network) -> None:
        """Give a process a network: from the same weights it must compute the reference's outputs and, on the first
        batch, the losses of its first steps."""
        batch, steps = self.sizes(other)
        answers = self.give(worker, other, max(batch * steps, 0 if self.quick else other.predicted))
        who = f"{contender.name}, {other.name}"
        outputs = worker.call("outputs", samples=len(answers.outputs))
        np.testing.assert_allclose(outputs, answers.outputs, atol=1e-5, err_msg=who)
        if contender.trains:
            found = [worker.call("train", samples=batch, batch_size=batch)[1] for _ in answers.losses]
            np.testing.assert_allclose(found, answers.losses, rtol=1e-3, err_msg=f"losses of {who}")

    def give(self, worker: Worker, other: networks.Network, samples: int) -> networks.Answers:
        """Give a process a network and so many samples; what is to be computed of them."""
        if other.name not in self.answers:
            self.answers[other.name] = networks.answers(other, self.sizes(other)[0])
        answers = self.answers[other.name]
        worker.call("take", name=other.name, weights=answers.weights, samples=samples)
        return answers

    def sizes(self, other: networks.Network) -> tuple[int, int]:
        """Of a batch, and the number of batches in a turn."""
        return (2, 2) if self.quick else (other.batch, other.steps)

    def steps(self, other: networks.Network, share: float = 1.0) -> Callable[[Worker], float]:
        """A turn, or a share of it: the seconds of a training step, the mean over a pass."""
        batch, steps = self.sizes(other)
        steps = max(1, round(share * steps))
        return lambda worker: worker.call("train", samples=batch * steps, batch_size=batch)[0] / steps

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

    def race_with(
        self, other: networks.Network, contenders: Iterable[Contender], turn: Callable[[Worker], float]
    ) -> dict[str, Timing]:
        """The same with a network beside the seed's."""
        return interleave({c.name: functools.partial(turn, self.other(c, other)) for c in contenders}, self.rounds)

    def train(
        self, contenders: Sequence[Contender], samples: int, batch_size: int, rounds: int = 0
    ) -> dict[str, Timing]:
        """Time a pass through the first ``samples`` images."""
        for contender in contenders:
            self.warm_up(contender, batch_size, samples)
        return self.race(contenders, lambda w: w.call("train", samples=samples, batch_size=batch_size)[0], rounds)


def asked(method: str, **arguments: object) -> Callable[[Worker], float]:
    """A turn: the seconds that a worker's method returns."""
    return lambda worker: worker.call(method, **arguments)


def reference_outputs(folder: Path, samples: int = 64) -> np.ndarray:
    """The correct outputs of the network, from the reference kernels."""
    import tinyconv

    model = network.keras_model(tinyconv)
    model.compile(loss="categorical_crossentropy", backend="reference")
    model.set_weights(network.weights())
    return model(network.load_data(str(folder))[0][:samples])


def fastest_of(times: dict[str, Timing]) -> str | None:
    """The fastest peer's name; None where there is no peer."""
    rivals = [name for name in times if name != peers.TINYCONV.name]
    return min(rivals, key=lambda name: times[name].median, default=None)


def against_fastest(
    section: str,
    work: str,
    times: dict[str, Timing],
    target: float | None,
    also: Callable[[float], str] = lambda seconds: "",
) -> Result:
    """tinyconv's time against the fastest peer's; behind each stands what is ``also`` to be said of its seconds."""
    ours, name = times[peers.TINYCONV.name], fastest_of(times)
    seconds = {name: timing.seconds for name, timing in times.items()}
    if name is None:
        alone = f"{ours}{also(ours.median)}"
        return Result(section, work, float("nan"), "x", None, ours=alone, theirs="no peer", seconds=seconds)
    columns = {
        "ours": f"{ours}{also(ours.median)}",
        "theirs": f"{name} {times[name]}{also(times[name].median)}",
    }
    return Result(section, work, times[name].median / ours.median, "x", target, seconds=seconds, **columns)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """While so many processes, each on its own, want a processor all the time."""
    code = "print(flush=True)\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in others:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in others:
            process.kill()
            process.communicate()
