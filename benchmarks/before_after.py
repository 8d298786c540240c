"""Two trees of tinyconv side by side: ``python benchmarks/before_after.py BEFORE AFTER``, two folders that hold one.

Make the older one by ``git worktree add --detach FOLDER COMMIT``. Each runs in a process of its own; the two take turns
on every network, round by round in alternating order, so that whatever else the machine does meets both. A turn trains
an epoch, or predicts; what counts is the median of the rounds' ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
# Samples of a turn, and of a batch.
WORK = {
    "seed's network": (5120, 128),
    "seed's network, predicted one by one": (300, 1),
    "seed's network, predicted": (5120, 128),
    "VGG with batch norm": (64, 32),
    "VGG with batch norm, predicted": (64, 32),
    "LeNet-5 with tanh": (2560, 128),
    "MLP": (5120, 128),
    "tutorial CNN": (512, 64),
    "strided net": (640, 64),
}


def network(layers: Any, name: str) -> tuple[Shape, list[Any]]:
    """The shape of a sample, and the layers."""
    conv, pool, dense = layers.Conv2D, layers.MaxPooling2D, layers.Dense
    last = dense(10, activation="softmax")
    if name.startswith("seed"):
        body = [conv(32, 3, activation="relu"), pool(2), conv(64, 3, activation="relu"), pool(2)]
        return (28, 28, 1), [*body, layers.Flatten(), layers.Dropout(0.5), last]
    if name.startswith("VGG"):
        body = []
        for width in (32, 64, 128):
            for _ in range(2):
                body += [conv(width, 3, padding="same"), layers.BatchNormalization(), layers.Activation("relu")]
            body.append(pool(2))
        return (32, 32, 3), [*body, layers.Flatten(), dense(128, activation="relu"), layers.Dropout(0.5), last]
    if name.startswith("LeNet"):
        body = [conv(6, 5, padding="same", activation="tanh"), layers.AveragePooling2D(2)]
        body += [conv(16, 5, activation="tanh"), layers.AveragePooling2D(2), layers.Flatten()]
        return (28, 28, 1), [*body, dense(120, activation="tanh"), dense(84, activation="tanh"), last]
    if name == "MLP":
        return (784,), [dense(512, activation="relu"), dense(512, activation="relu"), last]
    if name == "tutorial CNN":
        body = [conv(32, 3, activation="relu"), pool(2), conv(64, 3, activation="relu"), pool(2), layers.Flatten()]
        return (32, 32, 3), [*body, dense(64, activation="relu"), last]
    body = [conv(width, 3, strides=2, padding="same", activation="relu") for width in (32, 64, 128)]
    return (32, 32, 3), [*body, layers.GlobalAveragePooling2D(), last]


def turn_of(name: str) -> Callable[[], object]:
    """What is timed, with whichever tinyconv this process imports."""
    import numpy as np

    import tinyconv

    samples, batch = WORK[name]
    tinyconv.utils.set_random_seed(0)
    shape, stack = network(tinyconv.layers, name)
    model = tinyconv.Sequential([tinyconv.Input(shape), *stack])
    optimizer = "sgd" if name.startswith("LeNet") else "adam"
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], backend="cpu")
    rng = np.random.default_rng(0)
    x, y = rng.random((samples, *shape), np.float32), rng.integers(0, 10, samples)
    if "predicted" in name:
        return lambda: model.predict(x, batch_size=batch, verbose=0)
    return lambda: model.fit(x, y, batch_size=batch, epochs=1, verbose=0)


def work() -> None:
    """The other end: for each name that comes, the seconds of a turn. The first time, two turns before it warm up."""
    turns: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in turns:
            turns[name] = turn_of(name)
            for _ in range(2):
                turns[name]()
        start = time.perf_counter()
        turns[name]()
        print(json.dumps(time.perf_counter() - start), flush=True)


def commit_of(folder: Path) -> str:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"


def main(arguments: list[str] | None = None) -> int:
    from benchmarks import measure, report

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", nargs="*", default=list(WORK), choices=list(WORK), metavar="NETWORK")
    report.add_output(parser)
    options = parser.parse_args(arguments)
    watch, workers = report.LoadWatch(), {}
    for tree in ("before", "after"):
        folder = getattr(options, tree).resolve()
        if not (folder / "tinyconv" / "__init__.py").exists():
            parser.error(f"{folder} holds no tinyconv. Expected a folder of the project.")
        command = [sys.executable, os.path.abspath(__file__), "--work"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        workers[tree] = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(folder)}, cwd=folder, **pipes)

    def turn(tree: str, name: str) -> float:
        workers[tree].stdin.write(f"{name}\n")
        workers[tree].stdin.flush()
        return float(json.loads(workers[tree].stdout.readline()))

    rows = []
    for name in options.only:
        for tree in workers:
            turn(tree, name)
        times = measure.interleave({tree: partial(turn, tree, name) for tree in workers}, options.rounds)
        ratios = [b / a for a, b in zip(times["before"].seconds, times["after"].seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        rows.append((name, str(times["before"]), str(times["after"]), f"{middle:.3f}", f"{low:.3f} to {high:.3f}"))
    for process in workers.values():
        process.communicate()
    columns = ("network", "before", "after", "after / before", "quartiles")
    facts = {tree: commit_of(getattr(options, tree)) for tree in workers} | report.machine()
    facts |= {"rounds": str(options.rounds), "other load": watch.share()}
    body = f"{report.facts_list(facts)}\n\n{report.table(columns, rows, right=(1, 2, 3, 4))}"
    print(body)
    content = {"facts": facts, "rows": [dict(zip(columns, row, strict=True)) for row in rows]}
    report.write(options.out, "before_after", "Two trees of tinyconv, side by side", body, content)
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        sys.exit(main())
