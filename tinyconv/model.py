"""Sequential: a stack of layers that can be trained, with Keras' interface.

What happens on the way down: ``fit`` checks the arrays (:mod:`tinyconv.inputs`) and runs the loops of
:mod:`tinyconv.trainer`, which runs a plan (:mod:`tinyconv.plan`) once per batch; the plan calls kernels.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyconv import inputs, kernels, losses, metrics, optimizers, saving, tables
from tinyconv.arena import Shape
from tinyconv.arguments import count_of, load_backend, refuse_compile_arguments, refuse_fit_arguments, resolve_backend
from tinyconv.callbacks import Callback, CallbackList, History
from tinyconv.callbacks.base import Position, as_callbacks
from tinyconv.layers import Layer
from tinyconv.plan import Plan
from tinyconv.progress import Progress
from tinyconv.stack import Stack
from tinyconv.trainer import Data, Trainer

Moments = Mapping[str, Mapping[str, np.ndarray]]  # of an optimiser: by slot and by "layer/weight"


class Sequential(Stack):
    """A stack of layers: each one's output is the next one's input.

    Args:
        layers: the layers, beginning with ``Input(shape=...)``; more can be added with :meth:`add`.
        name: shown in the summary.

    >>> model = Sequential([Input((28, 28, 1)), layers.Conv2D(32, 3, activation="relu"), ...])
    >>> model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    >>> history = model.fit(x_train, y_train, batch_size=128, epochs=15, validation_split=0.1)
    """

    def __init__(self, layers: Iterable[Layer] = (), name: str = "sequential") -> None:
        self.stop_training = False
        self.history: History | None = None
        self.optimizer: optimizers.Optimizer | None = None
        self.loss: losses.Loss | None = None
        self.metrics: tuple[metrics.Metric, ...] = ()
        self._compiled: dict[str, Any] | None = None
        self._trainer: Trainer | None = None
        self._moments: Moments | None = None  # what the next trainer's optimiser starts from; None: zeros
        super().__init__(layers, name)

    def _weights_moved(self) -> None:
        self._trainer = None

    def _weights_changed(self) -> None:
        if self._trainer is not None:
            self._trainer.weights_changed()

    # The optimiser's state

    def optimizer_state(self) -> Moments:
        """Copies of the optimiser's moments, by slot ("momentum", "velocity") and by "layer/weight"."""
        if self._trainer is not None:
            return self._trainer.moments()
        assert self._arenas is not None
        slots = self.optimizer.slots if self.optimizer else ()
        zeros = {name: np.zeros(shape, np.float32) for name, shape in self._arenas[0].shapes.items()}
        return self._moments or dict.fromkeys(slots, zeros)

    def set_optimizer_state(self, moments: Moments) -> None:
        """Set the optimiser's moments; with its ``iterations``, training goes on as if it had not stopped."""
        if self._trainer is not None:
            self._trainer.set_moments(moments)
        self._moments = moments

    def restart(self, seed: int, iterations: int, moments: Moments) -> None:
        """Go on as a model with that seed, step count and moments would, in everything random too."""
        assert self.optimizer is not None
        self.seed, self.optimizer.iterations, self._moments, self._trainer = seed, iterations, moments, None

    def totals(self) -> np.ndarray:
        """The totals of loss and metrics over the batches of this epoch so far."""
        return self._need_trainer("totals", None).totals()

    # Files

    def save(self, filepath: str | os.PathLike, overwrite: bool = True) -> None:
        """Write the whole model, its optimiser's state included, as a ".keras" archive: see :mod:`tinyconv.saving`."""
        saving.save_model(self, filepath, overwrite)

    def save_weights(self, filepath: str | os.PathLike, overwrite: bool = True) -> None:
        """Write the weights: ".safetensors", or ".weights.h5" in Keras' layout."""
        saving.save_weights(self, filepath, overwrite)

    def load_weights(self, filepath: str | os.PathLike) -> None:
        """Read the weights of a model of the same layers, from a file of either kind."""
        saving.load_weights(self, filepath)

    # Training

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "adam",
        loss: str | losses.Loss | None = None,
        metrics: Sequence[str | metrics.Metric] | None = None,
        *,
        backend: str | None = None,
        fuse: bool = True,
        **unsupported: Any,
    ) -> None:
        """Say how to train.

        Args:
            optimizer: a name ("adam", "adamw", "sgd") or an object of :mod:`tinyconv.optimizers`.
            loss: a name such as "categorical_crossentropy" or an object of :mod:`tinyconv.losses`.
            metrics: names such as "accuracy", or objects of :mod:`tinyconv.metrics`.
            backend: which kernels compute: "cpu", "cuda" or "reference"; "auto" takes CUDA where a GPU is usable, else
                the CPU. None: the environment variable TINYCONV_BACKEND, else "auto".
            fuse: whether the plan may fuse neighbouring operations.
        """
        refuse_compile_arguments(unsupported)
        self.optimizer = optimizers.get(optimizer)
        self.loss = None if loss is None else losses.get(loss)
        if isinstance(metrics, str):
            metrics = [metrics]
        self._compiled = {"metrics": list(metrics or []), "backend": resolve_backend(backend), "fuse": bool(fuse)}
        self._trainer = self._moments = None

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Iterable[Callback] | Callback | None = None,
        validation_split: float = 0.0,
        validation_data: tuple[Any, Any] | None = None,
        shuffle: bool = True,
        initial_epoch: int = 0,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
        **unsupported: Any,
    ) -> History:
        """Train for some epochs, and return the history of losses and metrics.

        Args:
            x: inputs, (samples, ...). Anything that is not C-contiguous float32 is converted once.
            y: targets: rows like the output, or class numbers for a sparse loss.
            batch_size: samples per step; None: 32.
            epochs: the number of the last epoch; with ``initial_epoch`` fewer are trained.
            verbose: 0: silent, 1: progress bar, 2: a line per epoch, "auto": 1 in a terminal, else 2.
            callbacks: objects of :mod:`tinyconv.callbacks`.
            validation_split: the share of the samples, taken from the end before shuffling, to validate on.
            validation_data: (x, y) to validate on instead.
            shuffle: whether every epoch sees the samples in another order.
            initial_epoch: the epoch to start at, for resuming.
            validation_batch_size: samples per validation batch; None: batch_size.
            validation_freq: validate every so many epochs.
        """
        refuse_fit_arguments(unsupported)
        self._need_trainer("fit", x)
        batch_size = count_of("batch_size", batch_size, 32)
        epochs, initial_epoch = count_of("epochs", epochs, 1), count_of("initial_epoch", initial_epoch, 0, at_least=0)
        validation_freq = count_of("validation_freq", validation_freq, 1)
        training = self._checked(x, y)
        validation = None
        if validation_data is not None:
            if not isinstance(validation_data, Sequence) or len(validation_data) != 2:
                raise ValueError("Invalid validation_data. Expected a pair (x, y).")
            validation = self._checked(*validation_data)
        elif validation_split:
            training, validation = inputs.split_validation(*training, validation_split)
        samples, given = len(training[0]), as_callbacks(callbacks)
        resumed = [callback.resume(self, samples, batch_size) for callback in given]
        start = next((position for position in resumed if position is not None), Position(initial_epoch))
        trainer = self._need_trainer("fit", x)
        with trainer.lock:
            self.stop_training = False
            progress = Progress(verbose, epochs, samples)
            data = Data.load(trainer.state, *training)
            loop = trainer.pass_over(data, batch_size, training=True)
            val_loop = None
            if validation is not None:
                size = count_of("validation_batch_size", validation_batch_size, batch_size)
                val_loop = trainer.pass_over(Data.load(trainer.state, *validation), size, training=False)
            self.history = history = History()
            steps = -(-samples // batch_size)
            params = {"epochs": epochs, "steps": steps, "verbose": verbose}
            params["validation_freq"] = validation_freq if validation else 0
            events = CallbackList([*given, history], self, params)
            try:
                self._warm_up(trainer, progress, loop, *([val_loop] if val_loop else []))
                events.call("on_train_begin", {})
                logs: dict[str, float] = {}
                for epoch in range(start.epoch, epochs):
                    if epoch > start.epoch:
                        start = Position(epoch)
                    if shuffle:
                        step = trainer_step(self) - start.batch  # at the beginning of the epoch
                        order = np.random.Generator(np.random.Philox(key=[self.seed, step]))
                        trainer.kernels.upload(data.order, order.permutation(samples))
                    events.call("on_epoch_begin", epoch, {})
                    progress.epoch_begin(epoch)
                    logs, seconds = trainer.train_epoch(loop, events, progress, start)
                    if val_loop and (epoch + 1) % validation_freq == 0:
                        val_logs = trainer.run(val_loop, events, "test")
                        logs |= {f"val_{name}": value for name, value in val_logs.items()}
                    progress.epoch_end(logs, seconds)
                    events.call("on_epoch_end", epoch, logs)
                    if self.stop_training:
                        break
                events.call("on_train_end", logs)
            finally:
                progress.close()
        return history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        callbacks: Iterable[Callback] | Callback | None = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss and the metrics on a data set: [loss, metric, ...], just the loss if there are no metrics, or (with
        ``return_dict``) a dict by name."""
        trainer = self._need_trainer("evaluate", x)
        checked = self._checked(x, y)
        batch_size = count_of("batch_size", batch_size, 32)
        with trainer.lock:
            loop = trainer.pass_over(Data.load(trainer.state, *checked), batch_size, training=False)
            progress = Progress(verbose, 0, len(checked[0]))
            params = {"epochs": 1, "steps": -(-len(checked[0]) // batch_size), "verbose": verbose}
            try:
                self._warm_up(trainer, progress, loop)
                start = time.perf_counter()
                logs = trainer.run(loop, CallbackList(callbacks, self, params), "test")
                progress.epoch_end(logs, time.perf_counter() - start)
            finally:
                progress.close()
        if return_dict:
            return logs
        values = list(logs.values())
        return values if len(values) > 1 else values[0]

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = 0,
        callbacks: Iterable[Callback] | Callback | None = None,
        *,
        on_device: bool = False,
    ) -> Any:
        """The model's outputs for a whole data set, (samples, ...).

        A NumPy array; with ``on_device`` the backend's own array, which for CUDA stays on the device and has
        ``__cuda_array_interface__``, so that CuPy and PyTorch take it without a copy.
        """
        trainer = self._need_trainer("predict", x, compiled=False)
        array = self._input_array(x)
        batch_size = count_of("batch_size", batch_size, 32)
        shape: Shape = (len(array), *self.output_shape[1:])  # type: ignore[arg-type, assignment]
        with trainer.lock:
            width = math.prod(shape[1:])
            result = trainer.kernels.allocate((len(array), width), np.float32)
            loop = trainer.pass_over(Data.load(trainer.state, array, None), batch_size, training=False, result=result)
            params = {"epochs": 1, "steps": -(-len(array) // batch_size), "verbose": verbose}
            progress = Progress(verbose, 0, len(array))
            try:
                self._warm_up(trainer, progress, loop)
                start = time.perf_counter()
                trainer.run(loop, CallbackList(callbacks, self, params), "predict")
                progress.epoch_end({}, time.perf_counter() - start)
            finally:
                progress.close()
            return (result if on_device else trainer.state.read(result)).reshape(shape)

    def __call__(self, x: Any, training: bool = False) -> np.ndarray:
        """The model's output for one batch, (batch, ...): all samples at once."""
        trainer = self._need_trainer("a call", x, compiled=False)
        array = self._input_array(x)
        with trainer.lock:
            plan = trainer.run_batch(array, None, training, update=False)
            if training:
                trainer.sync_model()  # a batch normalisation has moved its statistics
            return trainer.state.read(plan.out)

    def train_on_batch(self, x: Any, y: Any, return_dict: bool = False) -> Any:
        """One step on one batch. Returns the batch's own loss and metrics, as :meth:`evaluate` does."""
        return self._on_batch("train_on_batch", x, y, True, return_dict)

    def test_on_batch(self, x: Any, y: Any, return_dict: bool = False) -> Any:
        """The loss and the metrics of one batch, as :meth:`evaluate` returns them."""
        return self._on_batch("test_on_batch", x, y, False, return_dict)

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """The outputs for one batch; the same as calling the model."""
        return self(x)

    def _on_batch(self, what: str, x: Any, y: Any, training: bool, return_dict: bool) -> Any:
        trainer = self._need_trainer(what, x)
        array, targets = self._checked(x, y)
        with trainer.lock:
            if training:
                trainer.set_learning_rate()
            trainer.run_batch(array, targets, training, update=training)
            logs = trainer.logs(len(array))
            if training:
                assert self.optimizer is not None
                self.optimizer.iterations += 1
                trainer.sync_model()
        if return_dict:
            return logs
        values = list(logs.values())
        return values if len(values) > 1 else values[0]

    # Looking inside

    def gradients(self, x: Any, y: Any) -> dict[str, np.ndarray]:
        """The gradient of the loss on one batch with respect to every trainable weight, by "layer/weight"."""
        trainer = self._need_trainer("gradients", x)
        array, targets = self._checked(x, y)
        with trainer.lock:
            moving = trainer.state.read(trainer.state.moving.flat)
            trainer.run_batch(array, targets, training=True, update=False)
            trainer.kernels.upload(trainer.state.moving.flat, moving)  # asking changes nothing
            return {name: trainer.state.read(view) for name, view in trainer.state.grads.views.items()}

    @property
    def plan(self) -> Plan:
        """The training plan, for the largest batch size trained with so far (32 before any training)."""
        trainer = self._need_trainer("plan", None)
        sizes = [size for size, training, with_loss in trainer.plans if training and with_loss]
        return trainer.plan(max(sizes, default=32), training=True, with_loss=True)

    def profile(self, x: Any, y: Any, batch_size: int | None = None, repeats: int = 20, print_fn: Any = print) -> None:
        """Print how long each step of a training batch takes, its speed, and its share. Weights are left as they are.

        Args:
            x, y: data as for :meth:`fit`; the first ``batch_size`` samples are used.
            batch_size: None: 32.
            repeats: runs to take the median of.
        """
        trainer = self._need_trainer("profile", x)
        array, targets = self._checked(x, y)
        size = min(count_of("batch_size", batch_size, 32), len(array))
        rows = len(targets) // len(array)
        with trainer.lock:
            trainer.set_learning_rate()
            state = trainer.state
            arrays = [state.params.flat, state.moving.flat, *state.slots.values()]
            before = [state.read(a) for a in arrays]
            try:
                plan = trainer.run_batch(array[:size], targets[: size * rows], training=True, update=False)
                times = plan.profile(repeats)
            finally:
                for a, values in zip(arrays, before, strict=True):
                    trainer.kernels.upload(a, values)
        print_fn(tables.profile_table(times, tables.matrix_peak() if state.on_host else None))

    # Checks

    def _need_trainer(self, what: str, x: Any, compiled: bool = True) -> Trainer:
        """The trainer, made when first needed; the model is built from ``x`` if its input shape is not known yet."""
        if self._compiled is None and compiled:
            raise ValueError(
                f"Model {self.name!r} is not compiled. Expected compile(loss=..., optimizer=...) before {what}()."
            )
        if not self._layers:
            raise ValueError(f"Model {self.name!r} has no layers. Expected at least one, see Sequential.add.")
        if compiled and self.loss is None:
            raise ValueError(f"Model {self.name!r} has no loss. Fix: compile(loss=...), before {what}().")
        if not self.built and self._input is None and x is not None:
            self.build((None, *inputs.as_batch(x, f"model {self.name!r}").shape[1:]))
        self._need_built()
        if self._trainer is None:
            self._trainer = self._make_trainer()
        return self._trainer

    def _make_trainer(self) -> Trainer:
        settings = self._compiled or {"metrics": [], "backend": resolve_backend(None), "fuse": True}
        assert self._arenas is not None
        out_shape = self.output_shape[1:]
        if self.loss is not None:
            found = [metrics.get(m, out_shape) for m in settings["metrics"]]  # type: ignore[arg-type]
            self.metrics = tuple(found)
        kernel_set = load_backend(settings["backend"])
        work = (self.optimizer, self.loss, self.metrics, settings["fuse"])
        trainer = Trainer(self, kernel_set, self._arenas, self.seed, *work)
        if self._moments is not None:
            trainer.set_moments(self._moments)
        return trainer

    def _input_array(self, x: Any) -> np.ndarray:
        shape: Any = self.input_shape[1:]  # type: ignore[index]
        on_device = getattr(self._trainer.kernels, "on_device", None) if self._trainer else None
        if on_device and on_device(x):
            assert self._trainer is not None
            array = self._trainer.kernels.as_device_array(x)
            return inputs.as_device_input(array, shape, f"model {self.name!r}")
        return inputs.as_input(x, shape, f"model {self.name!r}")

    def _checked(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        array = self._input_array(x)
        assert self.loss is not None
        shape: Any = self.output_shape[1:]
        return array, inputs.as_targets(y, shape, self.loss.sparse, len(array), self.loss.name)

    def _warm_up(self, trainer: Trainer, progress: Progress, *loops: Any) -> None:
        """Compile what is not compiled yet, before any clock runs, and say so."""
        if not trainer.is_cold(*loops) or trainer.kernels is kernels.load("reference"):
            return
        if not trainer.warm:
            progress.announce(f"Running on: {trainer.kernels.describe()}.")
        kept = "" if trainer.kernels.__name__.endswith("cuda") else ", once; they are kept for the next run"
        message = f"Compiling the kernels for this machine{kept} ..."
        watch: Any = getattr(trainer.kernels, "compile_watch", contextlib.nullcontext)
        with watch(lambda: progress.announce(message)) as compiled:
            trainer.warm_up(*loops)
        if getattr(compiled, "functions", None):
            progress.announce(f"Compiled {len(compiled.functions)} functions in {compiled.seconds:.1f} s.")


def trainer_step(model: Sequential) -> int:
    """How many steps the model has taken: with its seed, the key of the next epoch's order."""
    return model.optimizer.iterations if model.optimizer else 0
