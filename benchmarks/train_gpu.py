"""Train the MNIST network on a GPU, tinyconv and every peer that is installed, in turns in one run.

    python benchmarks/train_gpu.py --record

Per step, per epoch and for 15 epochs with validation; then the device memory that each takes in a process of its own,
as nvidia-smi sees it; then each of tinyconv's kernels against its floor, what the device's memory and its float32 units
cannot go below. A peer that is missing or fails is named and left out. Without a GPU the script says why and ends with
code 2. ``--record`` writes the results into benchmarks/results/, under the device's name.
"""

import argparse
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import network, report
from tinyconv.kernels.cuda.runtime import device, package

BATCH, EPOCHS, REPEATS = 128, 15, 20
VALIDATION = 6_000
TARGETS = {"an epoch": 40e-3, "15 epochs with validation": 1.0}  # seconds, on an H100 or H200


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    usable, reason = device.available()
    if not usable or device.SIMULATED:
        print(f"No GPU to measure on: {reason}", file=sys.stderr)
        return 2
    x, y, test = load_data(options.samples)
    if options.memory_of:  # a process that main started
        print(memory_of(options.memory_of, x, y))
        return 0
    contenders = build(x, y)
    contenders = [contender for contender in contenders if learns(contender, test)]
    if not contenders or contenders[0].name != Tinyconv.name:
        return 1
    packages = "numpy", "numba", package.NAME
    facts = report.machine(packages) | {"device": device.name(), "images": str(len(x)), "rounds": str(options.rounds)}
    print(report.facts_list(facts))
    epochs = in_turns(contenders, options.rounds)
    long = {c.name: timed(lambda c=c: c.many_epochs(EPOCHS)) for c in contenders} if not options.quick else {}
    # TF32 changes what is computed from the memory, not the memory.
    memory = {c.name: memory_apart(c.name, options.samples) for c in contenders if not c.name.endswith("no TF32")}
    text = epoch_table(contenders, epochs, long, memory, len(x))
    kernels = kernel_times(contenders[0])
    text += "\n\n" + kernel_table(kernels)
    print(text)
    name = "gpu-" + re.sub(r"\W+", "-", device.name().lower()).strip("-")
    content = {"facts": facts, "epochs": epochs, f"{EPOCHS} epochs": long, "MiB": memory, "kernels": kernels}
    report.write(options.out, name, f"Training on {device.name()}", report.facts_list(facts) + "\n\n" + text, content)
    return 0


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each, in turns")
    parser.add_argument("--samples", type=int, default=network.TRAINING_SAMPLES, help="images in an epoch")
    parser.add_argument("--quick", action="store_true", help=f"leave out the {EPOCHS} epochs")
    parser.add_argument("--memory-of", metavar="NAME", help="only print the MiB of device memory that NAME takes")
    report.add_output(parser)
    return parser.parse_args(arguments)


def load_data(samples: int) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    from tinyconv.datasets import mnist

    def images(x: np.ndarray) -> np.ndarray:
        return x[..., np.newaxis].astype(np.float32) / 255

    (x, y), (test_x, test_y) = mnist.load_data()
    return images(x[:samples]), y[:samples].astype(np.int64), (images(test_x), test_y.astype(np.int64))


class Tinyconv:
    """Through the public interface, but for the time of one epoch, which begins and ends on the device."""

    name = "tinyconv"

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        import tinyconv
        from tinyconv.training.data import Data

        self.x, self.y = x, y
        self.model = network.keras_model(tinyconv)
        loss = "sparse_categorical_crossentropy"
        self.model.compile(loss=loss, optimizer="adam", metrics=["accuracy"], backend="cuda")
        self.model.set_weights(network.weights())
        self.trainer = self.model._need_trainer("benchmark", x)
        self.kernels = self.trainer.kernels
        self.data = Data.load(self.trainer.state, (x,), (y,))
        self.loop = self.trainer.pass_over(self.data, BATCH, training=True)

    def epoch(self) -> None:
        self.kernels.upload(self.data.order, np.random.default_rng(0).permutation(len(self.x)))
        self.trainer.set_learning_rate()
        self.trainer.begin(self.model.optimizer.iterations)
        for turn in self.loop.batches():
            turn.run()
            self.model.optimizer.iterations += 1
        self.trainer.logs()  # the epoch's one read
        self.kernels.synchronize()

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> float:
        self.trainer.sync_model()
        return float(self.model.evaluate(x, y, batch_size=1000, verbose=0)[1])

    def many_epochs(self, epochs: int) -> None:
        validation = self.x[:VALIDATION], self.y[:VALIDATION]
        self.model.fit(self.x, self.y, batch_size=BATCH, epochs=epochs, validation_data=validation, verbose=0)


class PyTorch:
    """The loop people write; ``graph`` replays each step as a CUDA graph."""

    def __init__(self, x: np.ndarray, y: np.ndarray, graph: bool, last: bool, tf32: bool) -> None:
        import torch

        self.torch, self.tf32, self.graphed, self.name = torch, tf32, graph, self.title(graph, last, tf32)
        self.format = torch.channels_last if last else torch.contiguous_format
        self.x, self.y = self.images(x), torch.from_numpy(y).cuda()
        nn = torch.nn
        block = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
        head = nn.Flatten(), nn.Dropout(network.DROPOUT), nn.Linear(1600, 10)
        self.module = nn.Sequential(*block, *head).cuda().to(memory_format=self.format)
        settings = {"lr": 1e-3, "eps": network.EPSILON, "fused": True, "capturable": graph}
        self.optimizer = torch.optim.Adam(self.module.parameters(), **settings)
        self.loss = torch.nn.CrossEntropyLoss()
        self.totals = torch.zeros(2, device="cuda")
        self.batches: dict[int, Any] = {}
        self.graphs: dict[int, Any] = {}

    @staticmethod
    def title(graph: bool, last: bool, tf32: bool) -> str:
        words = "CUDA graph" if graph else "eager", "channels_last" if last else "", "" if tf32 else "no TF32"
        return "PyTorch " + ", ".join(word for word in words if word)

    def images(self, x: np.ndarray) -> Any:
        there = self.torch.from_numpy(x).permute(0, 3, 1, 2).cuda()
        return there.contiguous(memory_format=self.format)

    def step(self, batch: Any) -> None:
        labels = self.y[batch]
        self.optimizer.zero_grad(set_to_none=True)
        scores = self.module(self.x[batch])
        loss = self.loss(scores, labels)
        loss.backward()
        self.optimizer.step()
        with self.torch.no_grad():
            self.totals[0] += loss * len(batch)
            self.totals[1] += (scores.argmax(1) == labels).sum()

    def capture(self, size: int) -> None:
        """Three steps on a stream beside the usual one, as PyTorch's documentation asks, then one is recorded."""
        torch = self.torch
        self.batches[size] = torch.arange(size, device="cuda")
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                self.step(self.batches[size])
        torch.cuda.current_stream().wait_stream(beside)
        self.graphs[size] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graphs[size]):
            self.step(self.batches[size])

    def epoch(self) -> None:
        torch = self.torch
        torch.backends.cudnn.allow_tf32 = self.tf32  # PyTorch's own default is True
        self.module.train()
        self.totals.zero_()
        order = torch.randperm(len(self.x), device="cuda")
        for batch in order.split(BATCH):
            if not self.graphed:
                self.step(batch)
                continue
            if len(batch) not in self.graphs:
                self.capture(len(batch))
            self.batches[len(batch)].copy_(batch)
            self.graphs[len(batch)].replay()
        self.totals.tolist()
        torch.cuda.synchronize()

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> float:
        self.module.eval()
        with self.torch.inference_mode():
            found = [self.module(self.images(part)).argmax(1).cpu().numpy() for part in np.array_split(x, 10)]
        return float((np.concatenate(found) == y).mean())

    def many_epochs(self, epochs: int) -> None:
        for _ in range(epochs):
            self.epoch()
            self.module.eval()
            with self.torch.inference_mode():
                for part in self.x[:VALIDATION].split(BATCH):
                    self.totals[0] += self.module(part).sum()
            self.totals.tolist()


class Jax:
    """A whole epoch as one jitted scan over its full batches, and a jitted step for the ragged last one."""

    name = "JAX jit"

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        import jax

        if jax.default_backend() != "gpu":
            raise RuntimeError("this JAX has no CUDA")
        self.jax, self.key = jax, jax.random.key(0)
        self.x, self.y = jax.device_put(x), jax.device_put(y.astype(np.int32))
        weights = [jax.device_put(w) for w in network.weights()]
        self.state = weights, [w * 0 for w in weights], [w * 0 for w in weights], jax.numpy.zeros(())
        self.predict = jax.jit(lambda weights, x: self.scores(weights, x, None))
        self.run = jax.jit(self.whole_epoch, donate_argnums=0)

    def scores(self, weights: list[Any], x: Any, key: Any) -> Any:
        lax, nn = self.jax.lax, self.jax.nn
        for w, b in (weights[:2], weights[2:4]):
            x = nn.relu(lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b)
            x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = x.reshape(len(x), -1)
        if key is not None:
            x = self.jax.numpy.where(self.jax.random.bernoulli(key, 1 - network.DROPOUT, x.shape), 2 * x, 0)
        return x @ weights[4] + weights[5]

    def step(self, state: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        jax, np_ = self.jax, self.jax.numpy
        weights, m, v, t = state

        def loss(weights: list[Any]) -> Any:
            logs = jax.nn.log_softmax(self.scores(weights, self.x[batch], key))
            return -np_.take_along_axis(logs, self.y[batch][:, None], 1).mean()

        value, gradients = jax.value_and_grad(loss)(weights)
        t = t + 1
        m = [0.9 * a + 0.1 * g for a, g in zip(m, gradients, strict=True)]
        v = [0.999 * a + 0.001 * g * g for a, g in zip(v, gradients, strict=True)]
        rate = 1e-3 * np_.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        moved = zip(weights, m, v, strict=True)
        return ([w - rate * a / (np_.sqrt(b) + network.EPSILON) for w, a, b in moved], m, v, t), value

    def whole_epoch(self, state: Any, key: Any) -> tuple[Any, Any]:
        jax = self.jax
        first, rest = jax.random.split(key)
        order = jax.random.permutation(first, len(self.x))
        full = len(order) // BATCH
        keys = jax.random.split(rest, full + 1)
        batches = order[: full * BATCH].reshape(full, BATCH)
        state, losses = jax.lax.scan(lambda s, bk: self.step(s, *bk), state, (batches, keys[:-1]))
        if len(order) % BATCH:
            state, _ = self.step(state, order[full * BATCH :], keys[-1])
        return state, losses.mean()

    def epoch(self) -> None:
        self.key, key = self.jax.random.split(self.key)
        self.state, loss = self.run(self.state, key)
        loss.block_until_ready()

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> float:
        return float((np.asarray(self.predict(self.state[0], x)).argmax(1) == y).mean())

    def many_epochs(self, epochs: int) -> None:
        for _ in range(epochs):
            self.epoch()
            self.predict(self.state[0], self.x[:VALIDATION]).block_until_ready()


def build(x: np.ndarray, y: np.ndarray, only: str = "") -> list[Any]:
    """tinyconv first, then every peer that can run here; or that one alone."""
    makers: dict[str, Callable[[], Any]] = {Tinyconv.name: partial(Tinyconv, x, y)}
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: left out.", file=sys.stderr)
    elif not __import__("torch").cuda.is_available():
        print("This PyTorch has no CUDA: left out.", file=sys.stderr)
    else:
        variants = [(graph, last, tf32) for graph in (False, True) for last in (False, True) for tf32 in (True, False)]
        makers |= {PyTorch.title(*variant): partial(PyTorch, x, y, *variant) for variant in variants}
    makers[Jax.name] = partial(Jax, x, y)
    contenders = []
    for name, make in makers.items():
        if only in ("", name):
            try:
                contenders.append(make())
            except ImportError:
                print(f"{name.split()[0]} is not installed: left out.", file=sys.stderr)
            except RuntimeError as error:
                print(f"{name} is left out: {error}.", file=sys.stderr)
    return contenders


def learns(contender: Any, test: tuple[np.ndarray, np.ndarray]) -> bool:
    """Two epochs, which compile, record graphs and fill caches; whether it can run and then knows the test images.

    A peer that fails is left out: its time would mean nothing, and the others' need not be lost.
    """
    try:
        for _ in range(2):
            contender.epoch()
        accuracy = contender.accuracy(*test)
    except Exception as error:
        print(f"{contender.name} is left out: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    print(f"{contender.name}: {accuracy:.2%} of the test images after two epochs")
    if accuracy < 0.96:
        print(
            f"{contender.name} is left out: it does not learn, so that its times would mean nothing.", file=sys.stderr
        )
    return accuracy >= 0.96


def memory_of(name: str, x: np.ndarray, y: np.ndarray) -> int:
    """MiB of device memory that this process takes once a contender has trained for two epochs."""
    before = used_memory()
    (contender,) = build(x, y, only=name)
    for _ in range(2):
        contender.epoch()
    return used_memory() - before


def used_memory() -> int:
    """MiB in use on the device, whoever uses them."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def memory_apart(name: str, samples: int) -> int | None:
    """What :func:`memory_of` finds in a new process; None, with the reason printed, where it cannot be had.

    JAX would take three quarters of the device at once; there it is told to take what it needs.
    """
    command = [sys.executable, __file__, "--samples", str(samples), "--memory-of", name]
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        print(f"No memory of {name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return int(done.stdout.split()[-1])


def timed(work: Callable[[], None]) -> float:
    """Seconds of one run, which ends when the device has finished."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(contenders: list[Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of every epoch: each contender one epoch, then each again."""
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            times[contender.name].append(timed(contender.epoch))
    return times


def epoch_table(
    contenders: list[Any],
    epochs: dict[str, list[float]],
    long: dict[str, float],
    memory: dict[str, int | None],
    samples: int,
) -> str:
    """Median times, how many times as long as tinyconv each took, and device memory."""
    ours = statistics.median(epochs["tinyconv"])
    steps = -(-samples // BATCH)
    rows = []
    for contender in contenders:
        epoch = statistics.median(epochs[contender.name])
        spread = (max(epochs[contender.name]) - min(epochs[contender.name])) / epoch
        fifteen = f"{long[contender.name]:.2f} s" if long else "-"
        times = f"{epoch / steps * 1e6:.0f} µs", f"{epoch * 1e3:.1f} ms ± {50 * spread:.0f} %", fifteen
        taken = memory.get(contender.name)
        rows.append((contender.name, *times, f"{epoch / ours:.2f}x", "-" if taken is None else f"{taken:,} MiB"))
    columns = "", "a step", "an epoch", f"{EPOCHS} epochs", "to tinyconv", "memory"
    targets = ", ".join(f"{name} in {seconds * 1e3:.0f} ms" for name, seconds in TARGETS.items())
    return report.table(columns, rows, right=(1, 2, 3, 4, 5)) + f"\n\nTargets on an H100 or H200: {targets}."


def kernel_times(ours: Tinyconv) -> list[tuple[str, str, float, float]]:
    """For each step of the plan: layer, kernel, seconds on the device, and the least it could take.

    A step is recorded twenty times into one graph, so that no launch by Python is part of its time. Some are the faster
    the more zeros they meet, so a whole step of the trained model comes before each.
    """
    cuda = device.cuda
    bandwidth, peak = limits()
    trainer = ours.trainer
    results = []
    for step in ours.loop.plans[BATCH].all_steps():
        if step.phase == "prepare":
            continue  # the CUDA kernels prepare nothing
        trainer.weights_changed()
        trainer.begin(0)
        ours.loop.programs[BATCH]()
        run = ours.kernels.record([step.call] * REPEATS)
        times = []
        for _ in range(7):
            trainer.begin(0)
            run()
            begin, end = cuda.event(), cuda.event()
            begin.record(device.stream())
            run()
            end.record(device.stream())
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3 / REPEATS)
        scratch = 4 * step.arguments["work"].size if "work" in step.arguments else 0
        floor = max((step.nbytes - scratch) / bandwidth, step.flops / peak)
        results.append((step.name, step.kernel_name, statistics.median(times[2:]), floor))
    return results


def kernel_table(kernels: list[tuple[str, str, float, float]]) -> str:
    """Time per kernel against its floor."""
    rows = [(layer, kernel, f"{t * 1e6:.1f} µs", f"{floor * 1e6:.1f} µs") for layer, kernel, t, floor in kernels]
    total = f"{sum(t for *_, t, _ in kernels) * 1e6:.1f} µs", f"{sum(f for *_, f in kernels) * 1e6:.1f} µs"
    return report.table(("layer", "kernel", "time", "floor"), [*rows, ("all", "", *total)], right=(2, 3))


def limits() -> tuple[float, float]:
    """The device's memory bandwidth (bytes/s) and float32 peak (FLOP/s), from its own attributes."""
    gpu = device.cuda.get_current_device()
    bandwidth = 2e3 * gpu.MEMORY_CLOCK_RATE * gpu.GLOBAL_MEMORY_BUS_WIDTH / 8
    cores = 64 if tuple(gpu.compute_capability) in ((7, 5), (8, 0)) else 128  # of a multiprocessor
    return bandwidth, 2e3 * gpu.CLOCK_RATE * gpu.MULTIPROCESSOR_COUNT * cores


if __name__ == "__main__":
    sys.exit(main())
