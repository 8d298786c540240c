"""Test accuracy of the notebook's training run, over some seeds: 15 epochs, batches of 128, 10 % for validation.

python -m benchmarks.accuracy
python -m benchmarks.accuracy --seeds 0 1 2 --epochs 15 --backend cpu --record
"""

import argparse
import statistics
import time

import numpy as np

import tinyconv
from benchmarks import report
from benchmarks.network import keras_model


def main() -> None:
    parser = argparse.ArgumentParser(description="Test accuracy of the MNIST network over some seeds.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--backend", choices=("auto", "cpu", "cuda", "reference"), default="cpu")
    report.add_output(parser)
    options = parser.parse_args()
    watch = report.LoadWatch()
    runs = [run(seed, options.epochs, options.backend) for seed in options.seeds]
    rows = [(str(r["seed"]), f"{r['accuracy']:.4f}", f"{r['loss']:.4f}", f"{r['seconds']:.1f} s") for r in runs]
    mean = statistics.mean(r["accuracy"] for r in runs)
    facts = {**report.machine(), "backend": options.backend, "epochs": str(options.epochs)}
    facts["other load"] = watch.share()
    table = report.table(("seed", "test accuracy", "test loss", "training time"), rows, right=(1, 2, 3))
    body = f"{report.facts_list(facts)}\n\n{table}\n\nMean test accuracy: {mean:.4f} over {len(runs)} seeds.\n"
    print(body)
    report.write(options.out, "accuracy", "MNIST: test accuracy", body, {"facts": facts, "runs": runs, "mean": mean})


def run(seed: int, epochs: int, backend: str) -> dict[str, float]:
    """Train and test one network."""
    tinyconv.utils.set_random_seed(seed)
    (x, y), (x_test, y_test) = tinyconv.datasets.mnist.load_data()
    x, x_test = (images[..., np.newaxis].astype(np.float32) / 255 for images in (x, x_test))
    model = keras_model(tinyconv)
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"], backend=backend)
    start = time.perf_counter()
    model.fit(x, y, batch_size=128, epochs=epochs, validation_split=0.1, verbose=0)
    seconds = time.perf_counter() - start
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    return {"seed": seed, "accuracy": accuracy, "loss": loss, "seconds": seconds}


if __name__ == "__main__":
    main()
