"""How training scales with the number of processes, and what the exchange of gradients costs.

This is what ``python benchmarks/scaling.py --ranks`` measures, and runs in each rank (it needs mpi4py and mpiexec, the
extra "mpi"). Each rank has one thread. A model of the exchange, with two numbers that are measured here, says what to
expect of more ranks; those of faster and slower networks are assumptions, and said to be. Where it can be done
(``hosts.sh``), ranks are also run on hosts of their own, which are namespaces of this machine.
"""

import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tinyconv as keras
from benchmarks import measure, network, report
from tinyconv.distribution.shards import Tree

BATCH = 128  # images of a rank
SIZES = [1 << 14, 1 << 17, 1 << 20, 1 << 22, 1 << 24]  # bytes of all gradients
SEED_NETWORK = 4 * 34_826  # bytes


Timings = dict[str, measure.Timing]
Exchanges = dict[str, tuple[int, dict[int, float]]]  # the number of ranks, and seconds by bytes


class Link(NamedTuple):
    """What joins two ranks: seconds until a message is there, and bytes per second."""

    name: str
    latency: float
    bandwidth: float

    def __str__(self) -> str:
        return f"{self.name}, {measure.duration(self.latency)} for a message, {self.bandwidth / 1e9:.1f} GB/s"


ASSUMED = [Link("10 Gb/s Ethernet", 30e-6, 1.1e9), Link("100 Gb/s InfiniBand", 2e-6, 11e9)]


class Traffic(NamedTuple):
    """What a rank receives for a step: messages, one after the other at worst, and bytes."""

    messages: int
    bytes: float


def traffic(ranks: int, size: int) -> Traffic:
    """Of the rank that receives most. Up to two ranks tell each other their sums at once; more of them get a share of
    all sums each, and then the results of the others' shares."""
    shards = max(8, ranks)
    most = Traffic(0, 0)
    for rank in range(ranks):
        sent = Tree.of(rank, ranks, shards).sent
        rows = sum(len(each) for other, each in enumerate(sent) if other != rank)
        found = Traffic(2 * rows, rows * size)
        if ranks > 2:
            found = Traffic(2 * rows + ranks - 1, (rows + ranks - 1) * size / ranks)
        most = max(most, found, key=lambda each: each.bytes)
    return most


def expected(link: Link, ranks: int, size: int) -> float:
    """Seconds of an exchange."""
    found = traffic(ranks, size)
    return found.messages * link.latency + found.bytes / link.bandwidth


def fitted(name: str, times: dict[int, float]) -> Link:
    """The link between two ranks that explains what exchanges of these sizes took, by least squares of the ratios."""
    sizes = np.array(list(times))
    weights = 1 / np.array(list(times.values()))
    messages = np.array([traffic(2, size).messages for size in sizes])
    columns = np.stack([messages, sizes], axis=1) * weights[:, None]
    (latency, inverse), *_ = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)
    return Link(name, max(latency, 1e-7), 1 / inverse)


# What runs in each rank


def work(what: str, *numbers: int) -> None:
    keras.set_threads(1)
    keras.utils.set_random_seed(1)
    shards = max(8, keras.distribution.get_device_count())
    keras.distribution.set_distribution(keras.distribution.DataParallel(shards=shards))
    found = step(*numbers) if what == "step" else [exchange(size) for size in numbers]
    if keras.distribution.distribution().rank == 0:
        print(json.dumps(found))


def step(batch: int, steps: int) -> list[float]:
    """Seconds of each training step of the MNIST network, of five epochs."""
    (x, y), _ = keras.datasets.mnist.load_data()
    x, y = x[: batch * steps, ..., None].astype(np.float32) / 255, y[: batch * steps].astype(np.int64)
    model = network.keras_model(keras)
    model.compile("adam", "sparse_categorical_crossentropy")
    found: list[float] = []
    for epoch in range(6):
        ends: list[float] = []
        note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, ends=ends: ends.append(time.perf_counter()))
        model.fit(x, y, batch_size=batch, verbose=0, shuffle=False, callbacks=[note])
        if epoch:  # the first one compiles
            found.extend(np.diff(ends).tolist())
    return found


def exchange(size: int) -> float:
    """Seconds of an exchange of gradients of so many bytes, sums included: the fastest, as others
    use this machine too."""
    model = keras.Sequential([keras.Input((size // 4096,)), keras.layers.Dense(1024, use_bias=False)])
    model.compile("sgd", "mse")
    model.fit(np.zeros((8, size // 4096)), np.zeros((8, 1024)), verbose=0)
    trainer = model._trainer
    shards = trainer.shards
    mine = shards.columns[shards.ranks.rank]
    calls = [(shards.exchange, (True,)), *shards.add(shards.tree.rest, True, mine), (shards.take, (True,))]
    program, times = trainer.kernels.record(calls), []
    for _ in range(100 if size < 1 << 22 else 20):
        start = time.perf_counter()
        program()
        times.append(time.perf_counter() - start)
    return min(times)


# What starts them


def run(ranks: int, *arguments: object, hosts: bool = False) -> Any:
    """The result of :func:`work` in so many ranks, all on this host or each on one of its own."""
    return result(start(ranks, *arguments, hosts=hosts))


def start(ranks: int, *arguments: object, hosts: bool = False) -> "subprocess.Popen[str]":
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if mpiexec is None:
        raise SystemExit("There is no mpiexec here. Fix: pip install 'tinyconv[mpi]'")
    before = ["sh", Path(__file__).with_name("hosts.sh"), mpiexec, ranks] if hosts else [mpiexec, "-n", ranks]
    command = [*before, sys.executable, __file__, *arguments]
    return subprocess.Popen([str(each) for each in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(job: "subprocess.Popen[str]") -> Any:
    out, errors = job.communicate()
    if job.returncode:
        raise SystemExit(out + errors)
    return json.loads(out.splitlines()[-1])


def apart(batch: int, steps: int) -> list[float]:
    """The steps of two runs at once that have nothing to do with each other."""
    jobs = [start(1, "step", batch, steps) for _ in range(2)]
    return [seconds for job in jobs for seconds in result(job)]


def hosts_missing() -> str:
    """Why there can be no hosts of their own; nothing if there can."""
    try:
        done = subprocess.run(["sh", Path(__file__).with_name("hosts.sh"), "true", "2"], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return done.stderr.strip() or "without a reason" if done.returncode else ""


HOSTS = (
    "namespaces of this machine with a network of their own, joined by a bridge (`benchmarks/hosts.sh`): ranks talk by "
    "TCP, not through memory. The bridge cannot be slowed down to the speed of a real network here."
)


def record(rounds: int, quick: bool, out: Path | None) -> None:
    """Measure all of it, print it, and write it to ``out``."""
    watch, steps, sizes = report.LoadWatch(), 3 if quick else 50, SIZES[:2] if quick else SIZES
    missing = "none were asked for" if quick else hosts_missing()
    turns = {
        "1 rank": functools.partial(run, 1, "step", BATCH, steps),
        "1 rank, twice at once": functools.partial(apart, BATCH, steps),
        "2 ranks, weak": functools.partial(run, 2, "step", 2 * BATCH, steps),
        "2 ranks, strong": functools.partial(run, 2, "step", BATCH, steps),
    }
    if not missing:
        turns["2 hosts, weak"] = functools.partial(run, 2, "step", 2 * BATCH, steps, hosts=True)
    rows = measure.interleave({name: turns[name] for name in [*turns][: 3 if quick else None]}, rounds)
    timings = {name: measure.Timing(sum(map(tuple, found.seconds), ())) for name, found in rows.items()}
    places = [("memory", False), *([] if missing else [("hosts", True)])]
    exchanges = {
        f"{ranks} ranks, {place}": (ranks, dict(zip(sizes, run(ranks, "exchange", *sizes, hosts=hosts), strict=True)))
        for place, hosts in places
        for ranks in ((2,) if quick else (2, 3))
    }
    text = body(rounds, timings, exchanges, missing)
    print(text)
    facts = report.machine() | {"other load": watch.share()}
    content = {
        "machine": facts,
        "steps": {
            name: {"steps": len(each.seconds), "fastest": min(each.seconds), "median": each.median}
            for name, each in timings.items()
        },
        "exchanges": exchanges,
    }
    title = "How training scales with the number of processes"
    report.write(out, "scaling_ranks", title, f"{text}\n\n{report.facts_list(facts)}", content)


def body(rounds: int, timings: Timings, exchanges: Exchanges, missing: str) -> str:
    """All that is reported. ``missing``: why there are no hosts."""
    links = {
        name.split()[-1]: fitted(name.split()[-1], found) for name, (ranks, found) in exchanges.items() if ranks == 2
    }
    return "\n\n".join(
        [
            about(rounds),
            steps_table(timings),
            "Hosts are " + (f"missing here: {missing}." if missing else HOSTS),
            "The exchange, with its sums; three ranks share two cores here, and wait for each other. The model is "
            "fitted to two ranks: " + "; ".join(map(str, links.values())) + ".",
            exchange_table(exchanges, links),
            forecast(min(timings["1 rank"].seconds), [*links.values(), *ASSUMED]),
        ]
    )


def about(rounds: int) -> str:
    return (
        "Made by `python benchmarks/scaling.py --ranks --record`: the MNIST network under `mpiexec`, one thread for "
        f"each rank, {BATCH} images for each rank (weak scaling) or for all (strong), in {rounds} turns. The fastest "
        "of all steps is what ranks cost each other: nobody else had the processors then. The median step has in it "
        "what else the machine does, and that is worse for ranks, as each step waits for the slower one; two runs at "
        "once that do not know of each other show how fast the machine is with both processors busy. Not counted is "
        "what is done once for a run: ranks compare their arrays first."
    )


def steps_table(timings: Timings) -> str:
    columns = ("", "fastest step", "efficiency", "median step", "efficiency")
    best, usual = (function(timings["1 rank"].seconds) for function in (min, statistics.median))
    rows = []
    for name, timing in timings.items():
        ideal = 0.5 if "strong" in name else 1.0
        fast, median = min(timing.seconds), timing.median
        row = (measure.duration(fast), f"{100 * ideal * best / fast:.0f} %")
        rows.append((name, *row, measure.duration(median), f"{100 * ideal * usual / median:.0f} %"))
    return report.table(columns, rows, right=(1, 2, 3, 4))


def exchange_table(exchanges: Exchanges, links: dict[str, Link]) -> str:
    rows = [
        (
            name,
            f"{size // 1024:,} KB",
            *map(measure.duration, (seconds, expected(links[name.split()[-1]], ranks, size))),
        )
        for name, (ranks, found) in exchanges.items()
        for size, seconds in found.items()
    ]
    return report.table(("ranks", "gradients", "measured", "model"), rows, right=(1, 2, 3))


def forecast(step: float, links: list[Link]) -> str:
    """What the exchange costs more ranks, and what could be gained by hiding it."""
    rows = []
    for ranks in (2, 4, 8, 16, 32, 64):
        found = []
        for link in links:
            cost, sent = expected(link, ranks, SEED_NETWORK), traffic(ranks, SEED_NETWORK).bytes / link.bandwidth
            efficiency, most = step / (step + cost), step / (step + cost - sent)
            found.append(f"{measure.duration(cost)}, {100 * efficiency:.1f} % (+ {100 * (most - efficiency):.1f})")
        rows.append((ranks, *found))
    table = report.table(("ranks", *(link.name for link in links)), rows, right=range(len(links) + 1))
    return (
        f"What to expect of more ranks, {BATCH} images each, with the network of the example ({SEED_NETWORK // 1024} "
        f"KB of gradients, {measure.duration(step)} a step): the exchange, the efficiency that it leaves, and in "
        "brackets how much of it could be gained at most if all bytes were on their way during the backward pass. That "
        "would cut the exchange into more messages, each with its latency, which is the larger part from four ranks "
        f"on; so it comes after the backward pass. The last two links are assumed.\n\n{table}"
    )


if __name__ == "__main__":
    work(sys.argv[1], *map(int, sys.argv[2:]))
