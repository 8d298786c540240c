"""Running one step on copies, and keeping every array of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyconv import optimizers
from tinyconv.kernels import memory, reference
from tinyconv.layers import Layer
from tinyconv.network import Network
from tinyconv.plan import ops
from tinyconv.plan.arena import Arena
from tinyconv.plan.builder import Step
from tinyconv.plan.fusion import BETTER_RULES
from tinyconv.plan.graph import Graph
from tinyconv.plan.lowering import Emitted, Plan, lower
from tinyconv.plan.state import LOSSES, PENALTY, State
from tinyconv.trace.record import FROM_PROBABILITIES, Array, Node, Record, Setting, Use, Weight, row_factors
from tinyconv.training.heads import loss_of
from tinyconv.training.trainer import Trainer, are_given

# Arguments of kernels that a node holds elsewhere, or that mean nothing outside of the kernels.
KEPT_ELSEWHERE = {"out", "x", "a", "b", "w", "logits", "work", "totals", "counters", "values", "correct", "thresholds"}

# Inputs, targets (None: there are none), weights of samples.
Samples = tuple[tuple[Any, ...], tuple[Any, ...] | None, tuple[Any, ...]]


def recorded(trainer: Trainer, samples: Samples) -> Record:
    """The next step of training on these samples; without targets, their way through the model as at inference."""
    scored = samples[1] is not None
    own = copied(trainer, scored)
    state = own.state
    graph, uses = laid_out(trainer.model)
    setting = Setting(graph, losses_of(own, graph, samples), BETTER_RULES if trainer.fuse else ())
    plan = lowered(setting, state, len(samples[0][0]), scored, own.optimizer)
    own.load(plan, *samples)
    counters, before, moments_before = state.read(state.counters), _weights(state), own.moments()
    run(state, plan.steps["prepare"])
    nodes = forward(state, plan)
    found: dict[str, Any] = {}
    gradients: dict[str, Array] = {}
    clipped: dict[str, Array] = {}
    if scored:
        found["loss"], found["penalty"] = _loss(own)
        nodes = backward(state, plan, nodes)
        gradients = _views(state, state.grads)
        *clipping, update = plan.steps["update"]
        run(state, clipping)
        clipped = _views(state, state.grads)
        run(state, [update])
        found["update"] = [(step.kernel_name, numbers(state, step)) for step in plan.steps["update"]]
        assert own.optimizer is not None
        found["optimizer"] = type(own.optimizer).__name__
        if type(own.optimizer) in optimizers.NAMES.values():
            found["optimizer_config"] = optimizers.serialize(own.optimizer)
    after, moments = _weights(state), own.moments()
    if scored:
        own.begin(int(counters[0]))
        run(state, [*plan.steps["prepare"], *plan.steps["forward"]])
        found["loss_after"], _ = _loss(own)
    weights = {}
    for name, _, spec in trainer.model._specs():
        penalty = dict(spec.regularizer.strengths) if spec.regularizer is not None and name in gradients else {}
        both = (
            {slot: each[name] for slot, each in slots.items() if name in each} for slots in (moments_before, moments)
        )
        weights[name] = Weight(name, before[name], after[name], gradients.get(name), clipped.get(name), penalty, *both)
    nodes = _named(_left_out(setting, nodes), uses)
    return Record(
        model=trainer.model.name,
        backend=state.kernels.__name__.rpartition(".")[2],
        training=scored,
        counters=tuple(counters.tolist()),
        seed=state.seed,
        setting=setting,
        given=tuple(tuple(kept(state.read(a)) for a in each) for each in (plan.xs, plan.all_targets, plan.all_weights)),
        nodes=nodes,
        uses=uses,
        order=[path for path, _ in trainer.model._leaves],
        weights=weights,
        **found,
    )


# On copies


def copied(trainer: Trainer, scored: bool) -> Trainer:
    """A trainer with a state of its own, at the same point."""
    state = trainer.state
    params, moving = (Arena(arena.shapes, memory) for arena in (state.host_params, state.host_moving))  # type: ignore[arg-type]
    params.flat[...], moving.flat[...] = state.host_params.flat, state.host_moving.flat
    work = (trainer.optimizer, trainer.heads) if scored else (None, ())
    own = Trainer(trainer.model, trainer.kernels, (params, moving), state.seed, *work)
    if own.optimizer is not None:
        own.set_moments(trainer.moments())
        own.set_learning_rate()
    own.begin(trainer.optimizer.iterations if trainer.optimizer else 0)
    return own


def laid_out(model: Network) -> tuple[Graph, list[Use]]:
    """A model's graph, and of each use of a layer the nodes that it consists of."""
    graph = model._graph(every=True)
    values = [*graph.inputs, *graph.outputs]
    graph.outputs = [values[number] for number in model._outputs]
    nodes: dict[tuple[str, int], list[int]] = {}
    for number, node in graph:
        if number not in graph.inputs:  # whose names layers may have too
            nodes.setdefault((node.op.name, node.op.call), []).append(number)
    calls: dict[int, int] = {}
    uses = [
        Use(layer.name, layer.name, layer, (), (number,), number)
        for layer, number in zip(model._inputs, graph.inputs, strict=True)
    ]
    for use, gives in zip(model._uses, values[len(model._inputs) :], strict=True):
        call = calls[id(use.layer)] = calls.get(id(use.layer), -1) + 1
        name, own = f"{use.path}:{call}" if call else use.path, tuple(nodes.get((use.path, call), ()))
        uses.append(Use(name, use.path, use.layer, tuple(values[read] for read in use.reads), own, gives))
    return graph, uses


def losses_of(own: Trainer, graph: Graph, samples: Samples) -> list[ops.Loss | None]:
    """The loss of each output, or None."""
    if samples[1] is None:
        return []
    found = {head.output: head.op(each) for head, each in zip(own.heads, are_given(samples[2]), strict=True)}
    return [found.get(output) for output in range(len(graph.outputs))]


def lowered(setting: Setting, state: State, batch_size: int, training: bool, optimizer: Any = None) -> Plan:
    """A plan without fusion, but for the rules that the model's own plans compute something better by. It has the
    gradients of the inputs, unless a layer of the user's own has no backward pass."""
    own = [type(node.op.layer) for _, node in setting.graph if isinstance(node.op, ops.Custom)]
    return lower(
        setting.graph,
        batch_size,
        state,
        training=training,
        losses=setting.losses,
        optimizer=optimizer,
        fuse=setting.rules,
        input_gradient=all(kind.backward is not Layer.backward for kind in own),
        apart=True,
    )


# Running


def run(state: State, steps: Iterable[Step]) -> None:
    """Run steps of a plan, one after the other."""
    memory.watched(state.kernels.record([step.call for step in steps]))()


def forward(state: State, plan: Plan) -> dict[int, Node]:
    """Run the forward pass, and keep what each op has computed."""
    nodes: dict[int, Node] = {}
    done = 0
    for number, emitted in plan.emitted.items():
        run(state, emitted.forward)
        done += len(emitted.forward)
        pairs = zip(emitted.reads, emitted.inputs, strict=True)
        inputs = tuple(nodes[read].out.reshape(value.data.shape) for read, value in pairs)
        same = isinstance(emitted.op, ops.Reshape)
        out = inputs[0].reshape(emitted.out.data.shape) if same else kept(state.read(emitted.out.data))
        nothing = (None,) * len(inputs)
        nodes[number] = Node(number, emitted.op, emitted.reads, inputs, nothing, out, None, _beside(state, emitted))
    run(state, plan.steps["forward"][done:])  # the regularisers'
    return nodes


def backward(state: State, plan: Plan, nodes: Mapping[int, Node]) -> dict[int, Node]:
    """Run the backward pass, and keep each gradient as it was when it was whole."""
    found, done = dict(nodes), 0
    for number, emitted in reversed(plan.emitted.items()):
        run(state, emitted.joins)
        wanted = emitted.out.wanted and not isinstance(emitted.op, ops.Loss)
        dout = kept(state.read(emitted.out.grad)) if wanted else None
        run(state, emitted.backward)
        done += len(emitted.joins) + len(emitted.backward)
        dinputs = tuple(kept(state.read(value.grad)) if value.wanted else None for value in emitted.inputs)
        found[number] = replace(nodes[number], dout=dout, dinputs=dinputs)
    run(state, plan.steps["backward"][done:])  # those of shared layers and of regularisers
    return found


def _left_out(setting: Setting, nodes: Mapping[int, Node]) -> dict[int, Node]:
    """The nodes that the plan has not: dropouts at inference, activations that a loss has taken in, and warps that are
    one with the next. All nodes read what they read in the model."""
    graph, found = setting.graph, dict(nodes)
    heads = [output for output, loss in zip(graph.outputs, setting.losses, strict=False) if loss is not None]
    losses = {output: len(graph.nodes) + i for i, output in enumerate(heads)}
    for number, node in graph:
        if number in nodes:
            found[number] = replace(nodes[number], reads=node.reads)
        elif number in losses:
            loss = nodes[losses[number]]
            arrays = loss.inputs, loss.dinputs, loss.out, _dprobs(loss)
            found[number] = Node(number, node.op, node.reads, *arrays, own={})
        else:  # what it reads is handed on, to the next node that there is
            out, after = found[node.reads[0]].out, number
            while after not in nodes and (readers := graph.readers(after)):
                after = readers[0]
            gradient = nodes[after].dinputs[0] if after in nodes else None
            found[number] = Node(number, node.op, node.reads, (out,), (gradient,), out, gradient, {})
    for read, number in losses.items():
        found[number] = replace(nodes[number], reads=(read,))
    return found


def _dprobs(loss: Node) -> Array | None:
    """The gradient of probabilities, which a loss that starts from scores has no need of."""
    if loss.dinputs[0] is None:
        return None
    assert isinstance(loss.op, ops.Loss)
    forward = loss.own[f"{loss.op.kind}_forward"]
    probs, targets = forward["probs"], forward["targets"]
    dprobs = np.empty_like(probs)
    getattr(reference, f"{FROM_PROBABILITIES[loss.op.kind]}_backward")(dprobs, probs, targets)
    dprobs *= row_factors(loss)[:, None].astype(dprobs.dtype)
    return kept(dprobs.reshape(loss.out.shape))


def _named(nodes: Mapping[int, Node], uses: Sequence[Use]) -> dict[int, Node]:
    """The nodes in order, each with the name of its layer's use."""
    where = {number: use.name for use in uses for number in use.nodes}
    return {number: replace(nodes[number], where=where.get(number, "")) for number in sorted(nodes)}


# Keeping


def kept(array: Array) -> Array:
    """An array that nobody changes any more."""
    array.flags.writeable = False
    return array


def _beside(state: State, emitted: Emitted) -> dict[str, dict[str, Array]]:
    """What the kernels of an op's forward pass read and wrote, but its values and weights."""
    found: dict[str, dict[str, Array]] = {}
    for step in emitted.forward:
        names = [name for name in step.arrays if name not in KEPT_ELSEWHERE]
        found.setdefault(step.kernel_name, {name: kept(state.read(step.arrays[name])) for name in names})
    return found


def numbers(state: State, step: Step) -> dict[str, Any]:
    """The arguments of an optimiser's kernel that are numbers, and the learning rate."""
    found = {name: value for name, value in step.arguments.items() if not hasattr(value, "shape")}
    if "learning_rate" in step.arguments:
        found["learning_rate"] = float(state.read(state.learning_rate)[0])
    return found


def _views(state: State, arena: Arena) -> dict[str, Array]:
    flat = kept(state.read(arena.flat))
    return arena.views_of(flat)


def _weights(state: State) -> dict[str, Array]:
    return {**_views(state, state.params), **_views(state, state.moving)}


def _loss(own: Trainer) -> tuple[float, float]:
    """The whole loss, and that part of it which is the regularisers'."""
    totals = own.totals()
    whole, _ = loss_of(own.heads, totals)
    return whole, float(totals[PENALTY] / max(totals[LOSSES + 1], 1))
