"""The command line: ``python -m tinyconv``, or the script ``tinyconv``."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinyconv
from tinyconv import kernels, layers

Result = dict[str, Any]

MISTAKES = (ValueError, TypeError, ImportError, RuntimeError, OSError)  # of the user, or of the machine: no traceback


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 after an error, 2 for a wrong command line, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        result = options.run(options)
    except MISTAKES as error:
        print(f"tinyconv {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(result, indent=2))
    return 0


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="tinyconv",
        description="Convolutional networks from scratch, on NumPy and Numba: train one, use it, see what it runs on.",
        epilog="'tinyconv COMMAND --help' says what a command can do. Try: tinyconv train --epochs 2",
    )
    whole.add_argument("--version", action="version", version=f"tinyconv {tinyconv.__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _command(commands, "info", info, "what this installation is and what it runs on")
    _warmup(_command(commands, "warmup", warmup, "compile the kernels now, so that no training has to wait for it"))
    _train(_command(commands, "train", train, "train a small convolutional network on MNIST or another image set"))
    _predict(_command(commands, "predict", predict, "what a saved network says about images"))
    _bench(_command(commands, "bench", bench, "how fast each backend trains on this machine"))
    return whole


def _command(commands: Any, name: str, run: Callable[[Any], Result], what: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    command.add_argument("--json", action="store_true", help="print the result as JSON, for programs to read")
    command.set_defaults(run=run)
    return command


def say(options: argparse.Namespace, text: str) -> None:
    """Print for a person; with --json only the result is printed."""
    if not options.json:
        print(text, flush=True)


# info


def info(options: argparse.Namespace) -> Result:
    from importlib.metadata import version

    from tinyconv.kernels.cpu import host, jit, threads

    usable, gpu = _gpu()
    folder = jit.cache_folder()
    files = list(folder.glob("*.nbc")) if folder else []
    result: Result = {
        "tinyconv": tinyconv.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "numba", "llvmlite")},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "lanes": host.LANES,
        "registers": host.REGISTERS,
        "threads": threads.get_threads(),
        "threading_layer": threads.threading_layer(),
        "gpu": gpu,
        "gpu_usable": usable,
        "cache": str(folder) if folder else None,
        "cache_files": len(files),
        "cache_bytes": sum(file.stat().st_size for file in files),
    }
    notes = {"lanes": "float32 numbers per vector register", "registers": "vector registers", "gpu_usable": None}
    for name, value in result.items():
        note = f"  ({notes[name]})" if notes.get(name) else ""
        say(options, f"{name.replace('_', ' '):<16} {value}{note}")
    return result


def _gpu() -> tuple[bool, str]:
    try:
        from tinyconv.kernels.cuda import device

        return device.available()
    except ImportError as error:
        return False, f"not usable: {error}"


def _cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# The network of the example


def network(input_shape: tuple[int, ...], classes: int) -> tinyconv.Sequential:
    """The network of examples/mnist.py."""
    return tinyconv.Sequential(
        [
            tinyconv.Input(input_shape),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def compiled(input_shape: tuple[int, ...], classes: int, backend: str) -> tinyconv.Sequential:
    model = network(input_shape, classes)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], backend=backend)
    return model


def made_up(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of MNIST's shape that mean nothing."""
    rng = np.random.default_rng(0)
    return rng.random((samples, 28, 28, 1), np.float32), rng.integers(0, 10, samples)


# warmup


def _warmup(command: argparse.ArgumentParser) -> None:
    command.add_argument("--backend", choices=("cpu", "cuda"), default="cpu", help="whose kernels to compile (cpu)")


def warmup(options: argparse.Namespace) -> Result:
    kernel_set = kernels.load(options.backend)
    start = time.perf_counter()
    functions = 0
    say(options, "Compiling ...")
    watch = getattr(kernel_set, "compile_watch", None)
    if watch is None:
        _train_every_layer(options.backend)
    else:
        with watch() as found:
            _train_every_layer(options.backend)
        functions = len(found.functions)
    result = {"backend": options.backend, "functions": functions, "seconds": time.perf_counter() - start}
    say(options, f"{functions} functions compiled, the others were there already: {result['seconds']:.1f} s.")
    return result


def _train_every_layer(backend: str) -> None:
    """Train, evaluate and predict with everything there is, for a step or two."""
    x, y = made_up(20)
    everything_else = tinyconv.Sequential(
        [
            tinyconv.Input(x.shape[1:]),
            layers.Conv2D(8, 3, strides=2, padding="same", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.MaxPooling2D(3, strides=1),
            layers.Conv2D(8, 3, activation="elu"),
            layers.AveragePooling2D(2),
            layers.Activation("sigmoid"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="tanh"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    for model, optimizer in ((network(x.shape[1:], 10), "adam"), (everything_else, "sgd")):
        top = tinyconv.metrics.SparseTopKCategoricalAccuracy(3)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy", top], backend=backend)
        model.fit(x, y, batch_size=16, epochs=1, verbose=0, validation_data=(x, y))
        model.predict(x)


# train


def _train(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dataset", default="mnist", help="mnist, or an image set of TensorFlow Datasets, like cifar10 (mnist)"
    )
    command.add_argument(
        "--epochs", type=_positive, default=15, help="how often to go through the training images (15)"
    )
    command.add_argument("--batch-size", type=_positive, default=128, help="images per training step (128)")
    command.add_argument("--samples", type=_positive, help="how many training and test images to use (all)")
    command.add_argument("--seed", type=int, help="an integer that makes the run repeatable (another one each time)")
    command.add_argument("--backend", choices=("auto", *kernels.NAMES), default="auto", help="what computes (auto)")
    command.add_argument("--threads", type=_positive, help="how many CPU threads (all)")
    command.add_argument("--save", metavar="PATH", help="where to save the network: a name that ends in .keras")
    command.add_argument("--onnx", metavar="PATH", help="where to export it for ONNX Runtime")
    command.add_argument("--history", metavar="PATH", help="where to write the values of every epoch, as JSON")
    command.add_argument("--report", metavar="PATH", help="where to draw how it learned and what it got wrong")
    command.add_argument("--backup", metavar="FOLDER", help="where to keep what a killed run needs; run again to go on")


def train(options: argparse.Namespace) -> Result:
    _check_paths(options)
    if options.seed is not None:
        tinyconv.utils.set_random_seed(options.seed)
    if options.threads is not None:
        tinyconv.set_threads(options.threads)
    (x_train, y_train), (x_test, y_test), names = _data(options.dataset)
    x_train, y_train, x_test, y_test = (part[: options.samples] for part in (x_train, y_train, x_test, y_test))
    say(options, f"{options.dataset}: {len(x_train):,} training and {len(x_test):,} test images of {x_train.shape[1:]}")
    model = compiled(x_train.shape[1:], len(names), options.backend)
    backup = [tinyconv.callbacks.BackupAndRestore(options.backup)] if options.backup else []
    start = time.perf_counter()
    history = model.fit(
        x_train.astype(np.float32) / 255,
        y_train,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_split=0.1,
        verbose=0 if options.json else "auto",
        callbacks=backup,
    )
    seconds = time.perf_counter() - start
    x_test = x_test.astype(np.float32) / 255
    loss, accuracy = model.evaluate(x_test, y_test, batch_size=options.batch_size, verbose=0)
    say(options, f"Test loss:     {loss:.4f}\nTest accuracy: {accuracy:.4f}\nTime:          {seconds:.1f} s")
    _write(options, model, history, x_test, y_test, names)
    return {"loss": loss, "accuracy": accuracy, "seconds": seconds, "history": json.loads(history.to_json())["history"]}


def _check_paths(options: argparse.Namespace) -> None:
    """Refuse what could not be written, before hours of training rather than after."""
    if options.save:
        tinyconv.saving.kind_of(options.save, ".keras")
    for path in filter(None, (options.save, options.onnx, options.history, options.report)):
        if not Path(path).resolve().parent.is_dir():
            raise FileNotFoundError(f"There is no folder {str(Path(path).parent)!r} to write {Path(path).name!r} in.")


def _data(dataset: str) -> tuple[Any, Any, Sequence[str]]:
    """Training and test images, with a channel axis, their labels, and the names of the classes."""
    if dataset == "mnist":
        (x_train, y_train), (x_test, y_test) = tinyconv.datasets.mnist.load_data()
        return (x_train[..., None], y_train), (x_test[..., None], y_test), list("0123456789")
    data = tinyconv.datasets.load(dataset)
    return data.train, data.test, data.class_names


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
        from tinyconv.report import training_report

        training_report(history.history, x, y, model.predict(x), names, options.dataset.upper()).savefig(options.report)
    for name in ("save", "onnx", "history", "report"):
        if getattr(options, name):
            say(options, f"{name.capitalize() + ':':<14} {getattr(options, name)}")


# predict


def _predict(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a network saved as .keras, by tinyconv or by Keras")
    command.add_argument(
        "images", nargs="+", metavar="IMAGE", help="PNG or JPEG; digits are centred and scaled as MNIST's"
    )
    command.add_argument("--backend", choices=("auto", *kernels.NAMES), default="auto", help="what computes (auto)")
    command.add_argument("--names", metavar="A,B,...", help="what the classes are called, in order (their numbers)")


def predict(options: argparse.Namespace) -> Result:
    from tinyconv import pictures

    model = tinyconv.saving.load_model(options.model, backend=options.backend)
    shape: Any = model.input_shape[1:]
    x = np.stack([pictures.read(path, shape) for path in options.images])
    if model.optimizer is None:
        model.compile(backend=options.backend)
    probabilities = model.predict(x)
    names = options.names.split(",") if options.names else [str(k) for k in range(probabilities.shape[1])]
    if len(names) != probabilities.shape[1]:
        raise ValueError(f"Expected {probabilities.shape[1]} names, one for each output. Received: {len(names)}.")
    found = []
    for path, row in zip(options.images, probabilities, strict=True):
        best = int(row.argmax())
        values = dict(zip(names, map(float, row), strict=True))
        found.append({"image": path, "class": names[best], "probability": float(row[best]), "probabilities": values})
        second = int(np.argsort(row)[-2]) if len(row) > 1 else best
        say(options, f"{path}: {names[best]} ({row[best]:.1%}; next {names[second]}, {row[second]:.1%})")
    return {"predictions": found}


# bench


def _bench(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seconds", type=float, default=3.0, help="how long to measure each backend (3)")
    command.add_argument("--batch-size", type=_positive, default=128, help="images per training step (128)")


def bench(options: argparse.Namespace) -> Result:
    """Training steps of the example's network on made-up images: the median of those that fit into the time."""
    x, y = made_up(options.batch_size)
    names = ["reference", "cpu", *(["cuda"] if kernels.cuda_usable() else [])]
    measured: Result = {}
    for name in names:
        model = compiled((28, 28, 1), 10, name)
        for _ in range(1 if name == "reference" else 3):
            model.train_on_batch(x, y)  # compiles, and fills the caches
        times: list[float] = []
        while not times or sum(times) < options.seconds:
            start = time.perf_counter()
            model.train_on_batch(x, y)
            times.append(time.perf_counter() - start)
        median = float(np.median(times))
        measured[name] = {
            "step_ms": 1e3 * median,
            "images_per_second": options.batch_size / median,
            "steps": len(times),
        }
        say(options, f"{name:<10} {1e3 * median:9.2f} ms a step {options.batch_size / median:12,.0f} images/s")
    return {"batch_size": options.batch_size, "cpus": os.cpu_count(), "backends": measured}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
