"""Test accuracy of ``examples/mnist.py`` over some seeds, each run of it a process of its own, as a user runs it.

python -m benchmarks.accuracy
python -m benchmarks.accuracy --recipe best --seeds 0 1 2 3 4 --record
"""

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import report

EXAMPLE = Path(__file__).parents[1] / "examples" / "mnist.py"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Test accuracy of examples/mnist.py over some seeds.")
    parser.add_argument("--recipe", choices=("notebook", "best"), default="notebook")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="fewer or more than the recipe's")
    parser.add_argument("--backend", choices=("auto", "cpu", "cuda", "reference"), default="cpu")
    report.add_output(parser)
    options = parser.parse_args(arguments)
    watch = report.LoadWatch()
    given = ["--recipe", options.recipe, "--backend", options.backend]
    given += ["--epochs", str(options.epochs)] if options.epochs else []
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        runs.append(run(seed, given))
        facts = {**report.machine(), "command": f"examples/mnist.py {' '.join(given)}", "other load": watch.share()}
        tell(options, facts, runs)


def tell(options: argparse.Namespace, facts: dict[str, str], runs: list[dict[str, Any]]) -> None:
    """Print and write what there is after each seed, so that a run that is stopped leaves it behind."""
    rows = [(str(r["seed"]), f"{r['accuracy']:.4f}", f"{r['loss']:.4f}", f"{r['seconds']:.1f} s") for r in runs]
    mean = statistics.mean(r["accuracy"] for r in runs)
    table = report.table(("seed", "test accuracy", "test loss", "whole run"), rows, right=(1, 2, 3))
    body = f"{report.facts_list(facts)}\n\n{table}\n\nMean test accuracy: {mean:.4f} over {len(runs)} seeds.\n"
    print(body, flush=True)
    name = "accuracy" if options.recipe == "notebook" else f"accuracy-{options.recipe}"
    title = f"MNIST: test accuracy, {options.recipe} recipe"
    report.write(options.out, name, title, body, {"facts": facts, "runs": runs, "mean": mean})


def run(seed: int, given: list[str]) -> dict[str, Any]:
    """Train and test once. The seconds are those of the whole program: data, compiling, training, test."""
    command = [sys.executable, str(EXAMPLE), "--seed", str(seed), "--report", "", *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    printed = dict(re.findall(r"^(Test loss|Test accuracy|Total time): +([\d.]+)", done.stdout, re.MULTILINE))
    names = {"accuracy": "Test accuracy", "loss": "Test loss", "seconds": "Total time"}
    return {"seed": seed, **{name: float(printed[line]) for name, line in names.items()}}


if __name__ == "__main__":
    main()
