"""Sequential: a stack of layers that can be trained, with Keras' interface.

What happens on the way down: ``fit`` checks the arrays (:mod:`tinyconv.inputs`) and runs the loops of
:mod:`tinyconv.trainer`, which runs a plan (:mod:`tinyconv.plan`) once per batch; the plan calls kernels.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tinyconv import inputs, kernels, losses, metrics, optimizers, random, saving, tables
from tinyconv.arena import Arena, Shape
from tinyconv.callbacks import Callback, CallbackList, History
from tinyconv.callbacks.base import Position, as_callbacks
from tinyconv.kernels import memory
from tinyconv.layers import InputLayer, Layer
from tinyconv.messages import refuse, suggest
from tinyconv.plan import Plan
from tinyconv.progress import Progress
from tinyconv.trainer import Data, Trainer

BatchShape = tuple[int | None, ...]
Moments = Mapping[str, Mapping[str, np.ndarray]]  # of an optimiser: by slot and by "layer/weight"


class Sequential:
    """A stack of layers: each one's output is the next one's input.

    Args:
        layers: the layers, beginning with ``Input(shape=...)``; more can be added with :meth:`add`.
        name: shown in the summary.

    >>> model = Sequential([Input((28, 28, 1)), layers.Conv2D(32, 3, activation="relu"), ...])
    >>> model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    >>> history = model.fit(x_train, y_train, batch_size=128, epochs=15, validation_split=0.1)
    """

    def __init__(self, layers: Iterable[Layer] = (), name: str = "sequential") -> None:
        self.name = name
        self.seed = random.next_seed()
        self.stop_training = False
        self.history: History | None = None
        self.optimizer: optimizers.Optimizer | None = None
        self.loss: losses.Loss | None = None
        self.metrics: tuple[metrics.Metric, ...] = ()
        self._input: InputLayer | None = None
        self._layers: list[Layer] = []
        self._arenas: tuple[Arena, Arena] | None = None
        self._compiled: dict[str, Any] | None = None
        self._trainer: Trainer | None = None
        self._moments: Moments | None = None  # what the next trainer's optimiser starts from; None: zeros
        for layer in layers:
            self.add(layer)

    # Structure

    @property
    def layers(self) -> list[Layer]:
        """The layers, without the input."""
        return list(self._layers)

    def add(self, layer: Layer) -> None:
        """Put one more layer on top. Its weights are drawn at once if the input shape is known."""
        if not isinstance(layer, Layer):
            raise TypeError(f"Model {self.name!r}: expected a tinyconv layer. Received: {layer!r}.")
        if isinstance(layer, InputLayer):
            if self._layers or self._input:
                raise ValueError(f"Model {self.name!r}: Input must be the first entry, and there is one already.")
            self._input = layer
            return
        if any(layer is other for other in self._layers):
            raise ValueError(f"Model {self.name!r}: layer {layer.name!r} is in the model already. Fix: make a new one.")
        self._name(layer)
        if not self._layers and self._input is None and layer.first_input_shape is not None:
            self._input = InputLayer(layer.first_input_shape)
        layer.position = len(self._layers)
        self._layers.append(layer)
        if self._input is not None:
            try:
                self._assemble()
            except Exception:
                self._layers.pop()
                raise

    def pop(self) -> Layer:
        """Take the topmost layer off."""
        if not self._layers:
            raise ValueError(f"Model {self.name!r} has no layers to pop.")
        layer = self._layers.pop()
        layer.arrays = {name: array.copy() for name, array in layer.arrays.items()}
        if self.built or self._input is not None:
            self._assemble()
        return layer

    def _name(self, layer: Layer) -> None:
        """Number an automatic name that is taken: conv2d, conv2d_1, conv2d_2."""
        taken = {other.name for other in self._layers}
        if layer.name in taken and layer.named_by_user:
            raise ValueError(f"Model {self.name!r} has a layer called {layer.name!r} already. Fix: another name.")
        name, number = layer.name, 0
        while layer.name in taken:
            number += 1
            layer.name = f"{name}_{number}"

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Make the weights for inputs of that shape, the batch axis (None) included: (None, 28, 28, 1)."""
        if input_shape is not None and self._input is None:
            self._input = InputLayer(tuple(input_shape)[1:])  # type: ignore[arg-type]
        if self._input is None:
            raise ValueError(
                f"Model {self.name!r} does not know its input shape. "
                "Fix: begin with Input(shape=...), or call build((None, ...)) with the shape of a batch."
            )
        self._assemble()

    def _assemble(self) -> None:
        """Draw the weights of new layers, and lay all weights out in the model's two arenas."""
        assert self._input is not None
        shape = self._input.shape
        chain = [str(shape)]
        specs = []
        for layer in self._layers:
            try:
                if layer.input_shape != shape:
                    if layer.built and layer.arrays:
                        raise ValueError(
                            f"Layer {layer.name!r} was built for samples of shape {layer.input_shape}. "
                            f"Received: {shape}. Fix: make a new layer."
                        )
                    seed = [self.seed, layer.position]
                    layer.initialize(shape, np.random.Generator(np.random.Philox(np.random.SeedSequence(seed))))
            except ValueError as error:
                raise ValueError(f"{error} Shapes so far: {' → '.join(chain)}.") from None
            specs += [(layer, spec) for spec in layer.weight_specs(shape)]
            shape = layer.output_shape(shape)
            chain.append(f"{layer.name} {shape}")
        trainable = {f"{layer.name}/{spec.name}": spec.shape for layer, spec in specs if spec.trainable}
        moving = {f"{layer.name}/{spec.name}": spec.shape for layer, spec in specs if not spec.trainable}
        self._arenas = Arena(trainable, memory), Arena(moving, memory)  # type: ignore[arg-type]
        for layer, spec in specs:
            view = self._arenas[0 if spec.trainable else 1][f"{layer.name}/{spec.name}"]
            view[...] = layer.arrays[spec.name]
            layer.arrays[spec.name] = view
        self._trainer = None

    @property
    def built(self) -> bool:
        """Whether the model has its weights."""
        return self._arenas is not None

    @property
    def input_shape(self) -> BatchShape:
        """The shape of a batch of inputs, (None, ...)."""
        self._need_built()
        assert self._input is not None
        return (None, *self._input.shape)

    @property
    def output_shape(self) -> BatchShape:
        """The shape of a batch of outputs, (None, ...)."""
        shape = self.input_shape[1:]
        for layer in self._layers:
            shape = layer.output_shape(shape)  # type: ignore[arg-type]
        return (None, *shape)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """A layer by its name or its index."""
        if index is not None:
            return self._layers[index]
        for layer in self._layers:
            if layer.name == name:
                return layer
        raise ValueError(f"Unknown layer: {name!r}. {suggest(name, [layer.name for layer in self._layers])}")

    def summary(self, print_fn: Any = print) -> None:
        """Print the layers, their output shapes and numbers of parameters."""
        print_fn(tables.summary(self))

    # Weights

    @property
    def weights(self) -> list[np.ndarray]:
        """All arrays of weights, in Keras' order (read-only; see :meth:`set_weights`)."""
        return [array for layer in self._layers for array in layer.weights]

    def _weights(self, trainable: bool) -> list[np.ndarray]:
        found = []
        for layer in self._layers:
            specs = layer.weight_specs(layer.input_shape) if layer.input_shape else []
            pairs = zip(specs, layer.weights, strict=True)
            found += [array for spec, array in pairs if spec.trainable is trainable]
        return found

    @property
    def trainable_weights(self) -> list[np.ndarray]:
        """The arrays that training changes by their gradients."""
        return self._weights(True)

    @property
    def non_trainable_weights(self) -> list[np.ndarray]:
        """The others: moving statistics."""
        return self._weights(False)

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays of weights, in Keras' order and layout."""
        return [array.copy() for array in self.weights]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Set all weights, in Keras' order and layout: ``keras_model.get_weights()`` fits."""
        self._need_built()
        named = [(f"{layer.name}/{name}", array) for layer in self._layers for name, array in layer.arrays.items()]
        checked = inputs.checked_weights(self.name, named, weights)
        for (_, array), values in zip(named, checked, strict=True):
            array[...] = values
        if self._trainer is not None:
            self._trainer.weights_changed()

    def count_params(self) -> int:
        """How many numbers the weights are."""
        return sum(layer.count_params() for layer in self._layers)

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
        batch_size = _count("batch_size", batch_size, 32)
        epochs, initial_epoch = _count("epochs", epochs, 1), _count("initial_epoch", initial_epoch, 0, at_least=0)
        validation_freq = _count("validation_freq", validation_freq, 1)
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
                size = _count("validation_batch_size", validation_batch_size, batch_size)
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
        batch_size = _count("batch_size", batch_size, 32)
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
        batch_size = _count("batch_size", batch_size, 32)
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
            return trainer.state.read(trainer.run_batch(array, None, training, update=False).out)

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
            trainer.run_batch(array, targets, training=True, update=False)
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
        size = min(_count("batch_size", batch_size, 32), len(array))
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

    def _need_built(self) -> None:
        if not self.built:
            self.build()

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
            found = [metrics.get(m, self.loss, out_shape) for m in settings["metrics"]]  # type: ignore[arg-type]
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


def resolve_backend(backend: str | None) -> str:
    """The backend asked for, by argument or environment; checked, but "auto" is not decided yet."""
    source = "backend" if backend is not None else "TINYCONV_BACKEND"
    backend = backend if backend is not None else os.environ.get("TINYCONV_BACKEND") or "auto"
    if backend not in ("auto", *kernels.NAMES):
        raise ValueError(f"Unknown {source}: {backend!r}. {suggest(backend, ['auto', *kernels.NAMES])}")
    return backend


def load_backend(backend: str) -> ModuleType:
    """The kernel set of that name; "auto": CUDA where a GPU is usable, else the CPU's."""
    if backend != "auto":
        return kernels.load(backend)
    return kernels.load("cuda" if kernels.cuda_usable() else "cpu")


def refuse_compile_arguments(unsupported: dict[str, Any]) -> None:
    """compile's further arguments in Keras: accepted where they change nothing."""
    neutral: dict[str, tuple[Any, ...]] = {
        "loss_weights": (None,),
        "weighted_metrics": (None, []),
        "run_eagerly": (False,),
        "steps_per_execution": (1,),
        "jit_compile": ("auto", True, False),
        "auto_scale_loss": (True, False),
    }
    refuse("compile()", unsupported, neutral)


def refuse_fit_arguments(unsupported: dict[str, Any]) -> None:
    """fit's further arguments in Keras: accepted where they change nothing."""
    names = ("class_weight", "sample_weight", "steps_per_epoch", "validation_steps")
    refuse("fit()", unsupported, dict.fromkeys(names, (None,)))


def _count(name: str, value: Any, default: int, at_least: int = 1) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise ValueError(f"Invalid {name}. Expected an integer of at least {at_least}. Received: {value!r}.")
    return int(value)
