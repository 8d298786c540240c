"""tinyconv itself, used as its users do."""

from collections.abc import Callable

import numba
import numpy as np

import tinyconv
from benchmarks import network
from benchmarks.measure import alternate, seconds_per_call
from benchmarks.peers.base import Peer


class Tinyconv(Peer):
    """``backend``: the kernel set; ``fuse``: whether the plan may fuse neighbouring steps."""

    packages = ("tinyconv", "numba", "numpy")

    def __init__(self, threads: int, backend: str = "cpu", fuse: bool = True) -> None:
        super().__init__(threads)
        self.backend, self.fuse = backend, fuse
        self.batch_norm_of: tuple[int, ...] = ()
        self.kernels = tinyconv.kernels.load(backend)
        self.set_threads(threads)

    def set_threads(self, threads: int) -> None:
        if self.backend == "cpu":
            from tinyconv.kernels.cpu.runtime.threads import set_threads

            set_threads(threads)

    def facts(self) -> dict[str, str]:
        found = super().facts()
        if self.backend == "cpu":
            from tinyconv.kernels.cpu.registers.host import LANES
            from tinyconv.kernels.cpu.runtime.threads import threading_layer

            found |= {"threading layer": threading_layer(), "vector lanes": str(LANES)}
        return found

    def build(self) -> None:
        self.targets = np.eye(10, dtype=np.float32)[self.y]
        self.compile(network.keras_model(tinyconv), "categorical_crossentropy", network.weights())

    def build_other(self, weights: list[np.ndarray]) -> None:
        self.targets = self.y
        self.compile(self.network.make(tinyconv), "sparse_categorical_crossentropy", weights)

    def compile(self, model: tinyconv.Model, loss: str, weights: list[np.ndarray]) -> None:
        settings = {"backend": self.backend, "fuse": self.fuse}
        model.compile(loss=loss, optimizer="adam", metrics=["accuracy"], **settings)
        model.set_weights(weights)
        self.model = model

    def outputs(self, samples: int) -> np.ndarray:
        return self.model(self.x[:samples])

    def epoch(self, samples: int, batch_size: int) -> float:
        history = self.model.fit(self.x[:samples], self.targets[:samples], batch_size=batch_size, epochs=1, verbose=0)
        return history.history["loss"][0]

    def inference(self, batch_size: int) -> Callable[[], np.ndarray]:
        x = self.x[:batch_size]
        return lambda: self.model(x)

    def convolution(self, shape: network.Convolution) -> dict[str, Callable[[], None]]:
        self.results, passes = convolution(self.kernels, shape)
        return passes

    def convolved(self, shape: network.Convolution) -> dict[str, np.ndarray]:
        passes = self.convolution(shape)
        for what in ("forward", "dW and dX"):
            passes[what]()
        return self.results

    def convolve(self, shape: network.Convolution, what: str, at_least: float = 0.1) -> float:
        """dX is timed as the difference between dW with dX and dW alone: no kernel computes only dX."""
        if what != "dX":
            return super().convolve(shape, what, at_least)
        passes = self.passes(shape)
        both, dw = alternate([passes["dW and dX"], passes["dW"]], 2 * at_least)
        return both - dw

    def batch_norm(self, shape: tuple[int, ...], what: str, at_least: float = 0.1) -> float:
        """Seconds of a pass of batch normalisation and ReLU, as training has them; or of copying that array."""
        if self.batch_norm_of != shape:
            self.batch_norm_of, self.batch_norm_passes = shape, batch_norm(shape, self.backend, self.fuse)
        return seconds_per_call(self.batch_norm_passes[what], at_least)

    def matrix_product(self, size: int, at_least: float = 0.2) -> float:
        a = np.ones((size, size), np.float32)
        return seconds_per_call(lambda: a @ a, at_least)

    def multiply_adds(self, at_least: float = 0.2) -> float:
        """Seconds for a billion multiply-adds that wait for nothing: the register tile on a few KB, on all threads."""
        from tinyconv.kernels.cpu.registers import tile
        from tinyconv.kernels.cpu.registers.host import LANES
        from tinyconv.kernels.cpu.runtime.tasks import kernel, run

        R, V = tile.tile_shape(2 * LANES)
        length, tasks = 64, 8 * self.threads
        rounds = int(1e9) // (R * V * LANES * length * tasks)

        @kernel
        def multiply(task, out, x, w, rounds):
            total, reads = tile.tile_zeros(R, V), tile.pixel_offsets(0, R - 1, R, 0, length, R)
            for _ in range(rounds):
                total = tile.tile_add_products(total, x, reads, 0, 1, w, 0, length)
            tile.tile_store(total, out, task * R * V * LANES, V * LANES)

        out, x, w = (np.ones(size, np.float32) for size in (tasks * R * V * LANES, R * length, length * V * LANES))
        seconds = seconds_per_call(lambda: run(multiply, tasks, out, x, w, rounds), at_least)
        return seconds * 1e9 / (rounds * R * V * LANES * length * tasks)


def convolution(kernels, shape: network.Convolution) -> tuple[dict[str, np.ndarray], dict[str, Callable[[], None]]]:
    """The results of a convolution by pass, and for each pass a call that computes it. Filters are packed in the
    forward pass, as in training."""

    def placed(array: np.ndarray) -> np.ndarray:
        there = kernels.allocate(array.shape, array.dtype)
        kernels.upload(there, array)
        return there

    a = {name: placed(array) for name, array in shape.arrays().items()}
    x, w, b, dout = (a[name] for name in ("x", "w", "b", "dout"))
    out, dx, dw, db = (kernels.allocate(array.shape, np.float32) for array in (dout, x, w, b))
    nothing = kernels.allocate((0, 0, 0, 0), np.float32)
    settings = ((shape.stride,) * 2, (shape.padding,) * 2, (1, 1))
    work = kernels.allocate((kernels.conv2d_workspace(out.shape, x.shape, w.shape, *settings),), np.float32)
    kernels.conv2d_prepare(work, w, out.shape, x.shape, *settings)

    def forward() -> None:
        kernels.conv2d_prepare(work, w, out.shape, x.shape, *settings)
        kernels.conv2d_forward(out, x, w, b, work, *settings, False)

    passes = {
        "forward": forward,
        "dW": lambda: kernels.conv2d_backward(nothing, dw, db, dout, x, w, work, *settings),
        "dW and dX": lambda: kernels.conv2d_backward(dx, dw, db, dout, x, w, work, *settings),
    }
    return {"forward": out, "dW": dw, "dX": dx}, passes


def batch_norm(shape: tuple[int, ...], backend: str, fuse: bool) -> dict[str, Callable[[], object]]:
    """The steps of both layers in a training plan, and those with a max-pooling behind them, their arrays being what a
    step of training left in them; a copy."""
    batch, *image, channels = shape
    x, layers = np.random.default_rng(0).random((batch, *image, 1), np.float32), tinyconv.layers
    found: dict[str, Callable[[], object]] = {}
    for behind, pooling in (("", []), (" with max-pooling", [layers.MaxPooling2D(2, name="pool")])):
        body = [
            layers.Conv2D(channels, 1),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="rectify"),
            *pooling,
        ]
        model = tinyconv.Sequential(
            [tinyconv.Input(x.shape[1:]), *body, layers.GlobalAveragePooling2D(), layers.Dense(10)]
        )
        model.compile("sgd", "mse", backend=backend, fuse=fuse)
        model.fit(x, np.zeros((batch, 10), np.float32), batch_size=batch, verbose=0)
        for phase in ("forward", "backward"):
            own = [s.call for s in model.plan.steps[phase] if {"norm", "rectify", "pool"} & set(s.name.split(" + "))]
            assert own, f"no step of batch norm and ReLU in {phase}"
            found[phase + behind] = model.plan.kernels.record(own)
    source, target = np.ones((2, int(np.prod(shape))), np.float32)
    copy = numba.njit(parallel=True)(copy_parts)
    return found | {"copy": lambda: copy(target, source, numba.get_num_threads())}


def copy_parts(target, source, parts):
    """Each thread copies one part."""
    size = -(-len(source) // parts)
    for part in numba.prange(parts):
        target[part * size : (part + 1) * size] = source[part * size : (part + 1) * size]
