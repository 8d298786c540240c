"""``tinyconv train``: train a small convolutional network on MNIST or another image set."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import tinyconv
from tinyconv import kernels
from tinyconv.checking.extras import need
from tinyconv.commands.common import Result, compiled, complain, images, integer, say, threads


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dataset", default="mnist", help="mnist, or an image set of TensorFlow Datasets, like cifar10 (mnist)"
    )
    command.add_argument(
        "--epochs", type=integer(1), default=15, help="how often to go through the training images (15)"
    )
    command.add_argument("--batch-size", type=integer(1), default=128, help="images per training step (128)")
    command.add_argument("--samples", type=integer(2), help="how many training and test images to use (all)")
    command.add_argument(
        "--seed", type=integer(0, 2**32 - 1), help="an integer that makes the run repeatable (another one each time)"
    )
    command.add_argument("--backend", choices=("auto", *kernels.NAMES), default="auto", help="what computes (auto)")
    command.add_argument("--threads", type=threads, help="how many CPU threads (all)")
    command.add_argument("--save", metavar="PATH", help="where to save the network: a name that ends in .keras")
    command.add_argument("--onnx", metavar="PATH", help="where to export it for ONNX Runtime")
    command.add_argument("--history", metavar="PATH", help="where to write the values of every epoch, as JSON")
    command.add_argument("--report", metavar="PATH", help="where to draw how it learned and what it got wrong")
    command.add_argument("--backup", metavar="FOLDER", help="where to keep what a killed run needs; run again to go on")


def run(options: argparse.Namespace) -> Result:
    _check_outputs(options)
    if options.seed is not None:
        tinyconv.utils.set_random_seed(options.seed)
    if options.threads is not None:
        tinyconv.set_threads(options.threads)
    (x_train, y_train), (x_test, y_test), names = images(options.dataset)
    x_train, y_train, x_test, y_test = (part[: options.samples] for part in (x_train, y_train, x_test, y_test))
    say(options, f"{options.dataset}: {len(x_train):,} training and {len(x_test):,} test images of {x_train.shape[1:]}")
    model = compiled(x_train.shape[1:], len(names), options.backend)
    backup = [tinyconv.callbacks.BackupAndRestore(options.backup)] if options.backup else []
    start = time.perf_counter()
    stopped = False
    try:
        model.fit(
            x_train.astype(np.float32) / 255,
            y_train,
            batch_size=options.batch_size,
            epochs=options.epochs,
            validation_split=0.1,
            verbose=0 if options.json else "auto",
            callbacks=backup,
        )
    except KeyboardInterrupt:
        if not model.optimizer or not model.optimizer.iterations:
            complain("Stopped before the first step: nothing to evaluate.")
            return {"stopped": True}
        complain("Stopped. This is how far it came:")
        stopped = True
    seconds = time.perf_counter() - start
    x_test = x_test.astype(np.float32) / 255
    loss, accuracy = model.evaluate(x_test, y_test, batch_size=options.batch_size, verbose=0)
    say(options, f"Test loss:     {loss:.4f}\nTest accuracy: {accuracy:.4f}\nTime:          {seconds:.1f} s")
    history = model.history or tinyconv.callbacks.History()
    _write(options, model, history, x_test, y_test, names)
    result = {"loss": loss, "accuracy": accuracy, "seconds": seconds}
    result["history"] = json.loads(history.to_json())["history"]
    if options.seed is not None:
        receipt = tinyconv.distribution.receipt(model)
        say(options, str(receipt))
        result["receipt"] = receipt.sha256
    return {**result, "stopped": True} if stopped else result


SUFFIXES = {"save": (".keras",), "onnx": (".onnx",), "history": (".json",)}


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse what could not be written, before hours of training rather than after."""
    wanted = {name: getattr(options, name) for name in ("save", "onnx", "history", "report")}
    taken: dict[Path, str] = {}
    for name, path in wanted.items():
        if path is None:
            continue
        if not path:
            raise ValueError(f"--{name} is empty. Expected the name of a file.")
        tinyconv.saving.check_target(path, *(SUFFIXES.get(name) or drawable()))
        other = taken.setdefault(Path(path).resolve(), name)
        if other != name:
            raise ValueError(f"--{other} and --{name} name the same file, {path!r}. Expected two files.")
    if options.backup is not None:
        if not options.backup:
            raise ValueError("--backup is empty. Expected a folder.")
        tinyconv.saving.check_target(Path(options.backup, "latest.safetensors"), parents=True)


def drawable() -> list[str]:
    """The suffixes of the pictures that matplotlib can draw here without another program."""
    kinds = need("Pictures need", "matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    return [f".{kind}" for kind in sorted(kinds) if kind != "pgf"]


def _write(
    options: argparse.Namespace, model: tinyconv.Sequential, history: Any, x: np.ndarray, y: np.ndarray, names: Any
) -> None:
    """Write the files that were asked for."""
    if options.save:
        model.save(options.save)
    if options.onnx:
        tinyconv.export.to_onnx(model, options.onnx)
    if options.history:
        history.to_json(options.history)
    if options.report:
        from tinyconv.inspect.report import training_report

        training_report(history.history, x, y, model.predict(x), names, options.dataset.upper()).savefig(options.report)
    for name in ("save", "onnx", "history", "report"):
        if getattr(options, name):
            say(options, f"{name.capitalize() + ':':<14} {getattr(options, name)}")
