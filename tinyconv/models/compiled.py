"""What ``compile`` gives a model: an optimiser, losses and metrics, and the trainer that runs with them.

Everything that one of these needs of the others is kept here: which optimiser belongs to which weights, when a trainer
is stale, and what of the arrays it is given fits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from tinyconv import checking, losses, optimizers
from tinyconv.callbacks import History
from tinyconv.checking import inputs
from tinyconv.checking.absent import INSTEAD
from tinyconv.checking.inputs import Samples
from tinyconv.checking.messages import explained, refuse, warn
from tinyconv.kernels.backends import load_backend, resolve_backend
from tinyconv.layers import Layer
from tinyconv.layers.base import default_name
from tinyconv.losses import Loss, LossLike
from tinyconv.metrics import Metric, MetricLike
from tinyconv.models.rebuilt import Rebuilt
from tinyconv.models.structure import Structure
from tinyconv.network import Moments, Network
from tinyconv.optimizers import Optimizer, OptimizerLike
from tinyconv.plan.locks import locked
from tinyconv.training.heads import Head, heads, log_names, per_output, reported
from tinyconv.training.trainer import Trainer

Arrays = tuple[Any, ...]  # for each input, or each output
Weights = Any  # an array of numbers, one for each sample; of several outputs, or a list or a dict of arrays

COMPILE_ONLY_KERAS: dict[str, tuple[Any, ...]] = {  # accepted where they change nothing
    "run_eagerly": (False,),
    "steps_per_execution": (1,),
    "jit_compile": ("auto", True, False),
}


class Compiled(Rebuilt, Structure):
    """Layers, and what training needs besides them; :class:`tinyconv.Model` adds what goes over data."""

    _family = "Model"

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        for name in cls.__dict__.keys() & INSTEAD["Model"]:
            raise TypeError(
                f"{cls.__name__}.{name}: models by subclassing are not supported by tinyconv, which would not call it. "
                f"Fix: {INSTEAD['Model'][name]}."
            )

    def _begin(self, name: str | None, trainable: bool) -> None:
        self._stop_training = False
        self._history: History | None = None
        self._optimizer: Optimizer | None = None
        self._loss: Any = None  # a Loss, or a list or a dict of them
        self._heads: list[Head] = []
        self._compiled: dict[str, Any] | None = None
        self._trainer: Trainer | None = None
        self._named_by_user = name is not None
        kind = "functional" if type(self).__name__ == "Model" else default_name(type(self))
        Structure.__init__(self, checking.optional_name(type(self).__name__, name) or kind, trainable)

    # What training is about

    @property
    def optimizer(self) -> Optimizer | None:
        """What ``compile`` was given; compile again to have another one."""
        return self._optimizer

    @property
    def loss(self) -> Loss | None:
        """What ``compile`` was given; compile again to have another one."""
        return self._loss

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured beside the loss."""
        return tuple(each.metric for each in reported(self._heads))

    @property
    def log_names(self) -> list[str]:
        """What ``evaluate`` returns, in order, and what an epoch's logs hold of the training data."""
        return log_names(self._heads)

    @property
    def output_names(self) -> list[str]:
        """The names of the layers that compute the outputs: they name targets and losses of several outputs."""
        names = [layer.name for layer in self._inputs] + [use.entry.name for use in self._uses]
        found: list[str] = []
        for number in self._outputs:
            name, count = names[number], sum(each.rpartition("_")[0] == names[number] for each in found)
            found.append(f"{name}_{count + 1}" if name in found else name)
        return found

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs."""
        return [layer.name for layer in self._inputs]

    @property
    def history(self) -> History | None:
        """What the last ``fit`` returned."""
        return self._history

    @property
    def stop_training(self) -> bool:
        """Set it to True to end the run under way after this batch."""
        return self._stop_training

    @stop_training.setter
    def stop_training(self, stop: bool) -> None:
        self._stop_training = checking.boolean(self._who(), "stop_training", stop)

    # Changes below a trainer

    def _check_free(self, what: str) -> None:
        if self._trainer is not None and self._trainer.runs:
            raise RuntimeError(
                f"Model {self.name!r} is in the middle of a run, which {what} would break. "
                "Fix: do it before the run, or after it."
            )

    def _weights_moved(self) -> None:
        self._hand_over_moments()
        self._forget_trainer()

    def _forget_trainer(self) -> None:
        """The next step looks anew which weights are trained, and whether they are the optimiser's; what comes between
        (``evaluate`` needs a trainer too) does not."""
        self._trainer = None
        if self._compiled is not None:
            self._compiled["bound"] = False

    def _weights_changed(self) -> None:
        if self._trainer is not None:
            self._trainer.weights_changed()

    def _renamed(self, names: dict[str, str]) -> None:
        self._weights_moved()
        if self._optimizer is not None:
            self._optimizer.rename(names)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {**super().__getstate__(), "_trainer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._optimizer is not None and self._optimizer.built and not self._optimizer.strangers(self._owners()[0]):
            self._bind()

    # The optimiser's state

    @locked
    def _hand_over_moments(self) -> None:
        """Give the optimiser the moments as they are now, of the weights that are trained."""
        if self._trainer is not None and self._optimizer is not None and self._optimizer.built:
            self._optimizer.keep(self._trainer.moments())

    def _bind(self) -> None:
        """Make the optimiser this model's."""
        assert self._optimizer is not None
        self._optimizer.belong(self, *self._owners())

    def _owners(self) -> tuple[dict[str, Layer], dict[str, Layer]]:
        """The layer of each weight that is trained, by "layer/weight", and of each that is not."""
        trained: dict[str, Layer] = {}
        frozen: dict[str, Layer] = {}
        for name, layer, spec in self._specs():
            (trained if self._is_trained(layer, spec) else frozen)[name] = layer
        return trained, frozen

    @locked
    def optimizer_state(self) -> Moments:
        """Copies of the optimiser's moments, by slot ("momentum", "velocity") and by "layer/weight": of every weight
        that it trains; zeros before the first step."""
        self._need_built()
        if self._optimizer is None:
            return {}
        found = self._optimizer.moments()
        shapes = {
            name: layer._arrays[spec.name].shape
            for name, layer, spec in self._specs()
            if spec.trainable and (self._is_trained(layer, spec) or self._optimizer.knows(name))
        }
        return {
            slot: {name: moments.get(name, np.zeros(shape, np.float32)) for name, shape in shapes.items()}
            for slot, moments in found.items()
        }

    @locked
    def set_optimizer_state(self, moments: Moments) -> None:
        """Set the optimiser's moments; with its ``iterations``, training goes on as if it had not stopped."""
        self._check_free("set_optimizer_state()")
        self._need_built()
        if self._optimizer is None:
            raise ValueError(f"Model {self.name!r} is not compiled, and so has no optimizer. Fix: compile() first.")
        shapes = next(iter(self.optimizer_state().values()), {})
        slots = self._optimizer.slots
        for slot in slots:
            for name, array in shapes.items():
                given = moments.get(slot, {}).get(name)
                if given is None or np.shape(given) != array.shape:
                    raise ValueError(
                        f"The optimizer's state does not fit model {self.name!r}: {slot} of {name!r}. Expected an "
                        f"array of shape {array.shape}. Received: {None if given is None else np.shape(given)}."
                    )
        self._bind()
        self._forget_trainer()
        self._optimizer.keep(
            {slot: {name: np.array(moments[slot][name], np.float32) for name in shapes} for slot in slots}
        )

    @locked
    def restart(self, seed: int, iterations: int, moments: Moments) -> None:
        """Go on as a model with that seed, step count and moments would, in everything random too."""
        assert self._optimizer is not None
        self.seed = seed
        self._optimizer.iterations = iterations
        self.set_optimizer_state(moments)

    @locked
    def totals(self) -> np.ndarray:
        """The totals of loss and metrics over the batches of this epoch so far."""
        return self._need_trainer("totals", None).totals()

    # Compiling

    @locked
    @explained
    def compile(
        self,
        optimizer: OptimizerLike = "rmsprop",
        loss: LossLike | None = None,
        loss_weights: Any = None,
        metrics: Sequence[MetricLike] | MetricLike | None = None,
        weighted_metrics: Sequence[MetricLike] | MetricLike | None = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: str | bool = "auto",
        auto_scale_loss: bool = True,
        *,
        backend: str | None = None,
        fuse: bool = True,
    ) -> None:
        """Say how to train. Arguments that are not described here are Keras', and must have their defaults.

        Args:
            optimizer: a name ("adam", "adamw", "rmsprop", "sgd") or an object of :mod:`tinyconv.optimizers`. An object
                that has trained this model goes on where it is; one that has trained another model is refused.
            loss: a name such as "categorical_crossentropy" or an object of :mod:`tinyconv.losses`; of several outputs,
                a list with one for each (None: no loss there), or a dict by :attr:`output_names`.
            loss_weights: of several outputs, how much each loss counts; a list or a dict as for ``loss``.
            metrics: names such as "accuracy", or objects of :mod:`tinyconv.metrics`. All samples count alike.
            weighted_metrics: the same, but samples count by their weights, if they have any.
            backend: which kernels compute: "cpu", "cuda" or "reference"; "auto" takes CUDA where a GPU is usable, else
                the CPU. None: the environment variable TINYCONV_BACKEND, else "auto".
            fuse: whether the plan may fuse neighbouring operations. Without it, a probability of less than 1e-7 counts
                as 1e-7 in a crossentropy; fused with its softmax or sigmoid, as in Keras, it does not.
        """
        self._check_free("compile()")
        given: dict[str, Any] = {"run_eagerly": run_eagerly, "jit_compile": jit_compile}
        given |= {"steps_per_execution": steps_per_execution}
        refuse("compile()", given, COMPILE_ONLY_KERAS)
        checking.boolean("compile", "auto_scale_loss", auto_scale_loss)  # of no effect in float32
        new = optimizers.get(optimizer)
        if new.built and new is not self._optimizer:
            self._refuse_foreign(new)
        new_loss = _each(losses.get, loss)
        several = len(self._outputs) > 1
        compiled = {
            "metrics": metrics if several else _listed("metrics", metrics),
            "weighted_metrics": weighted_metrics if several else _listed("weighted_metrics", weighted_metrics),
            "loss_weights": loss_weights,
            "backend": resolve_backend(backend),
            "fuse": checking.boolean("compile", "fuse", fuse),
            "bound": False,
        }
        found = self._heads_of(new_loss, compiled)
        self._weights_moved()  # the old trainer, if there was one, gives its optimiser what it knows
        self._optimizer, self._loss, self._heads, self._compiled = new, new_loss, found, compiled

    def _refuse_foreign(self, optimizer: Optimizer) -> None:
        known = list(map(id, (optimizer._known or {}).values()))
        if not any(id(layer) in known for _, layer in self._leaves):
            raise ValueError(
                f"This {type(optimizer).__name__} has trained another model, to whose weights its moments and its step "
                f"count belong. Fix: a new optimizer for model {self.name!r}, {type(optimizer).__name__}(...)."
            )

    def _heads_of(self, loss: Any, compiled: Mapping[str, Any]) -> list[Head]:
        known = bool(self._inputs and self._layers)
        names, shapes = (self.output_names, self._output_shapes()) if known else (["output"], [(2,)])
        asked = (compiled[what] for what in ("loss_weights", "metrics", "weighted_metrics"))
        found = heads(names, shapes, "mse" if loss is None else loss, *asked)
        return [] if loss is None else found  # without a loss only what is wrong with the rest was looked for

    # Checks

    def _need_trainer(self, what: str, x: Any, compiled: bool = True, training: bool = False) -> Trainer:
        """The trainer, made when first needed; the model is built from ``x`` if its input shape is not known yet."""
        if self._compiled is None and compiled:
            raise ValueError(
                f"Model {self.name!r} is not compiled. Expected compile(loss=..., optimizer=...) before {what}()."
            )
        if not self._layers:
            raise ValueError(f"Model {self.name!r} has no layers. Expected at least one, see Sequential.add.")
        if compiled and self._loss is None:
            raise ValueError(f"Model {self.name!r} has no loss. Fix: compile(loss=...), before {what}().")
        if not self.built and not self._inputs and x is not None:
            self.build((None, *inputs.as_batch(inputs.unwrapped(x, None), f"model {self.name!r}").shape[1:]))
        self._need_built()
        self._claim()
        if training:
            self._see_what_is_frozen()
        if self._trainer is None:
            self._trainer = self._make_trainer()
        return self._trainer

    def _see_what_is_frozen(self) -> None:
        """Before a step: which weights are trained is what ``trainable`` said when the first one was made since
        ``compile``, as in Keras, or since layers came, went or were renamed."""
        assert self._compiled is not None
        if not self._compiled["bound"]:
            if self._is_stale:
                self._assemble()
            self._bind()
            self._compiled["bound"] = True
            if not self.trainable_weights:
                warn(f"Model {self.name!r} does not have any trainable weights.")
        elif self._is_stale:
            warn(
                f"Model {self.name!r}: `trainable` of a layer has changed since the first step after compile(), and "
                "takes no effect before the model is compiled again. Fix: compile()."
            )

    def _make_trainer(self) -> Trainer:
        settings = self._compiled or {"backend": resolve_backend(None), "fuse": True}
        assert self._arenas is not None
        if self._loss is not None:
            self._heads = self._heads_of(self._loss, settings)
        kernel_set = load_backend(settings["backend"])
        scored = self._heads if self._loss is not None else []
        work = (self._optimizer, scored, settings["fuse"])
        trainer = Trainer(cast(Network, self), kernel_set, self._arenas, self.seed, *work)
        if self._optimizer is not None and self._optimizer.built:
            trainer.set_moments(self._optimizer.moments())
        return trainer

    def _input_arrays(self, x: Any) -> Arrays:
        """The inputs, clean and checked, in the order of the model's."""
        if len(self._inputs) == 1 and inputs.is_ready(x, self._inputs[0].shape):
            return (x,)
        given = [x] if len(self._inputs) == 1 and not isinstance(x, Mapping) else per_output("x", x, self.input_names)
        on_device = getattr(self._trainer.kernels, "on_device", None) if self._trainer else None
        arrays = []
        for layer, each in zip(self._inputs, given, strict=True):
            who = f"model {self.name!r}" + (f", input {layer.name!r}," if len(self._inputs) > 1 else "")
            if on_device and on_device(each):
                assert self._trainer is not None
                there = self._trainer.kernels.as_device_array(each)
                arrays.append(inputs.as_device_input(there, layer.shape, who))
            else:
                alone = inputs.unwrapped(each, layer.shape) if len(given) == 1 else each
                arrays.append(inputs.as_input(alone, layer.shape, who, any_rank=True))
        if len({len(array) for array in arrays}) > 1:
            counts = {layer.name: len(array) for layer, array in zip(self._inputs, arrays, strict=True)}
            raise ValueError(
                f"The inputs of model {self.name!r} differ in length. Expected the same. Received: {counts}."
            )
        return tuple(arrays)

    def _checked(self, x: Any, y: Any, weights: Any = None, class_weight: Any = None) -> Samples:
        """Inputs, targets and weights as arrays for the kernels."""
        arrays = self._input_arrays(x)
        several = len(self._outputs) > 1
        given = per_output("y", y, self.output_names) if several or isinstance(y, Mapping) else [y]
        samples = len(arrays[0])
        targets = []
        for head in self._heads:
            what = f"{head.loss.name} of {head.name}" if several else head.loss.name
            each = given[head.output]
            alone = each if several else inputs.unwrapped(each, head.shape if samples == 1 else None)
            targets.append(inputs.as_targets(alone, head.shape, head.loss.sparse, samples, what))
        return arrays, tuple(targets), self._sample_weights(weights, class_weight, targets, samples)

    def _sample_weights(self, weights: Any, class_weight: Any, targets: Sequence[np.ndarray], samples: int) -> Arrays:
        """For each loss the weights of its samples, or None."""
        if class_weight is not None:
            if weights is not None:
                raise ValueError(
                    "sample_weight and class_weight cannot be given together. Expected one of them. Fix: multiply the "
                    "weights of the samples by those of their classes."
                )
            if len(self._outputs) > 1:
                raise ValueError("class_weight is for models with one output. Expected sample_weight, one per output.")
            return (inputs.weights_by_class(class_weight, targets[0], samples),)
        each = [weights] * len(self._outputs)
        if isinstance(weights, Mapping) or (len(each) > 1 and isinstance(weights, list | tuple)):
            each = per_output("sample_weight", weights, self.output_names)
        return tuple(
            None if each[head.output] is None else inputs.as_weights(each[head.output], head.shape, samples)
            for head in self._heads
        )


def _each(get: Callable[[Any], Any], identifier: Any) -> Any:
    """One, or a list or a dict of them, as objects."""
    if isinstance(identifier, list | tuple):
        return [_each(get, each) for each in identifier]
    if isinstance(identifier, Mapping) and "class_name" not in identifier:
        return {name: _each(get, each) for name, each in identifier.items()}
    return None if identifier is None else get(identifier)


def _listed(argument: str, wanted: Any) -> list[Any]:
    """Metrics of ``compile`` as a list."""
    if wanted is None:
        return []
    if isinstance(wanted, str | Metric):
        return [wanted]
    if not isinstance(wanted, Sequence):
        raise checking.invalid("compile", argument, "a list of names or of objects of tinyconv.metrics", wanted)
    return list(wanted)
