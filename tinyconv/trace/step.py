"""Running one step on copies, and keeping every array of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyconv.kernels import memory, reference
from tinyconv.network import Network
from tinyconv.plan import ops
from tinyconv.plan.arena import Arena
from tinyconv.plan.builder import Step
from tinyconv.plan.fusion import LOSS_RULES
from tinyconv.plan.graph import Graph
from tinyconv.plan.lowering import Emitted, Plan, lower
from tinyconv.plan.state import LOSSES, PENALTY, State
from tinyconv.trace.record import FROM_PROBABILITIES, Array, Node, Record, Use, Weight, row_factors
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
    graph, uses = laid_out(trainer.model)
    plan = lowered(own, graph, samples, fuse=trainer.fuse)
    own.load(plan, *samples)
    counters, before, moments_before = own.state.read(own.state.counters), _weights(own.state), own.moments()
    _run(own, plan.steps["prepare"])
    nodes = _forward(own, plan)
    found: dict[str, Any] = {}
    gradients: dict[str, Array] = {}
    clipped: dict[str, Array] = {}
    if scored:
        found["loss"], found["penalty"] = _loss(own)
        nodes = _backward(own, plan, nodes)
        gradients = _views(own.state, own.state.grads)
        *clipping, update = plan.steps["update"]
        _run(own, clipping)
        clipped = _views(own.state, own.state.grads)
        _run(own, [update])
    after, moments = _weights(own.state), own.moments()
    if scored:
        own.begin(int(counters[0]))
        _run(own, [*plan.steps["prepare"], *plan.steps["forward"]])
        found["loss_after"], _ = _loss(own)
        found["update"] = [(step.kernel_name, numbers(own.state, step)) for step in plan.steps["update"]]
        found["optimizer"] = type(own.optimizer).__name__
    weights = {}
    for name, _, spec in trainer.model._specs():
        penalty = dict(spec.regularizer.strengths) if spec.regularizer is not None and name in gradients else {}
        both = (
            {slot: each[name] for slot, each in slots.items() if name in each} for slots in (moments_before, moments)
        )
        weights[name] = Weight(name, before[name], after[name], gradients.get(name), clipped.get(name), penalty, *both)
    losses = {graph.outputs[head.output]: len(graph.nodes) + i for i, head in enumerate(own.heads)}
    nodes = _named({**nodes, **_left_out(graph, nodes, losses)}, uses)
    inputs = {layer.name: number for layer, number in zip(trainer.model._inputs, graph.inputs, strict=True)}
    return Record(
        model=trainer.model.name,
        backend=own.kernels.__name__.rpartition(".")[2],
        training=scored,
        counters=tuple(counters.tolist()),
        seed=own.state.seed,
        nodes=nodes,
        uses=uses,
        inputs=inputs,
        weights=weights,
        **found,
    )


# On copies


def copied(trainer: Trainer, scored: bool, kernel_set: Any = None, dtype: Any = np.float32) -> Trainer:
    """A trainer with a state of its own, at the same point; of another kernel set or type if asked for."""
    state = trainer.state
    params, moving = (Arena(arena.shapes, memory, dtype) for arena in (state.host_params, state.host_moving))  # type: ignore[arg-type]
    for arena, copy in ((state.host_params, params), (state.host_moving, moving)):
        for name in arena.shapes:
            copy[name][...] = arena[name]
    work = (trainer.optimizer, trainer.heads) if scored else (None, ())
    own = Trainer(trainer.model, kernel_set or trainer.kernels, (params, moving), state.seed, *work)
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
    calls: dict[int, int] = {}
    uses = [
        Use(layer.name, layer.name, layer, (), (number,), number)
        for layer, number in zip(model._inputs, graph.inputs, strict=True)
    ]
    for use, gives in zip(model._uses, values[len(model._inputs) :], strict=True):
        call = calls[id(use.layer)] = calls.get(id(use.layer), -1) + 1
        nodes = tuple(number for number, node in graph if (node.op.name, node.op.call) == (use.path, call))
        name = f"{use.path}:{call}" if call else use.path
        uses.append(Use(name, use.path, use.layer, tuple(values[read] for read in use.reads), nodes, gives))
    return graph, uses


def lowered(own: Trainer, graph: Graph, samples: Samples, fuse: bool) -> Plan:
    """A plan without fusion; but where the model's own plans have a loss start from scores, which is exact where
    probabilities are rounded to 0 or 1, this one does too."""
    xs, ys, weights = samples
    losses: list[ops.Loss | None] = []
    if ys is not None:
        by_output = {head.output: head.op(each) for head, each in zip(own.heads, are_given(weights), strict=True)}
        losses = [by_output.get(output) for output in range(len(graph.outputs))]
    return lower(
        graph,
        len(xs[0]),
        own.state,
        training=ys is not None,
        losses=losses,
        optimizer=own.optimizer,
        fuse=LOSS_RULES if fuse else False,
        input_gradient=True,
    )


# Running


def _run(own: Trainer, steps: Iterable[Step]) -> None:
    own.kernels.record([step.call for step in steps])()


def _forward(own: Trainer, plan: Plan) -> dict[int, Node]:
    """Run the forward pass, and keep what each op has computed."""
    nodes: dict[int, Node] = {}
    read, done = own.state.read, 0
    for number, emitted in plan.emitted.items():
        _run(own, emitted.forward)
        done += len(emitted.forward)
        inputs = tuple(
            nodes[each].out.reshape(value.data.shape) for each, value in zip(emitted.reads, emitted.inputs, strict=True)
        )
        same = isinstance(emitted.op, ops.Reshape)
        out = inputs[0].reshape(emitted.out.data.shape) if same else kept(read(emitted.out.data))
        nothing = (None,) * len(inputs)
        nodes[number] = Node(number, emitted.op, emitted.reads, inputs, nothing, out, None, _beside(own, emitted))
    _run(own, plan.steps["forward"][done:])  # the regularisers'
    return nodes


def _backward(own: Trainer, plan: Plan, nodes: Mapping[int, Node]) -> dict[int, Node]:
    """Run the backward pass, and keep each gradient as it was when it was whole."""
    found = dict(nodes)
    read, done = own.state.read, 0
    for number, emitted in reversed(plan.emitted.items()):
        _run(own, emitted.joins)
        wanted = emitted.out.wanted and not isinstance(emitted.op, ops.Loss)
        dout = kept(read(emitted.out.grad)) if wanted else None
        _run(own, emitted.backward)
        done += len(emitted.joins) + len(emitted.backward)
        dinputs = tuple(kept(read(value.grad)) if value.wanted else None for value in emitted.inputs)
        found[number] = replace(nodes[number], dout=dout, dinputs=dinputs)
    _run(own, plan.steps["backward"][done:])  # those of shared layers and of regularisers
    return found


def _left_out(graph: Graph, nodes: Mapping[int, Node], losses: Mapping[int, int]) -> dict[int, Node]:
    """The nodes that the plan has not: dropouts at inference, and activations that a loss has taken in. ``losses``: by
    the number of an output, that of its loss."""
    found: dict[int, Node] = {}
    for number, node in graph:
        if number in nodes:
            continue
        if number in losses:
            loss = nodes[losses[number]]
            arrays = loss.inputs, loss.dinputs, loss.out, _dprobs(loss)
        else:
            out = (nodes.get(node.reads[0]) or found[node.reads[0]]).out
            arrays = (out,), (None,), out, None
        found[number] = Node(number, node.op, node.reads, *arrays, own={})
    for read, number in losses.items():
        found[number] = replace(nodes[number], reads=(read,))  # of the activation too that it has taken in
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


def _beside(own: Trainer, emitted: Emitted) -> dict[str, dict[str, Array]]:
    """What the kernels of an op's forward pass read and wrote, but its values and weights."""
    found: dict[str, dict[str, Array]] = {}
    for step in emitted.forward:
        names = [name for name in step.arrays if name not in KEPT_ELSEWHERE]
        found.setdefault(step.kernel_name, {name: kept(own.state.read(step.arrays[name])) for name in names})
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
