"""The loops: batches through plans, for fit, evaluate and predict.

A :class:`Trainer` belongs to one compiled model. It holds the state (parameters, gradients, moments, counters) on the
model's kernel set, and the plans, lowered once for each batch size. Loops over a dataset pass it to the kernels once;
every batch then gathers its samples by an order and a cursor that are kept beside the data, so that a step needs
nothing from Python but the call.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from tinyconv.callbacks import CallbackList
from tinyconv.callbacks.base import BEGINNING, Position
from tinyconv.checking import inputs
from tinyconv.checking.inputs import Samples
from tinyconv.distribution.parallel import together
from tinyconv.distribution.ranks import WORD
from tinyconv.kernels.reference.dropout import CURSOR, FIRST_SAMPLE, STEP
from tinyconv.network import Network
from tinyconv.optimizers import Optimizer
from tinyconv.plan.arena import Arena, Storage
from tinyconv.plan.graph import Graph
from tinyconv.plan.lowering import PHASES, Plan, lower
from tinyconv.plan.state import State
from tinyconv.training.agreement import call_for_all, digest
from tinyconv.training.data import Data, Loop, Pass, Prepared, Ready, Shared, Turn, given, is_sparse, loader
from tinyconv.training.heads import Head, report, totals_of
from tinyconv.training.progress import Progress
from tinyconv.training.sharded import Shards

MOST_PLANS = 16  # for a model that is called with ever-changing batch sizes
REDRAW = 0.1  # seconds between two updates of a progress bar

Program = Callable[[], None]


class Trainer:
    """The state and the plans of a compiled model, and the loops over them. Callers hold the model's lock."""

    def __init__(
        self,
        model: Network,
        kernel_set: ModuleType,
        arenas: tuple[Arena, Arena],
        seed: int,
        optimizer: Optimizer | None = None,
        heads: Sequence[Head] = (),
        fuse: bool = True,
    ) -> None:
        self.model, self.kernels = model, kernel_set
        self.optimizer, self.heads, self.fuse = optimizer, heads, fuse
        penalties: dict[int, dict[str, float]] = {1: {}, 2: {}}
        for name, _, spec in model._specs():
            if spec.regularizer is not None and name in arenas[0]:  # of what is trained only, as in Keras
                for power, strength in spec.regularizer.strengths.items():
                    penalties[power][name] = strength
        slots = optimizer.slots if optimizer else ()
        self.state = State(kernel_set, *arenas, seed=seed, slots=slots, totals=totals_of(heads), penalties=penalties)
        training = Storage(kernel_set)
        self.storages = {True: training, False: Storage(kernel_set, beside=training)}
        self.plans: dict[tuple[int, bool | None, bool, tuple[bool, ...]], Plan] = {}
        self.programs: dict[tuple[Any, ...], Program] = {}
        self.prepared: dict[int, int] = {}  # per plan, the version of the weights that it has prepared
        self.warm: set[int] = set()  # plans that have been run
        self.weights_version = 0
        self.rate = float("nan")  # the learning rate that the state holds
        self.lock = model._lock
        self.drawn = 0  # samples that calls without targets have drawn for
        self.resets = 0  # how often somebody has set the totals to zero, perhaps while a pass was paused
        self.runs = 0  # passes under way, during which callbacks and other threads get their turn
        self.touched = False  # a callback has written weights
        self.agreed = False  # with the other ranks, on weights and all else, before single batches
        self._shards: Shards | None = None

    @property
    def shards(self) -> Shards | None:
        """What batches are cut into, if all ranks of a job are about to work on them together."""
        team = together()
        if team is not None and (self._shards is None or self._shards.team is not team):
            self._shards = Shards(self, team)
        return self._shards if team is not None else None

    def interruptible(self) -> contextlib.AbstractContextManager[None]:
        """Ctrl-C inside of it ends a pass, of all ranks after the same batch."""
        return self.shards.ranks.interruptible() if self.shards else contextlib.nullcontext()

    # Plans and programs

    def plan(self, batch_size: int, training: bool | None, with_loss: bool, weighted: Sequence[bool] = ()) -> Plan:
        """The plan for batches of that size, lowered when first asked for; ``weighted`` says for each loss whether its
        samples have weights (none of them: no loss's have)."""
        weighted = tuple(weighted) or (False,) * len(self.heads)
        key = (batch_size, training, with_loss, weighted)
        if key not in self.plans:
            if len(self.plans) >= MOST_PLANS:
                self.plans.clear()
                self.programs.clear()
                self.prepared.clear()
                self.warm.clear()
            self.plans[key] = lower(
                self._graph(with_loss),
                batch_size,
                self.state,
                training=training,
                losses=[head.op(each) for head, each in zip(self.heads, weighted, strict=True)] if with_loss else (),
                optimizer=self.optimizer if training and with_loss else None,
                fuse=self.fuse,
                storage=self.storages[bool(training)],
            )
        return self.plans[key]

    def _graph(self, with_loss: bool) -> Graph:
        graph = self.model._graph()
        if with_loss:  # what no loss depends on is not computed
            graph.outputs = [graph.outputs[head.output] for head in self.heads]
        return graph

    def program(self, plan: Prepared, *phases: str) -> Program:
        """The plan's phases as one callable, recorded once."""
        key = (id(plan), *phases)
        if key not in self.programs:
            self.programs[key] = plan.program(*phases)
        return self.programs[key]

    def step(self, plan: Plan, training: bool) -> Program:
        """What a plan does with the batch in its buffers, and counts; recorded once."""
        key = (id(plan), "step")
        if key not in self.programs:
            phases = PHASES if training else ("forward",)
            self.programs[key] = plan.program(*phases, after=[self._counted(plan, training)])
        return self.programs[key]

    def _counted(self, plan: Plan, training: bool) -> tuple[Callable[..., None], tuple[Any, ...]]:
        """The kernel call that ends every batch of a pass."""
        return self.kernels.advance, (self.state.counters, int(training), plan.batch_size)

    def pass_over(
        self,
        data: Data,
        batch_size: int,
        training: bool,
        results: Sequence[Any] = (),
        steps: int | None = None,
        argument: str = "x",
    ) -> Pass:
        """Lower and record what a pass over ``data`` needs. With ``results`` the outputs go there instead of into
        losses. ``steps``: the batches of an epoch, and ``argument``: what messages call the data."""
        plans: dict[int, Any] = {}
        programs = {}
        shards, shared = self.shards, None
        if shards is not None and results:
            batches = -(-data.samples // batch_size)
            skip = partial(self.kernels.advance, self.state.counters, 0)
            shared, shards = Shared(shards.owners(min(batches, steps or batches)), shards.ranks, skip), None
        for size in {min(batch_size, data.samples), data.samples % batch_size} - {0}:
            if shards is not None:
                batch = plans[size] = shards.batch(size, training, are_given(data.weights))
                programs[size] = batch.over(data)
                continue
            plan = plans[size] = self.plan(size, training, not results, are_given(data.weights))
            phases = PHASES if training else ("forward",)
            after = []
            for result, out in zip(results, plan.outs, strict=True) if results else ():
                rows = out.reshape((size, out.size // size))
                after.append((self.kernels.scatter_rows, (result, rows, self.state.counters)))
            after.append(self._counted(plan, training))
            before = loader(plan, data, not results, self.state.counters)
            programs[size] = plan.program(*phases, before=before, after=after)
        return Pass(data, batch_size, plans, programs, steps, argument, shared)

    def prepare(self, plan: Prepared) -> None:
        """Run a plan's preparation, if the weights have changed since it was last run."""
        if self.prepared.get(id(plan)) != self.weights_version:
            self.program(plan, "prepare")()
            self.prepared[id(plan)] = self.weights_version

    def weights_changed(self) -> None:
        """The model's own arrays have been written to."""
        self.touched, self.agreed = True, False
        self.state.push()
        self.weights_version += 1

    def moments(self) -> dict[str, dict[str, np.ndarray]]:
        """Copies of the optimiser's moments, by slot and by "layer/weight"."""
        slots = self.state.slots.items()
        return {slot: self.state.params.views_of(self.state.read(flat)) for slot, flat in slots}

    def set_moments(self, moments: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Set the optimiser's moments, to zero where ``moments`` has none."""
        for slot, flat in self.state.slots.items():
            for name, view in self.state.params.views_of(flat).items():
                self.kernels.upload(view, moments[slot].get(name, np.zeros(view.shape, view.dtype)))

    # Loops

    def is_cold(self, turns: Sequence[Turn]) -> bool:
        """Whether some plan of these has never been run, on any of the ranks that are about to run them together."""
        cold = any(id(turn.plan) not in self.warm for turn in turns)
        return cold if self.shards is None else any(self.shards.ranks.everyone(cold))

    def warm_up(self, turns: Sequence[Turn]) -> None:
        """Run every program once, so that all kernels are compiled, and put everything back that it changed."""
        state = self.state
        arrays = [state.params.flat, state.moving.flat, state.counters, state.totals, *state.slots.values()]
        before = [self._kept(array) for array in arrays]
        compile_programs: Any = getattr(self.kernels, "compile_programs", lambda programs: None)
        with contextlib.nullcontext() if self.shards is None else self.shards.taking_turns():
            compile_programs(run for turn in turns for run in (self.program(turn.plan, "prepare"), turn.run))
            for turn in turns:
                self.program(turn.plan, "prepare")()
                state.set(state.counters, [0, 0, 0])
                turn.run()
                self.warm.add(id(turn.plan))
        self.kernels.synchronize()
        for array, values in zip(arrays, before, strict=True):
            self.kernels.upload(array, np.zeros(array.shape, array.dtype) if values is None else values)
        self.weights_version += 1

    def _kept(self, array: Any) -> np.ndarray | None:
        """A copy; None for nothing but zeros, as a new optimiser's moments are, which may be most of its memory."""
        values = array if self.state.on_host else self.state.read(array)
        return np.array(values) if values.view(np.uint8).any() else None

    def begin(self, step: int, cursor: int = 0, totals: Sequence[float] = (), first_sample: int = 0) -> None:
        """Counters for a pass over the data: the step, the cursor, and this machine's first sample; and the totals,
        which are zero unless the pass goes on in the middle."""
        counters = np.zeros(3, np.int64)
        counters[[STEP, CURSOR, FIRST_SAMPLE]] = step, cursor, first_sample
        self.state.set(self.state.counters, counters)
        self.state.set(self.state.totals, totals if len(totals) else np.zeros(self.state.totals.shape))

    def totals(self) -> np.ndarray:
        """Loss and metrics, as totals over the samples seen since :meth:`begin`."""
        return self.state.read(self.state.totals)

    def logs(self) -> dict[str, float]:
        """Loss and metrics of the samples seen since :meth:`begin`."""
        return report(self.heads, self.totals())

    def set_learning_rate(self) -> None:
        """Bring the learning rate of the next step to where the kernels read it."""
        assert self.optimizer is not None
        rate = self.optimizer.learning_rate_at(self.optimizer.iterations)
        if rate != self.rate:
            self.rate = rate
            self.state.set(self.state.learning_rate, rate)

    def order(self, count: int, done: int) -> np.ndarray:
        """The order of so many things, of which the batches of ``done`` steps are done, by the seed and the step that
        it began with."""
        step = (self.optimizer.iterations if self.optimizer else 0) - done
        return np.random.Generator(np.random.Philox(key=[self.state.seed, step])).permutation(count)

    def train_epoch(
        self, loop: Loop, callbacks: CallbackList, progress: Progress, position: Position
    ) -> tuple[dict[str, float], float, int]:
        """One epoch, or what is left of it. Returns its logs, how many seconds its samples took, and their number."""
        optimizer = self.optimizer
        assert optimizer is not None
        done, before_it = 0, loop.cursor(position) - loop.cursor(Position(position.epoch))
        self.begin(optimizer.iterations, loop.cursor(position), position.totals)
        start = drawn = time.perf_counter()
        before, after = callbacks.wants["on_train_batch_begin"], callbacks.wants["on_train_batch_end"]
        try:
            for turn in loop.batches(position):
                if before:
                    self.call(callbacks, "on_train_batch_begin", turn.number, {})
                self.set_learning_rate()
                turn.run()
                optimizer.iterations += 1
                done += turn.size
                if sum(callback.is_due() for callback in after):  # each is asked
                    self.sync_model()
                    self.call(callbacks, "on_train_batch_end", turn.number, self.logs())
                if progress.is_live and time.perf_counter() - drawn > REDRAW:
                    drawn = time.perf_counter()
                    progress.update(before_it + done, self.logs())
                if self.model.stop_training:
                    break
                self.give_way()
            self.kernels.synchronize()
        finally:
            # What the kernels have counted: Ctrl-C may have come between a step and the line that counts it.
            optimizer.iterations = int(self.state.read(self.state.counters)[STEP])
            self.sync_model()
        return self.logs(), time.perf_counter() - start, done

    def give_way(self) -> None:
        """Let others use the model, if any of them waits for it."""
        if self.lock.is_wanted:
            self.sync_model()
            with self.paused():
                pass

    def call(self, callbacks: CallbackList, hook: str, *arguments: Any) -> None:
        """Call a hook. It may use the model, as may other threads meanwhile."""
        with self.paused():
            call_for_all(self, callbacks, hook, *arguments)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let others use the model in the middle of a pass: what the pass counts with is put back after it."""
        state = self.state
        counters, totals = state.read(state.counters), state.read(state.totals)
        resets = self.resets
        step = self.optimizer.iterations if self.optimizer else 0
        try:
            with self.lock.released():
                yield
        finally:
            self.model._claim()  # another model may have used the same layers
            if self.optimizer:  # another thread may have trained
                counters[STEP] += self.optimizer.iterations - step
            state.set(state.counters, counters)
            state.set(state.totals, totals if self.resets == resets else np.zeros(state.totals.shape))

    def reset_totals(self) -> None:
        """Set the totals to zero, in the middle of a pass too."""
        self.resets += 1
        self.state.set(self.state.totals, np.zeros(self.state.totals.shape))

    def sync_model(self) -> None:
        """Bring the trained weights into the model's own arrays."""
        self.state.pull()
        self.weights_version += 1

    def run(self, loop: Loop, callbacks: CallbackList, kind: str) -> tuple[dict[str, float], int]:
        """One pass without training; ``kind`` is "test" or "predict". Returns the logs of a test, and how many samples
        there were."""
        self.call(callbacks, f"on_{kind}_begin", {})
        self.begin(self.optimizer.iterations if self.optimizer else 0)
        begin, end, done = f"on_{kind}_batch_begin", f"on_{kind}_batch_end", 0
        for turn in loop.batches(BEGINNING):
            if callbacks.wants[begin]:
                self.call(callbacks, begin, turn.number, {})
            if turn.plan is not None:
                self.prepare(turn.plan)  # a callback may have set weights
            turn.run()
            done += turn.size
            if callbacks.wants[end]:
                outputs = {"outputs": self.outputs_of(turn)} if kind == "predict" else self.logs()
                self.call(callbacks, end, turn.number, outputs)
        self.kernels.synchronize()
        logs = self.logs() if kind == "test" else {}
        self.call(callbacks, f"on_{kind}_end", logs)
        return logs, done

    def outputs_of(self, turn: Turn) -> Any:
        """The outputs of a batch, which its owner tells the other ranks."""
        if turn.owner is None:
            return self.outputs(turn.plan)
        assert self.shards is not None
        ranks = self.shards.ranks
        found = self.outputs(turn.plan) if turn.owner == ranks.rank else None
        return ranks.deal(turn.owner, [found] * ranks.size, WORD)

    # Single batches

    def outputs(self, plan: Plan) -> Any:
        """The outputs of a plan's last run; of several, the list."""
        found = [self.state.read(out) for out in plan.outs]
        return found[0] if len(found) == 1 else found

    def load(
        self,
        plan: Plan,
        xs: Sequence[np.ndarray],
        ys: Sequence[np.ndarray] | None,
        weights: Sequence[np.ndarray | None],
    ) -> None:
        """Fill a plan's batch with arrays that Python hands over."""
        for there, x in zip(plan.xs, xs, strict=True):
            self.kernels.upload(there, x)
        if ys is None:
            return
        for there, y in zip(plan.all_targets, ys, strict=True):
            self.kernels.upload(there, inputs.one_hot(y, there.shape) if is_sparse(y) else y)
        for there, each in zip(plan.all_weights, given(weights), strict=True):
            self.kernels.upload(there, each.reshape(-1))

    def differs(self) -> bool:
        """Whether this may be another model than that of the other ranks, of which some have had other weights."""
        return self.shards is not None and any(self.shards.ranks.everyone(not self.agreed, "a single batch"))

    def run_together(self, samples: Samples, training: bool) -> None:
        """One batch that Python hands over to all ranks, and of which each computes its shards. All of them have the
        whole batch, and whatever else the step depends on: what differs is found."""
        assert self.shards is not None
        shards, whole = self.shards, ready(samples, self.heads)
        plan = shards.batch(whole.size, training, are_given(whole.weights))
        plan.load(whole.part(shards.portion(whole.size)))
        turn = Turn(0, whole.size, plan, plan.step())
        if self.is_cold([turn]):
            self.warm_up([turn])
        step = self.optimizer.iterations if self.optimizer else 0
        self.begin(step)
        numbers = digest((*whole.xs, *whole.ys, *whole.weights, np.array([self.rate, step])))
        shards.check = int(numbers[:15], 16)
        with self.interruptible():
            turn.run()
        shards.check = 0

    def run_batch(
        self,
        xs: Sequence[np.ndarray],
        ys: Sequence[np.ndarray] | None,
        weights: Sequence[np.ndarray | None],
        training: bool | None,
        update: bool,
    ) -> Plan:
        """One batch that Python hands over: forward, and if ``training`` backward, and if ``update`` the optimiser.
        Without targets, each batch draws for samples of its own: a model called twice drops and warps differently."""
        plan = self.plan(len(xs[0]), training, ys is not None, are_given(weights))
        self.load(plan, xs, ys, weights)
        if training is not False or ys is not None:  # otherwise nothing is drawn, and nothing counted
            first = self.drawn if ys is None else 0
            self.begin(self.optimizer.iterations if self.optimizer else 0, first_sample=first)
            self.drawn += len(xs[0]) if ys is None else 0
        if training:
            phases = ("prepare", "forward", "backward", *(("update",) if update else ()))
            self.program(plan, *phases)()
        else:
            self.prepare(plan)
            self.program(plan, "forward")()
        return plan


def ready(samples: Samples, heads: Sequence[Head]) -> Ready:
    """Checked arrays as a batch for the kernels."""
    xs, ys, weights = samples
    rows = (inputs.one_hot(y, (len(y), h.shape[-1])) if is_sparse(y) else y for y, h in zip(ys, heads, strict=False))
    return Ready(len(xs[0]), xs, tuple(rows), weights)


def are_given(weights: Sequence[Any]) -> list[bool]:
    """Which of them there are."""
    return [each is not None for each in weights]
