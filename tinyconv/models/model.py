"""Model: layers that can be trained, with Keras' interface.

What happens on the way down: ``fit`` checks the arrays (:mod:`tinyconv.checking.inputs`) and runs the loops of
:mod:`tinyconv.training`, which run a plan (:mod:`tinyconv.plan`) once per batch; the plan calls kernels.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tinyconv import checking
from tinyconv.callbacks import Callback, CallbackList, History
from tinyconv.callbacks.base import BEGINNING, Position, as_callbacks
from tinyconv.checking import console, count_of
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import explained, refuse
from tinyconv.distribution.parallel import together
from tinyconv.files import store
from tinyconv.layers import InputLayer
from tinyconv.layers.symbolic import Tensor, calls_before, in_keras_order, tensors_of
from tinyconv.models.compiled import Compiled, Weights
from tinyconv.models.feed import TRAINING, VALIDATION, Feed
from tinyconv.models.structure import Use
from tinyconv.plan import tables
from tinyconv.plan.locks import locked
from tinyconv.plan.lowering import Plan
from tinyconv.trace.step import recorded
from tinyconv.trace.trace import Trace
from tinyconv.training.agreement import here, join, told
from tinyconv.training.data import Loop
from tinyconv.training.heads import as_list
from tinyconv.training.progress import Progress, Verbosity
from tinyconv.training.session import Session


class Model(Compiled):
    """Layers between inputs and outputs: any graph of them that has no cycle.

    >>> image = Input((28, 28, 1))
    >>> x = layers.Conv2D(32, 3, activation="relu")(image)
    >>> y = layers.Conv2D(32, 3, padding="same")(x)
    >>> digit = layers.Dense(10, activation="softmax")(layers.Flatten()(layers.Add()([x, y])))
    >>> model = Model(image, digit)

    A layer that is called more than once has one set of weights. A model can be called as a layer, and then belongs to
    what comes of it; models that share layers share their weights.

    Args:
        inputs: the tensor that the model begins with, or a list of them: from ``Input``, or outputs of layers. Or a
            dictionary of them by their names, which are taken in alphabetical order, as in Keras.
        outputs: the tensor that the model computes, or a list of them.
        trainable: whether training changes its weights.
        name: shown in the summary.

    Several threads may use a model at once: what reads or writes weights waits for its turn, see
    :mod:`tinyconv.plan.locks`. A copy (``copy.deepcopy``, pickle, a process it is sent to) has weights, an optimiser
    and a state of its own.
    """

    _explorer: ClassVar[Callable[..., Any]]  # stands above the models: the package brings it in

    def __init__(
        self, inputs: Any = None, outputs: Any = None, trainable: bool = True, name: str | None = None
    ) -> None:
        self._begin(name, trainable)
        given = {"inputs": tensors_of(_by_name(inputs)), "outputs": tensors_of(outputs)}
        for argument, tensors in given.items():
            if not tensors:
                value = inputs if argument == "inputs" else outputs
                fix = " Models by subclassing are not supported." if value is None else ""
                if isinstance(outputs, Mapping):
                    fix = " A dictionary of outputs is not supported; their names are output_names."
                expected = f"a tensor, or a list of them, as layers called on Input(...) give them.{fix}"
                raise checking.invalid("Model", argument, expected.rstrip("."), value)
        self._connect(given["inputs"] or [], given["outputs"] or [])

    def _connect(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Find the layers between these tensors."""
        calls = calls_before(outputs, inputs)
        sources = [tensor.call for tensor in inputs]
        if len(set(map(id, sources))) < len(sources):
            raise ValueError(f"Model {self.name!r} has the same input twice. Expected each tensor once.")
        between = [call for call in calls if call not in sources]
        for call in between:
            if isinstance(call.layer, InputLayer):
                raise ValueError(
                    f"Model {self.name!r}: the outputs depend on the input {call.layer.name!r}, which is not among "
                    "its inputs. Fix: name it there."
                )
        heads = {
            id(call): call.layer if isinstance(call.layer, InputLayer) else InputLayer(call.output.sample_shape)
            for call in sources
        }
        self._inputs = [heads[id(call)] for call in sources]
        numbers = {id(tensor): number for number, tensor in enumerate(inputs)}
        uses = []
        for call in between:
            uses.append(Use(call.layer, tuple(numbers[id(tensor)] for tensor in call.inputs), call.within))
            numbers[id(call.output)] = len(inputs) + len(uses) - 1
        self._outputs = [numbers[id(tensor)] for tensor in outputs]
        self._layers = in_keras_order(heads, [*sources, *between], outputs)
        for entry in self._layers:
            self._register(entry)
        self._adopt(uses)
        self._assemble()
        self._tensors = list(inputs), list(outputs)

    def build(self, input_shape: Any = None) -> None:
        """Nothing: a model of tensors has its weights from the beginning."""

    def _build_for(self, shape: Shape) -> None:
        if [layer.shape for layer in self._inputs] != [shape]:
            raise ValueError(f"Model {self.name!r} expects inputs of shape {self.input_shape}. Received: {shape}.")

    def __call__(self, x: Any, training: bool | None = None) -> Any:
        """The outputs for one batch, as at inference or (``training``) as in training; nothing is learned. None is
        inference, but that images are augmented: as in Keras, only training=False says that they are not. Called on
        tensors: what comes of them, with the layers of this model."""
        tensors = tensors_of(x)
        return self._compute(x, training) if tensors is None else self._call_on(tensors)

    def __repr__(self) -> str:
        shape = f", input_shape={self.input_shape}" if self._inputs else ""
        layers = sum(not isinstance(layer, InputLayer) for layer in self._layers)
        parameters = f"{self.count_params():,} parameters"
        return f"<{type(self).__name__} {self.name!r}: {layers} layers, {parameters}{shape}>"

    # Files

    @locked
    @explained
    def save(self, filepath: str | os.PathLike, overwrite: bool = True, zipped: None = None, **keras: Any) -> None:
        """Write the whole model, its optimiser's state included, as a ".keras" archive: see :mod:`tinyconv.saving`."""
        refuse("save()", {"zipped": zipped, **keras}, {"zipped": (None, True)})
        store.save_model(self, filepath, checking.boolean("save", "overwrite", overwrite))

    @locked
    @explained
    def save_weights(self, filepath: str | os.PathLike, overwrite: bool = True, max_shard_size: None = None) -> None:
        """Write the weights: ".safetensors", or ".weights.h5" in Keras' layout."""
        refuse("save_weights()", {"max_shard_size": max_shard_size}, {"max_shard_size": (None,)})
        store.save_weights(self, filepath, checking.boolean("save_weights", "overwrite", overwrite))

    @locked
    @explained
    def load_weights(self, filepath: str | os.PathLike, skip_mismatch: bool = False, **keras: Any) -> None:
        """Read the weights of a model of the same layers, from a file of either kind.

        With ``skip_mismatch`` layers whose weights do not fit keep theirs, with a warning.
        """
        refuse("load_weights()", keras, {"objects_to_skip": (None,)})
        store.load_weights(self, filepath, checking.boolean("load_weights", "skip_mismatch", skip_mismatch))

    # Training

    @explained
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Verbosity = "auto",
        callbacks: Iterable[Callback] | Callback | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Weights | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> History:
        """Train for some epochs, and return the history of losses and metrics.

        Args:
            x: inputs, (samples, ...). Anything that is not C-contiguous float32 is converted once. Or a data set that
                gives batches (x,), (x, y) or (x, y, sample_weight): a generator, :class:`tinyconv.utils.PyDataset`, a
                tf.data.Dataset, a torch DataLoader, anything that can be iterated. The next batch is prepared in
                another thread meanwhile, and no more than a few are in memory.
            y: targets: rows like the output, or class numbers for a sparse loss. Not beside a data set.
            batch_size: samples per step; None: 32. A data set has made its batches itself.
            epochs: the number of the last epoch; with ``initial_epoch`` fewer are trained.
            verbose: 0: silent, 1: progress bar, 2: a line per epoch, "auto": 1 in a terminal, else 2.
            callbacks: objects of :mod:`tinyconv.callbacks`.
            validation_split: the share of the samples, taken from the end before shuffling, to validate on.
            validation_data: (x, y), (x, y, weights) or a data set, to validate on instead.
            shuffle: whether every epoch sees the samples in another order; of a PyDataset, the batches. Other data sets
                decide themselves.
            class_weight: weights by class number; the loss of each sample is multiplied by that of its class. Classes
                that are not named have the weight 1. For models with one output.
            sample_weight: the weights themselves, one for each sample (or for each row of its output). The loss of a
                batch is still divided by the number of its samples, not by the sum of the weights.
            initial_epoch: the epoch to start at, for resuming.
            steps_per_epoch: batches of an epoch, which goes on where the last one ended; None: all that there are. A
                data set without an end needs it, and so does an iterator that is to last for more than one epoch.
            validation_steps: batches of a validation; None: all that there are.
            validation_batch_size: samples per validation batch; None: batch_size.
            validation_freq: validate every so many epochs.

        An iterator that runs out ends the training, with a warning; it is not closed, and goes on if passed again.
        """
        epochs = checking.integer("fit", "epochs", epochs)
        initial_epoch = checking.integer("fit", "initial_epoch", initial_epoch, at_least=0)
        freq = checking.integer("fit", "validation_freq", validation_freq)
        shuffle = checking.boolean("fit", "shuffle", shuffle)
        share = checking.number("fit", "validation_split", validation_split, at_least=0, below=1)
        val_size = count_of("validation_batch_size", validation_batch_size, default=batch_size)
        val_settings = {"batch_size": val_size, "steps": count_of("validation_steps", validation_steps)}
        given, progress = here(as_callbacks(callbacks)), Progress(told(verbose), epochs, None)
        with self._lock:
            feed = Feed(
                TRAINING, x, y, sample_weight, batch_size=batch_size, steps=steps_per_epoch, class_weight=class_weight
            )
            validation = None
            if validation_data is not None:
                validation = Feed(VALIDATION, *_given(validation_data), **val_settings)
            self._need_trainer("fit", feed.example, training=True)
            feed.check(self._checked)
            if validation is not None:
                validation.check(self._checked)
            elif share:
                validation = feed.split(share, **val_settings)
            resumed = [callback.resume(self, *feed.identity) for callback in given]
            start = next((position for position in resumed if position is not None), Position(initial_epoch))
            arguments = f"fit, epochs={epochs}, {initial_epoch=}, {freq=}, {shuffle=}"
            start = self._join(arguments, feed, validation, start=start)
            trainer = self._need_trainer("fit", None, training=True)  # a callback may have changed the model
            self._stop_training = False
            loop = feed.loop(trainer, training=True)
            loop.begin(initial_epoch, epochs - start.epoch)
            val_loop = None if validation is None else validation.loop(trainer, training=False)
            if val_loop is not None:
                val_loop.begin(0, epochs // freq - min(start.epoch, epochs) // freq)
            progress.samples = loop.samples
            self._history = history = History()
            params = _params(loop, epochs, verbose) | {"validation_freq": freq if validation else 0}
            events = CallbackList([*given, history], model=self, **params)
            session = Session(trainer, loop, events, progress, val_loop)
            session.train(start, epochs, shuffle, freq)
        return history

    def _join(self, arguments: str, *feeds: Feed | None, start: Position = BEGINNING) -> Position:
        """Where all ranks begin, if several run this together, and nothing is different between them."""
        if together() is None:
            return start
        kernel_set = self._trainer and self._trainer.kernels
        run = {"arguments": arguments, "processor": getattr(kernel_set, "target", str)()}
        for feed in feeds:
            run |= {} if feed is None else feed.described()
        return join(self, start, run)

    @explained
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Verbosity = "auto",
        sample_weight: Weights | None = None,
        steps: int | None = None,
        callbacks: Iterable[Callback] | Callback | None = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss and the metrics on a data set: [loss, metric, ...], just the loss if there are no metrics, or (with
        ``return_dict``) a dict by name; of several outputs, [loss, the losses, the metrics by their names]. Data and
        weights are as in :meth:`fit`; ``steps``: of how many batches, None: of all."""
        return_dict = checking.boolean("evaluate", "return_dict", return_dict)
        progress = Progress(told(verbose), 0, None)
        with self._lock:
            feed = Feed("x of evaluate", x, y, sample_weight, batch_size=batch_size, steps=steps)
            self._need_trainer("evaluate", feed.example)
            feed.check(self._checked)
            self._join("evaluate", feed)
            trainer = self._need_trainer("evaluate", None)
            loop = feed.loop(trainer, training=False)
            events = CallbackList(here(as_callbacks(callbacks)), model=self, **_params(loop, 1, verbose))
            logs = Session(trainer, loop, events, progress).run("test")
        return logs if return_dict else as_list(self._heads, logs)

    @explained
    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Verbosity = 0,
        steps: int | None = None,
        callbacks: Iterable[Callback] | Callback | None = None,
        *,
        on_device: bool = False,
    ) -> Any:
        """The model's outputs for a whole data set, (samples, ...), or for ``steps`` batches of it.

        A NumPy array; with ``on_device`` the backend's own array, which for CUDA stays on the device and has
        ``__cuda_array_interface__``, so that CuPy and PyTorch take it without a copy. ``x`` may be what :meth:`fit`
        takes; targets in its batches are not looked at.
        """
        on_device = checking.boolean("predict", "on_device", on_device)
        progress = Progress(told(verbose), 0, None)
        with self._lock:
            feed = Feed("x of predict", x, batch_size=batch_size, steps=steps)
            self._need_trainer("predict", feed.example, compiled=False)
            feed.check(lambda x, *_: (self._input_arrays(x), (), ()))
            self._join("predict", feed)
            trainer = self._need_trainer("predict", None, compiled=False)
            shapes = self._output_shapes()
            loop, outputs = feed.prediction(trainer, shapes)
            events = CallbackList(here(as_callbacks(callbacks)), model=self, **_params(loop, 1, verbose))
            Session(trainer, loop, events, progress).run("predict")
            found = [each.reshape((-1, *shape)) for each, shape in zip(outputs(on_device), shapes, strict=True)]
            return found[0] if len(found) == 1 else found

    @locked
    def _compute(self, x: Any, training: bool | None) -> Any:
        if training is not None:
            training = checking.boolean(self._who(), "training", training)
        elif not self._augments:
            training = False
        trainer = self._need_trainer("__call__", x, compiled=False)
        plan = trainer.run_batch(self._input_arrays(x), None, (), training, update=False)
        if training:
            trainer.sync_model()  # a batch normalisation has moved its statistics
        return trainer.outputs(plan)

    @explained
    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Weights | None = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """One step on one batch, with weights as in :meth:`fit`. Returns the batch's own loss and metrics, as
        :meth:`evaluate` does."""
        return self._on_batch("train_on_batch", x, y, sample_weight, class_weight, True, return_dict)

    @explained
    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Weights | None = None, return_dict: bool = False
    ) -> Any:
        """The loss and the metrics of one batch, as :meth:`evaluate` returns them."""
        return self._on_batch("test_on_batch", x, y, sample_weight, None, False, return_dict)

    @locked
    def reset_metrics(self) -> None:
        """Begin the metrics anew; in a callback, the loss and the metrics of the epoch under way. What trains or
        evaluates does so itself when it begins."""
        for metric in self.metrics:
            metric.reset_state()
        if self._trainer is not None:
            self._trainer.reset_totals()

    @explained
    def predict_on_batch(self, x: Any) -> np.ndarray:
        """The outputs for one batch; the same as calling the model."""
        return self(x, training=False)

    @locked
    def _on_batch(
        self, what: str, x: Any, y: Any, weights: Any, class_weight: Any, training: bool, return_dict: bool
    ) -> Any:
        return_dict = checking.boolean(what, "return_dict", return_dict)
        trainer = self._need_trainer(what, x, training=training)
        if trainer.differs():
            self._join(what)
            trainer = self._need_trainer(what, None, training=training)
            trainer.agreed = True
        checked = self._checked(x, y, weights, class_weight)
        if training:
            trainer.set_learning_rate()
        if trainer.shards is not None:
            trainer.run_together(checked, training)
        else:
            trainer.run_batch(*checked, training, update=training)
        logs = trainer.logs()
        if training:
            assert self._optimizer is not None
            self._optimizer.iterations += 1
            trainer.sync_model()
        return logs if return_dict else as_list(self._heads, logs)

    # Looking inside

    @locked
    @explained
    def gradients(self, x: Any, y: Any) -> dict[str, np.ndarray]:
        """The gradient of the loss on one batch with respect to every trainable weight, by "layer/weight"."""
        trainer = self._need_trainer("gradients", x)
        checked = self._checked(x, y)
        moving = trainer.state.read(trainer.state.moving.flat)
        trainer.run_batch(*checked, training=True, update=False)
        trainer.kernels.upload(trainer.state.moving.flat, moving)  # asking changes nothing
        return {name: trainer.state.read(view) for name, view in trainer.state.grads.views.items()}

    @locked
    @explained
    def trace(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Weights | None = None,
        class_weight: Mapping[int, float] | None = None,
    ) -> Trace:
        """The next step of training on one batch, with every array of it: see :class:`tinyconv.trace.trace.Trace`.

        It is computed on copies: neither the model nor its optimiser changes. What is random is what
        ``train_on_batch`` would draw next. Without ``y``, or of a model without a loss, a forward pass as at inference.

        >>> trace = model.trace(images[:8], labels[:8])
        >>> print(trace)
        >>> trace["conv2d"].output, trace["conv2d"].dkernel, trace["loss"].losses
        """
        scored = y is not None and self._loss is not None
        self._need_trainer("trace", x, compiled=scored)
        if scored and self._compiled is not None and not self._compiled["bound"] and self._is_stale:
            self._assemble()  # as the next step would find it
        trainer = self._need_trainer("trace", x, compiled=scored)
        if scored:
            return Trace(recorded(trainer, self._checked(x, y, sample_weight, class_weight)))
        return Trace(recorded(trainer, (self._input_arrays(x), None, ())))

    def explore(
        self,
        x: Any = None,
        y: Any = None,
        class_names: Sequence[str] | None = None,
        train_data: tuple[Any, Any] | None = None,
        port: int = 0,
        open_browser: bool = True,
        block: bool | None = None,
        html: str | os.PathLike | None = None,
    ) -> Any:
        """Look inside this model in a browser: every number of a step, forward and backward, and where it comes from.

        The page is served by this process, to this machine only, at an address with a random token. The model is
        copied: nothing that is done in the page changes it.

        >>> model.explore(x_test, y_test, train_data=(x_train, y_train))

        Args:
            x: samples to choose from, as for :meth:`predict`; None: draw one, or drop a picture.
            y: their targets, as for :meth:`fit`; with them the worst mistakes come first.
            class_names: what the classes are called; None: their numbers.
            train_data: samples and targets to train a copy with, in the page; None: nothing is trained there.
            port: 0: any that is free.
            open_browser: whether to open the page.
            block: whether to wait for Ctrl-C; None: unless Python is interactive, or a notebook, which shows the page.
            html: where to write the page as one file, instead of serving it. It opens from the disk, without this
                program and without a network: it has the model, traces of the worst mistakes and of the first samples,
                the history of ``fit``, and an engine of its own for digits that are drawn. Nothing is trained there.

        Returns:
            The running explorer, with its ``address`` and ``close()``; of a file its path.

        Raises:
            ValueError: the model is not built, or x, y and the names do not fit it.
        """
        return self._explorer(self, x, y, class_names, train_data, port, open_browser, block, html)

    @property
    @locked
    def plan(self) -> Plan:
        """The training plan, for the largest batch size trained with so far (32 before any training)."""
        trainer = self._need_trainer("plan", None)
        sizes = [size for size, training, with_loss, _ in trainer.plans if training and with_loss]
        return trainer.plan(max(sizes, default=32), training=True, with_loss=True)

    @locked
    @explained
    def profile(self, x: Any, y: Any, batch_size: int | None = None, repeats: int = 20, print_fn: Any = None) -> None:
        """Print how long each step of a training batch takes, its speed, and its share. Weights are left as they are.

        Args:
            x, y: data as for :meth:`fit`; the first ``batch_size`` samples are used.
            batch_size: None: 32.
            repeats: runs to take the median of.
            print_fn: what takes the text instead of the standard output.
        """
        trainer = self._need_trainer("profile", x)
        arrays, targets, _ = self._checked(x, y)
        samples = len(arrays[0])
        size = min(count_of("batch_size", batch_size, 32), samples)
        repeats = count_of("repeats", repeats, 20)
        trainer.set_learning_rate()
        state = trainer.state
        kept = [state.params.flat, state.moving.flat, *state.slots.values()]
        before = [state.read(array) for array in kept]
        peak = tables.matrix_peak() if state.on_host else None
        try:
            batch = tuple(x[:size] for x in arrays), tuple(y[: size * (len(y) // samples)] for y in targets)
            plan = trainer.run_batch(*batch, (), training=True, update=False)
            times = plan.profile(repeats)
        finally:
            for array, values in zip(kept, before, strict=True):
                trainer.kernels.upload(array, values)
        if peak is not None:  # measured before and after: others may be busy meanwhile
            peak = max(peak, tables.matrix_peak())
        text = str(tables.profile_table(times, peak))
        if print_fn is None:
            console.write(text)
        else:
            print_fn(text)


def _by_name(inputs: Any) -> Any:
    """The tensors of a dictionary; anything else as it is."""
    if not isinstance(inputs, Mapping):
        return inputs
    for key, tensor in inputs.items():
        if getattr(tensor, "name", key) != key:
            raise ValueError(
                f"The input {key!r} of Model has another name. Expected each by its own. Received: {tensor!r}. "
                f"Fix: Input(..., name={key!r})."
            )
    return [inputs[key] for key in sorted(inputs)]


def _params(loop: Loop, epochs: int, verbose: Verbosity) -> dict[str, Any]:
    """What callbacks are told of a run."""
    return {"epochs": epochs, "steps": loop.count, "verbose": verbose}


def _given(validation_data: Any) -> tuple[Any, ...]:
    if checking.is_stream(validation_data):
        return (validation_data,)
    several = isinstance(validation_data, Sequence) and not isinstance(validation_data, str)
    if not several or len(validation_data) not in (2, 3):
        raise checking.invalid(
            "fit", "validation_data", "a pair (x, y), (x, y, weights) or a data set", validation_data
        )
    return tuple(validation_data)
