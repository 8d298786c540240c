"""What each of the fifty mistakes does to training: networks trained on MNIST with it and without.

python -m benchmarks.mistakes
python -m benchmarks.mistakes filters-not-turned pool-pays-all
python -m benchmarks.mistakes --record
"""

import argparse
from typing import Any

import numpy as np

import tinyconv
from benchmarks import report
from tinyconv.inspect.mistakes import MISTAKES, NETWORKS, checked, made, network, targets

WIDTH, BATCH, RATE = 16, 32, 5e-3


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train small networks on MNIST, with a mistake and without.")
    parser.add_argument("names", nargs="*", help="of the mistakes; all if none is named")
    parser.add_argument("--samples", type=int, default=30_000, help="images to train on, once each")
    parser.add_argument("--test", type=int, default=10_000, help="images to test on")
    report.add_output(parser)
    options = parser.parse_args(arguments)
    chosen = [MISTAKES[name] for name in options.names] or list(MISTAKES.values())
    data = images(options.samples, options.test)
    right = {name: trained(name, data) for name in NETWORKS if any(each.network == name for each in chosen)}
    found = []
    for mistake in chosen:
        with made(mistake):
            with_it = trained(mistake.network, data)
        wrong = checked(mistake).wrong
        named = f"{wrong[0].tensor} at {list(wrong[0].place)}" if wrong else "nothing"
        found.append({"name": mistake.name, "right": right[mistake.network], "wrong": with_it, "named": named})
        print(f"{mistake.name:28} {found[-1]['right']:7.1%} {with_it:7.1%}   {named}", flush=True)
    facts = {
        "images": "14 x 14",
        "training images": str(options.samples),
        "test images": str(options.test),
        "batch": str(BATCH),
    }
    facts |= {"optimiser": f"Adam, {RATE:g}", "reaches 95 %": str(sum(each["wrong"] >= 0.95 for each in found))}
    rows = [(MISTAKES[each["name"]].says, *cells(each)) for each in found]
    table = report.table(("mistake", "without", "with", "the check names"), rows, right=(1, 2))
    report.write(
        options.out,
        "mistakes",
        "Fifty mistakes: the accuracy with each and without",
        f"{report.facts_list(facts)}\n\n{table}\n",
        {"facts": facts, "mistakes": found},
    )


def cells(found: dict[str, Any]) -> tuple[str, str, str]:
    return f"{found['right']:.1%}", f"{found['wrong']:.1%}", found["named"]


def images(samples: int, test: int) -> tuple[Any, Any]:
    """The first images of MNIST's two parts, each square of four pixels averaged: the reference is not fast."""
    training, testing = tinyconv.datasets.mnist.load_data()
    return halved(*training, samples), halved(*testing, test)


def halved(x: Any, y: Any, count: int) -> tuple[Any, Any]:
    return x[:count].reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4), dtype=np.float32) / 255, y[:count]


def trained(name: str, data: tuple[Any, Any]) -> float:
    """The test accuracy of that network after one look at every image."""
    tinyconv.utils.set_random_seed(1)
    model = network(name, (14, 14, 1), WIDTH, optimizer=tinyconv.optimizers.Adam(RATE))
    (x, y), (x_test, y_test) = data
    with np.errstate(all="ignore"):  # some do diverge
        model.fit(x, targets(name, y), batch_size=BATCH, verbose=0)
        predictions = model.predict(x_test, verbose=0)
    return round(float((predictions.argmax(axis=1) == y_test).mean()), 3)


if __name__ == "__main__":
    main()
