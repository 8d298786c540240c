"""The fusion table: which neighbouring ops are merged into one.

A fused op computes the same in fewer passes over memory, and often computes less: a pooled convolution whose three
losers of four are never stored has a backward pass with a quarter of the work. (Some rules compute something better:
a loss that starts from scores knows no probability that was rounded to 0, and warps that are one look between pixels
once, and blur less.) Each rule looks at a few neighbouring ops and answers with
what should stand in their place, or None.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tinyconv.plan import ops
from tinyconv.plan.graph import Graph
from tinyconv.plan.ops import Op


@dataclass(frozen=True)
class Rule:
    """Replace neighbours of these types by what ``apply`` returns (None: leave them).

    ``better``: what is computed then differs by more than rounding. ``batch_only``: it needs the statistics of a whole
    batch, in training. ``joins``: the chain takes in one value more on its way, of the same shape.
    """

    why: str
    pattern: tuple[type[Op], ...]
    apply: Callable[..., Sequence[Op] | None]
    inference_only: bool = False
    batch_only: bool = False
    joins: bool = False
    better: bool = False


def _fold_norm(affine: ops.Conv2D | ops.Dense, norm: ops.BatchNorm) -> list[Op] | None:
    return [replace(affine, norm=norm)] if not affine.relu and affine.norm is None else None


def _absorb_relu(op: ops.Conv2D | ops.Dense | ops.BatchNorm, activation: ops.Activation) -> list[Op] | None:
    return [replace(op, relu=True)] if activation.kind == "relu" and not op.relu else None


def _pool(conv: ops.Conv2D, pool: ops.MaxPool2D) -> list[Op] | None:
    plain = conv.strides == conv.dilation == (1, 1) and conv.relu
    halves = pool.pool_size == pool.strides == (2, 2) and pool.padding == (0, 0)
    if not (plain and halves) or len(pool.out_shape) < 3:  # a global pooling has no image left
        return None
    if any(2 * pooled > size for pooled, size in zip(pool.out_shape[:2], conv.out_shape[:2], strict=True)):
        return None
    return [ops.Conv2DReluMaxPool2D(pool.name, conv.x_shape, pool.out_shape, conv, call=pool.call)]


def _norm_pool(norm: ops.BatchNorm, pool: ops.MaxPool2D) -> list[Op] | None:
    if not norm.relu or norm.frozen or len(pool.out_shape) < 3 or math.prod(pool.pool_size) > ops.PLACES:
        return None
    return [ops.BatchNormReluMaxPool2D(pool.name, norm.x_shape, pool.out_shape, norm, pool, call=pool.call)]


def _join(norm: ops.BatchNorm, merge: ops.Merge, activation: ops.Activation) -> list[Op] | None:
    if norm.relu or norm.frozen or (merge.kind, merge.scale) != ("add", 1) or activation.kind != "relu":
        return None
    return [ops.BatchNormAddRelu(activation.name, norm.x_shape, norm.out_shape, norm, merge, call=activation.call)]


def _drop_pooled(pooled: ops.Conv2DReluMaxPool2D, *rest: Op) -> list[Op] | None:
    *views, dropout = rest
    if pooled.dropout is not None or not isinstance(dropout, ops.Dropout):
        return None
    return [replace(pooled, dropout=dropout), *views]


def _one_warp(first: ops.Warp, second: ops.Warp) -> list[Op] | None:
    if None not in (first.beyond, second.beyond) and first.beyond != second.beyond:
        return None
    before = (*first.before, replace(first, before=()), *second.before)
    return [replace(second, before=before, beyond=second.beyond or first.beyond)]


def _softmax_loss(softmax: ops.Softmax, loss: ops.Loss) -> list[Op] | None:
    return [replace(loss, kind="softmax_cross_entropy", absorbed=True)] if loss.kind == "cross_entropy" else None


def _sigmoid_loss(activation: ops.Activation, loss: ops.Loss) -> list[Op] | None:
    if activation.kind != "sigmoid" or loss.kind != "binary_cross_entropy":
        return None
    return [replace(loss, kind="sigmoid_cross_entropy", absorbed=True)]


JOINED = ops.BatchNorm, ops.Merge, ops.Activation
RULES = (
    Rule("a moving normalisation is a factor and a shift", (ops.Conv2D, ops.BatchNorm), _fold_norm, True),
    Rule("a moving normalisation is a factor and a shift", (ops.Dense, ops.BatchNorm), _fold_norm, True),
    Rule("ReLU while the result is in a register", (ops.Conv2D, ops.Activation), _absorb_relu),
    Rule("ReLU while the result is in a register", (ops.Dense, ops.Activation), _absorb_relu),
    Rule("ReLU while the result is in a register", (ops.BatchNorm, ops.Activation), _absorb_relu),
    Rule("only the winner of a window is stored", (ops.Conv2D, ops.MaxPool2D), _pool),
    Rule("a dropped unit is a winner less", (ops.Conv2DReluMaxPool2D, ops.Dropout), _drop_pooled),
    Rule("a dropped unit is a winner less", (ops.Conv2DReluMaxPool2D, ops.Reshape, ops.Dropout), _drop_pooled),
    Rule("only winners are normalised for good", (ops.BatchNorm, ops.MaxPool2D), _norm_pool, batch_only=True),
    Rule("a residual is added while it is in a register", JOINED, _join, batch_only=True, joins=True),
    Rule("affine maps compose", (ops.Warp, ops.Warp), _one_warp, better=True),
    Rule("the logarithm undoes the exponential", (ops.Softmax, ops.Loss), _softmax_loss, better=True),
    Rule("the logarithm undoes the exponential", (ops.Activation, ops.Loss), _sigmoid_loss, better=True),
)
BETTER_RULES = tuple(rule for rule in RULES if rule.better)


def fuse(graph: Graph, training: bool, rules: Sequence[Rule] = RULES, sharded: bool = False) -> None:
    """Apply every one of these rules, in their order, wherever it fits: to a chain whose inner values nobody else
    reads. The graph is changed. ``sharded``: whether a run sees a part of its batch only."""
    shared = {node.op.name for _, node in graph if isinstance(node.op, ops.BatchNorm) and node.op.call and training}
    for rule in rules:
        if (rule.inference_only and training) or (rule.batch_only and (sharded or not training)):
            continue
        for number in range(len(graph.nodes)):
            node = graph.nodes[number]
            if node is not None and isinstance(node.op, ops.BatchNorm) and node.op.name in shared:
                continue  # its calls move the moving statistics one after the other: none may be put off
            at: int | None = number
            while at is not None:  # what a rule has made may fit again
                at = _apply(rule, graph, at)


def _apply(rule: Rule, graph: Graph, number: int) -> int | None:
    """Apply a rule to the chain that begins at a node; where its replacement begins, or None if it does not fit."""
    node = graph.nodes[number]
    if node is None or not isinstance(node.op, rule.pattern[0]):
        return None
    chain = graph.chain_from(number, len(rule.pattern), rule.joins)
    if chain is None:
        return None
    found = [graph[each].op for each in chain]
    if rule.joins and [graph[each].op.out_shape for each in graph.joined(chain)] != [node.op.out_shape]:
        return None
    fits = all(isinstance(op, kind) for op, kind in zip(found, rule.pattern, strict=True))
    replacement = rule.apply(*found) if fits else None
    if replacement is None:
        return None
    graph.replace_chain(chain, replacement)
    return chain[len(chain) - len(replacement)]
