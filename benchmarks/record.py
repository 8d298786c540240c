"""Two records on MNIST with the seed's network of 34,826 parameters, each a command whose whole process is timed.

    python benchmarks/record.py                     both: a few minutes
    python benchmarks/record.py --only 99           99 % in the least time: ten seeds, and the same in each peer
    python benchmarks/record.py --only 99.5         99.5 %, augmentation included: five seeds
    python benchmarks/record.py --quick             a few steps of each, to see that it runs

From the start of the process to its end: imports, data, training, evaluation. Kernels are compiled before (a run that
does not count). Every seed is reported; the accuracy is the mean of all. Nothing was chosen on the test images.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import accuracy, fastest, measure, peers, report
from benchmarks.report import Result
from benchmarks.worker import KEEP, ROOT

PEERS = (peers.KERAS_TENSORFLOW, peers.TORCH, peers.TORCH_CHANNELS_LAST)


class Run(NamedTuple):
    """A process: who, its seed, and what it reached in which time."""

    who: str
    seed: int
    accuracy: float
    seconds: float


def main(arguments: list[str] | None = None) -> list[Result]:
    options = parse_options(arguments)
    facts, watch = report.machine() | {"threads": str(options.threads)}, report.LoadWatch()
    results: list[Result] = []
    found: dict[str, list[Run]] = {}
    for name in options.only:
        runs = found[name] = RECORDS[name](options)
        results += verdict(name, runs)
        facts["other load"] = watch.share()
        body = body_of(facts, results, found)
        print(f"\n{body}", flush=True)
        content = {"facts": facts, "results": results, "runs": {n: [r._asdict() for r in f] for n, f in found.items()}}
        report.write(options.out, "record", "Two records on MNIST", body, content)
    return results


def fast(options: argparse.Namespace) -> list[Run]:
    """99 % in the least time, and beside it the same recipe in each peer that is installed."""
    from tinyconv.datasets import mnist

    contenders, _ = peers.installed([peer for peer in PEERS if peer.name in options.peers])
    seeds = range(options.seeds or 10)
    given = ["--backend", options.backend, *(["--epochs", "1", "--samples", "256"] if options.quick else [])]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for names, arrays in zip(fastest.FILES, mnist.load_data(), strict=True):
            for name, array in zip(names, arrays, strict=True):
                np.save(Path(folder, f"{name}.npy"), array)
        given += ["--data", folder]
        timed("tinyconv", 0, ["-m", "benchmarks.fastest", "tinyconv", "--epochs", "1", *given], options)
        for seed in seeds:
            others = [peer.name for peer in contenders] if seed < options.peer_seeds else []
            for who in ["tinyconv", *others]:
                command = ["-m", "benchmarks.fastest", who, "--seed", str(seed), *given]
                runs.append(timed(who, seed, command, options))
    return runs


def best(options: argparse.Namespace) -> list[Run]:
    """99.5 %: the example with its best recipe."""
    given = ["--recipe", "best", "--report", "", "--threads", str(options.threads), "--backend", options.backend]
    command = [str(accuracy.EXAMPLE), *given, *(["--epochs", "1"] if options.quick else [])]
    if not options.quick:
        timed("tinyconv", 0, [*command, "--epochs", "1"], options)
    return [timed("tinyconv", seed, [*command, "--seed", str(seed)], options) for seed in range(options.seeds or 5)]


RECORDS = {"99": fast, "99.5": best}
LIMITS = {"99": 4.0, "99.5": 60.0}  # seconds


def timed(who: str, seed: int, command: Sequence[str], options: argparse.Namespace) -> Run:
    """Run a program on as many processors as there are threads."""

    def confine() -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])

    environment = {**os.environ, **KEEP, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    first = confine if hasattr(os, "sched_setaffinity") else None
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=ROOT, env=environment, preexec_fn=first, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    reached = re.search(r"^Test accuracy: +([\d.]+)", done.stdout, re.MULTILINE)
    if done.returncode or reached is None:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    run = Run(who, seed, float(reached[1]), seconds)
    print(f"{who}, seed {seed}: {run.accuracy:.4f} in {measure.duration(seconds)}", flush=True)
    return run


def verdict(name: str, runs: list[Run]) -> list[Result]:
    """The time of tinyconv's processes against the limit and the fastest peer's, and their mean accuracy."""
    who = dict.fromkeys(run.who for run in runs)
    times = {w: measure.Timing(tuple(run.seconds for run in runs if run.who == w)) for w in who}
    ours = times.pop("tinyconv")
    reached = statistics.mean(run.accuracy for run in runs if run.who == "tinyconv")
    seeds, recipe = len(ours.seconds), f"{name} % on MNIST"
    first = min(times, key=lambda w: times[w].median, default="")
    beside = {"ours": str(ours), "theirs": f"{first} {times[first]}" if first else ""}
    results = [
        Result("record", f"{recipe}, whole process, median of {seeds}", ours.median, "s", LIMITS[name], True, **beside),
        Result("record", f"{recipe}, test accuracy, mean of {seeds} seeds", 100 * reached, "% right", float(name)),
    ]
    if first:
        ratio = times[first].median / ours.median
        results.append(Result("record", f"{recipe}, against the fastest peer", ratio, "x", **beside))
    return results


def body_of(facts: dict[str, str], results: list[Result], found: dict[str, list[Run]]) -> str:
    rows = [
        (f"{name} %", run.who, str(run.seed), f"{run.accuracy:.4f}", f"{run.seconds:.2f} s")
        for name, runs in found.items()
        for run in runs
    ]
    columns = ("record", "by", "seed", "test accuracy", "whole process")
    parts = [report.facts_list(facts), report.table(report.RESULT_COLUMNS, [r.row for r in results])]
    return "\n\n".join([*parts, report.table(columns, rows, right=(2, 3, 4))])


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, names = parser.add_argument, [peer.name for peer in PEERS]
    add("--only", nargs="+", choices=RECORDS, default=list(RECORDS), help="which record")
    add("--seeds", type=int, help="how many (10, and 5 for 99.5 %%)")
    add("--peers", nargs="*", choices=names, default=names, metavar="NAME", help="whom to compare with")
    add("--peer-seeds", type=int, default=3, help="seeds of each peer (3)")
    add("--threads", type=int, default=report.cores(), help="processors for every process")
    add("--backend", default="cpu", help="tinyconv's kernels")
    add("--quick", action="store_true", help="a few steps of one seed; the results mean nothing")
    report.add_output(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds = options.peer_seeds = 1
    return options


if __name__ == "__main__":
    main()
