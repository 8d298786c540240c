"""The command line: ``python -m tinyconv``, or the script ``tinyconv``."""

import argparse
import json
import math
import os
import platform
import sys
import time
import warnings
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import tinyconv
from tinyconv import kernels, layers
from tinyconv.checking import console
from tinyconv.checking.extras import need
from tinyconv.checking.messages import suggest
from tinyconv.plan import ops

Result = dict[str, Any]

MISTAKES = (ValueError, TypeError, ImportError, RuntimeError, OSError)  # of the user, or of the machine: no traceback


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 after an error, 2 for a wrong command line, 130 after Ctrl-C."""
    try:
        return _main(arguments)
    finally:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:  # the reader, "head" say, has seen enough
            console.discard_output()
        except ValueError:  # it is closed
            pass


def _main(arguments: Sequence[str] | None) -> int:
    whole = parser()
    options, unknown = whole.parse_known_args(arguments)
    if unknown:
        _refuse_unknown(whole, options.command, unknown[0])
    try:
        result = options.run(options)
    except MISTAKES as error:
        complain(f"tinyconv {options.command}: {error}")
        return 1
    except KeyboardInterrupt:
        complain("Stopped.")
        return 130
    if options.json:
        console.write(json.dumps(result, indent=2))
    return 130 if result.get("stopped") else 0


class Parser(argparse.ArgumentParser):
    """An argparse that suggests what a mistyped word may have meant."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}. {suggest(value, action.choices)}")

    def _print_message(self, message: str, file: Any = None) -> None:
        console.write(message, sys.stderr if file is None else file, end="")


def _refuse_unknown(whole: argparse.ArgumentParser, command: str, word: str) -> NoReturn:
    """An option or a word too many that the command has not."""
    chosen = _commands(whole)[command]
    if not word.startswith("-"):
        chosen.error(f"unexpected argument: {word!r}")
    options = [name for action in chosen._actions for name in action.option_strings if name.startswith("--")]
    chosen.error(f"unknown option: {word!r}. {suggest(word.partition('=')[0], options)}")


def _commands(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    assert whole._subparsers is not None
    return dict(whole._subparsers._group_actions[0].choices or {})  # type: ignore[arg-type]


def parser() -> argparse.ArgumentParser:
    whole = Parser(
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
    _explore(_command(commands, "explore", explore, "look inside a network in a browser, number by number"))
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
        console.write(text)


def complain(text: str) -> None:
    """Print beside the result."""
    console.write(text, sys.stderr)


# info


def info(options: argparse.Namespace) -> Result:
    from importlib.metadata import version

    from tinyconv.kernels.cpu.registers import host
    from tinyconv.kernels.cpu.runtime import jit, threads

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
        from tinyconv.kernels.cuda.runtime import device

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
    optimizers = (tinyconv.optimizers.Adam(), tinyconv.optimizers.SGD())
    for model, optimizer in zip((network(x.shape[1:], 10), everything_else), optimizers, strict=True):
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
        "--epochs", type=_integer(1), default=15, help="how often to go through the training images (15)"
    )
    command.add_argument("--batch-size", type=_integer(1), default=128, help="images per training step (128)")
    command.add_argument("--samples", type=_integer(2), help="how many training and test images to use (all)")
    command.add_argument(
        "--seed", type=_integer(0, 2**32 - 1), help="an integer that makes the run repeatable (another one each time)"
    )
    command.add_argument("--backend", choices=("auto", *kernels.NAMES), default="auto", help="what computes (auto)")
    command.add_argument("--threads", type=_threads, help="how many CPU threads (all)")
    command.add_argument("--save", metavar="PATH", help="where to save the network: a name that ends in .keras")
    command.add_argument("--onnx", metavar="PATH", help="where to export it for ONNX Runtime")
    command.add_argument("--history", metavar="PATH", help="where to write the values of every epoch, as JSON")
    command.add_argument("--report", metavar="PATH", help="where to draw how it learned and what it got wrong")
    command.add_argument("--backup", metavar="FOLDER", help="where to keep what a killed run needs; run again to go on")


def train(options: argparse.Namespace) -> Result:
    _check_outputs(options)
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
        tinyconv.saving.check_target(path, *(SUFFIXES.get(name) or _drawable()))
        other = taken.setdefault(Path(path).resolve(), name)
        if other != name:
            raise ValueError(f"--{other} and --{name} name the same file, {path!r}. Expected two files.")
    if options.backup is not None:
        if not options.backup:
            raise ValueError("--backup is empty. Expected a folder.")
        tinyconv.saving.check_target(Path(options.backup, "latest.safetensors"), parents=True)


def _drawable() -> list[str]:
    """The suffixes of the pictures that matplotlib can draw here without another program."""
    kinds = need("Pictures need", "matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    return [f".{kind}" for kind in sorted(kinds) if kind != "pgf"]


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
        from tinyconv.inspect.report import training_report

        training_report(history.history, x, y, model.predict(x), names, options.dataset.upper()).savefig(options.report)
    for name in ("save", "onnx", "history", "report"):
        if getattr(options, name):
            say(options, f"{name.capitalize() + ':':<14} {getattr(options, name)}")


# predict


def _predict(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a network saved as .keras, by tinyconv or by Keras")
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="PNG, JPEG, WebP, BMP, GIF or TIFF of at most 10 megapixels; digits are centred and scaled as MNIST's",
    )
    command.add_argument("--backend", choices=("auto", *kernels.NAMES), default="auto", help="what computes (auto)")
    command.add_argument("--names", metavar="A,B,...", help="what the classes are called, in order (their numbers)")


def predict(options: argparse.Namespace) -> Result:
    from tinyconv.datasets import pictures

    model = tinyconv.saving.load_model(options.model, backend=options.backend)
    if isinstance(model.input_shape, list) or isinstance(model.output_shape, list) or len(model.output_shape) != 2:
        raise ValueError(
            f"Cannot say what this network's outputs mean. Expected a row of numbers for each image. Received: outputs "
            f"of shape {model.output_shape}."
        )
    shape: Any = model.input_shape[1:]
    kind, function = meaning(model)
    outputs_of: Any = model.output_shape
    names = _names(options.names, 2 if kind == "two classes" else outputs_of[1])
    x, doubts = [], []
    for path in options.images:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x.append(pictures.read(path, shape))
        doubts.append([str(each.message) for each in caught])
        for doubt in doubts[-1]:
            complain(f"tinyconv predict: warning: {doubt}")
    if model.optimizer is None:
        model.compile(backend=options.backend)
    outputs = model.predict(np.stack(x)).astype(np.float64)
    found = []
    for path, row, warned in zip(options.images, outputs, doubts, strict=True):
        if not np.isfinite(row).all():
            raise ValueError(f"The network's output for {path!r} is not finite: {row.tolist()}. Was it trained?")
        answer, text = _answer(kind, function, row, names)
        found.append({"image": path, **answer, **({"warnings": warned} if warned else {})})
        say(options, f"{path}: {text}")
    return {"predictions": found}


def meaning(model: tinyconv.Model) -> tuple[str, str | None]:
    """What a network's outputs say, and which function makes probabilities of them, if they are only scores.

    They say which of several "classes" it is, which of "two classes" (one output: the probability of the second),
    which "labels" hold, each on its own, or just "numbers".
    """
    last = model._graph().last_op()
    activation = last.kind if isinstance(last, ops.Activation) else "linear"
    activation = "softmax" if isinstance(last, ops.Softmax) else activation
    loss = model.loss.kind if model.loss is not None else None
    single = model.output_shape[1] == 1
    if activation == "softmax":
        return "classes", None
    if activation == "sigmoid" or loss == "binary_cross_entropy":
        return "two classes" if single else "labels", None if activation == "sigmoid" else "sigmoid"
    if loss == "cross_entropy" or (loss is None and not single and activation == "linear"):
        return "classes", "softmax"
    return "numbers", None


def _names(given: str | None, count: int) -> list[str]:
    """What the classes are called."""
    names = given.split(",") if given is not None else [str(k) for k in range(count)]
    if len(names) != count:
        what = "two for its single output" if count == 2 else "one for each output"
        raise ValueError(f"Expected {count} names, {what}. Received: {len(names)}.")
    if len(set(names)) < len(names) or not all(names):
        raise ValueError(f"Expected names that differ, and none empty. Received: {given!r}.")
    return names


def _answer(kind: str, function: str | None, row: np.ndarray, names: list[str]) -> tuple[Result, str]:
    """One image's outputs, for a program and for a person."""
    if kind == "numbers":
        values = dict(zip(names, map(float, row), strict=True))
        return {"values": values}, ", ".join(f"{value:.6g}" for value in row)
    if function == "softmax":
        row = np.exp(row - row.max())
        row = row / row.sum()
    elif function == "sigmoid":
        row = 1 / (1 + np.exp(-np.clip(row, -700, 700)))
    row = np.clip(row, 0, 1)  # a sum may be rounded up
    if kind == "two classes":
        row = np.array([1 - row[0], row[0]])
    best = int(row.argmax())
    probabilities = dict(zip(names, map(float, row), strict=True))
    answer: Result = {"class": names[best], "probability": float(row[best]), "probabilities": probabilities}
    if kind == "labels":
        answer["labels"] = [name for name, value in probabilities.items() if value >= 0.5]
        said = ", ".join(answer["labels"]) or "none of the labels"
        return answer, f"{said} ({', '.join(f'{name} {value:.1%}' for name, value in probabilities.items())})"
    after = ""
    if len(row) > 1:
        second = int(np.argsort(row)[-2])
        after = f"; next {names[second]}, {row[second]:.1%}"
    return answer, f"{names[best]} ({row[best]:.1%}{after})"


# explore


def _explore(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", nargs="?", metavar="MODEL", help="a network saved as .keras (a new, untrained one)")
    command.add_argument("--dataset", metavar="NAME", help="whose test images to show (mnist, if it fits)")
    command.add_argument("--port", type=_integer(0, 65535), default=0, help="where to serve the page (any free port)")
    command.add_argument("--no-browser", action="store_true", help="open no browser; print the page's address alone")


def explore(options: argparse.Namespace) -> Result:
    from tinyconv.inspect.explorer import Explorer

    ((x_train, y_train), (x, y), names), fits = _data(options.dataset or "mnist"), True
    model: tinyconv.Model = compiled(x.shape[1:], len(names), "auto")
    if options.model is not None:
        model = tinyconv.saving.load_model(options.model)
        fits = not isinstance(model.input_shape, list) and math.prod(model.input_shape[1:]) == math.prod(x.shape[1:])
        if options.dataset and not fits:
            raise ValueError(f"{options.model!r} takes {model.input_shape}, and {options.dataset!r} has {x.shape[1:]}.")
    scaled = any(isinstance(layer, layers.Rescaling) for layer in model.layers)
    x, x_train = (each if scaled else each.astype(np.float32) / 255 for each in (x, x_train))
    if fits:
        explorer = Explorer(model, x, y, names, (x_train, y_train), options.port)
    else:
        explorer = Explorer(model, port=options.port)
    if not options.no_browser:
        webbrowser.open(explorer.address)
        say(options, "The page is at this address. Ctrl-C ends it.")
    say(options, explorer.address)
    explorer.wait()
    return {"address": explorer.address}


# bench


def _bench(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seconds", type=_seconds, default=3.0, help="how long to measure each backend (3)")
    command.add_argument("--batch-size", type=_integer(1), default=128, help="images per training step (128)")


def bench(options: argparse.Namespace) -> Result:
    """Training steps of the example's network on made-up images: the median and the spread of those that fit."""
    x, y = made_up(options.batch_size)
    names = ["reference", "cpu", *(["cuda"] if kernels.cuda_usable() else [])]
    say(options, f"Steps of {options.batch_size} images. Load average: {_load() or 'not known'}.")
    say(options, f"{'backend':<10} {'median':>10} {'fastest - slowest':>21} {'steps':>6} {'images/s':>10}  speed")
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
        median, fastest, slowest = (1e3 * float(pick(times)) for pick in (np.median, min, max))
        first = next(iter(measured.values()), {"step_ms": median})
        measured[name] = {
            "step_ms": median,
            "fastest_ms": fastest,
            "slowest_ms": slowest,
            "images_per_second": 1e3 * options.batch_size / median,
            "steps": len(times),
            "times_reference": first["step_ms"] / median,
        }
        spread, rate = f"{fastest:.2f} - {slowest:.2f} ms", f"{1e3 * options.batch_size / median:,.0f}"
        ratio = f"{first['step_ms'] / median:.1f} x reference"
        say(options, f"{name:<10} {median:7.2f} ms {spread:>21} {len(times):>6} {rate:>10}  {ratio}")
    return {"batch_size": options.batch_size, "cpus": os.cpu_count(), "load": _load(), "backends": measured}


def _load() -> float | None:
    """How many processes wanted a processor in the last minute; above the number of processors timings are too long."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # Windows
        return None


# The values of options


def _integer(at_least: int, at_most: float = math.inf) -> Callable[[str], int]:
    """Reads an integer within these bounds."""
    expected = (
        f"an integer of at least {at_least}" if at_most == math.inf else f"an integer from {at_least} to {at_most}"
    )

    def integer(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not at_least <= number <= at_most:
            raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}")
        return number

    return integer


def _threads(text: str) -> int:
    from tinyconv.kernels.cpu.runtime.threads import SETTINGS

    return _integer(1, SETTINGS.NUMBA_NUM_THREADS)(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0 and up to 3600, received {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
